"""Files that appear whole, hashes of content, and the user's cache folder.

A file is written under another name in its own folder and renamed at the end, so that a reader sees the old content or
the new, never a part of it. A killed process leaves the other name behind: `is_unfinished` recognizes it.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

UNFINISHED: Final = ".tmp"
"""Suffix of a file or folder that is still being written."""

OLDER_SUFFIXES: Final = (".part",)
"""What earlier versions used beside UNFINISHED, visibly: other programs do too, so only our own folders are cleared."""

_OLDER_PREFIX: Final = ".unfinished-"
_READ_BYTES: Final = 1 << 20


class Readable(Protocol):
    """An open binary file, or what reads like one."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        ...


def unfinished_path(path: Path, *, shared: bool = False) -> Path:
    """Where to write what is renamed to `path` at the end: a hidden name in the same folder that ends in UNFINISHED.

    The name is always the same, so that a later write replaces what a killed one left. With `shared` it is new each
    time, for files that several processes may write in the same moment.
    """
    middle = f".{uuid.uuid4().hex[:8]}" if shared else ""
    return path.with_name(f".{path.name}{middle}{UNFINISHED}")


def is_unfinished(name: str) -> bool:
    """Whether avkit, in this or an earlier version, never finished the file or folder of that name."""
    return name.startswith(_OLDER_PREFIX) or (name.startswith(".") and name.endswith(UNFINISHED))


@contextmanager
def replacing(path: Path, *, durable: bool = False, shared: bool = False) -> Iterator[Path]:
    """Write a file or a folder that appears at `path` whole, at the end of the block, or not at all.

    Args:
        path: Where it is to stand. Parent folders are made. What stands there is replaced at the end of the block.
        durable: Wait until the content and the name are on the disk, so that they survive a loss of power.
        shared: Several processes may write this path in the same moment: the last to end wins.

    Yields:
        The path to write to. After an error it is removed, and `path` keeps what it held.

    Raises:
        OSError: The file system refused; the caller knows what the user can do about it.
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
    """Give a file this content, whole or not at all. Arguments and errors as for `replacing`."""
    with replacing(path, durable=durable, shared=shared) as unfinished:
        unfinished.write_bytes(content)


def replace_text(path: Path, text: str, *, durable: bool = False, shared: bool = False) -> None:
    """Give a file this text in UTF-8, whole or not at all. Arguments and errors as for `replacing`."""
    replace_bytes(path, text.encode(), durable=durable, shared=shared)


def flush(path: Path, *, recursive: bool = True) -> None:
    """Wait until a file's bytes, or a folder's names and files, are on the disk."""
    if recursive and path.is_dir():
        for inside in path.iterdir():
            flush(inside)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all it holds; nothing happens if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, *, own: bool = False) -> None:
    """Remove what killed writers left in a folder that nobody else writes now.

    `own`: the folder holds avkit's files only, so visible names of earlier versions (`NAME.tmp`) go, too.
    """
    for path in list(folder.iterdir()):
        if is_unfinished(path.name) or (own and path.name.endswith((UNFINISHED, *OLDER_SUFFIXES))):
            remove(path)


def sha256_of(content: bytes | bytearray | str) -> str:
    """The SHA-256 of bytes, or of a text in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file, in bounded memory."""
    with path.open("rb") as file:
        return sha256_of_stream(file)[0]


def sha256_of_stream(stream: Readable) -> tuple[str, int]:
    """The SHA-256 of what a stream still holds, and how many bytes that was."""
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(_READ_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def cache_folder(name: str) -> Path:
    """A folder of avkit in the user's cache: below XDG_CACHE_HOME, else below ~/.cache. It is not made."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avkit" / name
