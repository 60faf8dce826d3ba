"""Output of `avkit evaluate`: its results."""

import math
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from avmanifest.wording import counted
from avmodel.evaluate.result import Result, Score, shown_difference, shown_score

PLAIN_WIDTH = 160  # columns of a table that goes into a file
WHOLE = ("tied", "skipped_classes")  # counts
NOISE = "~"  # marks a score that is within noise of a baseline
MOST_NAMED = 3  # files of a folder
BORDERS = 3  # columns between two of a table


def print_result(result: Result, folder: Path, console: Console | None = None) -> None:
    """Print scores and baselines as tables, what differs from baselines, the line for a paper and the files."""
    console = console or Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    title = Text(f"{result.task}, {result.mode}")
    if result.said:
        console.print(Text.assemble(title, ": ", result.said), soft_wrap=True)
    else:
        for table in score_tables(result, console.width):
            table.title, title = title, Text("")
            console.print(table)
        for text in compared_lines(result):
            console.print(Text(text), soft_wrap=True)
    for note in result.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    console.print(Text(result.line()), soft_wrap=True)
    console.print(Text(f"in {folder}: {', '.join(named_files(result.files))}"), soft_wrap=True)


def score_tables(result: Result, width: int) -> list[Table]:
    """The scores and baselines with their intervals: one table, or several with some of the metrics each."""
    kinds = (result.scores, result.baselines)
    metrics = list(dict.fromkeys(name for found in result.scores.values() for name in found))
    cells = {name: [cell(name, found.get(name)) for kind in kinds for found in kind.values()] for name in metrics}
    samples = [score.samples or 0 for found in result.scores.values() for score in found.values()]
    first = BORDERS + max(len(row) for kind in kinds for row in kind) + BORDERS + len(f"{max(samples):,}")
    groups: list[list[str]] = []
    left = 0
    for name in metrics:
        needed = BORDERS + max(map(len, (name, *cells[name])))
        if not groups or needed > left:
            groups.append([])
            left = width - first - 1
        groups[-1].append(name)
        left -= needed
    return [_table(result, group) for group in groups]


def _table(result: Result, metrics: Sequence[str]) -> Table:
    table = Table(title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
    for kind in (result.scores, result.baselines):
        for row, found in kind.items():
            headline = kind is result.scores and row == result.headline[0]
            style = "bold" if headline else "dim" if kind is result.baselines else ""
            counts = [score.samples for score in found.values() if score.samples is not None]
            shown = [f"{counts[0]:,}" if counts else "", *(cell(name, found.get(name)) for name in metrics)]
            table.add_row(Text(row, style=style), *(Text(text, style=style) for text in shown))
        table.add_section()
    return table


def compared_lines(result: Result) -> list[str]:
    """What brackets and marks of the tables mean, and the headline's metric of each row beside its first baseline."""
    headline, metric = result.headline
    over = f"{result.units}s and seeds" if len(result.seeds) > 1 else f"{result.units}s"
    lines = [f"headline: {metric} of {headline}" + (f"; rule: {result.rule}" if result.rule else "")]
    lines.append(f"in brackets: 95 % intervals, by the bootstrap over {over}")
    noisy = []
    for row, found in result.scores.items():
        for name, score in found.items():
            first = next(iter(score.differences), None) if name == metric else None
            if first is not None:
                lines.append(f"{name} of {row} beside {first}: {shown_difference(score.differences[first])}")
            if others := [other for other in score.noise if other != first]:
                noisy.append(f"  {name} of {row}: {', '.join(others)}")
    if any(score.noise for found in result.scores.values() for score in found.values()):
        meaning = "the interval of the paired difference to a baseline contains 0"
        lines.append(f"{NOISE} within noise: {meaning}" + ("; besides those above:" if noisy else ""))
    return lines + noisy


def named_files(files: Sequence[str]) -> list[str]:
    """The files by name; of many in one folder, the first and the last."""
    named: list[str] = []
    for folder, names in groupby(files, key=lambda name: name.rpartition("/")[0]):
        found = list(names)
        many = folder and len(found) > MOST_NAMED
        named += [f"{found[0]} to {found[-1]} ({counted(len(found), 'file')})"] if many else found
    return named


def cell(name: str, score: Score | None) -> str:
    """The text of a score in the table, with NOISE after it where a baseline may be as good."""
    if score is None or not math.isfinite(score.mean):
        return "-"
    if name in WHOLE:
        return f"{score.mean:,.0f}"
    return shown_score(score) + (f" {NOISE}" if score.noise else "")
