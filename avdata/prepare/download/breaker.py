"""A circuit breaker for a source that refuses requests: pause it, pause it longer, then stop it for this run."""

import math
from typing import Final

from avdata.prepare.config import BreakerConfig

REFUSALS: Final = frozenset({"blocked_bot", "blocked_rate", "blocked_soft"})
"""Statuses with which a source refuses this client, whatever the video."""


class Breaker:
    """The state of one source. Times are monotonic seconds, given by the caller.

    After a pause one fetch is sent as a probe; no other starts until it has ended.

    Args:
        config: When to pause and when to stop.
        probe: Whether the first fetch of the run is a probe, too.
    """

    def __init__(self, config: BreakerConfig, *, probe: bool = False) -> None:
        self._config = config
        self._refusals = 0
        self._probing = probe
        self._in_flight = 0
        self._paused_until = -math.inf
        self.num_pauses = 0  # in a row
        self.stopped = False
        self.last_refusal = ""  # message of the last refusal
        self.last_status = ""

    def wait_s(self, now: float) -> float:
        """Seconds until a fetch may start: 0 now, infinite while a probe is running or once the source is stopped."""
        if self.stopped or (self._probing and self._in_flight):
            return math.inf
        return max(self._paused_until - now, 0.0)

    def paused_s(self, now: float) -> float:
        """Seconds that are left of a pause."""
        return max(self._paused_until - now, 0.0)

    def began(self) -> None:
        """Count a fetch that starts."""
        self._in_flight += 1

    def answered(self) -> None:
        """Count a fetch that got a video, or an answer about the video. It resets refusals and pauses."""
        self._in_flight -= 1
        self._refusals = self.num_pauses = 0
        self._probing = False

    def failed(self) -> None:
        """Count a fetch that got no answer or was not sent. It changes neither refusals nor pauses."""
        self._in_flight -= 1

    def refused(self, now: float, status: str, message: str, retry_after_s: float = 0.0) -> bool:
        """Count a fetch that was refused.

        Args:
            now: Monotonic seconds.
            status: One of REFUSALS.
            message: The source's message.
            retry_after_s: The shortest pause that the source asks for, in seconds.

        Returns:
            Whether this refusal paused or stopped the source.
        """
        self._in_flight -= 1
        self._refusals += 1
        self.last_refusal, self.last_status = message, status
        if self.stopped or now < self._paused_until:
            return False  # it was sent before the pause began
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
