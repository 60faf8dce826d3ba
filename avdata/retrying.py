"""The retry policy of requests: number of attempts, waits, jitter and a total time."""

import random
from dataclasses import dataclass
from typing import Annotated

from avmanifest.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Attempts and the waits between them: each wait is twice the one before it."""

    attempts: Annotated[int, "Attempts of one request, the first included."] = 5
    wait_s: Annotated[float, "Seconds before the second attempt; doubled before each further one."] = 1.0
    jitter: Annotated[float, "Share by which a wait is drawn shorter or longer, from 0 to 1."] = 0.0
    total_s: Annotated[float | None, "Seconds after which no further attempt begins. none: no limit."] = None

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.wait_s < 0:
            raise ConfigError(f"attempts={self.attempts} must be at least 1, wait_s={self.wait_s} not below 0")
        if not 0 <= self.jitter <= 1 or (self.total_s is not None and self.total_s < 0):
            raise ConfigError(f"jitter={self.jitter} must be from 0 to 1, total_s={self.total_s} not below 0")

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
