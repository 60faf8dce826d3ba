"""A video somewhere on disk or in an archive, as a small value that another process can open."""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, runtime_checkable

import aiohttp
import fsspec
import numpy as np
from indexed_gzip import IndexedGzipFile, ZranError

from avmanifest.errors import DecodeError, DownloadError, MediaError
from avmanifest.files import sha256_of_stream

_BUFFER_BYTES: Final = 256 * 1024
_GZIP_BUFFER_BYTES: Final = 4 * 1024**2  # every read inflates from the last seek point again
_CHUNK_BYTES: Final = 1024**2
_IN_MEMORY_BYTES: Final = 64 * 1024**2  # larger members of a tar.gz are inflated as they are read

_GZIP_MAGIC: Final = b"GZIDX\x01"
_GZIP_HEADER: Final = struct.Struct("<6sBQQIII")  # magic, flags, compressed, uncompressed, spacing, window, points
_GZIP_POINT: Final = np.dtype([("compressed", "<u8"), ("plain", "<u8"), ("bits", "u1"), ("window", "u1")])


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRef:
    """Where one video's bytes are. Small, and safe to send to another process.

    A whole file has `size` None. Otherwise the video is `size` bytes from `offset` of an archive; offsets of a
    tar.gz count uncompressed bytes, and `gzip_index` is the file of its seek points.
    """

    path: str  # of the file or the archive; an address if it holds "://"
    offset: int = 0
    size: int | None = None
    gzip_index: str = ""
    is_clip: bool = False  # the video begins where the clip begins; else it is the whole video and must be cut
    starts_at_s: float = 0.0  # of a cut video that is no clip: where in the whole one its time 0 lies
    source: str  # the source as it was given, "local:DIR"
    name: str  # the file within the source, fit to be shown

    @property
    def compressed(self) -> bool:
        """Whether the bytes lie in a tar.gz."""
        return self.gzip_index != ""


def display_name(path: str) -> str:
    """The path as text that any table can store: bytes that are no UTF-8 are written as escapes."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def open_media_file(ref: MediaRef) -> Path | BinaryIO:
    """The path of a whole file; for a member of an archive a seekable read-only file of just its bytes.

    The caller closes the file. Raises MediaError if the archive is gone (`unavailable_missing`), DecodeError
    (`media_corrupt`) if it changed or broke since it was listed, DownloadError for an archive at an address.
    """
    if ref.size is None:
        return Path(ref.path)
    with _media_errors(ref):
        if "://" in ref.path:
            return _fetch(ref, ref.size)
        if ref.compressed:
            return _open_gzip_member(ref, ref.size)
        archive = io.FileIO(ref.path)
        try:
            held = archive.seek(0, os.SEEK_END)
            if held < ref.offset + ref.size:
                raise _changed(ref, f"it holds {held} bytes")
            return io.BufferedReader(FileRange(archive, ref.offset, ref.size, name=ref.name), _BUFFER_BYTES)
        except BaseException:
            archive.close()
            raise


def hash_media(ref: MediaRef) -> tuple[str, int]:
    """The sha256 of the video's bytes in hex, and their number. Errors as for open_media_file."""
    opened = open_media_file(ref)
    with _media_errors(ref), opened.open("rb") if isinstance(opened, Path) else opened as file:
        return sha256_of_stream(file)


@runtime_checkable
class _Readable(Protocol):
    """What FileRange needs of the file below; indexed_gzip's unbuffered file is no io class."""

    def seek(self, offset: int, /) -> int: ...

    def readinto(self, buffer: Any, /) -> int | None: ...

    def close(self) -> None: ...


