"""docs/reproduce: its tables are those of the papers' files."""

import re
from pathlib import Path

import pytest

from avmanifest.errors import ConfigError
from avmodel.reproduce.pages import DOCS, PARTS, plan_of, written
from avmodel.reproduce.paper import PAPERS, read_paper

QUICK = {name: make for name, make in PARTS.items() if name != "costs"}


@pytest.mark.parametrize("name", PAPERS)
def test_a_page_has_the_commands_and_tables_of_its_paper(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text()
    assert written(page, read_paper(name), Path("page"), QUICK) == page, "run python -m avmodel.reproduce.pages"


@pytest.mark.parametrize("name", PAPERS)
def test_a_page_has_an_estimate_for_each_command(name: str) -> None:
    estimated = re.findall(r"^\| `((?:pretrain|evaluate)/\S+)` \|", (DOCS / f"{name}.md").read_text(), re.MULTILINE)
    steps = [step.name for step in plan_of(read_paper(name)).steps if step.words[0] in ("pretrain", "evaluate")]
    assert estimated == steps, "run python -m avmodel.reproduce.pages"


def test_a_page_without_the_lines_of_a_part_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"page: lacks the lines <!-- commands --> and <!-- end of commands -->"):
        written("# Page\n", read_paper("deepavfusion"), Path("page"), QUICK)
