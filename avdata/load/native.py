"""The compiled part of the loader, which is optional: JPEGs to crops without Python between them.

`python -m avdata.load.build_native` builds it from native.c into the user's cache, with a C compiler and the headers of
libjpeg-turbo. A loader uses it if it is there. Pixels differ from those of the Python code by at most 1 level.
"""

import ctypes
import logging
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from avdata.images import MAX_JPEG_PIXELS, decode_jpeg, encode_jpeg
from avdata.load.crops import Crop, crop_into, shrinks_a_lot
from avmanifest.files import cache_folder, sha256_of_file

_LOG: Final = logging.getLogger(__name__)
_ADVICE: Final = "Build it again: python -m avdata.load.build_native"
SOURCE: Final = Path(__file__).with_name("native.c")


class _Job(ctypes.Structure):
    """Job of native.c. `jpeg` keeps its bytes."""

    _fields_ = (
        ("jpeg", ctypes.c_char_p),
        ("num_bytes", ctypes.c_uint64),
        ("out", ctypes.c_void_p),
        ("top", ctypes.c_int32),
        ("left", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("flip", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("done", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )


class CropQueue:
    """Crops of JPEGs that one thread has still to make."""

    def __init__(self, library: Any) -> None:
        """`library`: The compiled code."""
        self._library = library
        self._jobs: list[_Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, jpeg: memoryview, crop: Crop, out: UInt8[np.ndarray, "s s 3"]) -> bool:
        """Note a crop to be made into `out`. False: it is none that the compiled code makes."""
        size = out.shape[0]
        if out.shape != (size, size, 3) or out.dtype != np.uint8 or not out.flags.carray:
            return False  # the compiled code would write behind its end, or into what may not be written
        if shrinks_a_lot(crop, size):
            return False
        self._jobs.append(_Job(bytes(jpeg), len(jpeg), out.ctypes.data, *crop, size, 0, 0))
        return True

    def drop(self, count: int) -> None:
        """Forget all but the first `count` crops."""
        del self._jobs[count:]

    def run(self) -> list[bool]:
        """Make the crops. Returns whether each one was made: not if there is anything unusual about its JPEG."""
        jobs = (_Job * len(self._jobs))(*self._jobs)
        self._library.avkit_crop(jobs, len(jobs))
        self._jobs.clear()
        return [bool(job.done) for job in jobs]


def jpeg_size(jpeg: memoryview) -> tuple[int, int] | None:
    """Height and width of a JPEG by its header; None: it is damaged, or too large."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError:
        return None
    return None if height * width > MAX_JPEG_PIXELS else (int(height), int(width))


@lru_cache(maxsize=1)
def native_library() -> ctypes.CDLL | None:
    """The compiled code; None: it is not built, or does not work here, which is logged."""
    path = library_path()
    if not path.is_file():
        return None
    try:
        library = open_library(path)
    except (OSError, AttributeError) as error:
        _LOG.warning("%s: cannot be loaded (%s); the loader works without. %s", path, error, _ADVICE)
        return None
    if not works(library):
        _LOG.warning("%s: makes other pictures than it should; the loader works without. %s", path, _ADVICE)
        return None
    return library


def open_library(path: Path) -> ctypes.CDLL:
    """Load the compiled code. Raises OSError or AttributeError if it is none."""
    library = ctypes.CDLL(str(path))
    library.avkit_crop.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.avkit_crop.restype = None
    return library


def library_path() -> Path:
    """Where the compiled code of this version of native.c is, for this kind of machine."""
    name = f"load-{sha256_of_file(SOURCE)[:16]}-{platform.system()}-{platform.machine()}.so".lower()
    return cache_folder("native") / name


def works(library: Any) -> bool:
    """Whether crops of a small picture are those of the Python code, to 1 level."""
    rows, columns = np.indices((48, 64))
    jpeg = encode_jpeg(np.stack([4 * columns % 256, 5 * rows, 2 * (rows + columns)], axis=-1).astype(np.uint8))
    queue, rgb = CropQueue(library), decode_jpeg(jpeg)
    crops = [Crop(0, 0, 48, 64), Crop(5, 21, 30, 40, flip=True), Crop(17, 0, 31, 33)]
    made, meant = (np.zeros((len(crops), 32, 32, 3), np.uint8) for _ in range(2))
    for crop, one, other in zip(crops, made, meant, strict=True):
        queue.add(memoryview(jpeg), crop, one)
        crop_into(rgb, crop, other)
    return all(queue.run()) and bool((np.maximum(made, meant) - np.minimum(made, meant)).max() <= 1)
