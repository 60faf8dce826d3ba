"""`avkit export` copies the complete dataset and nothing else; other tools load the copy."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.prepare.bucket import open_place
from avdata.prepare.export import export
from avdata.retrying import RetryPolicy
from avdata.store import Store
from avmanifest.errors import ConfigError, ManifestError, ShardError, StorageError
from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table
from tests.buckets import UnreliableMemory
from tests.videos import tree


@pytest.fixture
def out(prepared, tmp_path) -> Path:
    out = Path(shutil.copytree(prepared.out, tmp_path / "out"))
    (out / "_quarantine" / "train-00000-1").mkdir(parents=True)
    (out / "_quarantine" / "train-00000-1" / "00000.tar").write_bytes(b"damaged")
    (out / "plan" / "lists").mkdir()
    (out / "plan" / "lists" / "official.csv").write_text("not ours to publish")
    return out


@pytest.fixture
def hub() -> Store:
    """A repository of the hub, as fsspec sees it."""
    store = UnreliableMemory()
    store.pipe_file("/datasets/me/set/.gitattributes", b"*.tar filter=lfs")
    return Store("hf://datasets/me/set", store, "/datasets/me/set", RetryPolicy(attempts=2, wait_s=0.0))


def test_a_folder_loads_with_datasets_and_holds_only_what_belongs_to_it(out, prepared, monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    import datasets

    target = tmp_path / "exported"
    ended = CliRunner().invoke(app, ["export", str(out), "--to", str(target), "--json"])
    assert ended.exit_code == 0, ended.output
    held = tree(target)
    assert held == tree(prepared.out)
    assert not (target / "_quarantine").exists()
    assert not (target / "_tmp").exists()
    said = json.loads(ended.stdout)
    assert said["num_files"] == said["num_copied"] == len(held)
    assert said["num_bytes"] == sum((target / name).stat().st_size for name in held)
    loaded = datasets.load_dataset(str(target), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 5, "test": 2}
    keys = {split: rows.select_columns("__key__").to_dict()["__key__"] for split, rows in loaded.items()}
    assert sorted(keys["test"] + keys["train"]) == sorted(row["key"] for row in manifest(prepared.out))
    # Cut between two samples, a tar reads like a whole one: the card's counts tell.
    tar = target / "test" / "00000.tar"
    second = int(np.fromfile(tar.with_suffix(".tar.idx"), "<u8")[1])
    tar.write_bytes(tar.read_bytes()[:second] + bytes(1024))
    with pytest.raises(datasets.exceptions.NonMatchingSplitsSizesError):
        datasets.load_dataset(str(target), cache_dir=str(tmp_path / "another cache"), split="test")


def manifest(out: Path) -> list[dict[str, Any]]:
    layout = Layout(out)
    return [row for split in ("train", "test") for row in read_table(layout.manifest(split), CLIP_SCHEMA).to_pylist()]


def test_clips_for_which_a_condition_holds_are_exported(out, tmp_path):
    target = tmp_path / "exported"
    words = ["export", str(out), "--to", str(target), "--where", "split = 'test'", "--json"]
    first, again = (CliRunner().invoke(app, words) for _ in range(2))
    assert (first.exit_code, again.exit_code) == (0, 0), first.output + again.output
    assert json.loads(again.stdout)["num_copied"] == 0
    keys = set(read_table(Layout(out).manifest("test"), CLIP_SCHEMA).column("key").to_pylist())
    assert set(read_table(Layout(target).manifest("test"), CLIP_SCHEMA).column("key").to_pylist()) == keys
    assert not Layout(target).manifest("train").exists()
    refused = CliRunner().invoke(app, ["export", str(out), "--to", str(tmp_path / "no"), "--where", "loud"])
    assert isinstance(refused.exception, ConfigError)
    assert not (tmp_path / "no").exists()


def test_an_export_to_the_hub_continues_where_it_stopped(out, prepared, hub):
    class Stopped(Exception):
        pass

    steps: list[str] = []

    def stop(step: str) -> None:
        steps.append(step)
        if len(steps) == 5:
            raise Stopped

    with pytest.raises(Stopped):
        export(open_place(out), hub, stop)
    assert hub.read("dataset.json") is None, "what is not whole is no dataset"
    done = export(open_place(out), hub)
    assert done.num_copied == done.num_files - 5
    assert {name: hub.sha256(name) for name in hub.sizes() if name != ".gitattributes"} == tree(prepared.out)
    assert export(open_place(out), hub).num_copied == 0


def test_failed_requests_to_the_hub_are_repeated_and_a_hub_that_stays_down_is_an_error(out, hub):
    failing = ["train/00000.tar", "README.md"]

    def fail_once(path: str) -> bool:
        return any(path.endswith(name) and (failing.remove(name) is None) for name in list(failing))

    hub.filesystem.is_down = fail_once
    assert export(open_place(out), hub).num_copied > 0
    assert failing == []
    hub.remove(["README.md"])
    hub.filesystem.is_down = lambda path: True
    with pytest.raises(StorageError, match=r"hf://datasets/me/set/README\.md: cannot write"):
        export(open_place(out), hub)


def test_files_damaged_at_the_target_are_copied_again(out, prepared, hub):
    export(open_place(out), hub)
    content = bytearray(hub.read("train/00001.tar"))
    content[len(content) // 2] ^= 1
    hub.write("train/00001.tar", bytes(content))
    assert export(open_place(out), hub).num_copied == 1
    assert hub.sha256("train/00001.tar") == tree(prepared.out)["train/00001.tar"]


def test_a_damaged_shard_is_not_exported(out, hub):
    tar = out / "train" / "00001.tar"
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.write_bytes(content)
    with pytest.raises(ShardError, match=r"train/00001\.tar: its sha256 differs from its marker's"):
        export(open_place(out), hub)
    assert hub.read("train/00001.tar") is None
    assert hub.read("dataset.json") is None


def test_a_shard_without_a_marker_is_not_exported(out, hub):
    (out / "train" / "00007.tar").write_bytes(b"of a run that was killed")
    export(open_place(out), hub)
    assert hub.read("train/00007.tar") is None


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "what"),
    [
        ("README.md", "num_examples: 5", "num_examples: 6", "num_examples of train is 6, the shards say 5"),
        ("README.md", "- train/00001.tar\n", "", "data_files of train"),
        ("croissant.json", '"sha256": "', '"sha256": "0', "distribution of "),
        (".nv-meta/split.yaml", "- train/00001.tar\n", "", "split_parts of train"),
        (".nv-meta/.info.json", '"train/00000.tar": 2', '"train/00000.tar": 3', "shard_counts of train/00000.tar is 3"),
        ("README.md", "---\n", "", "has no front matter"),
    ],
)
def test_a_catalog_that_differs_from_the_shards_is_refused(name, old, new, what, out, hub):
    replace(out / name, old, new)
    with pytest.raises(ManifestError, match=rf"{name}: .*{what}|{name}: has no"):
        export(open_place(out), hub)
    assert list(hub.sizes()) == [".gitattributes"]


@pytest.mark.parametrize("name", ["dataset.json", "croissant.json", ".nv-meta/split.yaml", "plan/part-00000.parquet"])
def test_an_unfinished_dataset_is_not_exported(name, out, hub):
    (out / name).unlink()
    with pytest.raises(ManifestError, match=rf"{name}: missing"):
        export(open_place(out), hub)


def test_a_target_with_other_files_is_refused(out, hub, tmp_path):
    hub.write("dataset.json", b'{"plan_hash": "another"}')
    with pytest.raises(ConfigError, match="holds another dataset"):
        export(open_place(out), hub)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("my life's work")
    with pytest.raises(ConfigError, match="holds files that are not a dataset"):
        export(open_place(out), open_place(tmp_path / "thesis"))
    with pytest.raises(ConfigError, match="is the dataset itself"):
        export(open_place(out), open_place(out))


def test_a_dataset_is_not_copied_into_itself_or_around_itself(out, tmp_path):
    (tmp_path / "link").symlink_to(out)
    for target, where in (
        (out / "sub", "inside"),
        (tmp_path / "link" / "sub", "inside"),
        (out.parent, "the folder above"),
    ):
        with pytest.raises(ConfigError, match=f"is {where} the dataset .*Give --to a place beside it"):
            export(open_place(out), open_place(target))
    assert not (out / "sub").exists()
