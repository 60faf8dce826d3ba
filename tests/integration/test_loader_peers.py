"""The comparison with other loaders runs: those that need no packages beyond avkit's own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "benchmarks.loader_peers"]


@pytest.mark.slow
def test_loaders_are_measured_side_by_side(tmp_path: Path) -> None:
    names = ["avkit", "torch DataLoader", "decoding alone"]
    command = [*COMMAND, "--samples", "32", "--drawn", "48", "--rounds", "2", "--batch-size", "8"]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "peers.md"), "--only", *names],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "peers.md").read_text().splitlines()
    assert done.stdout.splitlines() == lines
    rows = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])}
    assert list(rows) == names
    for figures in rows.values():
        assert len(figures) == 7
        assert min(float(figure.replace(",", "")) for figure in figures) > 0
    assert rows["decoding alone"][1] == rows["decoding alone"][3] == rows["avkit"][4] == rows["avkit"][5] == "1.00"


@pytest.mark.slow
def test_a_loader_that_fails_is_a_row_that_says_why(tmp_path: Path) -> None:
    """Here: more samples in a batch than there are."""
    command = [*COMMAND, "--samples", "8", "--drawn", "8", "--rounds", "1", "--batch-size", "0"]
    done = subprocess.run([*map(str, command), "--only", "avkit"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("| avkit | ended with 1: ")
    assert "batch_size" in last
