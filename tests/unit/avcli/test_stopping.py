"""Signals ask a command to stop; a second one stops it at once, unless a launcher has only repeated the first."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from avcli.stopping import stop_event


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_launcher_repeats_is_one(number: int) -> None:
    with stop_event() as event:
        assert not event.is_set()
        os.kill(os.getpid(), number)
        assert event.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), number)


@pytest.fixture
def interrupting() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, as in a program that has set nothing else."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupting")
def test_a_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_event() as event:
        os.kill(os.getpid(), signal.SIGTERM)
        assert event.is_set()
        later = time.monotonic() + 3
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_handlers_of_before_are_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_event():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
