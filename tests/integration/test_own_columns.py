"""Columns of a user's table: in plan, manifest, json of the samples, and for readers of other tools."""

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.verify import verify
from avdata.load import open_dataset
from avdata.prepare.config import PrepareConfig, SampleConfig, Supervision
from avdata.prepare.export import checked
from avdata.prepare.job import prepare
from avdata.prepare.operations.derive import derive_dataset
from avdata.prepare.operations.remove import Remove
from avdata.prepare.operations.reshard import Reshard
from avdata.prepare.operations.run import run_operation
from avdata.prepare.operations.subset import Subset
from avdata.prepare.plan import is_appended
from avdata.store import open_store
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from avmanifest.schema import CLIP_SCHEMA, PLAN_SCHEMA
from avmanifest.table import read_table
from tests.videos import Notes

VIDEOS = Path("tests/formats/videos")
ROWS: list[dict[str, Any]] = [
    {
        "path": "bell/tone.mp4",
        "label": "bell",
        "caption": "A <b>bell</b>, see https://user:secret@host.example/x",
        "score": 0.5,
        "speakers": [{"name": "Ann", "at": [0.5, 1.5]}],
        "box": {"x": 1, "y": 2.5},
        "licence": "CC-BY",
    },
    {"path": "rain/silence.mp4", "label": "rain", "tags": ["a", "b"], "score": 1},
    {"path": "gone.mp4", "label": "rain", "caption": "missing", "score": -2},
]
OWN = {
    "bell/tone": {
        "caption": "A <b>bell</b>, see https://host.example/x",
        "score": 0.5,
        "speakers": [{"name": "Ann", "at": [0.5, 1.5]}],
        "box": {"x": 1, "y": 2.5},
        "list_licence": "CC-BY",
        "tags": None,
    },
    "rain/silence": {
        "caption": None, "score": 1.0, "speakers": None, "box": None, "list_licence": None, "tags": ["a", "b"],
    },
    "gone": {
        "caption": "missing", "score": -2.0, "speakers": None, "box": None, "list_licence": None, "tags": None,
    },
}  # fmt: skip


