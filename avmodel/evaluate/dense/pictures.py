"""Maps and masks over their frames, and sounds, as a page of examples holds them."""

import io

import cv2
import matplotlib as mpl
import numpy as np
import soundfile as sf
from jaxtyping import Float, UInt8

from avdata.audit.truth import mask_overlay
from avdata.waveform import SAMPLE_RATE

_HEAT = 0.55  # how much of a frame a map hides where it is highest


def png_of(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The picture as a PNG."""
    return bytes(cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes())


def heat_over(rgb: UInt8[np.ndarray, "h w 3"], scores: Float[np.ndarray, "h w"]) -> bytes:
    """A map from its lowest, where the frame stays, to its highest value, as a PNG."""
    low, high = float(scores.min()), float(scores.max())
    share = (scores - low) / (high - low if high > low else 1.0)
    colors = 255 * mpl.colormaps["inferno"](share)[..., :3]
    alpha = _HEAT * np.clip(2 * share, 0, 1)[..., None]
    return png_of((rgb * (1 - alpha) + colors * alpha).round().astype(np.uint8))


def mask_over(rgb: UInt8[np.ndarray, "h w 3"], classes: UInt8[np.ndarray, "h w"]) -> bytes:
    """A mask in the colors of `avkit inspect`, thin with an edge, as a PNG; 0 is nothing."""
    overlay = mask_overlay(bytes(cv2.imencode(".png", classes)[1].tobytes()))
    assert overlay is not None
    alpha = overlay[..., 3:].astype(np.float32) / 255
    return png_of((rgb * (1 - alpha) + overlay[..., :3] * alpha).round().astype(np.uint8))


def wav_of(waveform: Float[np.ndarray, " n"]) -> bytes:
    """The sound as 16-bit WAV."""
    file = io.BytesIO()
    sf.write(file, np.clip(waveform, -1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()
