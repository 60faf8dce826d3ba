"""Opening of files that are really files, atomic writing, SHA-256 hashes, errors of disks, and the user's cache folder.

Every path from outside is opened by `open_file` and its relatives, or checked by `require_file` where a library opens
it: a plain open of a FIFO waits until somebody writes to it, and a device may never end.

A file is written under a temporary name in the target's folder and renamed at the end, so that a reader sees the old or
the new content, never a part of it. A killed process leaves the temporary file: `is_unfinished` recognizes it.
"""

import errno
import hashlib
import io
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol, TextIO

from avmanifest.errors import StorageError

UNFINISHED: Final = ".tmp"
"""Suffix of a file or folder that is still being written."""

OLDER_SUFFIXES: Final = (".part",)
"""Suffixes that earlier versions also used, without a leading dot. Other programs use them, so they are removed only
from folders that belong to avkit."""

DISK_ERRORS: Final = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,  # a file system in user space whose server ended
        errno.EMFILE,
        errno.ENFILE,
    )
)
"""Numbers of OSErrors that are about a disk, a mount or the limit of open files, and not about a file's content."""

PATH_ERRORS: Final = frozenset(
    (
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    )
)
"""Numbers of OSErrors that are about a path: nothing is there, something else is, or it may not be used."""

_OLDER_PREFIX: Final = ".unfinished-"
_READ_BYTES: Final = 1 << 20
_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Readable(Protocol):
    """An object with the `read` method of a binary file."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`; empty at the end."""
        ...


class NotAFile(OSError):
    """The path is that of a folder, a FIFO, a socket or a device, where a regular file is meant."""


def require_file(path: Path | str) -> None:
    """Raise OSError unless the path is that of a regular file, or of a link to one.

    The error is FileNotFoundError for a missing file, NotAFile for a folder, FIFO, socket or device; it says which.
    """
    if "\0" in str(path):
        raise NotAFile(errno.EINVAL, "a path with a NUL character", str(path))
    _check_kind(Path(path).stat().st_mode, path)


def open_descriptor(path: Path | str) -> int:
    """Open a regular file for reading and return its descriptor. Raises OSError as `require_file` does."""
    require_file(path)
    # Without waiting, in case the path became a FIFO just now.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_kind(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_file(path: Path | str) -> io.BufferedReader:
    """Open a regular file for reading bytes. Raises OSError as `require_file` does."""
    return io.BufferedReader(io.FileIO(open_descriptor(path)))


def open_text(
    path: Path | str, *, encoding: str = "utf-8-sig", errors: str = "strict", newline: str | None = None
) -> TextIO:
    """Open a regular file of text. Raises OSError as `require_file` does."""
    return io.TextIOWrapper(open_file(path), encoding=encoding, errors=errors, newline=newline)


def read_file(path: Path | str) -> bytes:
    """The bytes of a regular file. Raises OSError as `require_file` does."""
    with open_file(path) as file:
        return file.read()


def read_text(path: Path | str) -> str:
    """The text of a regular file in UTF-8, without a byte-order mark.

    Raises OSError as `require_file` does, and UnicodeDecodeError, which is a ValueError.
    """
    return read_file(path).decode("utf-8-sig")


def _check_kind(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise NotAFile(errno.EINVAL, f"{kind}, not a regular file", str(path))


def unfinished_path(path: Path, *, shared: bool = False) -> Path:
    """The temporary path for writing `path`: a hidden name in the same folder that ends in UNFINISHED.

    The name is always the same, so that a later write replaces what a killed process left. With `shared` it is unique,
    for files that several processes may write at the same time.
    """
    middle = f".{uuid.uuid4().hex[:8]}" if shared else ""
    return path.with_name(f".{path.name}{middle}{UNFINISHED}")


def is_unfinished(name: str) -> bool:
    """Whether a file or folder name is temporary in this or an earlier version of avkit."""
    return name.startswith(_OLDER_PREFIX) or (name.startswith(".") and name.endswith(UNFINISHED))


@contextmanager
def replacing(path: Path, *, durable: bool = False, shared: bool = False) -> Iterator[Path]:
    """Write a file or a folder that replaces `path` atomically at the end of the block.

    Args:
        path: The file or folder to write or replace. Parent folders are created.
        durable: Wait until the content and the name are on the disk, so that they survive a loss of power.
        shared: Several processes may write this path at the same time; the last to finish wins.

    Yields:
        The temporary path to write to. After an error it is removed, and `path` is unchanged.

    Raises:
        OSError: A file system operation failed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(path, shared=shared)
    for leftover in (unfinished, path.with_name(_OLDER_PREFIX + path.name)):
        remove(leftover)
    try:
        yield unfinished
        if durable:
            flush(unfinished)
        if unfinished.is_dir() and path.is_dir():
            remove(path)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            remove(unfinished)
        raise
    if durable:
        flush(path.parent, recursive=False)


def replace_bytes(path: Path, content: bytes, *, durable: bool = False, shared: bool = False) -> None:
    """Write a file atomically. Arguments and errors as for `replacing`."""
    with replacing(path, durable=durable, shared=shared) as unfinished:
        unfinished.write_bytes(content)


def replace_text(path: Path, text: str, *, durable: bool = False, shared: bool = False) -> None:
    """Write a text file in UTF-8 atomically. Arguments and errors as for `replacing`."""
    replace_bytes(path, text.encode(), durable=durable, shared=shared)


@contextmanager
def write_errors(
    place: Path, remedy: str = "Free space, or give another --out.", *, said: str = "not written"
) -> Iterator[None]:
    """Raise StorageError, with the place and what to do, in place of OSError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{place}: {said} ({error.strerror}). {remedy}") from error


def flush(path: Path, *, recursive: bool = True) -> None:
    """Wait until a file, or a folder with its names and files, is on the disk."""
    if recursive and path.is_dir():
        for entry in path.iterdir():
            flush(entry)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, *, own: bool = False) -> None:
    """Remove temporary files of killed processes from a folder that no other process is writing.

    With `own`, the folder belongs to avkit, so names of earlier versions without a leading dot (`NAME.tmp`) are removed
    too.
    """
    for path in list(folder.iterdir()):
        if is_unfinished(path.name) or (own and path.name.endswith((UNFINISHED, *OLDER_SUFFIXES))):
            remove(path)


def sha256_of(content: bytes | bytearray | str) -> str:
    """The SHA-256 of bytes, or of a text in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits. Memory does not grow with the file."""
    with open_file(path) as file:
        return sha256_of_stream(file)[0]


def hashes_of_file(path: Path) -> tuple[str, str]:
    """The SHA-256 and the MD5 of a file, as hexadecimal digits. Some publishers give the MD5 alone."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open_file(path) as file:
        while chunk := file.read(_READ_BYTES):
            sha256.update(chunk)
            md5.update(chunk)
    return sha256.hexdigest(), md5.hexdigest()


def sha256_of_stream(stream: Readable) -> tuple[str, int]:
    """The SHA-256 of the rest of a stream, as 64 hexadecimal digits, and the number of its bytes."""
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(_READ_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def disk_error(error: BaseException) -> OSError | None:
    """The error of a full or failing disk (DISK_ERRORS) among an error and its causes; None if there is none.

    Only Python's own errors count: decoders and network libraries use the same numbers for damaged content and sockets.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and type(cause).__module__ == "builtins" and cause.errno in DISK_ERRORS:
            return cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def cache_folder(name: str) -> Path:
    """The folder `avkit/NAME` in XDG_CACHE_HOME, or else in ~/.cache. It is not created."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avkit" / name
