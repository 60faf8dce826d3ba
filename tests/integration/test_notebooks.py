"""The notebooks of docs/notebooks, carried out cell by cell in this process."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.pages import DOCS, run_command

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    """The cells of a notebook that hold code."""
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_no_results_are_kept(notebook: Path) -> None:
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["metadata"]["language_info"]) == (4, {"name": "python"})
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells_of(notebook))
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_every_cell_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": notebook.stem, "_run": run_command}
    for number, cell in enumerate(cells_of(notebook)):
        source = "".join(cell["source"])
        code = re.sub(r"^!(avkit .*)$", lambda command: f"_run({command[1]!r})", source, flags=re.MULTILINE)
        exec(compile(code, f"{notebook.name}, cell {number}", "exec"), names)
    plt.close("all")
