"""An mp4 made of frames and sound as they come: H.264 and AAC, in bounded memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import ffmpeg
import numpy as np
from jaxtyping import Float32, UInt8

from avdata.ffmpeg import encoder, workplace
from avmanifest.errors import AvkitError, StorageError

_EVEN = "trunc(iw/2)*2", "trunc(ih/2)*2"  # 4:2:0 has a color for every two pixels
_CRF, _SOUND_RATE = 18, "128k"


class Film:
    """A film under way. Made by `filming`; usable inside its `with` block only."""

    def __init__(self, path: Path, fps: float, sample_rate: int, folder: Path, stack: ExitStack) -> None:
        self.path, self.fps, self.sample_rate = path, fps, sample_rate
        self.num_frames = 0
        self._folder, self._stack = folder, stack
        self._sound = stack.enter_context((folder / "sound.f32").open("wb"))
        self._pictures: IO[bytes] | None = None
        self._size = (0, 0)

    def show(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """The next frame, RGB, shown from num_frames / fps seconds on. All have the size of the first."""
        if self._pictures is None:
            self._size = frame.shape[:2]
            self._pictures = self._stack.enter_context(encoder(self._silent(), self.path, self._folder))
        if frame.shape[:2] != self._size:
            raise ValueError(f"{self.path}: a frame of {frame.shape[:2]} among those of {self._size}")
        self._pictures.write(np.ascontiguousarray(frame).data)
        self.num_frames += 1

    def hear(self, waveform: Float32[np.ndarray, " n"]) -> None:
        """The next samples of the sound, mono, which begins with the first frame."""
        self._sound.write(waveform.astype("<f4").tobytes())

    def finish(self) -> None:
        """Put frames and sound together at the path."""
        if not self.num_frames:
            raise AvkitError(f"{self.path}: no frame was shown, so there is no film")
        has_sound = self._sound.tell() > 0
        self._stack.close()
        film = self._folder / "film.mp4"
        with encoder(self._joined(film, with_sound=has_sound), self.path, self._folder):
            pass
        film.replace(self.path)

    def _silent(self) -> Any:
        height, width = self._size
        pictures = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=self.fps)
        return ffmpeg.output(
            pictures.video.filter("crop", *_EVEN),
            str(self._folder / "video.mp4"),
            **{"c:v": "libx264", "preset": "veryfast", "crf": _CRF, "pix_fmt": "yuv420p"},
        )

    def _joined(self, film: Path, *, with_sound: bool) -> Any:
        tracks = [ffmpeg.input(str(self._folder / "video.mp4")).video]
        if with_sound:
            sound = ffmpeg.input(str(self._folder / "sound.f32"), format="f32le", ar=self.sample_rate, ac=1)
            tracks.append(sound.audio)
        options = {"c:v": "copy", "c:a": "aac", "b:a": _SOUND_RATE, "movflags": "+faststart"}
        return ffmpeg.output(*tracks, str(film), **options)


@contextmanager
def filming(path: Path, fps: float, *, sample_rate: int = 16_000) -> Iterator[Film]:
    """A film that is at `path` at the end of the block, whole or not at all; an older file is replaced.

    Without sound if none was heard. Raises StorageError for a full disk, AvkitError if ffmpeg fails, with its words, or
    if no frame was shown.
    """
    try:
        with workplace(path) as folder, ExitStack() as stack:
            film = Film(path, fps, sample_rate, folder, stack)
            yield film
            film.finish()
    except OSError as error:
        raise StorageError(
            f"{path}: not written ({error.strerror or error}). Free space, or give another folder."
        ) from error
