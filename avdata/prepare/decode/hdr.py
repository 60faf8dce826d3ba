"""Tone mapping of HDR pictures (PQ and HLG) to SDR, so that they look like other videos.

The curve: the picture's signal becomes light (cd/m2), of which everything above PEAK_NITS is clipped. Highlights are
compressed by the EETF of ITU-R BT.2390 so that PEAK_NITS becomes WHITE_NITS, the diffuse white of ITU-R BT.2408; the
three colors of a pixel are scaled alike, by its brightest. BT.2020 primaries become BT.709, colors outside are clipped,
and the light is encoded for a BT.1886 display (gamma 2.4).
"""

from typing import Final

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc
from jaxtyping import Float32, UInt8, UInt16

PEAK_NITS: Final = 1000.0
WHITE_NITS: Final = 203.0
DISPLAY_GAMMA: Final = 2.4
TRANSFERS: Final = {ColorTrc.SMPTE2084: "pq", ColorTrc.ARIB_STD_B67: "hlg"}
"""The transfer functions that are tone-mapped, and their names in the manifest."""

_PQ_M1, _PQ_M2 = 2610 / 16384, 2523 / 4096 * 128  # SMPTE ST 2084
_PQ_C1, _PQ_C2, _PQ_C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073  # ITU-R BT.2100
_HLG_GAMMA: Final = 1.2  # of a display with a peak of 1000 cd/m2
_LUMINANCE: Final = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020's primaries
_TO_BT709: Final = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)

Light = Float32[np.ndarray, "*shape"]


def transfer_of(frame: VideoFrame) -> str:
    """`pq` or `hlg` for a frame of HDR video; empty for others."""
    return TRANSFERS.get(ColorTrc(frame.color_trc), "") if frame.color_trc in (16, 18) else ""


def to_sdr(rgb: UInt16[np.ndarray, "h w 3"], transfer: str, *, wide_gamut: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """Tone-map an RGB image.

    Args:
        rgb: The signal over the full range of 16 bits.
        transfer: `pq` or `hlg`.
        wide_gamut: Whether the colors are those of BT.2020; else they are BT.709's.
    """
    signal = rgb.astype(np.float32) / 65535
    light = pq_light(signal) if transfer == "pq" else hlg_light(signal)
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    light *= compressed(brightest) / brightest / WHITE_NITS
    if wide_gamut:
        light = light @ _TO_BT709.T
    image: UInt8[np.ndarray, "h w 3"] = np.rint(255 * np.clip(light, 0, 1) ** (1 / DISPLAY_GAMMA)).astype(np.uint8)
    return image


def compressed(light: Light) -> Light:
    """Light in cd/m2 after the EETF of ITU-R BT.2390: at most WHITE_NITS, unchanged below its knee."""
    top, white = pq_signal(np.array([PEAK_NITS, WHITE_NITS], np.float32))
    relative = np.minimum(pq_signal(light) / top, 1)
    limit = white / top
    knee = 1.5 * limit - 0.5
    t = (relative - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * limit
    return pq_light(np.where(relative > knee, spline, relative) * top)


def pq_light(signal: Light) -> Light:
    """Light in cd/m2 of a PQ signal in [0, 1]. Source: SMPTE ST 2084."""
    power = np.maximum(signal, 0) ** (1 / _PQ_M2)
    return np.asarray(10_000 * (np.maximum(power - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * power)) ** (1 / _PQ_M1), np.float32)


def pq_signal(light: Light) -> Light:
    """PQ signal in [0, 1] of light in cd/m2: the inverse of `pq_light`."""
    power = (np.maximum(light, 0) / 10_000) ** _PQ_M1
    return np.asarray(((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)) ** _PQ_M2, np.float32)


def hlg_light(signal: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Light in cd/m2 of an HLG signal on a display with a peak of 1000 cd/m2. Source: ITU-R BT.2100."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12)
    luminance = np.maximum(scene @ _LUMINANCE, 1e-9)[..., None]
    return np.asarray(PEAK_NITS * luminance ** (_HLG_GAMMA - 1) * scene, np.float32)


def has_wide_gamut(frame: VideoFrame) -> bool:
    """Whether the frame's colors are those of BT.2020, which is assumed where the frame does not say."""
    return frame.color_primaries in (ColorPrimaries.BT2020, ColorPrimaries.UNSPECIFIED)
