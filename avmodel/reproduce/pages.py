"""The parts of docs/reproduce/*.md that are made from the papers' files: `python -m avmodel.reproduce.pages`."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from avmanifest.files import read_text, replace_text
from avmanifest.pages import with_parts
from avmodel.reproduce.estimate import CARDS, Cost, costs_of
from avmodel.reproduce.paper import PAPERS, Paper, Row, Table, printed, read_paper
from avmodel.reproduce.plan import PAPER, Plan, make_plan
from avmodel.reproduce.report import escape_markdown

DOCS: Final = Path(__file__).parents[2] / "docs" / "reproduce"
OUT: Final = Path("reproduced/paper")


def main() -> None:
    """Write all pages anew."""
    for name in PAPERS:
        path = DOCS / f"{name}.md"
        replace_text(path, written(read_text(path), read_paper(name), path, PARTS))


def written(page: str, paper: Paper, where: Path, parts: Mapping[str, Callable[[Paper], str]]) -> str:
    """The page with these parts made anew. Raises ConfigError for a page that lacks a part's lines."""
    return with_parts(page, {name: make(paper) for name, make in parts.items()}, where)


def commands(paper: Paper) -> str:
    """The commands of all tables in order, at the scale paper."""
    plan = plan_of(paper)
    prepared = [
        f"avkit prepare {data.recipe} --source local:VIDEOS {shlex.join(data.options)}".rstrip() + f" --out data/{name}"
        for name, data in paper.data.items()
    ]
    lines = [*prepared, *(step.command for step in plan.steps)]
    return "\n".join(["```", *(line.replace(f"{OUT}/{paper.name}/", "") for line in lines), "```", ""])


def tables(paper: Paper) -> str:
    """All tables with the paper's numbers, and how each row is run."""
    return "\n".join(line for table in paper.tables for line in _table(table))


def costs(paper: Paper) -> str:
    """Estimated hours on one card and on eight, and memory, of each pretraining and evaluation."""
    lines = ["| command | hours on one | on eight | GB of state |", "|---|---:|---:|---:|"]
    lines += map(cost_line, costs_of(paper, plan_of(paper).steps))
    return "\n".join([*lines, ""])


def cost_line(cost: Cost) -> str:
    """A line of the table of costs."""
    state = f"{cost.state_gb:.1f}" if cost.state_gb else "-"
    return f"| `{cost.step.name}` | {cost.hours:.1f} | {cost.hours_on(CARDS):.1f} | {state} |"


PARTS: Mapping[str, Callable[[Paper], str]] = {"commands": commands, "tables": tables, "costs": costs}


def plan_of(paper: Paper) -> Plan:
    """All commands of a paper, of datasets in data/."""
    return make_plan(paper, paper.tables, PAPER, OUT, {name: f"data/{name}" for name in paper.data})


def _table(table: Table) -> Iterator[str]:
    yield f"### Table {table.number}: {escape_markdown(table.title)}\n".replace("Table figure", "Figure")
    if table.note:
        yield f"{escape_markdown(table.note)}\n"
    heads = [column.head for column in table.columns]
    yield "| " + " | ".join(map(escape_markdown, ("", *heads, "here"))) + " |"
    yield "|---|" + "---:|" * len(heads) + "---|"
    for row in table.rows:
        cells = (row.name, *map(printed, row.paper))
        yield "| " + " | ".join(map(escape_markdown, cells)) + f" | {_how(table, row)} |"
    yield ""


def _how(table: Table, row: Row) -> str:
    """How a row's numbers come about, as a cell: its model, or its settings; and why some do not."""
    if row.cannot:
        return escape_markdown(row.cannot)
    named = [f"`{row.model}`"] if row.model else []
    settings = dict.fromkeys(source.setting for source in row.sources if source.setting)
    named += [f"`{setting}`" for setting in settings]
    reasons = table.reasons(row)
    if len(reasons) == len(table.columns):
        return escape_markdown(" ".join(reasons))
    notes = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return " ".join([", ".join(named), *map(escape_markdown, notes)]).strip()


if __name__ == "__main__":
    main()
