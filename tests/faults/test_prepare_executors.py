"""Shard tasks on a Ray cluster that loses a node, and in job arrays: the bytes equal those of a local run."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.prepare.config import ExecutorKind, PrepareConfig, Retry, Share
from avdata.prepare.job import prepare
from avmanifest.errors import ConfigError
from tests.videos import Notes, folder_config, tree

ROOT = Path(__file__).parents[2]
WITHOUT_RAY = importlib.util.find_spec("ray") is None


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(WITHOUT_RAY, reason="Ray is an extra, and not installed")
def test_a_ray_cluster_that_loses_a_node_makes_the_same_bytes_as_one_machine(videos, prepared, tmp_path):
    script = Path(__file__).with_name("ray_nodes.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(script), str(videos), str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    seen = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("{")))
    assert (seen["nodes"], seen["killed"]) == (2, True)
    assert "--workers 2 asks for 2 CPUs of one node" in seen["too_many"], "the cluster has two, on two nodes"
    assert "the 2 nodes have 1 (2 nodes) CPUs. Give --workers 1," in seen["too_many"]
    assert seen["statuses"] == ["ok"] * 7
    assert sum(seen["sources"].values()) == 7
    assert seen["exit_code"] == 0
    assert (seen["granted"], seen["refused"]) == (5, True), "eight requests of two nodes, from one budget of five"
    assert seen["fetched"] == [3, 0, {"v0": 1, "v1": 1}, 3]
    assert tree(tmp_path / "out") == tree(prepared.out)


@pytest.mark.skipif(WITHOUT_RAY, reason="Ray is an extra, and not installed")
def test_without_a_cluster_the_run_says_how_to_get_one(videos, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where a cluster of this machine would leave its address
    words = ["prepare", "folder", "--source", f"local:{videos}", "--out", str(tmp_path / "out"), "--executor", "ray"]
    run = subprocess.run(
        [sys.executable, "-c", "from avcli.main import run; run()", *words], capture_output=True, text=True
    )
    assert run.returncode == 2, run.stderr
    assert "start one with ray start --head" in run.stderr


def test_without_ray_the_run_says_what_to_install(videos, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'avkit\[ray\]'"):
        prepare(folder_config(videos, tmp_path / "out", executor=ExecutorKind.RAY))


def sliced(videos: Path, out: Path, index: int, count: int) -> PrepareConfig:
    return folder_config(videos, out, executor=ExecutorKind.ARRAY, share=Share(index=index, count=count))


def test_a_job_array_makes_the_same_bytes_as_one_run_and_its_last_job_writes_the_manifest(videos, prepared, tmp_path):
    out = tmp_path / "out"
    done = []
    for index in (2, 0, 1):
        notes = Notes()
        report = prepare(sliced(videos, out, index, 3), notes)
        assert report.exit_code == 0
        assert report.requested == (7 if index == 1 else len(notes.statuses)), "a task reports its share, the last all"
        done += notes.statuses
        assert (out / "manifest").exists() == (index == 1)
        assert any("other tasks are not done" in note for note in notes.notes) == (index != 1)
    assert len(done) == 7, "every clip is one task's, and no two do the same"
    assert tree(out) == tree(prepared.out)


def test_a_run_without_an_array_finishes_an_interrupted_array(videos, prepared, tmp_path):
    out = tmp_path / "out"
    prepare(sliced(videos, out, 1, 4))
    assert not (out / "manifest").exists()
    assert prepare(folder_config(videos, out)).exit_code == 0
    assert tree(out) == tree(prepared.out)


def test_a_job_of_a_slurm_array_finds_its_share(videos, tmp_path):
    words = ["prepare", "folder", "--source", f"local:{videos}", "--out", str(tmp_path / "out"), "--shard-size", "2"]
    array = {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "4"}
    ended = CliRunner().invoke(app, [*words, "--executor", "array", "--workers", "1", "--json"], env=array)
    assert ended.exit_code == 0, ended.output
    report = json.loads(ended.stdout)
    assert (report["requested"], report["num_shards"], list(report["splits"])) == (1, 1, ["train"])
    outside = CliRunner().invoke(app, [*words, "--executor", "array"], env=dict.fromkeys(array))
    assert isinstance(outside.exception, ConfigError)
    assert "needs --task-index" in str(outside.exception)


@pytest.mark.parametrize("changes", [{"overwrite": True}, {"retry": Retry.ALL}])
def test_a_job_of_an_array_refuses_overwrite_and_retry(changes, videos, tmp_path):
    with pytest.raises(ConfigError, match="a single task cannot take them"):
        folder_config(videos, tmp_path, executor=ExecutorKind.ARRAY, **changes)


def test_a_share_needs_executor_array(videos, tmp_path):
    with pytest.raises(ConfigError, match="belong to --executor array"):
        folder_config(videos, tmp_path, share=Share(index=0, count=2))
