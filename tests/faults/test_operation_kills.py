"""SIGKILL operations at random moments: whatever command comes next, the dataset ends as without the kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_killed_operation_is_finished_or_undone_by_the_next_command():
    """With AVKIT_KILL_EVERYWHERE=1: 20 kills of each operation, which takes minutes."""
    kills = "20" if os.environ.get("AVKIT_KILL_EVERYWHERE") else "2"
    run = subprocess.run(
        [sys.executable, "-m", "tests.faults.operation_kills", kills, "1", "--clips", "5"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert run.stdout.count(f"{kills} kills, {kills} as without a kill") == 7
