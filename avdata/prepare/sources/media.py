"""References to videos on disk or in archives, and how to open them in any process."""

import io
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, runtime_checkable

import numpy as np
from indexed_gzip import IndexedGzipFile, ZranError

from avdata.remote_file import SizedFile, Version
from avdata.store import missing, open_store, timed_out
from avmanifest.errors import DecodeError, DownloadError, MediaError, ShardError
from avmanifest.files import open_descriptor, open_file, sha256_of_stream
from avmanifest.secrets import shown_url

_BUFFER_BYTES: Final = 256 * 1024
_GZIP_BUFFER_BYTES: Final = 4 * 1024**2  # a read inflates from the last seek point on, so it should be large
_CHUNK_BYTES: Final = 1024**2
_IN_MEMORY_BYTES: Final = 64 * 1024**2  # larger members of a tar.gz are inflated in pieces while they are read

_GZIP_MAGIC: Final = b"GZIDX\x01"
_GZIP_HEADER: Final = struct.Struct("<6sBQQIII")  # magic, flags, compressed, uncompressed, spacing, window, points
_GZIP_POINT: Final = np.dtype([("compressed", "<u8"), ("plain", "<u8"), ("bits", "u1"), ("window", "u1")])


@dataclass(frozen=True, slots=True)
class Deflated:
    """How a zip has a member that it compresses."""

    num_bytes: int  # compressed
    crc32: int  # of the content


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRef:
    """The location of one video. Small and picklable.

    For a file of its own, `size` is None. In an archive, the video is the `size` bytes from `offset` on. In a tar.gz,
    offsets count uncompressed bytes, and `gzip_index` is the path of its seek points. In a zip that compresses the
    video, `deflated` says how, and `size` is that of the content.
    """

    path: str = field(repr=False)  # of the file or the archive; a URL, with its secrets, if it contains "://"
    offset: int = 0
    size: int | None = None
    gzip_index: str = ""
    deflated: Deflated | None = None
    version: Version | None = None  # of an archive at a URL, when it was listed
    is_clip: bool = False  # True: the file begins where the clip begins. False: it is the whole video and must be cut
    starts_at_s: float = 0.0  # of a section of a video: position of the file's time 0 in the whole video
    source: str  # the source as the user wrote it, such as "local:FOLDER", without secrets
    name: str  # the file within the source, as printable text

    @property
    def place(self) -> str:
        """The path, or the URL without its secrets: for messages."""
        return shown_url(self.path) if "://" in self.path else self.path

    @property
    def compressed(self) -> bool:
        """Whether the video is in a tar.gz."""
        return self.gzip_index != ""


def open_media_file(ref: MediaRef) -> Path | BinaryIO:
    """Open a video for reading.

    Returns:
        The path of a file of its own. For a member of an archive, a seekable read-only file of its bytes, which the
        caller must close.

    Raises:
        MediaError: unavailable_missing: the archive no longer exists.
        DecodeError: media_corrupt: the archive changed or was damaged after it was listed.
        DownloadError: An archive at a URL could not be read.
    """
    if ref.size is None:
        return Path(ref.path)
    with _media_errors(ref):
        if "://" in ref.path:
            if ref.deflated is None:
                return _in_memory(_fetch(ref, ref.size), ref)
            return _inflated(io.BytesIO(_fetch(ref, ref.deflated.num_bytes)), replace(ref, offset=0), ref.size)
        if ref.compressed:
            return _open_gzip_member(ref, ref.size)
        archive = io.FileIO(open_descriptor(ref.path))
        try:
            archive_bytes = archive.seek(0, os.SEEK_END)
            if archive_bytes < ref.offset + (ref.size if ref.deflated is None else ref.deflated.num_bytes):
                raise _changed(ref, f"it has only {archive_bytes} bytes")
            if ref.deflated is not None:
                return _inflated(archive, ref, ref.size)
            return io.BufferedReader(FileRange(archive, ref.offset, ref.size, name=ref.name), _BUFFER_BYTES)
        except BaseException:
            archive.close()
            raise


def hash_media(ref: MediaRef) -> tuple[str, int]:
    """The SHA-256 of the video in hexadecimal, and its size in bytes. Raises the same errors as open_media_file."""
    opened = open_media_file(ref)
    with _media_errors(ref), open_file(opened) if isinstance(opened, Path) else opened as file:
        return sha256_of_stream(file)


@runtime_checkable
class _Readable(Protocol):
    """The methods that FileRange calls. A protocol, because the file class of indexed_gzip is not an io class."""

    def seek(self, offset: int, /) -> int: ...

    def readinto(self, buffer: Any, /) -> int | None: ...

    def close(self) -> None: ...


