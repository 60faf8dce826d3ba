"""How well changes of the picture and onsets of the sound agree in time: a cheap measure of synchrony."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from avdata.samples import Samples

GRID_S: float = 0.02
"""Seconds between two points at which sound and picture are compared."""

MAX_LAG_S: float = 0.5
"""Seconds of the largest lag that is tried, in either direction."""

MIN_S: float = 2.0
"""Seconds that a clip must have; a shorter one has no score."""

_HOP = 320  # samples at 16 kHz: GRID_S
_WINDOW = 640  # samples of a spectrum: 40 ms
_BLOCK = 4096  # spectra that are computed at a time
_SMOOTH = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # over 5 points: frames come less often than points of the grid


@dataclass(frozen=True, slots=True)
class Agreement:
    """The largest correlation over all lags, -1 to 1, and its lag in seconds; positive: the sound comes later."""

    score: float
    lag_s: float


def motion_energy(frames: Iterable[UInt8[np.ndarray, "h w ..."]]) -> Float[np.ndarray, " n"]:
    """Mean absolute difference of each frame to the one before, 0 to 255; 0 for the first. All have the same size."""
    energies, previous = [], None
    for frame in frames:
        energies.append(0.0 if previous is None else float(cv2.norm(frame, previous, cv2.NORM_L1)) / frame.size)
        previous = frame
    return np.asarray(energies)


def onset_strength(samples: Samples) -> Float[np.ndarray, " n"]:
    """Increase of the spectrum's log magnitude from each point of the grid to the next, averaged over the bins.

    Point k is around k * GRID_S. Its values are at least 0.

    Args:
        samples: Mono sound, 16 kHz.
    """
    window, strengths = np.hanning(_WINDOW).astype(np.float32), [np.zeros(0)]
    before = np.zeros(_WINDOW // 2, np.float32)
    padding = np.zeros(_WINDOW // 2, np.float32)
    num_points = len(samples) // _HOP
    for first in range(0, num_points, _BLOCK):
        last = min(first + _BLOCK, num_points)
        start, stop = first * _HOP - _WINDOW // 2, (last - 1) * _HOP + _WINDOW // 2
        inside = samples[max(start, 0) : min(stop, len(samples))]
        block = np.concatenate([padding[: max(-start, 0)], inside, padding[: max(stop - len(samples), 0)]])
        windows = np.lib.stride_tricks.sliding_window_view(block, _WINDOW)[::_HOP]
        magnitude = np.abs(np.fft.rfft(windows * window))[:, 1:].astype(np.float32)
        # Spectra of a full-scale sine have magnitudes of about 160; what is 80 dB below that is taken for noise.
        levels = np.log1p(magnitude * 100.0)
        if not first:
            before = levels[0]
        rises = np.maximum(np.diff(levels, axis=0, prepend=before[None]), 0.0).mean(axis=1)
        strengths.append(rises.astype(np.float64))
        before = levels[-1]
    return np.concatenate(strengths)


def agreement(
    motion: Float[np.ndarray, " n"], times_s: Float[np.ndarray, " n"], onsets: Float[np.ndarray, " m"]
) -> Agreement | None:
    """The lag at which motion and onsets correlate best. None where there is no motion, no onset, or too little time.

    Args:
        motion: `motion_energy` of the clip's frames.
        times_s: Times of the frames from the clip's start, ascending.
        onsets: `onset_strength` of the clip's sound, which begins at the clip's start.
    """
    if len(motion) < 3 or times_s[-1] - max(times_s[0], 0.0) < MIN_S or len(onsets) * GRID_S < MIN_S:
        return None
    # A frame that is displayed late in the clip's first moments has no true predecessor: its motion counts from then.
    grid_s = np.arange(len(onsets)) * GRID_S
    seen = (grid_s >= times_s[1]) & (grid_s <= times_s[-1])
    # The square root keeps a scene cut from hiding all other motion.
    moved = _smooth(np.sqrt(np.interp(grid_s[seen], times_s[1:], motion[1:])))
    heard = _smooth(onsets)
    first, best = int(np.argmax(seen)), None
    for lag in sorted(range(-round(MAX_LAG_S / GRID_S), round(MAX_LAG_S / GRID_S) + 1), key=abs):
        low, high = max(0, -(first + lag)), min(len(moved), len(heard) - first - lag)
        if (high - low) * GRID_S < MIN_S / 2:
            continue
        score = _correlation(moved[low:high], heard[first + lag + low : first + lag + high])
        if score is not None and (best is None or score > best.score):
            best = Agreement(score, lag * GRID_S)
    return best


def _smooth(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.convolve(np.pad(values, 2, mode="edge"), _SMOOTH, mode="valid")


def _correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float | None:
    """Pearson's correlation; None if one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 1e-9 else None
