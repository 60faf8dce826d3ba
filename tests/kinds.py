"""Small videos of every kind that prepare meets: rotated, of variable rate, with late, short or no sound, ..."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tests.drawn import draw_media, sine


def _tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    return np.tile(sine(seconds, rate), (channels, 1))


@dataclass(frozen=True, slots=True)
class Kind:
    """What a person who looks at a file expects of the whole of it, and how the file is drawn."""

    duration_s: float
    size: tuple[int, int] = (160, 120)  # displayed
    fps: float = 25.0
    video_codec: str = "h264"
    audio: tuple[str, int, int] | None = ("aac", 44_100, 1)  # codec, rate, channels
    offset_s: float = 0.0  # audio start minus video start
    silent: bool = False
    still: bool = False
    sound_s: float | None = None  # at least so many have sound; None: all but 0.15 s
    drawn: dict[str, Any] = field(default_factory=dict)  # for `draw_media`; empty: a real file


_TICKS = [0, 40, 80, 400, 440, 900, 940, 980, 1000, 1100, 1500, 1533, 1566, 1600, 1700, 1800, 1900, 2000, 2400, 2800]
_GRAY = np.full((120, 160, 3), 90, np.uint8)
_STEREO = {"sound_rate": 48_000, "sound_layout": "stereo"}

KINDS = {
    "fragmented.mp4": Kind(
        duration_s=3.08, offset_s=-0.08,
        drawn={
            "num_frames": 75, "sound": _tone(3.0, 44_100),
            "container_options": {"movflags": "frag_keyframe+empty_moov"},
        },
    ),
    "late_sound.mp4": Kind(
        duration_s=3.0, offset_s=0.776, sound_s=2.1,
        drawn={"num_frames": 75, "sound": _tone(2.2, 44_100), "audio_start_s": 0.8},
    ),
    "late_video.mp4": Kind(
        duration_s=3.0, offset_s=-0.8, drawn={"num_frames": 55, "video_start_s": 0.8, "sound": _tone(3.0, 44_100)},
    ),
    "no_sound.mp4": Kind(duration_s=2.0, audio=None, drawn={"num_frames": 50}),
    "pcm_50fps.mov": Kind(
        duration_s=2.0, fps=50, audio=("pcm_s16le", 48_000, 2),
        drawn={"num_frames": 100, "fps": 50, "sound": _tone(2.0, 48_000, 2), "audio_codec": "pcm_s16le", **_STEREO},
    ),
    "rotated.mp4": Kind(
        duration_s=1.2, size=(120, 160), drawn={"num_frames": 30, "rotation": -90, "sound": _tone(1.2, 44_100)},
    ),
    "short_sound.mp4": Kind(
        duration_s=3.0, sound_s=0.9, drawn={"num_frames": 75, "sound": _tone(1.0, 44_100)},
    ),
    "silent_still.mp4": Kind(
        duration_s=3.0, silent=True, still=True,
        drawn={"num_frames": 75, "picture": lambda _: _GRAY, "sound": 0 * _tone(3.0, 44_100)},
    ),
    "six_channels.mp4": Kind(
        duration_s=2.083, fps=24.01, audio=("aac", 48_000, 6),
        drawn={
            "num_frames": 50, "fps": 24, "sound": _tone(2.0, 48_000, 6), "sound_rate": 48_000, "sound_layout": "5.1",
        },
    ),
    "stereo.mp4": Kind(
        duration_s=4.0, audio=("aac", 48_000, 2), drawn={"num_frames": 100, "sound": _tone(4.0, 48_000, 2), **_STEREO},
    ),
    "variable_rate.mp4": Kind(
        duration_s=3.0, fps=9.43, drawn={"num_frames": len(_TICKS), "ticks": _TICKS, "sound": _tone(3.0, 44_100)},
    ),
    "wide_pixels.mp4": Kind(
        duration_s=2.0, size=(320, 120),
        drawn={"num_frames": 50, "pixel_aspect": Fraction(2, 1), "sound": _tone(2.0, 44_100)},
    ),
}  # fmt: skip


def draw_kinds(folder: Path) -> Path:
    """All of KINDS as files in a folder."""
    for name, kind in KINDS.items():
        draw_media(folder / name, **kind.drawn)
    return folder
