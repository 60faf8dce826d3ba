"""Pieces put together: pieces of a signal give it back, and different pieces fade into one another."""

import numpy as np
import pytest

from avmodel.evaluate.separation.overlap_add import overlap_add

SIZE = 60


@pytest.mark.parametrize("hop", [7, 30, 45, 60])
@pytest.mark.parametrize("length", [20, 60, 100, 333])
def test_pieces_of_a_signal_are_the_signal(hop: int, length: int) -> None:
    signal = np.random.default_rng(0).standard_normal((2, length)).astype(np.float32)
    starts = [start for start in range(0, length, hop) if start == 0 or start + SIZE - hop < length]
    stretches = list(overlap_add(((start, signal[:, start : start + SIZE]) for start in starts), SIZE))
    np.testing.assert_allclose(np.concatenate(stretches, axis=1), signal, atol=1e-6)
    assert all(stretch.shape[1] <= SIZE for stretch in stretches)


def test_a_change_between_pieces_is_gradual() -> None:
    pieces = [(start, np.full((1, SIZE), float(start // 30), np.float32)) for start in (0, 30, 60)]
    (whole,) = np.concatenate(list(overlap_add(iter(pieces), SIZE)), axis=1)
    assert whole[0] == 0
    assert whole[-1] == 2
    assert np.abs(np.diff(whole)).max() < 2 / 30


def test_nothing_gives_nothing() -> None:
    assert list(overlap_add(iter([]), SIZE)) == []