class FileRange(io.RawIOBase):
    """`size` bytes from `offset` of a file, as a file of their own. Owns the file and closes it."""

    def __init__(self, file: _Readable, offset: int, size: int, *, name: str) -> None:
        super().__init__()
        self.name = name
        self.mode = "rb"
        self._file = file
        self._offset = offset
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes from the start of the range."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """The new position. Past the end is allowed and reads nothing; before the start is a ValueError."""
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        if whence not in base:
            raise ValueError(f"whence={whence}; known: 0, 1, 2")
        position = base[whence] + offset
        if position < 0:
            raise ValueError(f"seek to {position}: before the start of {self.name}")
        self._position = position
        return position

    def readinto(self, buffer: Any, /) -> int:
        """Number of bytes read into the buffer, 0 at the end of the range.

        Raises DecodeError (`media_corrupt`) if the file ends or breaks inside the range.
        """
        self._check_open()
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(self._size - self._position, 0))
        if not wanted:
            return 0
        try:
            self._file.seek(self._offset + self._position)
            num_read = self._file.readinto(view[:wanted])
        except (EOFError, ZranError) as error:
            raise DecodeError("media_corrupt", f"{self.name}: the archive is damaged: {error}") from error
        if not num_read:
            raise DecodeError(
                "media_corrupt", f"{self.name}: the archive ends {self._size - self._position} bytes early"
            )
        self._position += num_read
        return num_read

    def close(self) -> None:
        """Closes the file below too."""
        if not self.closed:
            self._file.close()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")


def _in_memory(data: bytes | bytearray, ref: MediaRef) -> BinaryIO:
    return io.BufferedReader(FileRange(io.BytesIO(data), 0, len(data), name=ref.name), _BUFFER_BYTES)


def _fetch(ref: MediaRef, size: int) -> BinaryIO:
    """One request for the member's bytes: decoders seek too much for one request per read."""
    filesystem, path = fsspec.core.url_to_fs(ref.path)
    data: bytes = filesystem.cat_file(path, start=ref.offset, end=ref.offset + size)
    if len(data) != size:
        raise DownloadError(
            "net_http",
            f"{ref.path}: asked for {size} bytes from {ref.offset}, got {len(data)}: the archive changed or the "
            "server knows no ranges. Download the archive and give its path.",
        )
    return _in_memory(data, ref)


def _open_gzip_member(ref: MediaRef, size: int) -> BinaryIO:
    # Without its buffer, which would read 16 MiB ahead: past the member, and into damage that may follow.
    archive = IndexedGzipFile(ref.path, drop_handles=False).detach()
    member = FileRange(archive, ref.offset, size, name=ref.name)
    try:
        archive.import_index(fileobj=io.BytesIO(_seek_points(ref.gzip_index, ref.offset, ref.offset + size)))
        if size > _IN_MEMORY_BYTES:
            return io.BufferedReader(member, _GZIP_BUFFER_BYTES)
        data = bytearray(size)
        num_read = 0
        while num_read < size:
            num_read += member.readinto(memoryview(data)[num_read:])
    except BaseException:
        member.close()
        raise
    member.close()
    return _in_memory(data, ref)


def _seek_points(index: str, start: int, end: int) -> bytes:
    """An index with only the points that reading [start, end) needs.

    A whole index holds 32 KiB of window per point, up to hundreds of MB for a large archive; a clip needs one or two.
    The first point stays, having no window: indexed_gzip never frees the window of an index's first point.
    """
    with Path(index).open("rb") as file:
        magic, flags, compressed, plain, spacing, window, num_points = _GZIP_HEADER.unpack(file.read(_GZIP_HEADER.size))
        if magic != _GZIP_MAGIC:
            raise ValueError(f"{index} is not an index this version of avkit reads. Delete it.")
        points = np.frombuffer(file.read(num_points * _GZIP_POINT.itemsize), _GZIP_POINT)
        first = max(int(np.searchsorted(points["plain"], start, side="right")) - 1, 0)
        last = max(int(np.searchsorted(points["plain"], end, side="left")), first + 1)
        file.seek(window * int(points["window"][:first].sum()), os.SEEK_CUR)
        windows = file.read(window * int(points["window"][first:last].sum()))
    kept = points[first:last] if first == 0 else np.concatenate([points[:1], points[first:last]])
    header = _GZIP_HEADER.pack(magic, flags, compressed, plain, spacing, window, len(kept))
    return header + kept.tobytes() + windows


def _changed(ref: MediaRef, why: str) -> DecodeError:
    return DecodeError(
        "media_corrupt",
        f"{ref.path}: the archive cannot be read at {ref.name} ({why}). "
        "If it changed since it was listed, run again; if it is damaged, fetch it again.",
    )


@contextmanager
def _media_errors(ref: MediaRef) -> Iterator[None]:
    """Errors of files and servers, as the one clip's MediaError."""
    remote = "://" in ref.path
    try:
        yield
    except FileNotFoundError as error:
        raise MediaError("unavailable_missing", f"{error.filename or ref.path}: no such file any more") from error
    except TimeoutError as error:
        raise DownloadError("net_timeout", f"{ref.path}: no answer in time") from error
    except (EOFError, ZranError, ValueError, struct.error) as error:
        raise _changed(ref, str(error)) from error
    except (OSError, aiohttp.ClientError) as error:
        if remote:
            raise DownloadError("net_http", f"{ref.path}: {error}") from error
        raise DecodeError("media_corrupt", f"{ref.path}: {ref.name} cannot be read: {error}") from error
