"""Where seconds and hertz are on a log-mel."""

import math
from typing import Final

from avdata.profiles import MelProfile

TICKS_HZ: Final = (125, 250, 500, 1000, 2000, 4000, 8000)


def seconds_of(columns: int, profile: MelProfile) -> float:
    """Seconds that this many columns last."""
    return columns * profile.hop_length / profile.sample_rate


def band_of(frequency_hz: float | int, profile: MelProfile) -> float:
    """The mel band, counted from 0 at the lowest, whose triangle has its peak at a frequency."""
    low, high, here = (2595 * math.log10(1 + f / 700) for f in (profile.f_min, profile.sample_rate / 2, frequency_hz))
    return (here - low) / (high - low) * (profile.n_mels + 1) - 1


def time_ticks(seconds: float | int, about: int = 6) -> list[float]:
    """At most `about` + 1 round times from 0 to the end."""
    step = 10 ** math.floor(math.log10(max(seconds, 1e-9) / about))
    step = next(step * factor for factor in (1, 2, 5, 10) if seconds / (step * factor) <= about)
    return [float(round(number * step, 12)) for number in range(int(seconds / step + 1e-9) + 1)]


def hertz_label(frequency_hz: int) -> str:
    """A frequency as an axis shows it: 500, 2k."""
    return f"{frequency_hz / 1000:g}k" if frequency_hz >= 1000 else f"{frequency_hz:g}"
