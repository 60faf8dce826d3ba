"""Writes an mp4 (H.264, AAC) frame by frame, in bounded memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import ffmpeg
import numpy as np
from jaxtyping import Float32, UInt8

from avdata.ffmpeg import encoder, scratch_folder
from avmanifest.errors import ConfigError, StorageError

_EVEN = "trunc(iw/2)*2", "trunc(ih/2)*2"  # 4:2:0 chroma needs even sizes
_CRF, _AUDIO_BIT_RATE = 18, "128k"


class VideoWriter:
    """Writes one video. Created by `open_video_writer`; usable only inside its `with` block."""

    def __init__(self, path: Path, fps: float, sample_rate: int, folder: Path, stack: ExitStack) -> None:
        self.path, self.fps, self.sample_rate = path, fps, sample_rate
        self.num_frames = 0
        self._folder, self._stack = folder, stack
        self._audio = stack.enter_context((folder / "audio.f32").open("wb"))
        self._frames: IO[bytes] | None = None
        self._size = (0, 0)

    def write_frame(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """Append an RGB frame, shown from num_frames / fps seconds on. All must have the size of the first."""
        if self._frames is None:
            self._size = frame.shape[:2]
            self._frames = self._stack.enter_context(encoder(self._silent(), self.path))
        if frame.shape[:2] != self._size:
            raise ValueError(f"{self.path}: a frame of {frame.shape[:2]} among those of {self._size}")
        self._frames.write(np.ascontiguousarray(frame).data)
        self.num_frames += 1

    def write_audio(self, waveform: Float32[np.ndarray, " n"]) -> None:
        """Append mono samples. The audio begins together with the first frame."""
        self._audio.write(waveform.astype("<f4").tobytes())

    def finish(self) -> None:
        """Combine frames and audio into the file at `path`."""
        if not self.num_frames:
            raise ConfigError(f"{self.path}: no frame was written, so there is no video")
        has_sound = self._audio.tell() > 0
        self._stack.close()
        joined = self._folder / "joined.mp4"
        with encoder(self._joined(joined, with_sound=has_sound), self.path):
            pass
        joined.replace(self.path)

    def _silent(self) -> Any:
        height, width = self._size
        frames = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=self.fps)
        return ffmpeg.output(
            frames.video.filter("crop", *_EVEN),
            str(self._folder / "video.mp4"),
            **{"c:v": "libx264", "preset": "veryfast", "crf": _CRF, "pix_fmt": "yuv420p"},
        )

    def _joined(self, joined: Path, *, with_sound: bool) -> Any:
        tracks = [ffmpeg.input(str(self._folder / "video.mp4")).video]
        if with_sound:
            audio = ffmpeg.input(str(self._folder / "audio.f32"), format="f32le", ar=self.sample_rate, ac=1)
            tracks.append(audio.audio)
        options = {"c:v": "copy", "c:a": "aac", "b:a": _AUDIO_BIT_RATE, "movflags": "+faststart"}
        return ffmpeg.output(*tracks, str(joined), **options)


@contextmanager
def open_video_writer(path: Path, fps: float, *, sample_rate: int = 16_000) -> Iterator[VideoWriter]:
    """Write a video to `path`. The file appears at the end of the block, whole or not at all.

    An older file is replaced. The video has no audio track if no audio was written.

    Args:
        path: The mp4 file to write.
        fps: Frames per second.
        sample_rate: Of the audio, in Hz.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
        AvkitError: ffmpeg failed (the message quotes it), or no frame was written.
    """
    try:
        with scratch_folder(path) as folder, ExitStack() as stack:
            writer = VideoWriter(path, fps, sample_rate, folder, stack)
            yield writer
            writer.finish()
    except OSError as error:
        raise StorageError(
            f"{path}: not written ({error.strerror or error}). Free space, or give another folder."
        ) from error
