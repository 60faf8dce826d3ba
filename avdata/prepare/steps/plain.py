"""Shares of a clip's frames that are black or of one color."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

_SIDE = 16  # pixels of the thumbnails, on which codec noise is averaged away


def black_share(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], max_level: float) -> float:
    """Share of the frames of which 98 % of the area are at most `max_level` bright (0 to 255), 0 to 1."""
    return _share([float(np.mean(_thumbnail(image) <= max_level)) >= 0.98 for image in images])


def uniform_share(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], max_deviation: float) -> float:
    """Share of the frames in which the standard deviation of each channel is at most `max_deviation` (of 255), 0 to 1.

    Black frames are uniform, too.
    """
    thumbnails = [cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for image in images]
    return _share([float(thumbnail.std(axis=(0, 1)).max()) <= max_deviation for thumbnail in thumbnails])


def _thumbnail(image: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _"]:
    """The image in shades of gray, 16 x 16."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers) if answers else 0.0
