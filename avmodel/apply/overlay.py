"""Maps over pictures: heat where a map is high, tints where masks are."""

from functools import cache

import cv2
import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Float32, UInt8

HEAT, TINTS = "inferno", "tab10"
_STRENGTH = 0.75  # of the color where a map is highest


def spread(maps: Float[np.ndarray, "b h w"]) -> Float32[np.ndarray, "b h w"]:
    """Each map with its lowest value at 0 and its highest at 1; all 0 where it is the same everywhere.

    What is drawn says where in a picture, not how much: the maps themselves say that.
    """
    low, high = (extreme(axis=(1, 2), keepdims=True) for extreme in (maps.min, maps.max))
    return np.asarray((maps - low) / np.maximum(high - low, 1e-12), np.float32)


def heated(frame: UInt8[np.ndarray, "h w 3"], heat: Float32[np.ndarray, "m n"]) -> UInt8[np.ndarray, "h w 3"]:
    """The frame under a heat map from 0 to 1, which covers all of it; where it is 0 the frame is as it was."""
    smooth = np.clip(_stretched(heat, frame, cv2.INTER_CUBIC), 0, 1)
    return blended(frame, _colors(HEAT)[np.rint(smooth * 255).astype(np.uint8)], _STRENGTH * smooth)


def tinted(frame: UInt8[np.ndarray, "h w 3"], masks: Float32[np.ndarray, "c m n"]) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with a tint for each mask of values from 0 to 1, as strong as the mask is there."""
    for number, mask in enumerate(masks):
        color = _colors(TINTS)[number % len(_colors(TINTS))]
        frame = blended(frame, color, _STRENGTH * np.clip(_stretched(mask, frame, cv2.INTER_LINEAR), 0, 1))
    return frame


def blended(
    frame: UInt8[np.ndarray, "h w 3"], color: UInt8[np.ndarray, "*hw 3"], share: Float32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with that share of a color, or of another picture, at each pixel."""
    mixed = frame + share[..., None] * (color.astype(np.float32) - frame)
    return np.asarray(np.rint(mixed), np.uint8)


def _stretched(
    x: Float32[np.ndarray, "m n"], frame: UInt8[np.ndarray, "h w 3"], how: int
) -> Float32[np.ndarray, "h w"]:
    return np.asarray(cv2.resize(x, (frame.shape[1], frame.shape[0]), interpolation=how), np.float32)


@cache
def _colors(name: str) -> UInt8[np.ndarray, "n 3"]:
    colormap = mpl.colormaps[name]
    return np.asarray(np.rint(colormap(np.arange(colormap.N))[:, :3] * 255), np.uint8)
