"""The benchmark of a training step on one GPU runs whole, here at a small size."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_table_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu_step.py", "--out", tmp_path / "step.md", "--batches", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "step.md").read_text()
    titles = [line[3:] for line in said.splitlines() if line.startswith("## ")]
    assert titles == ["Kernels of a step", "Ways to carry out a step", "Attention", "Two branches", "Loss by precision"]
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| ")]
    ways = [row for row in rows if row[0].startswith(("autocast", "bfloat16 residual"))]
    assert len(ways) == 7
    assert all(float(row[2]) > 0 for row in ways)
    assert sum(row[0] in ("float32", "bfloat16", "bfloat16-residual") for row in rows) == 6
