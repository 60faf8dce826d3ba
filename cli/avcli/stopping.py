"""Signals that ask a command to stop where it can."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_REPEATED_S: Final = 2.0


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set; a second signal stops at once.

    Within two seconds of the first, a further signal counts as the same one: torchrun passes on to its processes what
    the terminal or SLURM has sent to them too.
    """
    event = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    first_s = 0.0

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(signal_number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        if not event.is_set():
            first_s = time.monotonic()
            event.set()
        elif time.monotonic() - first_s > _REPEATED_S:
            restore()
            signal.raise_signal(signal_number)

    for number in before:
        signal.signal(number, ask)
    try:
        yield event
    finally:
        restore()


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT or SIGTERM came; a second signal stops at once."""
    with stop_event() as event:
        yield event.is_set
