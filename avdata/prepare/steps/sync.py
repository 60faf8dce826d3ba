"""How well changes of the picture and onsets of the sound agree in time: a cheap measure of synchrony."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import Float, UInt8

from avdata.prepare.steps.step import Clip, Need, StepResult, outside
from avdata.samples import Samples
from avmanifest.columns import Column
from avmanifest.settings import Bounds, check

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """Agreement in time of motion and onsets."""

    name: ClassVar[str] = "sync"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            name="av_sync_score",
            dtype=pa.float64(),
            meaning="largest correlation of motion and onsets over all lags, -1 to 1; null: nothing to compare",
            title="Agreement of motion and onsets",
        ),
        Column(
            name="av_sync_lag_s",
            dtype=pa.float64(),
            meaning="lag of that correlation, -0.5 to 0.5; positive: the sound comes later",
            unit="s",
            title="Lag of the sound",
        ),
    )
    members: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("video", "waveform")

    min_score: Annotated[float | None, "Drop clips with a lower score.", Bounds(-1, 1)] = None
    max_lag_s: Annotated[float | None, "Drop clips with a larger lag in either direction, seconds.", Bounds(0)] = None

    def __post_init__(self) -> None:
        check(self, "sync:")

    def run(self, clip: Clip) -> StepResult:
        """Measure score and lag."""
        times_s: list[float] = []
        motion = motion_energy(_noting_times(clip.video, times_s))
        found = agreement(motion, np.asarray(times_s), onset_strength(clip.waveform))
        values = {"av_sync_score": found.score if found else None, "av_sync_lag_s": found.lag_s if found else None}
        least_s = None if self.max_lag_s is None else -self.max_lag_s
        limits = {"av_sync_score": (self.min_score, None), "av_sync_lag_s": (least_s, self.max_lag_s)}
        return StepResult(values=values, dropped=outside(values, **limits))


def _noting_times(
    video: Iterable[tuple[float, UInt8[np.ndarray, "h w 3"]]], times_s: list[float]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    for time_s, image in video:
        times_s.append(time_s)
        yield image


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
