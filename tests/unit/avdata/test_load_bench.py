"""What the loader's benchmark makes of a turn's times."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat

import pytest

from avdata.load.bench import LoaderBench, _measured


@contextmanager
def instant() -> Iterator[Iterator[int]]:
    yield repeat(8)


@pytest.mark.slow
def test_a_turn_shorter_than_a_clock_tick_has_a_rate() -> None:
    turns = [_measured(instant, LoaderBench(samples=8, batch_size=8)) for _ in range(20)]
    assert all(turn.per_core_s > 0 for turn in turns)
