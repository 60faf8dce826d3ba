"""Compiled blocks: few graphs for many blocks, and the same numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_blocks_of_one_shape_share_a_graph_and_the_gradients_stay() -> None:
    command = [sys.executable, "-m", "tests.compiled"]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        found = json.loads(line)
        assert found["far"] < 1e-5, found
        assert found["further"] == 0, found
        assert 1 < found["graphs"] <= 12, found  # of 18 blocks in five shapes, and 5 blocks in ten
    assert json.loads(done.stdout.splitlines()[0])["blocks"] == 18
