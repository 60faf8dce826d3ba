"""Output of `avkit prepare` and `status`: progress on stderr, results on stdout."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Final, Self

import pyarrow as pa
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from avcli.failed_output import failed_lines
from avcli.options import print_json
from avcli.progress import PLAIN_INTERVAL_S, say
from avcli.remedies import Advice
from avcli.tables import plain_table, shown_value
from avcli.typed import shown_command
from avdata.prepare.config import PrepareConfig
from avdata.prepare.dry_run import DryRun
from avdata.prepare.estimate import Estimate, SourceShare
from avdata.prepare.progress import Progress
from avdata.prepare.report import PrepareReport
from avdata.prepare.steps.registry import load_steps, step_record
from avmanifest.records import shown_step
from avmanifest.schema import is_failure, status_meaning
from avmanifest.secrets import shown_url
from avmanifest.wording import counted, time_in_words

_LONGEST_REASON: Final = 300  # characters
_LONGEST_NAME: Final = 120  # characters of a file's name
_BAR_WIDTH: Final = 60  # columns
_MOST_NAMES: Final = 4  # of one clip


class PrepareProgress:
    """Shows the progress of a prepare run: a live display on a terminal, lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.statuses: Counter[str] = Counter()
        self.num_to_do = 0
        self.started_s = self.told_s = time.monotonic()
        self._bar = Bars(
            TextColumn("[bold]clips"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]:.1f}/s"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task("clips", total=None, rate=0.0)
        self._shards = ""  # how many are committed
        self._commit = ""  # what the commit of one does now
        self._live = Live(self._view(), console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        """Show the number of clips, and how many are left."""
        self.num_to_do = num_to_do
        self.started_s = self.told_s = time.monotonic()
        self._bar.update(self._task, total=num_to_do)
        self.note(f"plan of {counted(len(plan), 'clip')}; {num_to_do:,} to do")

    def clip_ended(self, status: str) -> None:
        """Count a clip."""
        self.statuses[status] += 1
        now = time.monotonic()
        done = self.statuses.total()
        self._bar.update(self._task, completed=done, rate=done / max(now - self.started_s, 1e-9))
        if self.console.is_terminal:
            self._refresh()
        elif now - self.told_s >= PLAIN_INTERVAL_S:
            self.told_s = now
            self.console.print(self._line(now), highlight=False)

    def shards(self, done: int, total: int) -> None:
        """Show the number of committed shards."""
        self._shards = f"{done:,} of {counted(total, 'shard')} committed"
        self._commit = ""
        self._refresh()

    def step(self, name: str) -> None:
        """Show what is done to a shard beside the number of shards, on a terminal."""
        self._commit = name
        self._refresh()

    def note(self, text: str) -> None:
        """Show a line above the display."""
        say(self.console, text)

    def _refresh(self) -> None:
        if self.console.is_terminal:
            self._live.update(self._view())

    def _view(self) -> Group:
        lines = [Text(f"{self._shards}  {self._commit}".strip(), no_wrap=True, overflow="ellipsis")]
        if failures := self._failures():
            lines.append(Text(failures, style="yellow"))
        return Group(self._bar, *lines)

    def _failures(self) -> str:
        return "  ".join(f"{status} {count:,}" for status, count in self.statuses.most_common() if status != "ok")

    def _line(self, now: float) -> Text:
        done = self.statuses.total()
        rate = done / max(now - self.started_s, 1e-9)
        left_s = (self.num_to_do - done) / max(rate, 1e-9)
        return Text(
            f"{done:,}/{counted(self.num_to_do, 'clip')}, {self._shards}, {rate:.1f}/s, {left_s:,.0f} s left  "
            f"{self._failures()}".rstrip()
        )


def print_report(report: PrepareReport, advice: Sequence[Advice] = (), console: Console | None = None) -> None:
    """Print the result of a run: clips by split and status, some failed clips by name, and what to do next."""
    console = console or Console()
    table = Table(title=str(report.out), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("split", "requested", "samples", "coverage"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, found in report.splits.items():
        share = f"{found['ok'] / max(found['requested'], 1):.1%}"
        table.add_row(split, f"{found['requested']:,}", f"{found['ok']:,}", share)
    console.print(table)
    others = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for status, count in report.statuses.items():
        if status != "ok" and not is_failure(status):
            others.add_row(Text(status, style="yellow"), f"{count:,}", status_meaning(status))
    if others.row_count:
        console.print(others)
    if report.steps:
        console.print(_steps(report.steps))
    console.print(Text(report.summary), soft_wrap=True)
    if report.num_failed:
        _print_failures(report, advice, console)
    if report.ok and not report.pending:
        console.print(Text(f"\nlook: {shown_command(['avkit', 'inspect', str(report.out)])}"), soft_wrap=True)


def _print_failures(report: PrepareReport, advice: Sequence[Advice], console: Console) -> None:
    """Some failed clips by name, the command that lists all, and what to do about each status."""
    console.print(Text(f"\n{counted(report.num_failed, 'clip')} failed", style="bold"))
    for line in failed_lines(report.failed, _LONGEST_REASON):
        console.print(line, soft_wrap=True)
    if report.num_failed > len(report.failed):
        console.print(f"and {report.num_failed - len(report.failed):,} more", highlight=False)
    listing = shown_command(["avkit", "inspect", str(report.out), "--failed"])
    console.print(Text(f"all of them: {listing}"), soft_wrap=True)
    for one in advice:
        console.print(
            Text.assemble("\n", (one.status, "yellow"), f": {counted(one.clips, 'clip')}: {one.meaning}"),
            soft_wrap=True,
        )
        if one.remedy:
            console.print(Text(f"  {one.remedy}"), soft_wrap=True)
        if one.status == "internal" and report.tracebacks:
            console.print(Text(f"  tracebacks: {report.tracebacks}"), soft_wrap=True)
        if one.command:
            console.print(Text(f"  {one.command}"), soft_wrap=True)


def _steps(steps: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each step cost in this run, and how many clips of the dataset it dropped."""
    table = plain_table(("step", "<"), ("clips", ">"), ("CPU s", ">"), ("CPU ms a clip", ">"), ("dropped", ">"))
    for name, step in steps.items():
        each = f"{1000 * step['seconds'] / step['clips']:,.1f}" if step["clips"] else ""
        table.add_row(name, f"{step['clips']:,}", f"{step['seconds']:,.1f}", each, f"{step['dropped']:,}")
    return table


def print_progress(progress: Progress, console: Console | None = None) -> None:
    """Print the progress of a dataset, and the runs that work on it."""
    console = console or Console()
    for line in _progress_lines(progress):
        say(console, line)


def watch_progress(
    read: Callable[[], Progress],
    interval_s: float,
    stopped: threading.Event,
    console: Console | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Show the progress again and again until no run works on the dataset.

    On a terminal it is drawn anew in its place; elsewhere, and as JSON, one is printed after the other.

    Args:
        read: Reads the progress.
        interval_s: Seconds from one to the next.
        stopped: Ends it, once it is set.
        console: Where it is shown; None: stdout.
        as_json: Print JSON.
    """
    console = console or Console()
    in_place = console.is_terminal and not as_json
    with Live(console=console, auto_refresh=False) if in_place else nullcontext() as live:
        while True:
            progress = read()
            if live is not None:
                live.update(_progress_view(progress), refresh=True)
            elif as_json:
                print_json(progress.as_dict())
            else:
                print_progress(progress, console)
            if not progress.runs or stopped.wait(interval_s):
                return


def _progress_view(progress: Progress) -> Group:
    """The lines, and a bar for each run."""
    bars = [
        ProgressBar(total=max(run.to_do, 1), completed=sum(run.ended.values()), width=_BAR_WIDTH)
        for run in progress.runs
    ]
    return Group(*map(Text, _progress_lines(progress)), *bars)


def _progress_lines(progress: Progress) -> Iterator[str]:
    done = sum(progress.committed.values())
    yield (
        f"{progress.out}: {done:,} of {counted(progress.requested, 'clip')} committed, "
        f"{progress.num_committed_shards:,} of {counted(progress.num_shards, 'shard')}"
    )
    for status, count in progress.committed.items():
        yield f"  {count:>9,}  {status:<20} {status_meaning(status)}"
    for run in progress.runs:
        ended = sum(run.ended.values())
        left = "" if run.left_s is None else f", {time_in_words(run.left_s)} left"
        yield f"run {run.pid} on {run.host}: {ended:,} of {counted(run.to_do, 'clip')}, {run.per_s:.2f}/s{left}"
        for name, source in run.sources.items():
            state = f"{source['fetched']:,} fetched ({_size(source['bytes'])}), {source['fetching']:,} under way"
            if source["stopped"]:
                state += f"; stopped: {shown_value(source['refusal'], _LONGEST_REASON)}"
            elif source["paused_s"]:
                state += f"; paused for {source['paused_s']:,.0f} s: {shown_value(source['refusal'], _LONGEST_REASON)}"
            yield f"  {name}: {state}"
    if not progress.runs:
        yield "no run works on it" + ("" if done >= progress.requested else "; the same prepare command continues")


def print_plan(found: DryRun, config: PrepareConfig, expected: Estimate, *, as_json: bool) -> None:
    """Print what a run would do: its plan, what is done already, and its estimated size and time."""
    plan, out = found.plan, shown_url(str(config.out))
    steps = load_steps(config.steps)
    counts = {entry["values"]: entry["counts"] for entry in plan.column("split").value_counts().to_pylist()}
    content: dict[str, Any] = {
        "recipe": config.recipe.name,
        "out": out,
        "clips": len(plan),
        "splits": counts,
        "shards": {split: -(-count // config.shard_size) for split, count in counts.items()},
        "sources": list(map(shown_url, config.sources)),
        "steps": [step_record(step) for step in steps],
        "estimate": asdict(expected),
        **found.state(),
    }
    if as_json:
        print_json(content)
        return
    console = Console()
    for split, count in counts.items():
        say(console, f"{split}: {counted(count, 'clip')} in {counted(content['shards'][split], 'shard')}")
    for line in _state_lines(found, out):
        say(console, line)
    for note in found.notes:
        say(console, note)
    if not len(found.to_do):
        say(console, f"Nothing is left to do in {out}, and nothing was done.")
        return
    for name, share in expected.sources.items():
        say(console, _share_line(name, share))
    for step in steps:
        say(console, f"step {shown_step(step_record(step))}")
    if expected.missing:
        say(console, f"in no source: {counted(expected.missing, 'clip')}")
    processes = counted(config.supervision.num_workers, "process", "processes")
    say(
        console,
        f"about {_size(expected.dataset_bytes)} of shards and {time_in_words(3600 * expected.hours)} "
        f"({time_in_words(3600 * expected.decode_hours)} of decoding with {processes})",
    )
    say(console, f"{counted(len(found.to_do), 'clip')} would go to {out}. Nothing was done.")


def _state_lines(found: DryRun, out: str) -> Iterator[str]:
    """What is in the output already, and who works on it."""
    if not found.num_shards:
        yield f"{out}: no run has begun there"
        return
    done = sum(found.done.values())
    statuses = ", ".join(f"{status} {count:,}" for status, count in found.done.items())
    there = f"{counted(done, 'clip')} in {found.num_done_shards:,} of {counted(found.num_shards, 'shard')}"
    yield f"{out}: done already: {there}" + (f" ({statuses})" if statuses else "")
    if found.is_overwritten:
        yield "--overwrite would remove all of that"
    else:
        yield "the list and the settings are those of the dataset there"
    for run in found.runs:
        yield f"run {run.pid} on {run.host} works on it now"


def nothing_found(expected: Estimate) -> str:
    """That no source has a clip: the names that were looked for, and those that are there."""
    parts = []
    for one in expected.searched:
        has = f"has {counted(one.num_files, 'video')}"
        if one.files:
            has += f", such as {', '.join(shown_value(file, _LONGEST_NAME) for file in one.files)}"
        parts.append(f"{one.source} {has}")
    tried = "; ".join(
        " or ".join(shown_value(name, _LONGEST_NAME) for name in names[:_MOST_NAMES])
        for names in expected.searched[0].names
    )
    return (
        f"no source has any of {counted(expected.clips, 'clip')}. {'; '.join(parts)}. Looked for, with any suffix of a "
        f"video: {tried}. Give the --source whose files have such names, or a list with the column of paths."
    )


def _share_line(name: str, share: SourceShare | None) -> str:
    if share is None:
        return f"{name}: there; what it has is found during the run, as it has to be read for that"
    if not share.videos:
        return f"{name}: {counted(share.clips, 'clip')}"
    files = f"{counted(share.clips, 'clip')} of {counted(share.videos, 'file')} to fetch"
    return f"{name}: {files}, about {_size(share.bytes)}, {time_in_words(3600 * share.hours)}"


def _size(num_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes / 1e3:,.0f} kB"
