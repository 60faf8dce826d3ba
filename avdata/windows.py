"""A window of a video: the span that a model takes at once. Nothing here opens a video."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from avmanifest.errors import ConfigError

SAMPLE_RATE = 16_000  # Hz


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """How a video is cut into windows. Defaults: 3 s each, the middle frame, its short side as prepare stores it."""

    window_s: float = 3.0
    hop_s: float | None = None  # from a window's start to the next one's; none: a window, so that none overlap
    fps: float | None = None  # frames, at whole multiples of 1 / fps from the video's start on; none: see num_frames
    num_frames: int = 1  # without fps: so many a window, each in the middle of an equal part of what there is of it
    short_side: int = 256  # pixels of the frames
    needs_video: bool = True  # refuse a file without pictures

    def __post_init__(self) -> None:
        if not 0 < self.step_s <= self.window_s:
            raise ConfigError(
                f"window_s={self.window_s}, hop_s={self.hop_s}: must be above 0, and the hop at most a window, or "
                "parts of the video would be left out"
            )
        if self.fps is not None and not 1 / self.step_s <= self.fps <= 240:
            raise ConfigError(f"fps={self.fps}: must be between one frame a hop ({1 / self.step_s:g}) and 240")
        for name, low in (("num_frames", 1), ("short_side", 16)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least {low}")

    @property
    def step_s(self) -> float:
        """Seconds from a window's start to the next one's."""
        return self.window_s if self.hop_s is None else self.hop_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A span of a video. The last one may end with the video, before a whole window is over."""

    number: int
    start_s: float
    end_s: float  # where it really ends
    duration_s: float  # of the whole video
    waveform: Float32[np.ndarray, " n"] | None  # 16 kHz mono, filled up with silence; None: the video has no sound
    frames: UInt8[np.ndarray, "f h w 3"] | None  # RGB, all windows' of one size; None: the file has no pictures
    times_s: tuple[float, ...]  # of the video, when each frame is on screen

    @property
    def num_samples(self) -> int:
        """Samples of the waveform that are not filling."""
        return round((self.end_s - self.start_s) * SAMPLE_RATE)

    def samples_from(self, first: int) -> Float32[np.ndarray, " _"] | None:
        """The waveform from a sample of the video on to the window's true end; None without sound."""
        if self.waveform is None:
            return None
        begins = round(self.start_s * SAMPLE_RATE)
        return self.waveform[max(first - begins, 0) : round(self.end_s * SAMPLE_RATE) - begins]
