"""What `avkit prepare` says while it works and when it is done. Talk goes to stderr, data to stdout."""

import time
from collections import Counter
from typing import Any, Self

import pyarrow as pa
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from avcli.options import print_json
from avdata.prepare.config import PrepareConfig
from avdata.prepare.report import Report
from avmanifest.schema import STATUSES

PLAIN_INTERVAL_S = 10.0


class PrepareProgress:
    """A listener of a prepare run: a live display on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.statuses: Counter[str] = Counter()
        self.num_to_do = 0
        self.started_s = self.told_s = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]clips"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]:.1f}/s"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task("clips", total=None, rate=0.0)
        self._live = Live(self._view(), console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        """Say how much there is and how much of it is left."""
        self.num_to_do = num_to_do
        self.started_s = self.told_s = time.monotonic()
        self._bar.update(self._task, total=num_to_do)
        self.note(f"plan of {len(plan):,} clips; {num_to_do:,} to do")

    def clip_ended(self, status: str) -> None:
        """Count a clip."""
        self.statuses[status] += 1
        now = time.monotonic()
        done = self.statuses.total()
        self._bar.update(self._task, completed=done, rate=done / max(now - self.started_s, 1e-9))
        if self.console.is_terminal:
            self._live.update(self._view())
        elif now - self.told_s >= PLAIN_INTERVAL_S:
            self.told_s = now
            self.console.print(self._line(now), highlight=False)

    def step(self, name: str) -> None:
        """Steps are too many to be told."""

    def note(self, text: str) -> None:
        """Say it above the display."""
        self.console.print(Text(text), highlight=False, soft_wrap=True)

    def _view(self) -> Group:
        return Group(self._bar, Text(self._failures(), style="yellow"))

    def _failures(self) -> str:
        return "  ".join(f"{status} {count:,}" for status, count in self.statuses.most_common() if status != "ok")

    def _line(self, now: float) -> Text:
        done = self.statuses.total()
        rate = done / max(now - self.started_s, 1e-9)
        left_s = (self.num_to_do - done) / max(rate, 1e-9)
        return Text(
            f"{done:,}/{self.num_to_do:,} clips, {rate:.1f}/s, {left_s:.0f} s left  {self._failures()}".rstrip()
        )


def print_report(report: Report, console: Console | None = None) -> None:
    """The end of a run: clips by split and status, and what to do next."""
    console = console or Console()
    table = Table(title=str(report.out), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("split", "requested", "samples", "coverage"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, found in report.splits.items():
        share = f"{found['ok'] / max(found['requested'], 1):.1%}"
        table.add_row(split, f"{found['requested']:,}", f"{found['ok']:,}", share)
    console.print(table)
    failures = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for status, count in report.statuses.items():
        if status != "ok":
            failures.add_row(Text(status, style="yellow"), f"{count:,}", STATUSES[status].meaning)
    if failures.row_count:
        console.print(failures)
    console.print(Text(report.summary), soft_wrap=True)


def print_plan(plan: pa.Table, config: PrepareConfig, *, as_json: bool) -> None:
    """What a run would do."""
    counts = {entry["values"]: entry["counts"] for entry in plan.column("split").value_counts().to_pylist()}
    content: dict[str, Any] = {
        "recipe": config.recipe.name,
        "out": str(config.out),
        "clips": len(plan),
        "splits": counts,
        "shards": {split: -(-count // config.shard_size) for split, count in counts.items()},
        "sources": list(config.sources),
    }
    if as_json:
        print_json(content)
        return
    console = Console()
    for split, count in counts.items():
        console.print(f"{split}: {count:,} clips in {content['shards'][split]:,} shards", highlight=False)
    console.print(f"{len(plan):,} clips would go to {config.out}. Nothing was done.", highlight=False, soft_wrap=True)
