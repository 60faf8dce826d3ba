from pathlib import Path

import pytest

from avmanifest.errors import ConfigError
from avmanifest.settings import override
from avmodel.evaluate.run import evaluate
from avmodel.evaluate.tasks import TASKS, task_config

READS = {"knn": ("gallery=train",), "retrieval": ("align=linear",), "localization": ("supervised=true",)}


@pytest.mark.parametrize(
    ("task", "settings", "remedy"),
    [
        ("knn", (), "gallery=leave-one-out neighbors are test clips. Set gallery=train, or leave --train out"),
        ("retrieval", (), "Set tuned=true or align=linear, or leave --train out"),
        ("localization", (), "Set supervised=true, or leave --train out"),
        ("finetune", ("train=false",), "Set train=true, or leave --train out"),
        ("embed", (), "this task trains nothing"),
    ],
)
def test_training_data_that_would_not_be_read_is_refused(task: str, settings: tuple[str, ...], remedy: str) -> None:
    with pytest.raises(ConfigError, match="--train") as error:
        evaluate(task, override(task_config(task), settings), Path("nowhere"), "test", train="train")
    assert remedy in str(error.value)


@pytest.mark.parametrize("task", [name for name in TASKS if name != "embed"])
def test_every_task_can_read_training_data(task: str) -> None:
    assert not override(task_config(task), READS.get(task, ())).reads_no_training_data()
