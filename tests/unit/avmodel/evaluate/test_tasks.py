from pathlib import Path

from avmodel.evaluate.tasks import TASKS

PAGE = Path(__file__).parents[4] / "docs" / "evaluate.md"


def test_the_page_has_the_headline_of_every_task() -> None:
    page = PAGE.read_text()
    lines = [f"| `{name}` | {task.headline} |" for name, task in TASKS.items()]
    assert "\n".join(["| task | headline |", "|---|---|", *lines, ""]) in page
