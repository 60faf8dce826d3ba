"""The compiled part of the loader, which is optional: members to windows and crops without Python between them.

`python -m avdata.load.build_native` builds it from native.c into the user's cache, with a C compiler and the headers of
libjpeg-turbo. A loader uses it if it is there. Pixels differ from those of the Python code by at most 1 level.
"""

import ctypes
import importlib
import logging
import platform
import struct
import tempfile
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float16, UInt8

from avdata.images import MAX_JPEG_PIXELS, decode_jpeg, encode_jpeg
from avdata.load.crops import Crop, crop_into, shrinks_a_lot
from avdata.shards import BLOCK, MEL_BLOCK_BYTES, block_hash, content_hash
from avmanifest.errors import ShardError
from avmanifest.files import cache_folder, sha256_of_file

_LOG: Final = logging.getLogger(__name__)
_ADVICE: Final = "Build it again: python -m avdata.load.build_native"
SOURCE: Final = Path(__file__).with_name("native.c")
_JOB: Final = struct.Struct("=qQQqqqQQQ10i")  # Job of native.c
_CROP: Final = struct.Struct("=5i")  # top, left, height, width, flip of a Job
_CROP_AT: Final = 84  # their place in a Job
_NUMBERS: Final = 18  # 32-bit numbers of a Job before `file`; its last ones are read by their places behind it
_HEIGHT, _WIDTH, _DONE = 5, 6, 8
_WAS_READ, _WAS_DONE, _FAILED = 1, 2, 3
_HASHES: Final = ("XXH3_64bits_dispatch", "XXH3_64bits")  # functions of xxhash, the fastest first


class Source(NamedTuple):
    """What is read of an open shard: the content of a member, or adjacent blocks of a log-mel."""

    file: int  # descriptor
    offset: int
    size: int
    name: str = ""  # by the tar header before it; "": it has none, or that is not read
    xxh3: int | None = None  # of the content; None: it is not compared
    blocks: bytes | None = None  # 32 bits of the hash of each block, instead


