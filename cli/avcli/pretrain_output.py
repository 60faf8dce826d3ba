"""Output of `avkit pretrain` on stderr."""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from avcli.progress import PLAIN_INTERVAL_S, say
from avmanifest.wording import counted
from avmodel.speed import RECENT_STEPS
from avmodel.train import Listener, Report


class TrainingProgress(Listener):
    """Shows the progress of training: a live display on a terminal, lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._steps = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT_STEPS)  # seconds a sample, share of waiting
        self._told_s = 0.0
        self._bar = Progress(
            TextColumn("[bold]steps"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task("steps", total=None)
        self._live = Live(Group(self._bar, Text()), console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def started(self, *, step: int, steps: int, epochs: float) -> None:
        """Show the length of the run, and the steps done."""
        self._steps = steps
        self._bar.update(self._task, total=steps, completed=step)
        self._bar.reset(self._task, total=steps, completed=step)
        self.note(f"{counted(steps, 'step')}, {epochs:.1f} epochs" + (f"; {step:,} are done" if step else ""))
        if self.console.is_terminal:
            self._live.start()

    def stepped(self, record: Mapping[str, Any]) -> None:
        """Show the newest step; without a terminal, one every ten seconds."""
        self._bar.update(self._task, completed=record["step"])
        self._recent.append((1 / record["samples_per_s"], record["data_wait"]))
        took = sum(time for time, _ in self._recent)
        terms = ", ".join(f"{key[5:]} {value:.4f}" for key, value in record.items() if key.startswith("loss_"))
        line = (
            f"epoch {record['epoch']:.2f}  loss {record['loss']:.4f} ({terms})  lr {record['lr']:.2e}  "
            f"{len(self._recent) / took:.1f} samples/s  "
            f"waited for data {sum(time * wait for time, wait in self._recent) / took:.1%}  "
            f"memory {record['peak_memory_mb'] / 1000:.1f} GB"
        )
        if "mfu" in record:
            line += f"  MFU {record['mfu']:.1%}"
        now = time.monotonic()
        if self.console.is_terminal:
            self._live.update(Group(self._bar, Text(line)))
        elif now - self._told_s >= PLAIN_INTERVAL_S or record["step"] == self._steps:
            self._told_s = now
            left = timedelta(seconds=round(record["eta_s"]))
            self.note(f"step {record['step']:,}/{self._steps:,}  {line}  {left} left")

    def note(self, text: str) -> None:
        """Show a line above the display."""
        say(self.console, text)

    def ended(self, report: Report, lines: Iterable[str] = ()) -> None:
        """Show the folder of the run, first and last loss, and the lines. Only the process that showed steps does."""
        if not self._steps:
            return
        if report.step < report.steps:
            self.note(f"stopped after step {report.step:,} of {report.steps:,} and saved; --resume goes on")
        self.note(f"{report.out}: loss {report.first_loss:.4f} -> {report.last_loss:.4f}")
        for line in lines:
            self.note(line)
