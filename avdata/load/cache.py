"""The cache of remote shards: each is downloaded once and checked. `avdata.cache` bounds the total size."""

import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Protocol, runtime_checkable

import fsspec

from avdata.cache import CacheFolder, lock_file
from avdata.retrying import RetryPolicy
from avdata.store import is_final, open_store, reason, url_options
from avdata.urls import PIPE, protocol
from avmanifest.errors import ConfigError, ShardError, StorageError
from avmanifest.files import OLDER_SUFFIXES, UNFINISHED, cache_folder, sha256_of, sha256_of_stream, unfinished_path
from avmanifest.secrets import identity as url_identity
from avmanifest.secrets import shown_url

_LOG: Final = logging.getLogger(__name__)
_COPY_BYTES: Final = 1 << 20
_OPEN_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Where remote shards are kept. A local dataset is read in place and never copied."""

    root: Path = field(default_factory=partial(cache_folder, "shards"))
    max_bytes: int = 200 * 10**9
    retry: RetryPolicy = field(default_factory=partial(RetryPolicy, attempts=6))  # one attempt if the server says no
    storage_options: Mapping[str, Any] = field(default_factory=dict)  # for fsspec: credentials, endpoints

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes={self.max_bytes} must be at least 1")


@runtime_checkable
class ByteSource(Protocol):
    """A readable stream of a shard's bytes."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; empty at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Expected:
    """The size in bytes and SHA-256 that a shard must have; None: any."""

    num_bytes: int | None = None
    sha256: str | None = None


class FetchStopped(Exception):
    """A download was aborted because `ShardCache.stopped` is set."""


