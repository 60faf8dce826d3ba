"""A prepared dataset in the hands of others: webdataset, Hugging Face datasets and Megatron-Energon read what we do."""

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA, FORMAT_VERSION
from avmanifest.table import read_table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # theirs
]


@pytest.fixture(scope="module")
def layout(prepared) -> Layout:
    return Layout(prepared.out)


@pytest.fixture(scope="module")
def meant(layout) -> dict[str, dict[str, bytes]]:
    """By key, the members' bytes as the manifest places them in the shards of train."""
    found = {}
    for row in read_table(layout.manifest("train"), CLIP_SCHEMA).to_pylist():
        tar = next(layout.tar(s) for s in layout.shards("train") if s.number == row["shard"]).read_bytes()
        found[row["key"]] = {m["name"]: tar[m["offset"] : m["offset"] + m["size"]] for m in row["members"]}
    assert len(found) == 5
    return found


def tars(layout: Layout) -> list[str]:
    return [str(layout.tar(shard)) for shard in layout.shards("train")]


def log_mel_of(members: dict[str, bytes]) -> np.ndarray:
    return np.load(io.BytesIO(members["logmel.npy"]), allow_pickle=False)


def test_plain_tar_tools_see_the_manifests_members(layout, meant):
    for path in tars(layout):
        with tarfile.open(path) as tar:
            for info in tar:
                key, _, name = info.name.partition(".")
                assert tar.extractfile(info).read() == meant[key][name]


def test_webdataset_reads_every_sample(layout, meant):
    import webdataset

    found = {
        sample["__key__"]: {name: content for name, content in sample.items() if not name.startswith("__")}
        for sample in webdataset.WebDataset(tars(layout), shardshuffle=False)
    }
    assert found == meant
    decoded = next(iter(webdataset.WebDataset(tars(layout)[0], shardshuffle=False).decode("rgb8")))
    np.testing.assert_array_equal(decoded["logmel.npy"], log_mel_of(meant[decoded["__key__"]]))
    assert decoded["frame00.jpg"].shape[2] == 3
    assert decoded["json"]["key"] == decoded["__key__"]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets_reads_every_sample(streaming, layout, meant, offline):
    import datasets

    loaded = datasets.load_dataset(str(layout.root), split="train", streaming=streaming, cache_dir=str(offline))
    raw = loaded.cast_column("flac", datasets.Audio(decode=False))
    samples = {sample["__key__"]: sample for sample in raw}
    assert set(samples) == set(meant)
    for key, members in meant.items():
        sample = samples[key]
        np.testing.assert_array_equal(np.asarray(sample["logmel.npy"], np.float16), log_mel_of(members))
        fields = json.loads(members["json"])
        assert {name: sample["json"][name] for name in fields} == fields
        assert np.asarray(sample["frame00.jpg"]).shape[2] == 3
        expected, rate = soundfile.read(io.BytesIO(members["flac"]))
        found, found_rate = soundfile.read(io.BytesIO(sample["flac"]["bytes"]))
        assert found_rate == rate == 16_000
        np.testing.assert_array_equal(found, expected)
    test = datasets.load_dataset(str(layout.root), split="test", streaming=streaming, cache_dir=str(offline))
    assert len(list(test.select_columns(["__key__"]))) == 2


def test_energon_reads_every_sample_without_a_prepare_pass(layout, meant, tmp_path):
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_train_dataset,
        stateless,
    )

    names = ("json", "logmel.npy", "flac", "frame00.jpg", "frame01.jpg")

    @stateless
    def cook(sample: dict) -> dict:
        return {**basic_sample_keys(sample), **{name: sample[name] for name in names}}

    class Encoder(DefaultTaskEncoder):
        decoder = None
        cookers = (Cooker(cook),)

        @stateless
        def batch(self, samples):
            return samples

    root = shutil.copytree(layout.root, tmp_path / "dataset", ignore=shutil.ignore_patterns("_tmp"))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    dataset = get_train_dataset(
        root,
        dataset_config="crude.yaml",
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=1,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        task_encoder=Encoder(),
        repeat=False,
    )
    found = {
        s["__key__"].split("/")[-1]: {name: s[name] for name in names} for batch in get_loader(dataset) for s in batch
    }
    assert found == meant
    assert {path: path.read_bytes() for path in before} == before, "no file of ours was to be changed"


@pytest.mark.parametrize("command", ["lint", "info"])
def test_energons_own_commands_find_nothing_wrong(command, layout):
    from megatron.energon.cli.main import main

    result = CliRunner().invoke(main, [command, str(layout.root)])
    assert result.exit_code == 0, result.output
    if command == "info":
        assert "7 samples" in result.output
        assert "ImageClassificationSample" in result.output


def test_croissant_is_valid_and_gives_the_manifests_rows(layout, caplog, monkeypatch):
    import mlcroissant

    monkeypatch.chdir(layout.root)
    dataset = mlcroissant.Dataset(jsonld="croissant.json")
    assert dataset.metadata.ctx.issues.report() == ""
    assert not [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert str(dataset.metadata.version) == f"{FORMAT_VERSION}.0.0"
    keys = [record["clips-train/key"].decode() for record in dataset.records("clips-train")]
    assert keys == read_table(layout.manifest("train"), CLIP_SCHEMA).column("key").to_pylist()


def test_the_hub_takes_the_card(layout):
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(layout.card)
    assert card.data.license == "other"
    assert card.data.task_categories == ["audio-classification", "video-classification"]
    assert card.data.size_categories == ["n<1K"]
    assert {"audio-visual", "webdataset", "folder"} <= set(card.data.tags)


def test_the_indexes_are_the_ones_that_energon_makes(layout, tmp_path):
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    root = shutil.copytree(
        layout.root, tmp_path / "dataset", ignore=shutil.ignore_patterns("_tmp", "*.idx", ".nv-meta")
    )
    shards = [f"{shard}.tar" for shard in layout.shards("train")]
    WebdatasetPreparator.prepare_dataset(root, shards, split_parts_ratio=[("train", 1.0)], workers=1)
    assert shards
    for shard in shards:
        assert (layout.root / f"{shard}.idx").read_bytes() == (root / f"{shard}.idx").read_bytes()
    theirs = json.loads((root / ".nv-meta" / ".info.json").read_text())["shard_counts"]
    ours = json.loads((layout.energon / ".info.json").read_text())["shard_counts"]
    assert theirs == {shard: ours[shard] for shard in shards}


READERS = {
    "avkit": "avdata",
    "webdataset": "webdataset",
    "Hugging Face datasets": "datasets",
    "Megatron-Energon": "megatron.energon",
    "litdata": "litdata",
    "mosaicml-streaming": "streaming",
}


@pytest.mark.parametrize("reader", READERS)
def test_the_code_on_the_card_reads_the_dataset(reader, layout, tmp_path):
    package = READERS[reader]
    if importlib.util.find_spec(package.partition(".")[0]) is None:
        pytest.skip(f"{package} is not installed: it is not among the packages of the tests")
    code = re.search(rf"### {reader}\n(?:[^#]*?)```python\n(.*?)\n```", layout.card.read_text(), re.DOTALL)
    root = shutil.copytree(layout.root, tmp_path / "dataset", ignore=shutil.ignore_patterns("_tmp"))
    (tmp_path / "code.py").write_text(code[1])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, tmp_path / "code.py"], cwd=root, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert {"avkit": "(2,", "litdata": "5", "mosaicml-streaming": "5"}.get(reader, said[0]) in said
