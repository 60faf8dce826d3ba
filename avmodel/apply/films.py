"""A film of a video's windows with something drawn over each frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from avdata.film import Film, filming
from avdata.windows import SAMPLE_RATE, WatchConfig, Window

OVERLAY_FILE = "overlay.mp4"


class Screen:
    """A film whose frames and sound come from windows. Made by `showing`."""

    def __init__(self, film: Film) -> None:
        self._film, self._heard = film, 0

    def due(self, window: Window) -> Iterator[tuple[int, float]]:
        """Places in the window, and times, of the frames that the film lacks.

        A window that no frame's time falls in has one of its middle: the frame before is still on screen then.
        """
        for place, time_s in enumerate(window.times_s):
            if int(time_s * self._film.fps + 1e-6) >= self._film.num_frames:
                yield place, time_s

    def show(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """The next frame."""
        self._film.show(frame)

    def hear(self, window: Window) -> None:
        """What the window adds to the sound."""
        new = window.samples_from(self._heard)
        if new is not None:
            self._film.hear(new)
            self._heard += len(new)


@contextmanager
def showing(out: Path, watching: WatchConfig) -> Iterator[Screen]:
    """The film overlay.mp4 in a folder, of windows watched so."""
    assert watching.fps is not None
    with filming(out / OVERLAY_FILE, watching.fps, sample_rate=SAMPLE_RATE) as film:
        yield Screen(film)
