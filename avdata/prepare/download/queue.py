"""The fetches that wait for one source, and when the next may start."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol, runtime_checkable

from avdata.prepare.download.breaker import REFUSALS, Breaker
from avdata.prepare.download.fetches import FetchResult
from avdata.prepare.download.rate_limit import RateLimit
from avdata.prepare.pipeline import ClipTask
from avdata.prepare.sources import RemoteSource
from avdata.prepare.sources.remote import RemoteRef, Span
from avmanifest.schema import StatusClass


@dataclass(slots=True)
class PendingFetch:
    """One video to fetch, and the clips that wait for it."""

    ref: RemoteRef
    spans: tuple[Span, ...]
    tasks: list[ClipTask]
    attempts: int = 0  # without refusals that paused the source
    not_before: float = 0.0  # monotonic seconds
    lock: BinaryIO | None = None  # of the cache, while it is fetched


@runtime_checkable
class Backoff(Protocol):
    """Seconds before the next attempt, given the number of attempts made."""

    def __call__(self, attempts: int, /) -> float: ...


@dataclass(slots=True)
class SourceQueue:
    """The fetches of one source. Times are monotonic seconds."""

    source: RemoteSource
    rate_limit: RateLimit
    breaker: Breaker
    max_attempts: int
    backoff: Backoff
    waiting: deque[PendingFetch] = field(default_factory=deque)
    num_running: int = 0
    num_fetched: int = 0
    num_bytes: int = 0

    def pop_ready(self, now: float) -> tuple[PendingFetch | None, float]:
        """Take the next fetch out of the queue.

        Returns:
            The fetch and 0; or None and the seconds to wait, infinite if only the end of another fetch changes that.
        """
        wait_s = self.breaker.wait_s(now)
        if not self.waiting or wait_s > 0:
            return None, wait_s if self.waiting else math.inf
        for _ in range(len(self.waiting)):
            if self.waiting[0].not_before <= now:
                break
            self.waiting.rotate(-1)
        else:
            return None, min(pending.not_before for pending in self.waiting) - now
        wait_s = self.rate_limit.take()
        if wait_s > 0:
            return None, wait_s
        self.breaker.began()
        self.num_running += 1
        return self.waiting.popleft(), 0.0

    def postpone(self, pending: PendingFetch, until: float) -> None:
        """Put back a fetch that `pop_ready` gave because another run is fetching the same video."""
        self.withdraw()
        pending.not_before = until
        self.waiting.append(pending)

    def withdraw(self) -> None:
        """Count that a fetch that `pop_ready` gave was not sent."""
        self.breaker.failed()
        self.num_running -= 1

    def ended(self, pending: PendingFetch, result: FetchResult, now: float) -> tuple[bool, bool]:
        """Count the end of a fetch, and queue it again if another attempt may succeed.

        Returns:
            Whether it is tried again, and whether this end paused or stopped the source.
        """
        self.num_running -= 1
        tripped = False
        if result.status in REFUSALS:
            tripped = self.breaker.refused(now, result.status, result.reason, result.retry_after_s)
        elif result.status_class in (StatusClass.OK, StatusClass.PERMANENT):
            self.breaker.answered()
        else:
            self.breaker.failed()
        if result.status_class is not StatusClass.TRANSIENT or self.breaker.stopped:
            return False, tripped
        if result.status not in REFUSALS or not self.breaker.paused_s(now):
            pending.attempts += 1
        if pending.attempts >= self.max_attempts:
            return False, tripped
        pending.not_before = now + max(self.backoff(max(pending.attempts, 1)), result.retry_after_s)
        self.waiting.append(pending)
        return True, tripped

    def clear(self) -> list[PendingFetch]:
        """Empty the queue; the fetches that were waiting."""
        waiting = list(self.waiting)
        self.waiting.clear()
        return waiting