class FileRange(SizedFile):
    """A read-only file of the `size` bytes from `offset` of another file. Closing it closes the other file."""

    def __init__(self, file: _Readable, offset: int, size: int, *, name: str) -> None:
        super().__init__(size, name)
        self.mode = "rb"
        self._file = file
        self._offset = offset

    def readinto(self, buffer: Any, /) -> int:
        """Read into the buffer and return the number of bytes, 0 at the end of the range.

        Raises DecodeError (`media_corrupt`) if the file ends or is damaged inside the range.
        """
        self._check_open()
        view = memoryview(buffer).cast("B")
        num_requested = min(len(view), max(self._size - self._position, 0))
        if not num_requested:
            return 0
        try:
            self._file.seek(self._offset + self._position)
            num_read = self._file.readinto(view[:num_requested])
        except (EOFError, ZranError) as error:
            raise DecodeError("media_corrupt", f"{self.name}: the archive is damaged: {error}") from error
        if not num_read:
            raise DecodeError(
                "media_corrupt", f"{self.name}: the archive ends {self._size - self._position} bytes early"
            )
        self._position += num_read
        return num_read

    def close(self) -> None:
        """Close this file and the other one."""
        if not self.closed:
            self._file.close()
        super().close()


def _in_memory(data: bytes | bytearray, ref: MediaRef) -> BinaryIO:
    return io.BufferedReader(FileRange(io.BytesIO(data), 0, len(data), name=ref.name), _BUFFER_BYTES)


def _fetch(ref: MediaRef, size: int) -> bytes:
    """Download the member, as the archive has it, in one request: a decoder seeks too often for one per read."""
    data = open_store(ref.path).read_range("", ref.offset, size, ref.version)
    if len(data) != size:
        raise DownloadError(
            "net_http",
            f"{ref.place}: requested {size} bytes from {ref.offset}, received {len(data)}. The archive changed, or the "
            "server does not support range requests. Download the archive and give its path.",
        )
    return data


def _open_gzip_member(ref: MediaRef, size: int) -> BinaryIO:
    # Detached from its buffer, which reads 16 MiB ahead and so could fail at damage after the member.
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


def _inflated(archive: io.BytesIO | io.FileIO, ref: MediaRef, size: int) -> BinaryIO:
    """The content of a deflated member: in memory, or if it is large in a file that has no name. Closes the archive.

    Raises DecodeError (`media_corrupt`) if it is damaged, or has not the size that the archive says.
    """
    deflated = ref.deflated
    assert deflated is not None
    out: Any = io.BytesIO() if size <= _IN_MEMORY_BYTES else tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    try:
        with archive:
            archive.seek(ref.offset)
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            left, crc32, num_bytes = deflated.num_bytes, 0, 0
            packed = b""
            while not inflate.eof and num_bytes <= size:
                if not packed:
                    packed = archive.read(min(left, _CHUNK_BYTES))
                    left -= len(packed)
                content = inflate.decompress(packed, _CHUNK_BYTES)
                if not content and not packed:
                    break
                packed = inflate.unconsumed_tail
                crc32 = zlib.crc32(content, crc32)
                num_bytes += len(content)
                out.write(content)
        if not inflate.eof or num_bytes != size or crc32 != deflated.crc32:
            raise _changed(ref, "its content has not the size and checksum that the archive says")
        return io.BufferedReader(FileRange(out, 0, size, name=ref.name), _BUFFER_BYTES)
    except BaseException:
        out.close()
        raise


def _seek_points(index: str, start: int, end: int) -> bytes:
    """The part of an index with the seek points that are needed to read [start, end).

    A whole index has 32 KiB of window per point, up to hundreds of MB for a large archive; a clip needs one or two
    points. The first point is kept because it has no window: indexed_gzip never frees the window of the first point.
    """
    with open_file(index) as file:
        magic, flags, compressed, plain, spacing, window, num_points = _GZIP_HEADER.unpack(file.read(_GZIP_HEADER.size))
        if magic != _GZIP_MAGIC:
            raise ValueError(f"{index} is not an index that this version of avkit can read. Delete it.")
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
        f"{ref.place}: the archive cannot be read at {ref.name} ({why}). "
        "If it changed after it was listed, run the same command again. If it is damaged, download it again.",
    )


@contextmanager
def _media_errors(ref: MediaRef) -> Iterator[None]:
    """Convert errors of files and servers into the MediaError of this clip."""
    try:
        yield
    except FileNotFoundError as error:
        raise MediaError("unavailable_missing", f"{error.filename or ref.path}: the file no longer exists") from error
    except ShardError as error:  # of a remote archive
        if missing(error):
            raise MediaError("unavailable_missing", str(error)) from error
        raise DownloadError("net_timeout" if timed_out(error) else "net_http", str(error)) from error
    except (EOFError, ZranError, ValueError, struct.error, zlib.error) as error:
        raise _changed(ref, str(error)) from error
    except OSError as error:
        raise DecodeError("media_corrupt", f"{ref.path}: {ref.name} cannot be read: {error}") from error
