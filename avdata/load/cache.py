"""Remote shards as local files: fetched once, checked, and bounded in size.

Several processes share a cache. A file appears under its name only when it is whole; whoever reads it holds a shared
lock on it, and only files without one are evicted, the longest unused first.
"""

import contextlib
import fcntl
import hashlib
import os
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import fsspec

from avdata.load.urls import PIPE, protocol
from avmanifest.errors import ConfigError, ShardError, StorageError

_COPY_BYTES: Final = 1 << 20
_OPEN_ATTEMPTS: Final = 5


def _default_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avkit" / "shards"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Where remote shards are kept. A local dataset is read in place and never copied."""

    root: Path = field(default_factory=_default_root)
    max_bytes: int = 200 * 10**9
    attempts: int = 3  # downloads of a shard before it is given up
    wait_s: float = 1.0  # before the second attempt; doubled before each further one
    storage_options: Mapping[str, Any] = field(default_factory=dict)  # for fsspec: credentials, endpoints

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.attempts < 1:
            raise ConfigError(f"max_bytes={self.max_bytes}, attempts={self.attempts}: both must be 1 or more")


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a shard before it is read; None: nothing."""

    num_bytes: int | None = None
    sha256: str | None = None


class ShardCache:
    """Local files of remote shards. Safe for threads and for processes that share the folder."""

    def __init__(self, config: CacheConfig, release_idle: Callable[[], None] = lambda: None) -> None:
        """`release_idle` is asked, before files are evicted, to close files that this process holds unused."""
        self.config = config
        self._release_idle = release_idle

    def path(self, url: str, expected: Expected) -> Path:
        """The file of a shard: named after its whole URL and what is expected of it."""
        identity = f"{url}\n{expected.num_bytes}\n{expected.sha256}"
        return self.config.root / f"{hashlib.sha256(identity.encode()).hexdigest()[:40]}.shard"

    def open(self, url: str, expected: Expected) -> int:
        """Descriptor of the shard's file, fetched if need be. Closing it allows eviction.

        Raises ShardError when what was fetched is not what is expected, StorageError when it cannot be kept.
        """
        path = self.path(url, expected)
        for _ in range(_OPEN_ATTEMPTS):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                self._fetch(url, expected, path)
                continue
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                if os.fstat(descriptor).st_ino == stat.st_ino:
                    os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))  # used now, and fetched when it was
                    return descriptor
            os.close(descriptor)  # evicted between the two calls
        raise StorageError(
            f"{path}: evicted as fast as it is fetched. Other runs need the cache too: raise max_bytes "
            f"({self.config.max_bytes}) or give this run a folder of its own."
        )

    def _fetch(self, url: str, expected: Expected, path: Path) -> None:
        self._make_folder()
        with _locked(path.with_suffix(".lock")):
            if path.exists():
                return
            for attempt in range(self.config.attempts):
                if attempt:
                    time.sleep(self.config.wait_s * 2 ** (attempt - 1))
                try:
                    self._download(url, expected, path)
                    return
                except ShardError as error:
                    failure = error
            raise failure

    def _make_folder(self) -> None:
        try:
            self.config.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.config.root}: cannot make the cache folder ({error})") from error

    def _download(self, url: str, expected: Expected, path: Path) -> None:
        """Fetch once, check, and give the file its name."""
        part = path.with_name(f"{path.stem}.{uuid.uuid4().hex[:8]}.part")
        try:
            with part.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                sha256 = hashlib.sha256()
                written = 0
                with _reading(url, self.config.storage_options) as (source, told):
                    size = expected.num_bytes if expected.num_bytes is not None else told
                    self._make_room(size or 0, file)
                    while chunk := _read(source, url):
                        if size is None:
                            self._make_room(len(chunk), None)
                        sha256.update(chunk)
                        file.write(chunk)
                        written += len(chunk)
                file.truncate(written)
                _check_fetched(url, Expected(written, sha256.hexdigest()), Expected(size, expected.sha256))
                file.flush()
                part.replace(path)
        except OSError as error:
            raise StorageError(
                f"{error.filename or part}: cannot write ({error.strerror}). Make room on the disk, or give the "
                "cache another folder."
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int, reserve: IO[bytes] | None) -> None:
        """Evict until num_bytes fit within the limit; `reserve` is then given that size, for others to count."""
        if num_bytes > self.config.max_bytes:
            raise ConfigError(
                f"a shard of {num_bytes} bytes is larger than the whole cache {self.config.root} "
                f"(max_bytes={self.config.max_bytes}). Raise max_bytes."
            )
        with _locked(self.config.root / "evict.lock"):
            if not self._evict(num_bytes):
                self._release_idle()
                if not self._evict(num_bytes):
                    raise StorageError(
                        f"{self.config.root}: every file in the cache is being read, and {num_bytes} bytes more pass "
                        f"max_bytes={self.config.max_bytes}. Raise max_bytes, or lower window_samples."
                    )
            if reserve is not None:
                reserve.truncate(num_bytes)

    def _evict(self, num_bytes: int) -> bool:
        """Remove unused files, oldest first, until num_bytes fit; whether they do."""
        files = [(stat.st_atime_ns, stat.st_size, path) for path, stat in _cached_files(self.config.root)]
        total = sum(size for _, size, _ in files) + num_bytes
        for _, size, path in sorted(files):
            if total <= self.config.max_bytes:
                break
            if _remove_unused(path):
                total -= size
        return total <= self.config.max_bytes


def read_small(url: str, storage_options: Mapping[str, Any]) -> bytes | None:
    """Content of a small remote file (a manifest, a marker), never cached; None if there is none."""
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **storage_options)
        content: bytes = filesystem.cat_file(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise ShardError(f"{url}: cannot be read ({type(error).__name__}: {error}). Check the address.") from error
    return content


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cached_files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in [*root.glob("*.shard"), *root.glob("*.part")]:
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()


def _remove_unused(path: Path) -> bool:
    """Remove a file that nobody holds a lock on: a shard that is not read, or what a killed download left."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _reading(url: str, storage_options: Mapping[str, Any]) -> Iterator[tuple[IO[bytes], int | None]]:
    """The shard's bytes as a file, and its size where the other side tells."""
    if protocol(url) == "pipe":
        with _command_output(url) as output:
            yield output, None
        return
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **storage_options)
        size = filesystem.info(path).get("size")
        file = filesystem.open(path, "rb", cache_type="readahead", block_size=8 * _COPY_BYTES)
    except Exception as error:
        raise ShardError(f"{url}: cannot be fetched ({type(error).__name__}: {error}). Check the address.") from error
    with file:
        yield file, size


@contextlib.contextmanager
def _command_output(url: str) -> Iterator[IO[bytes]]:
    """Standard output of a `pipe:` command: its words as they stand, without a shell."""
    command = shlex.split(url.removeprefix(PIPE))
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)  # noqa: S603
    except (OSError, IndexError) as error:
        raise ShardError(f"{url}: cannot be run ({error}). A shell's | and > are not understood here.") from error
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        if status := process.wait():
            raise ShardError(f"{url}: the command ended with status {status}")


def _read(source: IO[bytes], url: str) -> bytes:
    try:
        return source.read(_COPY_BYTES)
    except Exception as error:
        raise ShardError(f"{url}: broke off ({type(error).__name__}: {error})") from error


def _check_fetched(url: str, found: Expected, expected: Expected) -> None:
    if expected.num_bytes is not None and found.num_bytes != expected.num_bytes:
        raise ShardError(f"{url}: {found.num_bytes} bytes came, expected {expected.num_bytes}. Upload it again.")
    if expected.sha256 is not None and found.sha256 != expected.sha256:
        raise ShardError(
            f"{url}: sha256 {found.sha256} came, its marker says {expected.sha256}. Upload or prepare it again."
        )
