"""Maps and masks over their frames, as arrays and as a page of examples holds them."""

from functools import cache

import cv2
import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8

from avdata.audit.mel_axis import to_png
from avdata.audit.truth import mask_overlay

_HEAT = 0.55  # how much of a frame a map hides where it is highest


def heated(rgb: UInt8[np.ndarray, "h w 3"], scores: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The frame under a map, from its lowest value, where the frame stays, to its highest."""
    low, high = float(scores.min()), float(scores.max())
    share = (scores - low) / (high - low if high > low else 1.0)
    return blended(rgb, _heat_colors()[np.rint(255 * share).astype(np.uint8)], _HEAT * np.clip(2 * share, 0, 1))


def masked(rgb: UInt8[np.ndarray, "h w 3"], classes: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The frame under a mask in the colors of `avkit inspect`, thin with an edge; 0 is nothing."""
    overlay = mask_overlay(bytes(cv2.imencode(".png", classes)[1].tobytes()))
    assert overlay is not None
    return blended(rgb, overlay[..., :3], overlay[..., 3] / np.float32(255))


def blended(
    rgb: UInt8[np.ndarray, "h w 3"], colors: UInt8[np.ndarray, "h w 3"], share: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with that share of another picture at each pixel."""
    mixed = rgb * (1 - share[..., None]) + colors * share[..., None]
    return np.asarray(mixed.round(), np.uint8)


def heat_over(rgb: UInt8[np.ndarray, "h w 3"], scores: Float[np.ndarray, "h w"]) -> bytes:
    """As `heated`, as a PNG."""
    return to_png(heated(rgb, scores))


def mask_over(rgb: UInt8[np.ndarray, "h w 3"], classes: UInt8[np.ndarray, "h w"]) -> bytes:
    """As `masked`, as a PNG."""
    return to_png(masked(rgb, classes))


@cache
def _heat_colors() -> UInt8[np.ndarray, "256 3"]:
    return np.asarray(np.rint(255 * mpl.colormaps["inferno"](np.arange(256))[:, :3]), np.uint8)
