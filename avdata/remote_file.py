"""Versions of remote files, HTTP requests that say which version they answer from, and files that read by ranges."""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fsspec.asyn import sync

_STRONG: Final = ("etag", "generation", "blob_id", "content-md5", "digest")
"""What stores call a value that differs whenever the bytes do."""

_WEAK: Final = ("last-modified", "lastmodified", "last_modified", "mtime", "created")


@dataclass(frozen=True, slots=True)
class Version:
    """What a store says of a file, by which one version of it is told from another.

    Attributes:
        size: Bytes of the file; None: not stated.
        tag: The ETag or what takes its place, else the time of the last change; empty if the store gives neither.
        sha256: Hash of the content, if the store says it (hf does, of large files).
    """

    size: int | None
    tag: str
    sha256: str | None = None

    def differs(self, other: "Version") -> bool:
        """Whether the two are certainly of different versions. What one of them lacks is not compared."""
        return any(
            mine != theirs for mine, theirs in zip(self._parts(), other._parts(), strict=True) if mine and theirs
        )

    def _parts(self) -> tuple[str, str, str]:
        return "" if self.size is None else str(self.size), self.tag, self.sha256 or ""

    def __str__(self) -> str:
        return f"{self.size} bytes, {self.tag or 'no ETag, no time'}"


def version_of(info: Mapping[str, Any]) -> Version:
    """The version in what a store says of a file: fsspec's `info`, or the headers of an answer.

    A weak ETag (W/...) stays the same over some changes, so the time of the last change is compared as well.
    """
    said = {name.lower(): value for name, value in info.items() if value}
    strong = [f"{name} {said[name]}" for name in _STRONG if name in said and not str(said[name]).startswith("W/")]
    weak = [f"{name} {said[name]}" for name in ("etag", *_WEAK) if name in said]
    size = said.get("size", info.get("size"))
    sha256 = dict(said.get("lfs") or {}).get("sha256")
    return Version(None if size is None else int(size), strong[0] if strong else ", ".join(weak), sha256)


class NoRanges(OSError):
    """The server answers a request for a range with something else. It will do so again."""


class SizedFile(io.RawIOBase):
    """A read-only file of `size` bytes with a position. `name` is what messages call it. Subclasses read."""

    def __init__(self, size: int, name: str) -> None:
        super().__init__()
        self.name = name
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position and return it. ValueError before the start; past the end, reads return nothing."""
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        if whence not in base:
            raise ValueError(f"whence={whence}; known: 0, 1, 2")
        if base[whence] + offset < 0:
            raise ValueError(f"seek to {base[whence] + offset}: before the start of {self.name}")
        self._position = base[whence] + offset
        return self._position

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")


class RangeFile(SizedFile):
    """A read-only file of `size` bytes that is read by ranges: `read_range(start, size)` returns that many bytes."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        super().__init__(size, "the file")
        self._read_range = read_range

    def readinto(self, buffer: Any, /) -> int:
        """Read into the buffer and return the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        content = self._next(len(view))
        view[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        """The rest of the file, in one request."""
        return self._next(self._size)

    def _next(self, size: int) -> bytes:
        size = min(size, max(self._size - self._position, 0))
        content = self._read_range(self._position, size) if size else b""
        self._position += len(content)
        return content


def http_range(filesystem: Any, url: str, start: int, size: int) -> tuple[bytes, Version]:
    """Bytes of a file on an HTTP server, and the version of the whole file that this answer is from.

    Raises:
        FileNotFoundError: There is no such file.
        NoRanges: The server does not send ranges, or sends another one than was asked for.
        OSError: Too few bytes came.
    """

    async def ask() -> tuple[bytes, Version]:
        session = await filesystem.set_session()
        options = _options(filesystem, {"Range": f"bytes={start}-{start + size - 1}"})
        async with session.get(filesystem.encode_url(url), **options) as answer:
            if answer.status == 416:
                return b"", version_of(answer.headers)
            if answer.status == 404:
                raise FileNotFoundError(url)
            answer.raise_for_status()
            first, _, total = answer.headers.get("Content-Range", "").partition("/")
            if answer.status != 206 or not first.startswith(f"bytes {start}-"):
                raise NoRanges("the server does not support range requests. Download the file and give its path")
            whole = int(total) if total.isdecimal() else None
            content: bytes = await answer.read()
            if len(content) != (size if whole is None else min(size, max(whole - start, 0))):
                raise OSError(f"{len(content)} of {size} bytes came from byte {start} on")
            return content, version_of({**answer.headers, "size": whole})

    content, version = sync(filesystem.loop, ask)
    return content, version


def http_stream(filesystem: Any, url: str, size: int | None) -> tuple[Any, Version]:
    """A file on an HTTP server for reading from start to end in one answer, and the version that the answer is from."""
    file = filesystem.open(url, "rb", block_size=0, size=size or 1, headers=_options(filesystem, {})["headers"])
    stated = file.r.headers.get("Content-Length", "")
    return file, version_of({**file.r.headers, "size": int(stated) if stated.isdecimal() else None})


def _options(filesystem: Any, headers: Mapping[str, str]) -> dict[str, Any]:
    """The file system's own options of a request, with more headers. Compressed answers would have no byte offsets."""
    options = dict(filesystem.kwargs)
    return {**options, "headers": {**options.get("headers", {}), "Accept-Encoding": "identity", **headers}}
