"""docs/adding-a-task.md, done from scratch: its files are saved, its entry is run, its commands are given."""

import ast
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from avcli.main import app
from avmodel.evaluate.tasks import TASKS, Task

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-task.md"
MODULES = ("centroid_config", "centroid_task")


@pytest.fixture
def centroid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """The task of the page, from its two files and its line alone."""
    *files, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, file in zip(MODULES, files, strict=True):
        (tmp_path / f"{name}.py").write_text(file)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(ast.parse(line).body) == 1
    from centroid_config import PRESETS

    exec(line, {"TASKS": TASKS, "Task": Task, "PRESETS": PRESETS})
    yield TASKS["centroid"]
    del TASKS["centroid"]
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_page_from_its_files_to_its_scores(centroid: Task) -> None:
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    printed = {}
    for line in commands.splitlines():
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
        printed[line] = result.stdout
    explained, scores = list(printed.values())[2:]
    assert "center=false" in explained
    assert "presets: cosine, centered" in explained
    assert "nearest class mean" in scores
    result = json.loads(Path("runs/demo/evaluations/centroid/results.json").read_text())
    assert result["settings"]["center"] is True
    assert {"chance", "majority", "random weights, fusion"} <= result["baselines"].keys()


def test_its_similarities_are_cosines_to_class_means(centroid: Task) -> None:
    from centroid_task import similarities

    values = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([[True, False], [True, False], [False, True]])
    cosines = similarities(values, labels, torch.tensor([[1.0, 1.0]]), center=False)
    assert cosines[0].tolist() == pytest.approx([2**-0.5, 2**-0.5])
