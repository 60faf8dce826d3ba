"""A log-mel as a picture: colors, and axes in seconds and hertz."""

import math
from typing import Final

import cv2
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

from avdata.profiles import MelProfile

TICKS_HZ: Final = (125, 250, 500, 1000, 2000, 4000, 8000)
_COLORS: Final = "magma"
_LOW, _HIGH = 1.0, 99.8  # percentiles that become black and white: one click must not darken the rest
_LEAST_RANGE: Final = 1.0  # of a log-mel: silence stays dark, not noise stretched over all colors


def seconds_of(columns: int, profile: MelProfile) -> float:
    """How long so many columns last."""
    return columns * profile.hop_length / profile.sample_rate


def band_of(frequency_hz: float | int, profile: MelProfile) -> float:
    """The mel band, counted from 0 at the lowest, whose triangle has its peak at a frequency."""
    low, high, here = (2595 * math.log10(1 + f / 700) for f in (profile.f_min, profile.sample_rate / 2, frequency_hz))
    return (here - low) / (high - low) * (profile.n_mels + 1) - 1


def time_ticks(seconds: float | int, about: int = 6) -> list[float]:
    """Round times from 0 to the end, about so many."""
    step = 10 ** math.floor(math.log10(max(seconds, 1e-9) / about))
    step = next(step * factor for factor in (1, 2, 5, 10) if seconds / (step * factor) <= about)
    return [float(round(number * step, 12)) for number in range(int(seconds / step + 1e-9) + 1)]


def color_range(log_mel: Float[np.ndarray, "mel t"]) -> tuple[float, float]:
    """The values that are drawn as the darkest and the brightest color."""
    low, high = (float(value) for value in np.percentile(log_mel, (_LOW, _HIGH)))
    return low, max(high, low + _LEAST_RANGE)


def colored(log_mel: Float[np.ndarray, "mel t"]) -> UInt8[np.ndarray, "mel t 3"]:
    """RGB, the lowest band at the bottom."""
    low, high = color_range(log_mel)
    rgba = matplotlib.colormaps[_COLORS](np.clip((log_mel[::-1] - low) / (high - low), 0, 1), bytes=True)
    return np.asarray(rgba[..., :3], np.uint8)


def to_png(picture: UInt8[np.ndarray, "h w c"]) -> bytes:
    """RGB or RGBA as PNG bytes."""
    order = [2, 1, 0, 3][: picture.shape[2]]
    return bytes(cv2.imencode(".png", np.ascontiguousarray(picture[..., order]))[1].tobytes())
