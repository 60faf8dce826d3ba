"""Images as arrays and PNG bytes: colored log-mels, and heat maps and masks over frames. Without matplotlib."""

from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from avdata.images import decode_picture
from avmanifest.errors import ShardError

COLORS: Final = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178),
)  # fmt: skip
"""RGB colors of the first, second, ... object, safe for color blindness.

Source: Okabe and Ito, "Color Universal Design" (2008).
"""

MASK_ALPHA: Final = 96  # of 255: opacity of a mask inside its edge
_MAX_HEAT_ALPHA: Final = 0.55  # of 1: opacity of a heat map at its highest score
_LOW, _HIGH = (
    1.0,
    99.8,
)  # percentiles drawn as the darkest and the brightest color, so that outliers do not set the range
_MIN_RANGE: Final = 1.0  # of a log-mel: the noise of a silent clip must not span all colors


def to_png(picture: UInt8[np.ndarray, "h w c"]) -> bytes:
    """Encode an RGB or RGBA image as PNG bytes."""
    order = [2, 1, 0, 3][: picture.shape[2]]
    return bytes(cv2.imencode(".png", np.ascontiguousarray(picture[..., order]))[1].tobytes())


def decode_rgb(content: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decode a JPEG, PNG or WebP file to RGB; None if it is not a readable image."""
    try:
        return np.asarray(decode_picture(content, cv2.IMREAD_COLOR)[..., ::-1], np.uint8)
    except ShardError:
        return None


def color_range(log_mel: Float[np.ndarray, "mel t"]) -> tuple[float, float]:
    """The log-mel values of the darkest and the brightest color."""
    low, high = (float(value) for value in np.percentile(log_mel, (_LOW, _HIGH)))
    return low, max(high, low + _MIN_RANGE)


def color_log_mel(
    log_mel: Float[np.ndarray, "mel t"], between: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "mel t 3"]:
    """Color a log-mel with the color map magma; the lowest band is at the bottom.

    `between`: values of the darkest and the brightest color; None: its own `color_range`.
    """
    low, high = between or color_range(log_mel)
    shares = np.clip((log_mel[::-1] - low) / (high - low), 0, 1)
    return _colored(np.minimum(shares * 256, 255).astype(np.uint8), cv2.COLORMAP_MAGMA)


def draw_heat_map(frame: UInt8[np.ndarray, "h w 3"], scores: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Blend a map of scores over an RGB frame. The lowest score is transparent, the highest most opaque."""
    low, high = float(scores.min()), float(scores.max())
    share = (scores - low) / (high - low if high > low else 1.0)
    colors = _colored(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return _blended(frame, colors, _MAX_HEAT_ALPHA * np.clip(2 * share, 0, 1))


def tint(
    frame: UInt8[np.ndarray, "h w 3"],
    scores: Float[np.ndarray, "h w"],
    low: float,
    high: float,
    threshold: float,
    *,
    opacity: float = _MAX_HEAT_ALPHA,
) -> UInt8[np.ndarray, "h w 3"]:
    """Color an RGB frame where the scores are above a threshold; elsewhere it stays as it is.

    `low` and `high` have the first and the last color, scores beyond them too; `threshold` is a share of this scale,
    from 0 to 1. A scale of no length colors nothing. `opacity`: of the color, from 0 to 1.
    """
    if not high > low:
        return frame
    share = np.clip((scores - low) / (high - low), 0, 1)
    colors = _colored(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return _blended(frame, colors, np.where(share > threshold, np.float32(opacity), np.float32(0)))


def draw_mask(frame: UInt8[np.ndarray, "h w 3"], classes: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Blend a mask over an RGB frame: class k in the k-th color of COLORS with an opaque edge; 0 is background."""
    overlay = mask_overlay(bytes(cv2.imencode(".png", classes)[1].tobytes()))
    assert overlay is not None
    return _blended(frame, overlay[..., :3], overlay[..., 3] / np.float32(255))


def mask_overlay(png: bytes) -> UInt8[np.ndarray, "h w 4"] | None:
    """Convert a PNG mask to an RGBA image for drawing over its frame; None if it is not a readable image.

    Objects are half transparent with an opaque edge. In a gray mask, value k is the k-th object and gets the k-th color
    of COLORS, 0 is background and 255 is the first object. A colored mask keeps its colors; black is background.
    """
    try:
        mask = decode_picture(png, cv2.IMREAD_UNCHANGED)
    except ShardError:
        return None
    if mask.ndim == 3:
        colors = mask[..., 2::-1]
        inside = colors.any(axis=-1)
        shape = inside.astype(np.uint8)
    else:
        values = np.where(mask == 255, 1, mask)
        colors = np.array(COLORS, np.uint8)[(values.astype(np.int64) - 1) % len(COLORS)]
        inside, shape = values > 0, values.astype(np.uint8)
    edge = (cv2.morphologyEx(np.asarray(shape), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0) & inside
    alpha = np.where(edge, 255, np.where(inside, MASK_ALPHA, 0)).astype(np.uint8)
    return np.dstack([colors, alpha])


def _colored(values: UInt8[np.ndarray, "h w"], colormap: int) -> UInt8[np.ndarray, "h w 3"]:
    return np.asarray(cv2.applyColorMap(np.ascontiguousarray(values), colormap)[..., ::-1], np.uint8)


def _blended(
    frame: UInt8[np.ndarray, "h w 3"], colors: UInt8[np.ndarray, "h w 3"], share: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Mix `colors` into the frame; `share` is its weight at each pixel, from 0 to 1."""
    mixed = frame * (1 - share[..., None]) + colors * share[..., None]
    return np.asarray(mixed.round(), np.uint8)
