"""Thumbnails of frames and log-mels: WebP images of some hundred bytes, so that a page holds a thousand of both."""

from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from avdata.draw.images import color_log_mel, decode_rgb

FRAME_BYTES: Final = 1450
"""Bytes of a frame's thumbnail, at most."""

MEL_BYTES: Final = 750
"""Bytes of a log-mel's thumbnail, at most. With FRAME_BYTES, as base64, a thousand of both are under 3 MB."""

WEBP: Final = "image/webp"
_FRAME_SIZE: Final = (128.0, 96.0)  # width and height into which a frame is fitted, pixels
_MEL_SIZE: Final = (128.0, 40.0)
_QUALITIES: Final = (60, 45, 32, 20, 10, 1)
_SMALLER: Final = 0.7  # of each side, where the lowest quality has too many bytes


def frame_thumbnail(content: bytes) -> bytes:
    """A thumbnail of an image file; empty if it is not a readable image."""
    picture = decode_rgb(content)
    if picture is None:
        return b""
    height, width = picture.shape[:2]
    share = min(_FRAME_SIZE[0] / width, _FRAME_SIZE[1] / height, 1.0)
    return _encoded(picture, (width * share, height * share), FRAME_BYTES)


def mel_thumbnail(log_mel: Float[np.ndarray, "mel t"]) -> bytes:
    """A thumbnail of a log-mel in its colors; empty if it has no values."""
    return _encoded(color_log_mel(log_mel), _MEL_SIZE, MEL_BYTES) if log_mel.size else b""


def _encoded(picture: UInt8[np.ndarray, "h w 3"], size: tuple[float, float], most: int) -> bytes:
    """WebP of the highest quality, then of the largest size, that has at most so many bytes."""
    width, height = size
    while True:
        small = cv2.resize(picture, (max(round(width), 1), max(round(height), 1)), interpolation=cv2.INTER_AREA)
        for quality in _QUALITIES:
            content = bytes(cv2.imencode(".webp", small[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes())
            if len(content) <= most:
                return content
        width, height = width * _SMALLER, height * _SMALLER
