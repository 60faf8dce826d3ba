"""Every frame of a clip, small, for the steps that ask for it: decoded once, and read as often as they like."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from avdata.prepare.decode.media import Media
from avdata.samples import scratch_file

Image = UInt8[np.ndarray, "_ _ 3"]

SHORT_SIDE: Final = 64
"""Pixels of the frames' short side."""


class SmallVideo(Iterable[tuple[float, Image]]):
    """All intact frames of a span, with their times from its start in seconds. They lie in a temporary file.

    Args:
        media: The open file.
        start_s: Start of the span on the media's clock, in seconds.
        end_s: Its end, in seconds.
        folder: Where the file is written when it is too long for memory: 0.3 GB for 10 minutes at 25 frames a second.
    """

    def __init__(self, media: Media, start_s: float, end_s: float, folder: Path) -> None:
        self._file = scratch_file(folder)
        self._times_s: list[float] = []
        self._shape: tuple[int, ...] = (0, 0, 3)
        for image, time_s in media.small_frames(start_s, end_s, SHORT_SIDE):
            self._shape = image.shape
            self._times_s.append(time_s - start_s)
            self._file.write(image.tobytes())

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._times_s)

    def __iter__(self) -> Iterator[tuple[float, Image]]:
        """Each frame, in the order of display. The images cannot be written to."""
        size = int(np.prod(self._shape))
        for number, time_s in enumerate(self._times_s):
            self._file.seek(number * size)
            yield time_s, np.frombuffer(self._file.read(size), np.uint8).reshape(self._shape)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> "SmallVideo":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
