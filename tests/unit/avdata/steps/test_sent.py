"""A step that is sent to another machine, which does not have its module."""

import pickle
import sys
from pathlib import Path

import pytest

from avdata.prepare.config import PrepareConfig
from avdata.prepare.executors import ShardTask
from avdata.prepare.ray_cluster import shard_on_node
from avdata.prepare.steps.registry import load_steps
from avmanifest.errors import ConfigError
from avmanifest.layout import ShardName
from avmanifest.recipe import load_recipe

SOURCE = """
from dataclasses import dataclass
from tests.steps import Light

@dataclass(frozen=True)
class Mine(Light):
    pass
"""


def test_a_node_that_cannot_import_a_step_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "steps_of_mine.py").write_text(SOURCE)
    with monkeypatch.context() as here:
        here.syspath_prepend(str(tmp_path / "modules"))
        steps = load_steps(["steps_of_mine:Mine"])
        blob = pickle.dumps(PrepareConfig(recipe=load_recipe("synth"), out=tmp_path / "out", steps=steps))
    del sys.modules["steps_of_mine"]
    result = shard_on_node(blob, "", ShardTask(ShardName("train", 0), ()))
    assert isinstance(result.error, ConfigError)
    assert "a node of the cluster cannot import the module of a step (No module named 'steps_of_mine')" in str(
        result.error
    )
