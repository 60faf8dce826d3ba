"""JPEG encoding and decoding, PNG mask decoding, and resizing.

OpenCV resizes with its own thread pool. Processes of which many run at once (such as prepare's children) call
`cv2.setNumThreads(0)` when they start. No function here changes that setting.
"""

import io
import struct

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from avmanifest.errors import ShardError

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
MAX_JPEG_PIXELS = 64_000_000  # refuse larger images, whose headers may be damaged; stored frames have about 100,000


def encode_jpeg(rgb: UInt8[np.ndarray, "h w 3"], quality: int = 90) -> bytes:
    """Encode a baseline JPEG with 4:2:0 chroma. Equal pixels give equal bytes."""
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=quality, colorspace="RGB", colorsubsampling="420", fastdct=False
    )
    return encoded


def decode_jpeg(data: bytes | memoryview, name: str = "image") -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG to RGB pixels.

    Args:
        data: The file's content.
        name: What the error message calls it, such as the shard, key and member.

    Raises:
        ShardError: The data is damaged, or the image has more than MAX_JPEG_PIXELS.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width > MAX_JPEG_PIXELS:
            raise ShardError(f"{name}: a JPEG of {width} x {height} pixels; at most {MAX_JPEG_PIXELS} are read")
        rgb: UInt8[np.ndarray, "h w 3"] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        raise ShardError(
            f"{name}: a damaged JPEG of {len(data)} bytes ({error}). Fetch or prepare the shard again."
        ) from error
    return rgb


def decode_picture(data: bytes, flags: int, name: str = "image") -> np.ndarray:
    """Decode a JPEG, PNG or WebP to an array as `cv2.imdecode` does, with its flags and its order of channels.

    Raises ShardError for damaged data, and for more pixels than MAX_JPEG_PIXELS before memory is taken for them.
    """
    _require_size(data, name, "an image")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise ShardError(f"{name}: a damaged image of {len(data)} bytes ({error.err})") from error
    if pixels is None:
        raise ShardError(f"{name}: a damaged image of {len(data)} bytes, or none. Fetch or prepare the shard again.")
    return np.asarray(pixels)


def _require_size(data: bytes, name: str, what: str) -> None:
    """Raise ShardError for more than MAX_JPEG_PIXELS, as the header states them."""
    width, height = _stated_size(data)
    if width * height > MAX_JPEG_PIXELS:
        raise ShardError(f"{name}: {what} of {width} x {height} pixels; at most {MAX_JPEG_PIXELS} are read")


def _stated_size(data: bytes) -> tuple[int, int]:
    """Width and height that the header of a PNG or JPEG states; 0 if it has none. WebP has 16,383 pixels a side."""
    if data.startswith(PNG_HEAD):
        width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
        return width, height
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return 0, 0
    return width, height


def decode_mask(data: bytes, name: str = "mask") -> UInt8[np.ndarray, "h w"]:
    """Decode a PNG mask: gray levels or palette indices; for an RGB or RGBA image, 255 where it is not black.

    Raises:
        ShardError: The data is no readable PNG, is too large, or has another pixel format.
    """
    _require_size(data, name, "a mask")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            pixels = np.asarray(picture)
            mode = picture.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ShardError(
            f"{name}: no mask can be read from its {len(data)} bytes ({error}). Fetch it again."
        ) from error
    if mode in ("RGB", "RGBA"):
        return np.where(pixels[..., :3].any(axis=-1), 255, 0).astype(np.uint8)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.bool_):
        raise ShardError(f"{name}: a PNG of mode {mode}; masks are 8-bit gray, palette or RGB. Convert it.")
    return pixels.astype(np.uint8)


def resize_short_side(rgb: UInt8[np.ndarray, "h w 3"], short_side: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """Resize an image so that its shorter side has short_side pixels. The aspect ratio is kept.

    Shrinking averages areas, enlarging interpolates linearly.
    """
    height, width = rgb.shape[:2]
    scale = short_side / min(height, width)
    if scale == 1:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=interpolation), np.uint8)
