"""A source that refuses us is left alone for a while, then longer, then for good: the list is not burned on it."""

import math
from typing import Final

from avdata.prepare.config import BreakerConfig

TRIPS: Final = frozenset({"blocked_bot", "blocked_rate"})
"""Statuses that speak of us, not of the video."""


class Breaker:
    """The state of one source. Times are monotonic seconds, given by the caller.

    After a pause one fetch goes out as a probe, and nothing else until it has come back; with `probe`, so it is at
    the beginning.
    """

    def __init__(self, config: BreakerConfig, *, probe: bool = False) -> None:
        self._config = config
        self._refusals = 0
        self._probing = probe
        self._in_flight = 0
        self._paused_until = -math.inf
        self.num_pauses = 0  # in a row
        self.stopped = False
        self.last_refusal = ""  # status and message, of the last refusal
        self.last_status = ""

    def wait_s(self, now: float) -> float:
        """0 if a fetch may begin; else seconds to wait; infinite while the probe is out, or for good."""
        if self.stopped or (self._probing and self._in_flight):
            return math.inf
        return max(self._paused_until - now, 0.0)

    def paused_s(self, now: float) -> float:
        """Seconds that are left of a pause."""
        return max(self._paused_until - now, 0.0)

    def began(self) -> None:
        """A fetch is out."""
        self._in_flight += 1

    def answered(self) -> None:
        """A fetch came back with a video, or with an answer about the video."""
        self._in_flight -= 1
        self._refusals = self.num_pauses = 0
        self._probing = False

    def failed(self) -> None:
        """A fetch came back with neither, or never went out: that says nothing of the source."""
        self._in_flight -= 1

    def refused(self, now: float, status: str, message: str, retry_after_s: float = 0.0) -> bool:
        """A fetch came back with a refusal; True if the source is paused or stopped for it."""
        self._in_flight -= 1
        self._refusals += 1
        self.last_refusal, self.last_status = message, status
        if self.stopped or now < self._paused_until:
            return False  # one of those that were out already
        if self._refusals < (1 if self._probing and self.num_pauses else self._config.threshold):
            return False
        if self.num_pauses >= self._config.max_pauses:
            self.stopped = True
            return True
        pause_s = max(self._config.first_pause_s * self._config.growth**self.num_pauses, retry_after_s)
        self._paused_until = now + pause_s
        self.num_pauses += 1
        self._refusals = 0
        self._probing = True
        return True
