"""`--out s3://...` against a real S3 server: errors, timeouts, lost answers, two clusters, a later machine."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.load import open_dataset
from avdata.prepare import export
from avdata.prepare.bucket import open_place
from avdata.prepare.config import Retry, Supervision
from avdata.prepare.dry_run import dry_run
from avdata.prepare.job import prepare
from avdata.retrying import RetryPolicy
from avmanifest.errors import ConfigError, StorageError
from tests.buckets import ENVIRONMENT, bucket_tree, faulty_road, s3_server, use_s3
from tests.videos import Notes, draw_folder, folder_config, tree

pytestmark = pytest.mark.network
QUICK = RetryPolicy(attempts=3, wait_s=0.0)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three videos: two shards."""
    return draw_folder(tmp_path_factory.mktemp("three"), [f"train/a/v{i}.mp4" for i in range(3)])


@pytest.fixture(scope="module")
def local(three, tmp_path_factory) -> dict[str, str]:
    """The sha256 of each file of the same run to a local folder."""
    out = tmp_path_factory.mktemp("local") / "out"
    prepare(folder_config(three, out))
    return tree(out)


@pytest.fixture(scope="module")
def server():
    with s3_server() as port:
        yield port


@pytest.fixture
def road(server):
    with faulty_road(server) as road:
        yield road


@pytest.fixture
def out(road, monkeypatch, tmp_path) -> str:
    return use_s3(monkeypatch, road.url, tmp_path / "cache")


@pytest.mark.slow
def test_a_bucket_and_a_folder_get_the_same_bytes_and_a_later_machine_repairs_only_damage(
    three, local, out, road, monkeypatch, tmp_path
):
    assert prepare(folder_config(three, out)).exit_code == 0
    assert bucket_tree(out) == local
    assert not fsspec.filesystem("s3").exists(f"{out}/_tmp"), "a finished run leaves nothing aside"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    notes = Notes()
    report = prepare(folder_config(three, out), notes)
    assert (report.exit_code, report.ok, notes.statuses) == (0, 3, [])
    assert bucket_tree(out) == local
    assert len(open_dataset(out)) == 3
    filesystem = fsspec.filesystem("s3")
    filesystem.pipe_file(f"{out}/train/00001.tar", b"cut")
    notes = Notes()
    assert prepare(folder_config(three, out), notes).exit_code == 0
    assert bucket_tree(out) == local
    assert len(notes.statuses) == 1, "the shard of one clip was damaged"
    assert any("00001.tar: 3 bytes" in note and "_quarantine" in note for note in notes.notes)
    assert [name for name in filesystem.find(f"{out}/_quarantine") if name.endswith(".tar")]
    with pytest.raises(ConfigError, match=rf"{out} was begun with another configuration: shard_size 2 -> 3"):
        prepare(folder_config(three, out, shard_size=3))


FAULTS = (
    {"/attempts/": "500", "/choices/": "lost answer", "/00000.tar": "500", "_stats.json": "lost answer",
     "dataset.json": "500", "plan/part": "lost answer", "manifest/": "500", ".tar.idx": "silence"},
    {"/attempts/": "lost answer", "/choices/": "500", "/00000.tar": "lost answer", "_stats.json": "500",
     "dataset.json": "lost answer", "plan/part": "500", "manifest/": "lost answer", "/00001.parquet": "silence"},
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("faults", FAULTS)
def test_requests_that_fail_or_time_out_are_repeated(faults, three, local, out, road):
    left = dict(faults)

    def once_in_each_place(method: str, path: str) -> str | None:
        place = next((place for place in left if method == "PUT" and place in path), None)
        return left.pop(place) if place else None

    road.faults = once_in_each_place
    assert prepare(folder_config(three, out, patience=QUICK)).exit_code == 0
    assert left == {}
    assert bucket_tree(out) == local


@pytest.mark.slow
def test_a_store_that_stays_down_ends_the_run_which_can_be_resumed(three, local, out, road):
    road.faults = lambda method, path: "500" if method == "PUT" and "/attempts/" in path else None
    with pytest.raises(StorageError, match=r"s3://.*cannot write .*3 attempts.*run the same command again"):
        prepare(folder_config(three, out, patience=QUICK))
    road.faults = lambda method, path: None
    assert not [name for name in bucket_tree(out) if name.startswith("train/")], "no file of a shard may be seen"
    assert prepare(folder_config(three, out)).exit_code == 0
    assert bucket_tree(out) == local


def test_a_prefix_with_other_files_is_refused(three, out):
    fsspec.filesystem("s3").pipe_file(f"{out}/thesis.tex", b"my life's work")
    with pytest.raises(ConfigError, match="holds files that avkit did not write"):
        prepare(folder_config(three, out))


def test_a_retry_adds_shards_and_overwrite_starts_again(three, local, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = f"memory://{tmp_path.name}/set"
    hasty = prepare(folder_config(three, out, supervision=Supervision(deadline_s=1e-6)))
    assert hasty.statuses == {"decode_timeout": 3}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    before = bucket_tree(out)
    found = dry_run(folder_config(three, out, retry=Retry.TRANSIENT))
    assert (dict(found.done), found.num_done_shards, len(found.to_do)) == ({"decode_timeout": 3}, 2, 3)
    assert bucket_tree(out) == before
    again = prepare(folder_config(three, out, retry=Retry.TRANSIENT))
    assert (again.statuses, again.num_shards) == ({"ok": 3}, 4)
    names = set(bucket_tree(out))
    assert {"plan/part-00001.parquet", "train/00002.tar", "train/00003_stats.json"} <= names
    assert len(export.checked(open_place(out))) == len(names)
    prepare(folder_config(three, out, overwrite=True))
    assert bucket_tree(out) == local


def command(videos: Path, out: str) -> list[str]:
    words = ["prepare", "folder", "--source", f"local:{videos}", "--out", out, "--workers", "1"]
    return [sys.executable, "-c", "from avcli.main import run; run()", *words, "--shard-size", "2", "--frames", "2"]


@pytest.mark.slow
def test_two_clusters_on_one_bucket_make_one_dataset(three, out, road, tmp_path):
    def started(name: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": road.url, "OMP_NUM_THREADS": "1"}
        environment["XDG_CACHE_HOME"] = str(tmp_path / name)
        return subprocess.Popen(command(three, out), stdout=-1, stderr=-1, text=True, env=environment)

    pair = [started("one"), started("two")]
    for run in pair:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    suffixes = (".tar", ".tar.idx", ".parquet", "_stats.json")
    assert {name for name in bucket_tree(out) if name.startswith("train/")} == {
        f"train/0000{number}{suffix}" for number in range(2) for suffix in suffixes
    }
    seen = CliRunner().invoke(app, ["verify", out, "--deep"])
    assert seen.exit_code == 0, seen.output
