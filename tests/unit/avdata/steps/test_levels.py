"""Shares of silence and of clipping."""

import numpy as np
import pytest

from avdata.prepare.steps.levels import clipped_share, silence_share
from avdata.samples import SampleFile

RATE = 16_000


def noise(seconds: float, level: float) -> np.ndarray:
    return (np.random.default_rng(0).normal(0, level, round(seconds * RATE))).astype(np.float32)


def test_thirty_percent_of_silence_are_30_percent() -> None:
    sound = np.concatenate([noise(7.0, 0.1), noise(3.0, 1e-4)])
    assert silence_share(sound, -60.0) == pytest.approx(0.3)


@pytest.mark.parametrize(("samples", "share"), [(np.zeros(RATE, np.float32), 1.0), (noise(1.0, 0.1), 0.0)])
def test_all_and_no_silence(samples: np.ndarray, share: float) -> None:
    assert silence_share(samples, -60.0) == share


def test_sound_shorter_than_a_window_is_silent() -> None:
    assert silence_share(noise(0.005, 0.1), -60.0) == 1.0


def test_the_clipped_share_is_exact() -> None:
    sound = noise(1.0, 0.01)
    sound[100:120], sound[500:505] = 1.0, -0.995
    assert clipped_share(sound, 0.99) == 25 / RATE
    assert clipped_share(sound, 0.999) == 20 / RATE
    assert clipped_share(sound[:0], 0.99) == 0.0


def test_a_long_sound_in_a_file_has_the_shares_of_the_array() -> None:
    sound = np.concatenate([noise(70.0, 0.1), noise(30.0, 1e-4), np.ones(RATE, np.float32)])
    with SampleFile() as file:
        file.append(sound)
        assert silence_share(file, -60.0) == silence_share(sound, -60.0) == pytest.approx(30 / 101)
        assert clipped_share(file, 0.99) == pytest.approx(1 / 101)
