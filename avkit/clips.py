"""The windows of a clip: what a model takes of it at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, UInt8

from avdata.profiles import profile
from avdata.urls import with_home
from avdata.video_windows import iter_windows
from avdata.windows import SAMPLE_RATE, Window, WindowConfig, window_log_mel
from avmanifest.errors import ConfigError
from avmanifest.names import no_such


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClipWindow:
    """A span of a clip. The last window of a clip may be shorter; its sound is then filled up with silence."""

    start_s: float  # in the clip
    end_s: float  # at most the end of the clip
    log_mel: Float16[np.ndarray, "mel t"] | None  # [128, 196] for 3 s of `paper`; None: the file has no sound
    frames: UInt8[np.ndarray, "f h w 3"] | None  # RGB; None: the file has no pictures
    frame_times_s: tuple[float, ...]  # of each frame, in the clip
    waveform: Float32[np.ndarray, " n"] | None  # 16 kHz, mono, in [-1, 1); None: the file has no sound

    @property
    def frame(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """The frame nearest the middle of the window, RGB; None: the file has no pictures."""
        return None if self.frames is None else self.frames[len(self.frames) // 2]

    def __repr__(self) -> str:
        parts = [f"{self.start_s:g} to {self.end_s:g} s"]
        parts.append("no sound" if self.log_mel is None else "log-mel {} x {}".format(*self.log_mel.shape))
        if self.frames is None:
            parts.append("no pictures")
        else:
            count, height, width, _ = self.frames.shape
            parts.append(f"{'frame' if count == 1 else f'{count} frames'} {height} x {width}")
        return f"ClipWindow({', '.join(parts)})"


def windows(
    clip: str | Path,
    *,
    window_s: float = 3.0,
    hop_s: float | None = None,
    frames: int = 1,
    mel: str = "paper",
    short_side: int = 256,
) -> Iterator[ClipWindow]:
    """The windows of a clip, from its start to its end, each decoded when it is asked for: memory does not grow.

    They equal what `prepare` stores of the same spans.

    Args:
        clip: A video or audio file on this machine, of any length.
        window_s: Seconds of a window.
        hop_s: Seconds from a window's start to the next one's; None: window_s.
        frames: Frames of a window, at the middles of equal parts of it.
        mel: Profile of the log-mel: paper, released or kaldi.
        short_side: Pixels of a frame's short side.

    Raises:
        ConfigError: There is no such file, or a setting cannot be used.
        DecodeError: The file is no media file, or is too damaged. Raised when its window is asked for.

    Example:
        ```python
        for window in avkit.windows("clip.mp4"):
            print(window.start_s, window.log_mel.shape, window.frame.shape)  # 0.0 (128, 196) (256, 341, 3)
        ```
    """
    front_end = profile(mel)
    config = WindowConfig(window_s=window_s, hop_s=hop_s, num_frames=frames, short_side=short_side, needs_video=False)
    clip = with_home(str(clip))
    if not Path(clip).exists():
        raise ConfigError(no_such("video", clip))
    window_log_mel(_silence(config), front_end)  # refuses windows that are too short before a file is opened

    def made() -> Iterator[ClipWindow]:
        for window in iter_windows(clip, config):
            yield ClipWindow(
                start_s=window.start_s,
                end_s=window.end_s,
                log_mel=window_log_mel(window, front_end),
                frames=window.frames,
                frame_times_s=window.times_s,
                waveform=window.waveform,
            )

    return made()


def _silence(config: WindowConfig) -> Window:
    silence = np.zeros(round(config.window_s * SAMPLE_RATE), np.float32)
    return Window(
        number=0, start_s=0.0, end_s=config.window_s, duration_s=config.window_s, waveform=silence, frames=None,
        times_s=(),
    )  # fmt: skip
