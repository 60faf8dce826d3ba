"""Pictures as arrays and PNG bytes: colored log-mels; heat maps and masks over frames. No matplotlib."""

from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, UInt8

COLORS: Final = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178),
)  # fmt: skip
"""RGB of the first, second, ... object, distinguishable with color blindness, too (Okabe and Ito)."""

FILLED: Final = 96  # of 255: opacity of a mask
_HEAT: Final = 0.55  # opacity of a heat map where it is highest
_LOW, _HIGH = 1.0, 99.8  # percentiles that become the darkest and brightest color: one click must not darken the rest
_LEAST_RANGE: Final = 1.0  # of a log-mel: silence stays dark, not noise stretched over all colors


def to_png(picture: UInt8[np.ndarray, "h w c"]) -> bytes:
    """RGB or RGBA as PNG bytes."""
    order = [2, 1, 0, 3][: picture.shape[2]]
    return bytes(cv2.imencode(".png", np.ascontiguousarray(picture[..., order]))[1].tobytes())


def decode_rgb(content: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """A JPEG, PNG or WebP file as RGB; None for what is no picture."""
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return None if picture is None else np.asarray(picture[..., ::-1], np.uint8)


def color_range(log_mel: Float[np.ndarray, "mel t"]) -> tuple[float, float]:
    """The values that are drawn as the darkest and the brightest color."""
    low, high = (float(value) for value in np.percentile(log_mel, (_LOW, _HIGH)))
    return low, max(high, low + _LEAST_RANGE)


def color_log_mel(log_mel: Float[np.ndarray, "mel t"]) -> UInt8[np.ndarray, "mel t 3"]:
    """RGB in the color map magma, the lowest band at the bottom."""
    low, high = color_range(log_mel)
    shares = np.clip((log_mel[::-1] - low) / (high - low), 0, 1)
    return _colored(np.minimum(shares * 256, 255).astype(np.uint8), cv2.COLORMAP_MAGMA)


def draw_heat_map(frame: UInt8[np.ndarray, "h w 3"], scores: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB frame under a map of scores: transparent at its lowest value, most opaque at its highest."""
    low, high = float(scores.min()), float(scores.max())
    share = (scores - low) / (high - low if high > low else 1.0)
    colors = _colored(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return _blended(frame, colors, _HEAT * np.clip(2 * share, 0, 1))


def draw_mask(frame: UInt8[np.ndarray, "h w 3"], classes: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB frame under a mask: class k in the color k of COLORS with an opaque edge; 0 is background."""
    overlay = mask_overlay(bytes(cv2.imencode(".png", classes)[1].tobytes()))
    assert overlay is not None
    return _blended(frame, overlay[..., :3], overlay[..., 3] / np.float32(255))


def mask_overlay(png: bytes) -> UInt8[np.ndarray, "h w 4"] | None:
    """A mask as RGBA to lay over its frame: objects in COLORS, half transparent, with an edge. None for no picture.

    Gray values are objects (0 none, k the k-th; 255 is the first); a colored mask keeps its colors, black is none.
    """
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None:
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
    alpha = np.where(edge, 255, np.where(inside, FILLED, 0)).astype(np.uint8)
    return np.dstack([colors, alpha])


def _colored(values: UInt8[np.ndarray, "h w"], colormap: int) -> UInt8[np.ndarray, "h w 3"]:
    return np.asarray(cv2.applyColorMap(np.ascontiguousarray(values), colormap)[..., ::-1], np.uint8)


def _blended(
    frame: UInt8[np.ndarray, "h w 3"], colors: UInt8[np.ndarray, "h w 3"], share: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with that share of another picture at each pixel."""
    mixed = frame * (1 - share[..., None]) + colors * share[..., None]
    return np.asarray(mixed.round(), np.uint8)
