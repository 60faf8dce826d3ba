"""A window of a video (the span that a model takes at once) and how a video is divided into windows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, UInt8

from avdata.melspec import log_mel
from avdata.profiles import MelProfile
from avmanifest.errors import ConfigError

SAMPLE_RATE = 16_000  # Hz


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """How a video is divided into windows. Defaults: 3 s each, one frame at the middle, sized as prepare stores it."""

    window_s: float = 3.0
    hop_s: float | None = None  # from the start of a window to the next; none: window_s, without overlap
    fps: float | None = None  # take frames at multiples of 1 / fps from the start of the video; none: see num_frames
    num_frames: int = 1  # without fps: frames per window, at the middles of equal parts of it
    short_side: int = 256  # pixels of the frames
    needs_video: bool = True  # refuse a file without video

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
    """A span of a video. The last window of a video may be shorter than the others."""

    number: int
    start_s: float
    end_s: float  # at most the end of the video
    duration_s: float  # of the whole video
    waveform: Float32[np.ndarray, " n"] | None  # 16 kHz mono, padded with silence; None: no audio track
    frames: UInt8[np.ndarray, "f h w 3"] | None  # RGB, of equal size in all windows; None: no video
    times_s: tuple[float, ...]  # of each frame, in the video

    @property
    def num_samples(self) -> int:
        """Samples of the waveform without padding."""
        return round((self.end_s - self.start_s) * SAMPLE_RATE)

    def samples_from(self, first: int) -> Float32[np.ndarray, " _"] | None:
        """The waveform from sample `first` of the video to end_s, without padding; None without audio."""
        if self.waveform is None:
            return None
        begins = round(self.start_s * SAMPLE_RATE)
        return self.waveform[max(first - begins, 0) : round(self.end_s * SAMPLE_RATE) - begins]


def window_log_mel(window: Window, mel: MelProfile, columns: int | None = None) -> Float16[np.ndarray, "mel t"] | None:
    """The window's spectrogram, computed and rounded as `avkit prepare` does; None for a file without sound.

    Args:
        window: The window.
        mel: The front end.
        columns: Columns to keep, from the first; None: all.

    Raises:
        ConfigError: The window is shorter than one window of the front end.
    """
    if window.waveform is None:
        return None
    waveform = window.waveform
    if mel.pad_columns:  # what is filled up there is columns of 0, not silence
        waveform = waveform[: max(window.num_samples, mel.win_length)]
    return log_mel(waveform, mel)[:, :columns].astype(np.float16)
