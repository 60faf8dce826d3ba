"""Crops of frames and of their masks. Random ones are functions of numbers in [0, 1)."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from avmanifest.errors import ConfigError

CROP_ATTEMPTS: Final = 10
CROP_DRAWS: Final = 4 * CROP_ATTEMPTS  # random numbers of a random crop
_AREA_FROM: Final = 1.5  # from this shrink factor on, linear interpolation would skip pixels


class Crop(NamedTuple):
    """A rectangle of an image in pixels, and whether it is flipped left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


def center_crop(height: int, width: int) -> Crop:
    """The center square of 7/8 of the short side, such as 224 of 256 pixels."""
    side = max(1, round(min(height, width) * 7 / 8))
    return Crop((height - side) // 2, (width - side) // 2, side, side)


def short_side_crop(height: int, width: int) -> Crop:
    """The center square whose side is the short side."""
    side = min(height, width)
    return Crop((height - side) // 2, (width - side) // 2, side, side)


def random_crop(
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    draws: Sequence[float],
    *,
    flip: bool = False,
) -> Crop:
    """A crop as torchvision's RandomResizedCrop chooses it.

    Args:
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        area: Smallest and largest area, as a share of the frame.
        ratio: Smallest and largest ratio of width to height.
        draws: CROP_DRAWS random numbers: four for each attempt.
        flip: Whether to flip it.
    """
    (min_area, max_area), (min_ratio, max_ratio) = area, ratio
    for first in range(0, CROP_DRAWS, 4):
        area_draw, ratio_draw, top_draw, left_draw = draws[first : first + 4]
        pixels = height * width * (min_area + area_draw * (max_area - min_area))
        shape = min_ratio * (max_ratio / min_ratio) ** ratio_draw
        crop_width, crop_height = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = choice(top_draw, height - crop_height + 1), choice(left_draw, width - crop_width + 1)
            return Crop(top, left, crop_height, crop_width, flip)
    crop_width = min(width, max(1, round(height * max_ratio)))
    crop_height = min(height, max(1, round(width / min_ratio)))
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width, flip)


def choice(draw: float, count: int) -> int:
    """One of the numbers from 0 to count - 1, by a random number in [0, 1)."""
    return min(int(draw * count), count - 1)


def crop_into(rgb: UInt8[np.ndarray, "h w 3"], crop: Crop, out: UInt8[np.ndarray, "s s 3"]) -> None:
    """Crop an image and resize it into `out`: linear interpolation, or area averages where a side shrinks a lot.

    Raises ConfigError for an array of another shape or type, which OpenCV would leave as it is.
    """
    top, left, height, width, flip = crop
    size = out.shape[0]
    if out.shape != (size, size, 3) or out.dtype != np.uint8:
        raise ConfigError(f"a crop into an array {out.shape} of {out.dtype}: give one [size, size, 3] of uint8.")
    cut = rgb[top : top + height, left : left + width]
    if shrinks_a_lot(crop, size):  # only to `out` where no side grows: OpenCV averages nothing otherwise
        cut = cv2.resize(cut, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    cv2.resize(cut, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
    if flip:
        cv2.flip(out, 1, dst=out)


def shrinks_a_lot(crop: Crop, size: int) -> bool:
    """Whether a crop is so much higher or wider than size x size pixels that its areas are averaged."""
    return max(crop.height, crop.width) > _AREA_FROM * size


def crop_mask_into(
    mask: UInt8[np.ndarray, "h w"], crop: Crop, frame_size: tuple[int, int], out: UInt8[np.ndarray, "s s"]
) -> None:
    """Crop a frame's mask like the frame and resize it into `out`, by the nearest value.

    Args:
        mask: The mask. Its size may differ from the frame's.
        crop: In pixels of the frame.
        frame_size: Height and width of the frame.
        out: Receives the mask.
    """
    size = out.shape[0]
    middles = (np.arange(size) + 0.5) / size
    rows, columns = (
        np.floor((start + middles * length) * own / whole).astype(np.int64)
        for start, length, own, whole in (
            (crop.top, crop.height, mask.shape[0], frame_size[0]),
            (crop.left, crop.width, mask.shape[1], frame_size[1]),
        )
    )
    out[:] = mask[rows[:, None], columns[::-1] if crop.flip else columns]