class ShardCache:
    """Stores remote shards as local files. Safe for threads, and for processes that share the folder."""

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self.stopped = threading.Event()  # set: running downloads raise FetchStopped
        self._shared = CacheFolder(config.root, config.max_bytes, _entry_of)
        self._fetched: set[Path] = set()
        self._warned = False

    def path(self, url: str, expected: Expected) -> Path:
        """The file of a shard. Its name is a hash of the URL without secrets, the expected size and SHA-256."""
        identity = f"{url_identity(url)}\n{expected.num_bytes}\n{expected.sha256}"
        return self.config.root / f"{sha256_of(identity)[:40]}.shard"

    def open(self, url: str, expected: Expected) -> int:
        """Open a shard, after downloading it if it is not in the cache.

        Returns:
            The file's descriptor, locked against removal: see `lock_file`.

        Raises:
            ShardError: The download failed, or its size or hash is not as expected.
            StorageError: The cache folder cannot be written, or is full.
        """
        path = self.path(url, expected)
        for _ in range(_OPEN_ATTEMPTS):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                self._fetch(url, expected, path)
                continue
            except OSError as error:
                raise StorageError(f"{path}: cannot be read ({error.strerror}). Use another cache folder.") from error
            if lock_file(descriptor, touch_after_ns=0):
                if expected.num_bytes in (None, os.fstat(descriptor).st_size):
                    return descriptor
                path.unlink(missing_ok=True)  # after a power loss the name may have survived without the content
            os.close(descriptor)
        raise StorageError(
            f"{path}: evicted as fast as it is fetched. Other runs need the cache too: raise max_bytes "
            f"({self.config.max_bytes}) or give this run a folder of its own."
        )

    def remove_damaged(self, url: str, expected: Expected) -> bool:
        """Remove the shard's file if its hash is wrong or it cannot be read. Returns whether the file is gone."""
        path = self.path(url, expected)
        try:
            with path.open("rb") as file:
                if expected.sha256 is None or sha256_of_stream(file)[0] == expected.sha256:
                    return False
        except FileNotFoundError:
            return True
        except OSError as error:
            _LOG.warning("%s: cannot be read (%s); it is fetched again", path, error.strerror)
        _LOG.warning("%s: its copy in the cache, %s, is damaged; it is fetched again", shown_url(url), path)
        path.unlink(missing_ok=True)
        return True

    def _fetch(self, url: str, expected: Expected, path: Path) -> None:
        self._make_folder()
        try:
            claim = self._shared.claim(path.stem, wait=True)
            assert claim is not None, "it was waited for"
            try:
                if path.exists():
                    return
                self._attempt(url, expected, path)
            finally:
                self._shared.unclaim(path.stem, claim)
        except OSError as error:
            raise StorageError(
                f"{error.filename or path}: cannot write ({error.strerror}). Make room on the disk, or give the cache "
                "another folder."
            ) from error
        if path in self._fetched and not self._warned:
            self._warned = True
            _LOG.warning(
                "%s: fetched a second time, as it was evicted in between. If this goes on within an epoch, raise "
                "max_bytes=%s or lower window_samples.",
                shown_url(url),
                self.config.max_bytes,
            )
        self._fetched.add(path)

    def _attempt(self, url: str, expected: Expected, path: Path) -> None:
        """Download, with retries until it succeeds or the error is final."""
        began_s = time.monotonic()
        for attempt in itertools.count(1):
            try:
                self._download(url, expected, path)
                return
            except ShardError as error:
                wait_s = self.config.retry.next_delay_s(attempt, time.monotonic() - began_s)
                if wait_s is None or is_final(error):
                    raise
                _LOG.warning("%s; attempt %d of %d in %g s", error, attempt + 1, self.config.retry.attempts, wait_s)
                if self.stopped.wait(wait_s):
                    raise FetchStopped from error

    def _make_folder(self) -> None:
        try:
            self.config.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.config.root}: cannot make the cache folder ({error})") from error

    def _download(self, url: str, expected: Expected, path: Path) -> None:
        """Download once, check size and hash, and give the file its final name."""
        part = unfinished_path(path, shared=True)
        try:
            with self._growing(part) as file:
                sha256 = hashlib.sha256()
                written = 0
                with _reading(url, self.config.storage_options) as (source, stated_size):
                    size = expected.num_bytes if expected.num_bytes is not None else stated_size
                    self._make_room(size or 0, file)
                    while chunk := self._read(source, url):
                        if size is None:
                            self._make_room(len(chunk), None)
                        sha256.update(chunk)
                        file.write(chunk)
                        written += len(chunk)
                        if size is not None and written > size:
                            break
                file.truncate(written)
                _check_fetched(url, Expected(written, sha256.hexdigest()), Expected(size, expected.sha256))
                file.flush()
                with self._shared.changing():
                    part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _growing(self, part: Path) -> Iterator[IO[bytes]]:
        """Create a file that is locked against eviction from the start."""
        with contextlib.ExitStack() as stack:
            with self._shared.changing():
                file = stack.enter_context(part.open("xb"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _read(self, source: ByteSource, url: str) -> bytes:
        if self.stopped.is_set():
            raise FetchStopped
        try:
            return source.read(_COPY_BYTES)
        except Exception as error:
            raise ShardError(f"{shown_url(url)}: broke off ({reason(error)})") from error

    def _make_room(self, num_bytes: int, reserve: IO[bytes] | None) -> None:
        """Evict until num_bytes fit within the limit. `reserve` is extended to that size, so that others count it."""
        if num_bytes > self.config.max_bytes:
            raise ConfigError(
                f"a shard of {num_bytes} bytes is larger than the whole cache {self.config.root} "
                f"(max_bytes={self.config.max_bytes}). Raise max_bytes."
            )
        with self._shared.changing():
            if self._shared.make_room(num_bytes):
                raise StorageError(
                    f"{self.config.root}: every file in the cache is being read, and {num_bytes} bytes more pass "
                    f"max_bytes={self.config.max_bytes}. Raise max_bytes, or lower num_workers."
                )
            if reserve is not None:
                reserve.truncate(num_bytes)


def read_small(url: str, config: CacheConfig) -> bytes | None:
    """Read a small remote file (a manifest, a marker) without caching; None if it does not exist."""
    return open_store(url, config.storage_options, config.retry).read("")


def _entry_of(name: str) -> str | None:
    """Every shard, every index, and what is left of every download, is an entry of one file."""
    return name if name.endswith((".shard", ".index.parquet", UNFINISHED, *OLDER_SUFFIXES)) else None


@contextlib.contextmanager
def _reading(url: str, storage_options: Mapping[str, Any]) -> Iterator[tuple[ByteSource, int | None]]:
    """Open a shard for reading. Yields the stream and its size (None: not stated)."""
    if protocol(url) == "pipe":
        with _command_output(url) as output:
            yield output, None
        return
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **url_options(url, storage_options))
        size = filesystem.info(path).get("size")
        file = filesystem.open(path, "rb", cache_type="readahead", block_size=8 * _COPY_BYTES)
    except Exception as error:
        raise ShardError(f"{shown_url(url)}: cannot be fetched ({reason(error)}). Check the address.") from error
    with file:
        yield file, size


@contextlib.contextmanager
def _command_output(url: str) -> Iterator[IO[bytes]]:
    """The standard output of a `pipe:` command. The command is split into words and runs without a shell."""
    try:
        command = shlex.split(url.removeprefix(PIPE))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)  # noqa: S603
    except (OSError, ValueError, IndexError) as error:
        raise ShardError(
            f"{shown_url(url)}: cannot be run ({error}). A shell's | and > are not understood here."
        ) from error
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        if status := process.wait():
            raise ShardError(f"{shown_url(url)}: the command ended with status {status}")


def _check_fetched(url: str, found: Expected, expected: Expected) -> None:
    if expected.num_bytes is not None and found.num_bytes != expected.num_bytes:
        raise ShardError(
            f"{shown_url(url)}: {found.num_bytes} bytes came, expected {expected.num_bytes}. Upload it again."
        )
    if expected.sha256 is not None and found.sha256 != expected.sha256:
        raise ShardError(
            f"{shown_url(url)}: sha256 {found.sha256} came, its marker says {expected.sha256}. Upload or prepare it "
            "again."
        )
