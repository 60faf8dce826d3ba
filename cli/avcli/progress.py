"""Progress on stderr: bars on a terminal, elsewhere lines."""

import time
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

PLAIN_INTERVAL_S: Final = 10.0  # seconds between lines where there is no terminal


def say(console: Console, text: str) -> None:
    """Print a text as it is: without markup, colors and line breaks of its own."""
    console.print(Text(text), highlight=False, soft_wrap=True)


class _Bars:
    """Bars on a terminal, which are gone at the end."""

    def __init__(self, *columns: ProgressColumn, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
        self._bars = Progress(*columns, console=self.console, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        say(self.console, text)


class EvaluationProgress(_Bars):
    """Shows the progress of an evaluation, or of a model over a video; elsewhere a line every ten seconds."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(MofNCompleteColumn(), console=console)
        self._task: TaskID | None = None
        self._what = ""
        self._told_s = 0.0

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
            self.say(f"{what}: {done:,} of {total:,}")
        self._what = what


class DownloadProgress(_Bars):
    """Shows the progress of a download; elsewhere a line for each tenth."""

    def __init__(self, name: str) -> None:
        super().__init__(DownloadColumn(), TransferSpeedColumn())
        self._task = self._bars.add_task(name, total=None, start=True)
        self._name = name
        self._tenth = -1

    def __call__(self, done: int, total: int | None) -> None:
        """Show that so many bytes are here."""
        if self.console.is_terminal:
            self._bars.update(self._task, completed=done, total=total)
        elif total and (tenth := 10 * done // total) > self._tenth:
            self._tenth = tenth
            self.say(f"{self._name}: {done:,} of {total:,} bytes")
