"""A run of prepare in trackers: clips by status, clips a second, time left, committed shards."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

from avdata.prepare.config import PrepareConfig
from avdata.prepare.description import settings_of
from avdata.prepare.report import PrepareListener
from avdata.tracking import TrackedRun, Tracker, require_trackers, start_trackers
from avmanifest.secrets import shown_content, shown_url

EVERY_S: Final = 10.0
"""Shortest time between two records."""


class TrackedListener:
    """A listener that logs the run's progress to trackers and passes every event on to another listener.

    A record has `clips` and `shards` that ended in this run, `clips_per_s`, `eta_s` and `status/STATUS` for each
    status. Its step is the number of clips.
    """

    def __init__(self, listener: PrepareListener, start: Callable[[], list[Tracker]], every_s: float = EVERY_S) -> None:
        self._listener, self._start, self._every_s = listener, start, every_s
        self._trackers: list[Tracker] = []
        self._ended: Counter[str] = Counter()
        self._to_do = self._shards = 0
        self._logged = -1
        self._started_s = self._next_s = time.monotonic()

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        """Begin the run there: nothing was refused. The clock starts."""
        self._trackers = self._start()
        self._to_do = num_to_do
        self._started_s = time.monotonic()
        self._next_s = self._started_s + self._every_s
        self._listener.planned(plan, num_to_do)

    def clip_ended(self, status: str) -> None:
        """Count the clip."""
        self._ended[status] += 1
        self._listener.clip_ended(status)
        if time.monotonic() >= self._next_s:
            self.log()

    def shards(self, done: int, total: int) -> None:
        """Keep the number of shards."""
        self._shards = done
        self._listener.shards(done, total)

    def step(self, name: str) -> None:
        """Pass on the event."""
        self._listener.step(name)

    def note(self, text: str) -> None:
        """Pass on the message."""
        self._listener.note(text)

    def end(self, *, failed: bool) -> None:
        """Log the last numbers, and end the run there."""
        self.log()
        for tracker in self._trackers:
            tracker.finish(failed=failed)

    def log(self) -> None:
        """Log what has ended by now, unless it was logged already."""
        now_s = time.monotonic()
        self._next_s = now_s + self._every_s
        done = self._ended.total()
        if done == self._logged:
            return
        self._logged = done
        per_s = done / max(now_s - self._started_s, 1e-9)
        values: dict[str, Any] = {"clips": done, "shards": self._shards, "clips_per_s": per_s}
        values |= {"eta_s": (self._to_do - done) / per_s} if done else {}
        values |= {f"status/{status}": count for status, count in self._ended.items()}
        for tracker in self._trackers:
            tracker.log(values, done)


@contextmanager
def tracked(config: PrepareConfig, listener: PrepareListener) -> Iterator[PrepareListener]:
    """The listener, which also logs where the settings say so. Each start of prepare is a run of its own there.

    Raises ConfigError as start_trackers does.
    """
    out = shown_url(str(config.out))
    name = PurePosixPath(out.rstrip("/")).name or "prepare"
    values: dict[str, Any] = shown_content({"out": out, "sources": list(config.sources), **settings_of(config)})
    run = TrackedRun.of(config)
    require_trackers(run)
    if run is None:
        yield listener
        return
    following = TrackedListener(listener, lambda: start_trackers(run, name, values, say=listener.note))
    failed = True
    try:
        yield following
        failed = False
    finally:
        following.end(failed=failed)
