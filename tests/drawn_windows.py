"""Windows to apply a tiny model to, without a video file."""

from collections.abc import Iterator

import numpy as np

from avdata.windows import SAMPLE_RATE, Window, WindowConfig
from tests.drawn import sine


def drawn_windows(
    windows: WindowConfig, seconds: float = 2.5, *, sound: bool = True, pictures: bool = True
) -> Iterator[Window]:
    """Windows of a video of noise and a tone that is louder and louder, watched so."""
    chance = np.random.default_rng(0)
    tone = sine(seconds, SAMPLE_RATE) * np.linspace(0.1, 1, round(seconds * SAMPLE_RATE), dtype=np.float32)
    count = max(1, int(np.ceil((seconds - windows.window_s) / windows.step_s)) + 1)
    for number in range(count):
        start_s = number * windows.step_s
        end_s = min(start_s + windows.window_s, seconds)
        frames = max(round((end_s - start_s) * (windows.fps or 0)), 1)
        waveform = np.zeros(round(windows.window_s * SAMPLE_RATE), np.float32)
        heard = tone[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
        waveform[: len(heard)] = heard
        yield Window(
            number=number,
            start_s=start_s,
            end_s=end_s,
            duration_s=seconds,
            waveform=waveform if sound else None,
            frames=chance.integers(0, 256, (frames, 48, 64, 3), np.uint8) if pictures else None,
            times_s=tuple(start_s + place / (windows.fps or 1) for place in range(frames)) if pictures else (),
        )
