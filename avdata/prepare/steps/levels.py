"""Shares of a clip's sound that are silent or clipped."""

import numpy as np

from avdata.samples import Samples, pieces

WINDOW: int = 160
"""Samples of which one level is measured: 10 ms."""


def silence_share(samples: Samples, level_dbfs: float) -> float:
    """Share of the windows of 10 ms whose RMS is below a level, 0 to 1; a rest at the end that is shorter is left out.

    1 for sound that is shorter than one window.

    Args:
        samples: From -1 to 1, 16 kHz.
        level_dbfs: In dB relative to a full-scale square wave.
    """
    quiet = windows = 0
    for piece in pieces(samples, 6_400 * WINDOW):
        whole = piece[: len(piece) // WINDOW * WINDOW].reshape(-1, WINDOW)
        mean_square = np.square(whole, dtype=np.float64).mean(axis=1)
        quiet += int((mean_square < 10 ** (level_dbfs / 10)).sum())
        windows += len(whole)
    return quiet / windows if windows else 1.0


def clipped_share(samples: Samples, level: float) -> float:
    """Share of the samples whose absolute value is at least `level`, 0 to 1."""
    clipped = sum(int((np.abs(piece) >= level).sum()) for piece in pieces(samples))
    return clipped / len(samples) if len(samples) else 0.0
