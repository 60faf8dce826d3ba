"""SIGKILL a run at many points: the same command again ends in the same bytes as an undisturbed run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avdata.prepare.config import Retry, Supervision
from avdata.prepare.job import prepare
from tests.videos import draw_folder, folder_config, tree

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three videos: two shards."""
    return draw_folder(tmp_path_factory.mktemp("three"), [f"train/a/v{i}.mp4" for i in range(3)])


def kill_everywhere(moments, stride, scenario, videos, folder) -> dict[str, Path]:
    """By the name of the point at which a run was killed: the output of the run that followed."""
    script = Path(__file__).with_name("killing.py")
    stride = 1 if os.environ.get("AVKIT_KILL_EVERYWHERE") else stride
    run = subprocess.run(
        [sys.executable, str(script), moments, str(stride), scenario, str(videos), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return {f"{n}: {name}": Path(out) for n, (name, out) in enumerate(json.loads(run.stdout))}


def undisturbed(scenario, videos, out) -> dict[str, str]:
    if scenario == "retry":
        prepare(folder_config(videos, out, supervision=Supervision(deadline_s=1e-6)))
        prepare(folder_config(videos, out, retry=Retry.TRANSIENT))
    else:
        prepare(folder_config(videos, out))
    return tree(out)


@pytest.mark.slow
def test_a_run_killed_at_any_step_is_finished_by_the_next(three, tmp_path):
    ends = kill_everywhere("steps", 2, "fresh", three, tmp_path / "killed")
    meant = undisturbed("fresh", three, tmp_path / "calm")
    # Which clip ends first is chance, so a moment may come twice and another not at all.
    steps = ("tar written", "idx written", "parquet written", "verified", "stats written", ".tar published",
             ".idx published", ".parquet published", "_stats.json published", "manifest merged")  # fmt: skip
    assert sum(any(name.endswith(step) for name in ends) for step in steps) >= 5
    assert {name: tree(out) for name, out in ends.items()} == dict.fromkeys(ends, meant)


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "stride"), [("fresh", 11), ("overwrite", 15), ("damage", 11), ("retry", 15)])
def test_a_run_killed_before_a_change_of_a_file_is_finished_by_the_next(scenario, stride, three, tmp_path):
    """With AVKIT_KILL_EVERYWHERE=1: before every change, which takes minutes."""
    ends = kill_everywhere("files", stride, scenario, three, tmp_path / "killed")
    meant = undisturbed(scenario, three, tmp_path / "calm")
    assert len(ends) > 3
    assert {name: tree(out) for name, out in ends.items()} == dict.fromkeys(ends, meant)