def config_of(folder: Path, rows: list[dict[str, Any]] = ROWS) -> PrepareConfig:
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PrepareConfig(
        recipe=load_recipe("table"),
        out=folder / "out",
        list_path=path,
        sources=(f"local:{VIDEOS.resolve()}",),
        sample=SampleConfig(clip_seconds=3.0, num_frames=2, short_side=32),
        supervision=Supervision(num_workers=1),
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PrepareConfig:
    config = config_of(tmp_path_factory.mktemp("own"))
    prepare(config)
    return config


def root_of(config: PrepareConfig) -> Path:
    assert isinstance(config.out, Path)
    return config.out


def own(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in OWN["gone"]}


def test_plan_manifest_and_samples_have_them(config: PrepareConfig) -> None:
    layout = Layout(root_of(config))
    for path, schema in ((layout.plan_part(0), PLAN_SCHEMA), (layout.manifest("train"), CLIP_SCHEMA)):
        rows = read_table(path, schema).to_pylist()
        assert {row["video_id"]: own(row) for row in rows} == OWN
    assert {row["licence"] for row in read_table(layout.manifest("train"), CLIP_SCHEMA).to_pylist()} == {"", "CC-BY"}
    with tarfile.open(layout.root / "train/00000.tar") as tar:
        samples = [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]  # type: ignore[arg-type]
    assert {sample["video_id"]: own(sample) for sample in samples} == {
        name: values for name, values in OWN.items() if name != "gone"
    }
    columns = json.loads(layout.dataset_json.read_text())["columns"]
    assert {column["name"]: column["type"] for column in columns} == {
        "caption": "string",
        "score": "float64",
        "speakers": {"list": {"struct": {"name": "string", "at": {"list": "float64"}}}},
        "box": {"struct": {"x": "int64", "y": "float64"}},
        "list_licence": "string",
        "tags": {"list": "string"},
    }


def test_the_dataset_is_whole_and_is_read_and_exported(config: PrepareConfig) -> None:
    root = root_of(config)
    assert verify(open_audit_dataset(str(root)), deep=True).faults == []
    assert len(open_dataset(root)) == 2
    assert "train/00000.tar" in checked(open_store(str(root)))


def test_the_same_list_goes_on_and_another_column_is_refused(config: PrepareConfig, tmp_path: Path) -> None:
    root = root_of(config)
    before = (root / "manifest/train.parquet").read_bytes()
    shutil.copytree(root.parent, tmp_path, dirs_exist_ok=True)
    prepare(config_of(tmp_path))
    assert (tmp_path / "out/manifest/train.parquet").read_bytes() == before
    other = [{**row, "caption": "other"} for row in ROWS]
    with pytest.raises(ConfigError, match="the same clips, with other labels, times or columns"):
        prepare(config_of(tmp_path, other))


def test_a_takedown_takes_them_out_of_plan_and_manifest(config: PrepareConfig, tmp_path: Path) -> None:
    shutil.copytree(root_of(config).parent, tmp_path, dirs_exist_ok=True)
    layout, same = Layout(tmp_path / "out"), config_of(tmp_path)
    nothing = dict.fromkeys(OWN["gone"])
    key_of = {row["video_id"]: row["key"] for row in read_table(layout.plan_part(0), PLAN_SCHEMA).to_pylist()}
    left = {key: nothing if name == "bell/tone" else OWN[name] for name, key in key_of.items()}

    def stored() -> list[dict[str, dict[str, Any]]]:
        tables = [read_table(path, PLAN_SCHEMA) for path in layout.plan_parts()]
        tables.append(read_table(layout.manifest("train"), CLIP_SCHEMA))
        return [{row["key"]: own(row) for row in table.to_pylist()} for table in tables]

    run_operation(layout.root, Remove(("bell/tone",)))
    assert stored() == [left, left]
    notes = Notes()
    grown = [*ROWS, {"path": "rain/silence.mp4", "label": "rain", "start": 0.5}]
    assert prepare(same).statuses == {"ok": 1, "removed": 1, "unavailable_missing": 1}
    prepare(replace(config_of(tmp_path, grown), append=True), notes)
    assert not any("otherwise" in note for note in notes.notes)
    assert is_appended(layout.plan_part(1))
    run_operation(layout.root, Remove(("gone",)))
    assert is_appended(layout.plan_part(1))
    run_operation(layout.root, Reshard(1))
    (later,) = set(read_table(layout.plan_part(0), PLAN_SCHEMA).column("key").to_pylist()) - set(key_of.values())
    removed = left | {key_of["gone"]: nothing, later: nothing}
    assert stored() == [removed, removed]
    prepare(replace(config_of(tmp_path, grown), shard_size=1))
    assert stored() == [removed, removed]
    assert not verify(open_audit_dataset(str(layout.root)), deep=True).faults
    run_operation(layout.root, Remove((later,)))
    derive_dataset([layout.root], tmp_path / "subset", Subset(where="true"))
    assert prepare(replace(config_of(tmp_path, grown), shard_size=1, out=tmp_path / "subset")).statuses == {
        "removed": 3,
        "ok": 1,
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_hugging_face_datasets_reads_them(config: PrepareConfig, tmp_path: Path) -> None:
    import datasets

    rows = datasets.load_dataset(
        str(root_of(config)), split="train", cache_dir=str(tmp_path), streaming=True
    ).decode(False)  # fmt: skip
    found = {row["json"]["video_id"]: own(row["json"]) for row in rows}
    assert found == {name: values for name, values in OWN.items() if name != "gone"}


@pytest.mark.filterwarnings("ignore")  # theirs
def test_croissant_is_valid_and_has_them(config: PrepareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlcroissant

    monkeypatch.chdir(root_of(config))
    dataset = mlcroissant.Dataset(jsonld="croissant.json")
    assert dataset.metadata.ctx.issues.report() == ""
    (record,) = (record for record in dataset.records("clips-train") if record["clips-train/video_id"] == b"bell/tone")
    assert record["clips-train/score"] == 0.5
    assert record["clips-train/box"]["clips-train/box/x"] == 1
    assert record["clips-train/speakers"]["clips-train/speakers/name"] == [b"Ann"]
