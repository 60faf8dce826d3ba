"""docs/adding-a-view.md: its examples run as they stand."""

import re
from contextlib import chdir
from pathlib import Path

import pytest

from tests.shards import draw_dataset

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-view.md"


def test_the_examples_run_as_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_dataset(tmp_path / "data/demo", 64, 64, num_frames=1, seconds=2.0)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    with chdir(tmp_path):
        exec(code, {})
    assert capsys.readouterr().out.splitlines() == [
        "torch.Size([64, 2, 96, 96, 3]) torch.Size([64, 3])",
        "torch.Size([64, 16000])",
    ]
