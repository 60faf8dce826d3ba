"""The retry policy of requests: number of attempts, waits, jitter and time limits."""

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from avmanifest.settings import POSITIVE, SHARE, Bounds, check

T = TypeVar("T")

_SLOWEST_BYTES_S: Final = 100_000  # bytes a second; who sends less is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Attempts and the waits between them: each wait is twice the one before it."""

    attempts: Annotated[int, "Attempts of one request, the first included.", Bounds(1)] = 5
    wait_s: Annotated[float, "Seconds before the second attempt; doubled before each further one.", Bounds(0)] = 1.0
    jitter: Annotated[float, "Share by which a wait is drawn shorter or longer.", SHARE] = 0.0
    attempt_s: Annotated[
        float | None,
        "Seconds that one attempt may take, and one more for every 100 kB of it. none: no limit.",
        POSITIVE,
    ] = 300.0
    total_s: Annotated[
        float | None, "Seconds after which no attempt begins and a running one is given up. none: no limit.", Bounds(0)
    ] = None

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

    def run(
        self,
        ask: Callable[[float], T],
        is_final: Callable[[BaseException], bool],
        wait: Callable[[float, int, Exception], None] | None = None,
    ) -> T:
        """Make a request until it succeeds or is given up; then its last error is raised.

        Args:
            ask: Makes one attempt; gets the seconds since the first one began.
            is_final: Whether another attempt is useless after this error.
            wait: Waits before the next attempt; gets the seconds, the attempts made and the last error. None: sleeps.
        """
        began_s = time.monotonic()
        for made in itertools.count(1):
            try:
                return ask(time.monotonic() - began_s)
            except Exception as error:
                wait_s = None if is_final(error) else self.next_delay_s(made, time.monotonic() - began_s)
                if wait_s is None:
                    raise
                if wait is None:
                    time.sleep(wait_s)
                else:
                    wait(wait_s, made, error)
        raise AssertionError("the loop above ends by itself")

    def limit_s(self, elapsed_s: float, num_bytes: int = 0) -> float | None:
        """Seconds that an attempt may take; None: no limit.

        Args:
            elapsed_s: Seconds between the start of the first attempt and the start of this one.
            num_bytes: Bytes that this attempt moves.
        """
        limits = [None if self.attempt_s is None else self.attempt_s + num_bytes / _SLOWEST_BYTES_S]
        limits.append(None if self.total_s is None else max(self.total_s - elapsed_s, 0.0))
        return min((limit_s for limit_s in limits if limit_s is not None), default=None)


def within(limit_s: float | None, ask: Callable[[], T]) -> T:
    """Make a request in a thread of its own, and stop waiting for it after `limit_s` seconds.

    The thread ends when the request does: nothing can stop a request from outside.

    Raises:
        TimeoutError: The request still runs.
        Exception: What the request raised.
    """
    if limit_s is None:
        return ask()
    from concurrent.futures import Future  # noqa: PLC0415  # settings are read without it, and sooner

    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="store-request", daemon=True).start()
    try:
        return answer.result(limit_s)
    except TimeoutError:
        if answer.done():
            raise  # the request's own
        raise TimeoutError(f"no answer in {limit_s:.3g} s") from None
