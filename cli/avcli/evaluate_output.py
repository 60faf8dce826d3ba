"""Output of `avkit evaluate`: progress and results."""

import math
import time
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from avmodel.evaluate.result import Result, Score

PLAIN_INTERVAL_S = 10.0
PLAIN_WIDTH = 160  # columns of a table that goes into a file
WHOLE = ("tied", "skipped_classes", "samples", "dimensions")


class EvaluationProgress:
    """Shows progress on stderr: bars on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=self.console, transient=True)
        self._task: TaskID | None = None
        self._what = ""
        self._told_s = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` of `what` are done."""
        if self.console.is_terminal:
            if self._task is None or what.partition(",")[0] != self._what.partition(",")[0]:
                if self._task is not None:
                    self._bars.remove_task(self._task)
                self._task = self._bars.add_task(what, total=total)
            self._bars.update(self._task, description=what, completed=done, total=total)
        elif (now := time.monotonic()) - self._told_s >= PLAIN_INTERVAL_S or (done == total and what != self._what):
            self._told_s = now
            self.console.print(Text(f"{what}: {done:,} of {total:,}"), highlight=False, soft_wrap=True)
        self._what = what


def print_result(result: Result, folder: Path) -> None:
    """Print scores and baselines as a table, then the line for a paper, to stdout."""
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    metrics = list(dict.fromkeys(name for found in result.scores.values() for name in found))
    table = Table(title=Text(f"{result.task}, {result.mode}"), title_justify="left")
    table.add_column("", no_wrap=True)
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
    for kind in (result.scores, result.baselines):
        for row, found in kind.items():
            style = (
                "bold"
                if kind is result.scores and row == result.headline[0]
                else "dim"
                if kind is result.baselines
                else ""
            )
            cells = [Text(cell(name, found.get(name)), style=style) for name in metrics]
            table.add_row(Text(row, style=style), *cells)
        table.add_section()
    console.print(table)
    for note in result.notes:
        console.print(Text(f"note: {note}"))
    console.print(Text(result.line()))
    console.print(Text(f"{folder}: results.json" + (", pictures" if result.extra else "")))


def cell(name: str, score: Score | None) -> str:
    """The text of a score in the table."""
    if score is None or not math.isfinite(score.mean):
        return "-"
    if name in WHOLE:
        return f"{score.mean:,.0f}"
    spread = f" ± {score.spread:.2f}" if len(score.values) > 1 else ""
    return f"{score.mean:.2f}{spread}"
