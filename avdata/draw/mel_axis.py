"""Positions of seconds and hertz on the axes of a log-mel."""

import math
from typing import Final

from avdata.profiles import MelProfile

TICKS_HZ: Final = (125, 250, 500, 1000, 2000, 4000, 8000)


def seconds_of(columns: int, profile: MelProfile) -> float:
    """Duration of that many columns, in seconds."""
    return columns * profile.hop_length / profile.sample_rate


def band_of(frequency_hz: float | int, profile: MelProfile) -> float:
    """The band (0 is the lowest) whose triangle peaks at the frequency; fractional between two bands."""
    low, high, here = (2595 * math.log10(1 + f / 700) for f in (profile.f_min, profile.sample_rate / 2, frequency_hz))
    return (here - low) / (high - low) * (profile.n_mels + 1) - 1


def time_ticks(seconds: float | int, about: int = 6) -> list[float]:
    """At most `about` + 1 round times from 0 to `seconds`."""
    step = 10 ** math.floor(math.log10(max(seconds, 1e-9) / about))
    step = next(step * factor for factor in (1, 2, 5, 10) if seconds / (step * factor) <= about)
    return [float(round(number * step, 12)) for number in range(int(seconds / step + 1e-9) + 1)]


def hertz_label(frequency_hz: int) -> str:
    """Format a frequency for an axis: 500, 2k."""
    return f"{frequency_hz / 1000:g}k" if frequency_hz >= 1000 else f"{frequency_hz:g}"
