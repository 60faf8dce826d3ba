"""A video of windows with something drawn over each frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from avdata.video_writer import VideoWriter, open_video_writer
from avdata.windows import SAMPLE_RATE, Window, WindowConfig
from avmodel.configs.apply import OVERLAY_FILE


class OverlayVideo:
    """A video whose frames and sound come from windows. Made by `overlay_video`."""

    def __init__(self, writer: VideoWriter) -> None:
        self._writer, self._num_samples = writer, 0

    def missing_frames(self, window: Window) -> Iterator[tuple[int, float]]:
        """Places in the window, and times, of the frames that the video lacks.

        A window that no frame's time falls in has one of its middle: the frame before is still on screen then.
        """
        for place, time_s in enumerate(window.times_s):
            if is_missing(time_s, self._writer.fps, self._writer.num_frames):
                yield place, time_s

    def write_frame(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """Append a frame, RGB."""
        self._writer.write_frame(frame)

    def write_audio(self, window: Window) -> Float32[np.ndarray, " n"] | None:
        """Append the window's sound from where the video's sound ends. Returns what was new; None without sound."""
        new = window.samples_from(self._num_samples)
        if new is not None:
            self._writer.write_audio(new)
            self._num_samples += len(new)
        return new


def is_missing(time_s: float, fps: float, num_frames: int) -> bool:
    """Whether a video of that many frames lacks the frame of a time."""
    return int(time_s * fps + 1e-6) >= num_frames


@contextmanager
def overlay_video(out: Path, windows: WindowConfig) -> Iterator[OverlayVideo]:
    """The video overlay.mp4 in a folder, of windows of this config."""
    assert windows.fps is not None
    with open_video_writer(out / OVERLAY_FILE, windows.fps, sample_rate=SAMPLE_RATE) as writer:
        yield OverlayVideo(writer)
