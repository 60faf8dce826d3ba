"""Datasets that were written by every format so far (tests/formats): each is read, checked, exported, and goes on."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.sample import read_sample, sample_json
from avdata.audit.summary import summarize
from avdata.audit.verify import verify
from avdata.load import EvalView, Loader, LoaderConfig, open_dataset
from avdata.prepare.config import PrepareConfig, SampleConfig, Supervision
from avdata.prepare.export import export
from avdata.prepare.job import prepare
from avdata.prepare.operations.migrate import Migrate
from avdata.prepare.operations.run import run_operation
from avdata.store import open_store
from avmanifest.errors import ManifestError
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from avmanifest.schema import CLIP_SCHEMA, FORMAT_VERSION, READ_VERSIONS, is_optional
from avmanifest.table import read_table
from tests.pretraining import pretrain_on
from tests.runs import tiny_run

FORMATS = Path("tests/formats")
NAMES = sorted(path.name.removesuffix(".tar.xz") for path in FORMATS.glob("*.tar.xz"))
NEW: dict[str, set[str]] = {
    "v1-first": set(),
    "v1-hashes": {"member_xxh3"},
    "v1-damage": {"damaged_share"},
    "v1-interlaced": {"deinterlaced", "tone_mapped"},
    "v1-gaps": {"audio_gap_s"},
    "v1-columns": set(),
    "v2-first": set(),
    "v2-blocks": {"mel_block_xxh3"},
}
"""The optional columns that came with each, in the order of time. A dataset lacks those that came later."""
NEWEST = list(NEW)[-1]


def lacking(name: str) -> set[str]:
    return set().union(*list(NEW.values())[list(NEW).index(name) + 1 :])


@pytest.fixture(scope="module", params=NAMES)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(request.param, tmp_path_factory.mktemp("formats"))


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(FORMATS / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name


def config_of(root: Path) -> PrepareConfig:
    """The command that made the datasets, see tests/formats/make.sh."""
    return PrepareConfig(
        recipe=load_recipe("folder"),
        out=root,
        sources=(f"local:{FORMATS.resolve() / 'videos'}",),
        sample=SampleConfig(clip_seconds=3.0, num_frames=2, short_side=32),
        shard_size=2,
        supervision=Supervision(num_workers=1),
    )


def test_there_is_a_dataset_of_every_version_and_of_every_optional_column() -> None:
    assert {int(name[1 : name.index("-")]) for name in NAMES} == set(READ_VERSIONS)
    optional = {field.name for field in CLIP_SCHEMA if is_optional(field)}
    assert NEW.keys() == set(NAMES)
    assert set().union(*NEW.values()) == optional


def test_what_a_dataset_lacks_is_null_and_the_rest_is_read(dataset: Path) -> None:
    rows = read_table(Layout(dataset).manifest("train"), CLIP_SCHEMA)
    assert rows.schema.names == CLIP_SCHEMA.names
    assert {name for name in rows.schema.names if rows.column(name).null_count == 2} == lacking(dataset.name)
    assert sorted(rows.column("labels").to_pylist()) == [["bell"], ["rain"]]
    assert sorted(rows.column("silent").to_pylist()) == [False, True]


def test_it_is_inspected_and_whole(dataset: Path) -> None:
    audited = open_audit_dataset(str(dataset))
    assert verify(audited, deep=True).faults == []
    found = summarize(audited)
    assert (found["samples"], found["flagged"]["silent"]["clips"]) == (2, 1)
    key = found["flagged"]["silent"]["examples"][0]["key"]
    sample = sample_json(read_sample(audited, key))
    assert (sample["labels"], sample["silent"]) == (["rain"], True)


def test_the_loader_gives_what_it_stores(dataset: Path) -> None:
    stored = {}
    for key in open_dataset(dataset).keys.to_pylist():
        log_mel = read_sample(open_audit_dataset(str(dataset)), key).log_mel
        assert log_mel is not None
        stored[key] = log_mel
    view = EvalView(image_size=32, window_s=2.0)
    (batch,) = Loader(open_dataset(dataset), view, LoaderConfig(batch_size=2, num_workers=0)).arrays()
    assert sorted(batch.keys) == sorted(stored)
    for key, window, start_s in zip(batch.keys, batch.log_mel, batch.window_start_s, strict=True):
        first = round(float(start_s) / 0.015)
        assert np.array_equal(window, stored[key][:, first : first + window.shape[1]])
    assert len(open_dataset(dataset, exclude=["silent"])) == 1


def test_a_model_is_trained_on_it(dataset: Path, tmp_path: Path) -> None:
    pretrain_on(dataset, tmp_path / "run", tiny_run(steps=1, batch_size=2, device_batch_size=2))
    assert list((tmp_path / "run").glob("checkpoints/*"))


def test_it_is_exported(dataset: Path, tmp_path: Path) -> None:
    export(open_store(str(dataset)), open_store(str(tmp_path / "copy")))
    assert verify(open_audit_dataset(str(tmp_path / "copy"))).faults == []


def test_prepare_goes_on_with_it_after_it_is_migrated(dataset: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(dataset, tmp_path / "set"))
    if not dataset.name.startswith(f"v{FORMAT_VERSION}-"):
        with pytest.raises(ManifestError, match=f"avkit dataset migrate {root}") as refused:
            prepare(config_of(root))
        assert "overwrite" not in str(refused.value)
        run_operation(root, Migrate())
    report = prepare(config_of(root))
    assert (report.ok, report.requested) == (2, 2)
    assert verify(open_audit_dataset(str(root)), deep=True).faults == []


def test_a_shard_that_an_older_avkit_did_not_finish_is_prepared(tmp_path: Path) -> None:
    root = unpacked("v1-first", tmp_path)
    run_operation(root, Migrate())
    for path in Layout(root).files(Layout(root).shards("train")[0]):
        path.unlink()
    assert prepare(config_of(root)).ok == 2
    rows = read_table(Layout(root).manifest("train"), CLIP_SCHEMA)
    assert rows.column("member_xxh3").null_count == 0
    assert verify(open_audit_dataset(str(root)), deep=True).faults == []


def test_a_newer_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    root = unpacked(NEWEST, tmp_path)
    path = Layout(root).dataset_json
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format_version": FORMAT_VERSION + 1}))
    for read in (lambda: open_dataset(root), lambda: prepare(config_of(root))):
        with pytest.raises(ManifestError, match="Update avkit"):
            read()