class NativeQueue:
    """Windows and crops that one thread has still to make."""

    def __init__(self, library: Any, *, plain: bool = False) -> None:
        """Create a queue.

        Args:
            library: The compiled code.
            plain: Leave out its code for AVX2, which gives the same.
        """
        self._library, self._plain, self._hash = library, plain, _hash_address()
        self._memory = library.avkit_open()
        if not self._memory:
            raise MemoryError("no memory for the decoder of JPEGs")
        weakref.finalize(self, library.avkit_close, self._memory)
        self._kept = np.empty(1 << 16, np.uint8)  # JPEGs, each behind its tar header
        self._clear()

    def _clear(self) -> None:
        self._jobs, self._texts, self._used, self._is_read = bytearray(), bytearray(), 0, True
        self._crops: list[tuple[Callable[[int, int], Crop], np.ndarray] | None] = []  # of each job; None: a window

    def __len__(self) -> int:
        return len(self._crops)

    def add_window(self, source: Source, skipped: int, out: Float16[np.ndarray, "mel t"]) -> bool:
        """Note a window to be copied into `out`, from byte `skipped` of the source on, if its values are finite.

        Returns:
            False: the compiled code does not do this.
        """
        columns = out.T
        if out.dtype != np.float16 or not columns.flags.carray or not 0 < out.nbytes <= source.size - skipped:
            return False
        self._add(source, None, columns, skipped, out.nbytes, 0)
        return True

    def add_crop(self, source: Source, choose: Callable[[int, int], Crop], out: UInt8[np.ndarray, "s s 3"]) -> bool:
        """Note a crop to be made into `out`. `choose` is asked for it when height and width of the JPEG are known.

        Returns:
            False: the compiled code does not do this.
        """
        size = out.shape[0]
        if out.shape != (size, size, 3) or out.dtype != np.uint8 or not out.flags.carray:
            return False  # the compiled code would write behind its end, or into what may not be written
        self._add(source, (choose, out), out, 0, 0, size)
        return True

    def _add(
        self,
        source: Source,
        crop: tuple[Callable[[int, int], Crop], np.ndarray] | None,
        out: np.ndarray,
        skipped: int,
        copied: int,
        pixels: int,
    ) -> None:
        file, offset, size, name, xxh3, blocks = source
        texts, name_at, blocks_at, block = self._texts, -1, -1, int(xxh3 is not None)
        if name:
            name_at = len(texts)
            texts += name.encode() + b"\0"
        if blocks is not None:
            blocks_at, block = len(texts), MEL_BLOCK_BYTES
            texts += blocks
        place = self._room(BLOCK + size) if crop is not None else 0
        self._jobs += _JOB.pack(
            offset, size, xxh3 or 0, name_at, blocks_at, place, _address(out.data), skipped, copied,
            file, block, pixels, 0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        self._crops.append(crop)
        self._is_read = False

    def _room(self, num_bytes: int) -> int:
        """Take room for a JPEG. Returns its place in `_kept`."""
        begin, self._used = self._used, self._used + num_bytes
        if self._used > len(self._kept):
            kept = np.empty(2 * self._used, np.uint8)
            kept[:begin] = self._kept[:begin]
            self._kept = kept
        return begin

    def are_windows(self) -> list[bool]:
        """Of each of what is still to make, whether it is a window."""
        return [crop is None for crop in self._crops]

    def drop(self, count: int) -> None:
        """Forget all but the first `count` windows and crops."""
        del self._jobs[count * _JOB.size :], self._crops[count:]

    def read(self) -> None:
        """Read what was noted, while its files are open."""
        if not self._is_read:
            jobs, texts = _address(self._jobs), _address(self._texts)
            kept = self._kept.ctypes.data
            self._library.avkit_read(jobs, len(self), kept, texts, self._hash, self._memory)
            self._is_read = True

    def run(self) -> list[bool]:
        """Read, copy windows and make crops.

        Returns:
            Whether each one was made: not if anything is unusual or wrong about it.
        """
        if not self._crops:
            return []
        self.read()
        numbers = np.frombuffer(self._jobs, np.int32).reshape(len(self), -1)[:, _NUMBERS:]
        for job, (crop, known) in enumerate(zip(self._crops, numbers.tolist(), strict=True)):
            if crop is not None and known[_DONE] == _WAS_READ:
                numbers[job, _DONE] = self._choose(job, *crop, known[_HEIGHT], known[_WIDTH])
        self._library.avkit_crop(_address(self._jobs), len(self), self._kept.ctypes.data, self._memory, self._plain)
        made: list[bool] = (numbers[:, _DONE] == _WAS_DONE).tolist()
        self._clear()
        return made

    def _choose(
        self, job: int, choose: Callable[[int, int], Crop], out: UInt8[np.ndarray, "s s 3"], height: int, width: int
    ) -> int:
        """Choose the crop of a picture that was read. Returns what its job is then."""
        if height * width > MAX_JPEG_PIXELS:
            return _FAILED
        try:
            crop = choose(height, width)
            if shrinks_a_lot(crop, out.shape[0]):
                crop_into(decode_jpeg(self._jpeg(job)), crop, out)
                return _WAS_DONE
        except ShardError:
            return _FAILED
        _CROP.pack_into(self._jobs, job * _JOB.size + _CROP_AT, *crop)
        return _WAS_READ

    def _jpeg(self, job: int) -> memoryview:
        """The JPEG of a picture that was read."""
        _, size, _, name, _, place, *_ = _JOB.unpack_from(self._jobs, job * _JOB.size)
        begin = place + (0 if name < 0 else BLOCK)
        return self._kept[begin : begin + size].data


def _address(memory: bytearray | memoryview) -> int:
    """Where writable bytes are, which must not grow meanwhile. It takes a third of the time of `ndarray.ctypes`."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory)) if memory else 0


@lru_cache(maxsize=1)
def _hash_address() -> int:
    """Where xxhash's XXH3 of 64 bits of (bytes, size) is. Raises AttributeError if xxhash does not show it."""
    xxhash = ctypes.CDLL(str(importlib.import_module("xxhash._xxhash").__file__))
    name = next((name for name in _HASHES if hasattr(xxhash, name)), _HASHES[-1])
    return int(ctypes.cast(getattr(xxhash, name), ctypes.c_void_p).value or 0)


def native_library() -> ctypes.CDLL | None:
    """The compiled code; None: it is not built, or does not work here, which is logged once."""
    path = library_path()
    return _library_at(path) if path.is_file() else None


@lru_cache(maxsize=1)
def _library_at(path: Path) -> ctypes.CDLL | None:
    """The library, if it works here."""
    try:
        library = open_library(path)
        if works(library):
            return library
    except (OSError, AttributeError) as error:
        _LOG.warning("%s: cannot be used (%s); the loader works without. %s", path, error, _ADVICE)
        return None
    _LOG.warning("%s: makes other pictures than it should; the loader works without. %s", path, _ADVICE)
    return None


def open_library(path: Path) -> ctypes.CDLL:
    """Load the compiled code. Raises OSError or AttributeError if it is none."""
    library, pointer, number = ctypes.CDLL(str(path)), ctypes.c_void_p, ctypes.c_int32
    library.avkit_open.restype = pointer
    library.avkit_close.argtypes = [pointer]
    library.avkit_read.argtypes = [pointer, number, pointer, pointer, pointer, pointer]
    library.avkit_crop.argtypes = [pointer, number, pointer, pointer, number]
    library.avkit_close.restype = library.avkit_read.restype = library.avkit_crop.restype = None
    return library


def library_path() -> Path:
    """Where the compiled code of this version of native.c is, for this kind of machine."""
    return cache_folder("native") / _library_name()


@lru_cache(maxsize=1)
def _library_name() -> str:
    return f"load-{sha256_of_file(SOURCE)[:16]}-{platform.system()}-{platform.machine()}.so".lower()


def works(library: Any) -> bool:
    """Whether crops of a small picture are those of the Python code, to 1 level, and a window is what was stored."""
    rows, columns = np.indices((48, 64))
    jpeg = encode_jpeg(np.stack([4 * columns % 256, 5 * rows, 2 * (rows + columns)], axis=-1).astype(np.uint8))
    queue, rgb = NativeQueue(library), decode_jpeg(jpeg)
    crops = [Crop(0, 0, 48, 64), Crop(5, 21, 30, 40, flip=True), Crop(17, 0, 31, 33)]
    made, meant = (np.zeros((len(crops), 32, 32, 3), np.uint8) for _ in range(2))
    stored, window = np.arange(16 * MEL_BLOCK_BYTES // 20, dtype=np.uint16) % 0x7C00, np.zeros((64, 8), np.float16).T
    with tempfile.TemporaryFile() as file:
        file.write(jpeg + stored.tobytes())
        file.flush()
        picture = Source(file.fileno(), 0, len(jpeg), xxh3=content_hash(jpeg))
        for crop, one, other in zip(crops, made, meant, strict=True):
            queue.add_crop(picture, lambda *_, crop=crop: crop, one)
            crop_into(rgb, crop, other)
        blocks = [
            stored.tobytes()[begin : begin + MEL_BLOCK_BYTES] for begin in range(0, stored.nbytes, MEL_BLOCK_BYTES)
        ]
        hashes = np.array([block_hash(block) for block in blocks], np.uint32).tobytes()
        queue.add_window(Source(file.fileno(), len(jpeg), stored.nbytes, blocks=hashes), 32, window)
        queue.add_crop(picture._replace(xxh3=1), lambda *_: crops[0], np.zeros((32, 32, 3), np.uint8))
        *good, bad = queue.run()
    is_close = bool((np.maximum(made, meant) - np.minimum(made, meant)).max() <= 1)
    return all(good) and not bad and is_close and window.T.tobytes() == stored.tobytes()[32 : 32 + window.nbytes]
