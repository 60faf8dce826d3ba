"""What is still to be fetched from one source, and when the next fetch may begin."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol, runtime_checkable

from avdata.prepare.download.breaker import TRIPS, Breaker
from avdata.prepare.download.fetches import FetchEnd
from avdata.prepare.download.pace import Pace
from avdata.prepare.pipeline import ClipTask
from avdata.prepare.sources import RemoteSource
from avdata.prepare.sources.remote import RemoteRef, Span
from avmanifest.schema import StatusClass


@dataclass(slots=True)
class Want:
    """One video to fetch, and the clips that wait for it."""

    ref: RemoteRef
    spans: tuple[Span, ...]
    tasks: list[ClipTask]
    attempts: int = 0  # that count: refusals that paused the source don't
    not_before: float = 0.0  # monotonic seconds
    lock: BinaryIO | None = None


@runtime_checkable
class Backoff(Protocol):
    """Seconds before the next attempt, by the number of those made."""

    def __call__(self, attempts: int, /) -> float: ...


@dataclass(slots=True)
class SourceQueue:
    """The fetches of one source. Times are monotonic seconds."""

    source: RemoteSource
    pace: Pace
    breaker: Breaker
    max_attempts: int
    backoff: Backoff
    waiting: deque[Want] = field(default_factory=deque)
    num_out: int = 0
    num_fetched: int = 0
    num_bytes: int = 0

    def next_at(self, now: float) -> tuple[Want | None, float]:
        """A fetch that may begin now; else None and the seconds to wait, infinite if only another end changes that."""
        wait_s = self.breaker.wait_s(now)
        if not self.waiting or wait_s > 0:
            return None, wait_s if self.waiting else math.inf
        for _ in range(len(self.waiting)):
            if self.waiting[0].not_before <= now:
                break
            self.waiting.rotate(-1)
        else:
            return None, min(want.not_before for want in self.waiting) - now
        wait_s = self.pace.take()
        if wait_s > 0:
            return None, wait_s
        self.breaker.began()
        self.num_out += 1
        return self.waiting.popleft(), 0.0

    def postponed(self, want: Want, until: float) -> None:
        """It could not begin after all: another run is at it."""
        self.withdrawn()
        want.not_before = until
        self.waiting.append(want)

    def withdrawn(self) -> None:
        """A fetch that was to begin never went out."""
        self.breaker.failed()
        self.num_out -= 1

    def ended(self, want: Want, end: FetchEnd, now: float) -> tuple[bool, bool]:
        """Take note of a fetch's end; whether it is tried again, and whether the source is now paused or stopped."""
        self.num_out -= 1
        tripped = False
        if end.status in TRIPS:
            tripped = self.breaker.refused(now, end.status, end.reason, end.retry_after_s)
        elif end.status_class in (StatusClass.OK, StatusClass.PERMANENT):
            self.breaker.answered()
        else:
            self.breaker.failed()
        if end.status_class is not StatusClass.TRANSIENT or self.breaker.stopped:
            return False, tripped
        if end.status not in TRIPS or not self.breaker.paused_s(now):
            want.attempts += 1
        if want.attempts >= self.max_attempts:
            return False, tripped
        want.not_before = now + max(self.backoff(max(want.attempts, 1)), end.retry_after_s)
        self.waiting.append(want)
        return True, tripped

    def give_up(self) -> list[Want]:
        """What was still waiting; nothing of it will be fetched."""
        given_up = list(self.waiting)
        self.waiting.clear()
        return given_up
