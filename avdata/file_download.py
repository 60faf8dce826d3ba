"""Download of one large file: resumed where it broke off, compared with its size and hash, renamed when it is whole.

While it comes it is a hidden file beside its final name, with a note of the version that the server has. The next
attempt, of this process or of another one, goes on there if the server still has that version.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from avdata.cache import CacheFolder
from avdata.remote_file import NoRanges, Version
from avdata.retrying import RetryPolicy
from avdata.store import Download, Store, is_final, missing, open_store
from avmanifest.errors import AvkitError, CheckpointError, ConfigError, StorageError
from avmanifest.files import hashes_of_file, read_file, replace_bytes, unfinished_path
from avmanifest.parsing import metadata_of
from avmanifest.secrets import shown_url

PART_BYTES: Final = 32 << 20  # asked for at once, and lost at most by a broken connection
Progress: TypeAlias = Callable[[int, int | None], object]  # bytes that are here, bytes of the whole if it is known
_AGAIN: Final = "The same command goes on where it stopped."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a file must be; None where it is not known."""

    num_bytes: int | None = None
    sha256: str | None = None
    md5_prefix: str | None = None  # the first digits of its MD5
    source: str = "published"  # where these are from, for messages

    def difference(self, path: Path) -> str:
        """How a file here differs, in words; empty if it does not. Raises OSError if it cannot be read."""
        size = path.stat().st_size
        if self.num_bytes is not None and size != self.num_bytes:
            return f"{size:,} bytes, {self.source}: {self.num_bytes:,}"
        if self.sha256 is None and self.md5_prefix is None:
            return ""
        sha256, md5 = hashes_of_file(path)
        if self.sha256 is not None and sha256 != self.sha256:
            return f"sha256 {sha256}, {self.source}: {self.sha256}"
        if self.md5_prefix is not None and not md5.startswith(self.md5_prefix):
            return f"md5 {md5}, {self.source}: {self.md5_prefix}..."
        return ""


@contextlib.contextmanager
def sole_right(path: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Within the block, the sole right among all processes to make this file. Another process is waited for.

    Raises StorageError if the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = CacheFolder(path.parent, 1, lambda _: None)
        claim = folder.claim(path.name, wait=False)
        if claim is None:
            say(f"{path}: another process is downloading it; waiting")
            claim = folder.claim(path.name, wait=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be written ({error.strerror}). Give another folder.") from error
    assert claim is not None, "it was waited for"
    try:
        yield
    finally:
        folder.unclaim(path.name, claim)


def download_file(
    url: str,
    path: Path,
    wanted: Wanted,
    *,
    check: Callable[[Path], str] = lambda _: "",
    retry: RetryPolicy | None = None,
    part_bytes: int = PART_BYTES,
    progress: Progress = lambda *_: None,
    say: Callable[[str], object] = lambda _: None,
) -> None:
    """Download a file to `path`, whole or not at all. One process at a time: see `sole_right`.

    Args:
        url: Its http, https, s3, gs or hf URL.
        path: Where it goes. What is there is replaced.
        wanted: Its size and hashes, as far as they are known.
        check: Gets the whole file before it is renamed, and returns what is wrong with it; empty: nothing.
        retry: Attempts and waits.
        part_bytes: Bytes that are asked for at once.
        progress: Called with the bytes that are here and the bytes of the whole; None: the server does not say.
        say: Gets a message for the user.

    Raises:
        ConfigError: There is no such file on the server.
        CheckpointError: The server has a file of another size or hash. Nothing is kept.
        StorageError: The server does not answer or the disk is full. What came is kept, and the next call goes on.
    """
    retry = retry or RetryPolicy()
    store = replace(open_store(url, retry=retry), error=StorageError, advice=_AGAIN)
    shown = shown_url(url)
    part, note = unfinished_path(path), path.with_name(f".{path.name}.version.tmp")
    try:
        version = store.version("")
    except StorageError as error:
        if missing(error):
            raise ConfigError(
                f"{shown}: there is no such file on the server any more. See the model's page."
            ) from error
        raise
    if wanted.num_bytes is not None and version.size not in (None, wanted.num_bytes):
        raise CheckpointError(
            f"{shown}: the server has {version.size:,} bytes, {wanted.source}: {wanted.num_bytes:,}. It is another "
            "file now; nothing was downloaded."
        )
    try:
        have = _kept_bytes(part, note, version, wanted, say)
        replace_bytes(note, json.dumps(asdict(version)).encode())
        try:
            _by_ranges(store, part, have, version, part_bytes, progress)
        except _WithoutRanges:
            say(f"{shown}: the server sends the file only as a whole, so it cannot be resumed")
            _whole(store, part, retry, version.size, progress)
        problem = check(part) or wanted.difference(part)
        if problem:
            part.unlink()
            raise CheckpointError(
                f"{shown}: what came is not the expected file ({problem}). It was removed. The same command downloads "
                "it anew; if it differs again, the file on the server was changed."
            )
        part.replace(path)
        note.unlink(missing_ok=True)
    except OSError as error:
        kept = part.stat().st_size if part.exists() else 0
        raise StorageError(
            f"{path}: not written ({error.strerror}); {kept:,} bytes are kept. Free space, or give another folder. "
            f"{_AGAIN}"
        ) from error


class _WithoutRanges(Exception):
    """The server does not send parts of a file."""


def _kept_bytes(part: Path, note: Path, version: Version, wanted: Wanted, say: Callable[[str], object]) -> int:
    """Bytes of an earlier attempt that can be gone on from; what cannot be used is removed."""
    have = part.stat().st_size if part.exists() else 0
    if not have:
        return 0
    before = _noted(note)
    is_known = bool(before and before.tag and version.tag) or wanted.sha256 is not None
    if before is None or not is_known or before.differs(version) or version.size is None or have > version.size:
        say(f"{part.parent / part.name}: {have:,} bytes of an earlier attempt are of another version; begun anew")
        part.unlink()
        return 0
    say(f"going on after {have:,} of {version.size:,} bytes")
    return have


def _noted(note: Path) -> Version | None:
    try:
        return Version(**metadata_of(read_file(note)))
    except (OSError, TypeError):
        return None


def _by_ranges(
    store: Store,
    part: Path,
    have: int,
    version: Version,
    part_bytes: int,
    progress: Progress,
) -> None:
    size = version.size
    if size is None:
        raise _WithoutRanges
    free = shutil.disk_usage(part.parent).free
    if size - have > free:
        raise OSError(errno.ENOSPC, f"{size - have:,} bytes are needed and {free:,} are free", str(part))
    with part.open("ab") as file:
        progress(have, size)
        while have < size:
            try:
                content = store.read_range("", have, min(part_bytes, size - have), version)
            except AvkitError as error:
                if isinstance(error.__cause__, NoRanges):
                    raise _WithoutRanges from error
                raise
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            have += len(content)
            progress(have, size)


def _whole(store: Store, part: Path, retry: RetryPolicy, size: int | None, progress: Progress) -> None:
    def copy(elapsed_s: float) -> None:
        with Download(store, "", elapsed_s) as source, part.open("wb") as file:
            while content := source.read(1 << 20):
                file.write(content)
                progress(file.tell(), size)
            source.unchanged()

    # Errors of the server are AvkitErrors; one of the disk is final.
    retry.run(copy, lambda error: not isinstance(error, AvkitError) or is_final(error))
