"""The retry policy of requests: number of attempts, waits, jitter and a total time."""

import random
from dataclasses import dataclass
from typing import Annotated

from avmanifest.settings import SHARE, Bounds, check


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Attempts and the waits between them: each wait is twice the one before it."""

    attempts: Annotated[int, "Attempts of one request, the first included.", Bounds(1)] = 5
    wait_s: Annotated[float, "Seconds before the second attempt; doubled before each further one.", Bounds(0)] = 1.0
    jitter: Annotated[float, "Share by which a wait is drawn shorter or longer.", SHARE] = 0.0
    total_s: Annotated[float | None, "Seconds after which no further attempt begins. none: no limit.", Bounds(0)] = None

    def __post_init__(self) -> None:
        check(self)

    def delay_s(self, made: int) -> float:
        """Seconds to wait after `made` attempts (at least 1)."""
        drawn = random.uniform(1 - self.jitter, 1 + self.jitter) if self.jitter else 1.0  # noqa: S311 - no secret
        return float(self.wait_s * 2.0 ** (made - 1) * drawn)

    def next_delay_s(self, made: int, elapsed_s: float) -> float | None:
        """Seconds to wait before the next attempt; None if there is no further one.

        Args:
            made: Attempts made, at least 1.
            elapsed_s: Seconds since the first attempt started.
        """
        delay_s = self.delay_s(made)
        is_late = self.total_s is not None and elapsed_s + delay_s > self.total_s
        return None if made >= self.attempts or is_late else delay_s
