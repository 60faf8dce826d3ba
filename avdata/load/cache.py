"""The cache of remote and of compressed shards: each is fetched once, unpacked and checked.

`avdata.cache` bounds the total size.

A shard with a marker is known by the marker's hash. Of any other shard the cache notes which version of the remote file
it has: a run asks the server once whether it is still the present one, and from then on it is known by its hash, too.
"""

import contextlib
import hashlib
import json
import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Protocol, runtime_checkable

from avdata.cache import CacheFolder, lock_file
from avdata.remote_file import Version
from avdata.retrying import RetryPolicy
from avdata.store import Download, Store, is_final, open_store
from avdata.unpacking import Unpacked
from avdata.urls import PIPE, compression, local_path, protocol
from avmanifest.errors import ConfigError, ManifestError, ShardError, StorageError
from avmanifest.files import (
    OLDER_SUFFIXES,
    UNFINISHED,
    cache_folder,
    open_descriptor,
    open_file,
    read_file,
    replace_bytes,
    sha256_of,
    sha256_of_stream,
    unfinished_path,
)
from avmanifest.parsing import metadata_of
from avmanifest.secrets import identity as url_identity
from avmanifest.secrets import shown_url

_LOG: Final = logging.getLogger(__name__)
_COPY_BYTES: Final = 1 << 20
_OPEN_ATTEMPTS: Final = 5
_ENTRIES: Final = (".shard", ".small", ".index.parquet", ".avidx")
_FETCHES: Final = 16  # small files that are read at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Where remote shards are kept. A local dataset is read in place and never copied."""

    root: Path = field(default_factory=partial(cache_folder, "shards"))
    max_bytes: int = 200 * 10**9
    retry: RetryPolicy = field(default_factory=partial(RetryPolicy, attempts=6))  # one attempt if the server says no
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # for fsspec: credentials, endpoints
    offline: bool = False  # ask no server: use the copies of an earlier run as they are
    ranges_from_bytes: int = 64 << 20  # of a shard: what the first batches need of it is read before all of it

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
    """The size in bytes and SHA-256 that a shard must have; None: any. `source` says where they are from."""

    num_bytes: int | None = None
    sha256: str | None = None
    source: str = "its marker says"


class FetchStopped(Exception):
    """A download was aborted because `ShardCache.stopped` is set."""


class ShardCache:
    """Stores remote shards as local files. Safe for threads, and for processes that share the folder."""

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self.stopped = threading.Event()  # set: running downloads raise FetchStopped
        self._shared = CacheFolder(config.root, config.max_bytes, _entry_of)
        self._identities: dict[str, Expected] = {}  # by URL, of shards without a marker
        self._replaced: dict[str, str | None] = {}  # by URL, the hash of a download during which it was replaced
        self._fetched: set[Path] = set()
        self._warned: set[str] = set()

    def path(self, url: str, expected: Expected) -> Path:
        """The file of a shard. Its name is a hash of the URL without secrets, the size and the SHA-256."""
        if expected.sha256 is None:
            expected = self._identities.get(url, expected)
        identity = f"{_identity(url)}\n{expected.num_bytes}\n{expected.sha256}"
        return self.config.root / f"{sha256_of(identity)[:40]}.shard"

    def identify(self, url: str) -> Expected:
        """The size and SHA-256 by which this run knows a shard without a marker.

        At the first call the server is asked whether the cached copy is of the present version; if not, the shard is
        fetched. Errors as for `open`.
        """
        if url not in self._identities:
            note = None if (note := self._note(url)) is None or not self._is_current(url, note) else note
            self._identities[url] = self._fetch(url, Expected()) if note is None else note.found
        return self._identities[url]

    def open(self, url: str, expected: Expected) -> int:
        """Open a shard, after downloading it if it is not in the cache.

        Returns:
            The file's descriptor, locked against removal: see `lock_file`.

        Raises:
            ShardError: The download failed, or its size or hash is not as expected.
            StorageError: The cache folder cannot be written, or is full.
        """
        if expected.sha256 is None:
            expected = self.identify(url)
        path = self.path(url, expected)
        for _ in range(_OPEN_ATTEMPTS):
            try:
                descriptor = open_descriptor(path)
            except (FileNotFoundError, NotADirectoryError):
                self._fetch(url, expected)
                continue
            except OSError as error:
                raise StorageError(f"{path}: cannot be read ({error.strerror}). Use another cache folder.") from error
            if lock_file(descriptor, touch_after_ns=0):
                if expected.num_bytes in (None, os.fstat(descriptor).st_size):
                    return descriptor
                path.unlink(missing_ok=True)  # after a power loss the name may have survived without the content
            os.close(descriptor)
        raise StorageError(
            f"{path}: evicted as fast as it is fetched. Other runs need the cache too: raise data.cache_gb "
            f"(max_bytes in Python, {self.config.max_bytes}) or give this run a folder of its own."
        )

    def remove_damaged(self, url: str, expected: Expected) -> bool:
        """Remove the shard's file if its hash is wrong or it cannot be read. Returns whether the file is gone."""
        path = self.path(url, expected)
        try:
            with open_file(path) as file:
                if expected.sha256 is None or sha256_of_stream(file)[0] == expected.sha256:
                    return False
        except FileNotFoundError:
            return True
        except OSError as error:
            _LOG.warning("%s: cannot be read (%s); it is fetched again", path, error.strerror)
        _LOG.warning("%s: its copy in the cache, %s, is damaged; it is fetched again", shown_url(url), path)
        path.unlink(missing_ok=True)
        return True

    def has(self, url: str, expected: Expected) -> bool:
        """Whether the shard is in the cache."""
        return self.path(url, expected).exists()

    def _fetch(self, url: str, expected: Expected) -> Expected:
        """Download a shard unless another process has done so. Returns its size and hash."""
        if self.config.offline and local_path(url) is None:
            raise ShardError(
                f"{shown_url(url)}: is not in the cache {self.config.root}, and data.offline=true forbids "
                "to ask the server. Run once without."
            )
        self._make_folder()
        name = self.path(url, expected).stem
        try:
            claim = self._shared.claim(name, wait=True)
            assert claim is not None, "it was waited for"
            try:
                if expected.sha256 is not None and self.path(url, expected).exists():
                    return expected
                if expected.sha256 is None and (note := self._note(url)) and self._is_current(url, note):
                    return note.found
                found = self._attempt(url, expected)
            finally:
                self._shared.unclaim(name, claim)
        except OSError as error:
            raise StorageError(
                f"{error.filename or self.config.root}: cannot write ({error.strerror}). Make room on the disk, or "
                "give the cache another folder."
            ) from error
        if (path := self.path(url, found)) in self._fetched:
            self._warn_once(
                "evicted",
                f"{shown_url(url)}: fetched a second time, as it was evicted in between. If this goes on within an "
                f"epoch, raise max_bytes={self.config.max_bytes} or lower window_samples.",
            )
        self._fetched.add(path)
        return found

    def _attempt(self, url: str, expected: Expected) -> Expected:
        """Download, with retries until it succeeds or the error is final."""

        def wait(wait_s: float, made: int, error: Exception) -> None:
            _LOG.warning("%s; attempt %d of %d in %g s", error, made + 1, self.config.retry.attempts, wait_s)
            if self.stopped.wait(wait_s):
                raise FetchStopped from error

        return self.config.retry.run(
            partial(self._download, url, expected),
            lambda error: not isinstance(error, ShardError) or is_final(error) or local_path(url) is not None,
            wait,
        )

    def _is_current(self, url: str, note: "_Note") -> bool:
        """Whether the cached copy is of the version that the server has now."""
        if protocol(url) == "pipe" or (self.config.offline and local_path(url) is None):
            return True
        advice = "Check the address. With data.offline=true the copy in the cache is used as it is."
        store = replace(open_store(url, self.config.storage_options, self.config.retry), advice=advice)
        now = store.version("")
        if not (now.tag and note.version.tag):
            self._warn_once(
                protocol(url),
                f"{shown_url(url)}: the server gives no ETag or time that can be compared: its copy in the cache "
                "is used while the size stays the same. If the shard was replaced, remove the cache.",
            )
        return not note.version.differs(now)

    def _note(self, url: str) -> "_Note | None":
        """What the cache notes of its copy of a shard without a marker."""
        try:
            return _Note.parse(read_file(self.config.root / f"{_hashed(url)}.json"))
        except FileNotFoundError:
            return None

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _LOG.warning("%s", text)

    def _make_folder(self) -> None:
        try:
            self.config.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.config.root}: cannot make the cache folder ({error})") from error

    def _download(self, url: str, expected: Expected, elapsed_s: float) -> Expected:
        """Download and unpack once, check size and hash, and give the file its final name.

        Returns:
            Size and hash of the tar.
        """
        kind = compression(url)
        part = unfinished_path(self.path(url, expected), shared=True)
        try:
            with self._shared.growing(part) as file, self._opened(url, elapsed_s) as source:
                sha256 = hashlib.sha256()
                written = 0
                version = source.version if isinstance(source, Download) else Version(None, "")
                content = source if kind is None else Unpacked(source, kind, shown_url(url))
                size = expected.num_bytes if expected.num_bytes is not None or kind is not None else version.size
                if expected.sha256 is None and version.sha256 is not None and kind is None:
                    meant = Expected(size, version.sha256, "the store says")
                else:
                    meant = replace(expected, num_bytes=size)
                self._make_room(size or 0, file)
                while chunk := self._read(content, url):
                    if size is None:
                        self._make_room(len(chunk), None)
                    sha256.update(chunk)
                    file.write(chunk)
                    written += len(chunk)
                    if size is not None and written > size:
                        break
                file.truncate(written)
                found = Expected(written, sha256.hexdigest(), "when this run began it was")
                _check_fetched(url, found, meant)
                if isinstance(content, Unpacked):
                    packed = Expected(content.packed_bytes, content.packed_sha256)
                    _check_fetched(url, packed, Expected(version.size, version.sha256, "the store says"))
                file.flush()
                if expected.sha256 is None and isinstance(source, Download):
                    version = self._settled(url, source, found)
                with self._shared.changing():
                    part.replace(self.path(url, found))
                if expected.sha256 is None:
                    replace_bytes(
                        self.config.root / f"{_hashed(url)}.json", _Note(version, found).to_json(), shared=True
                    )
                return found
        finally:
            part.unlink(missing_ok=True)

    def _settled(self, url: str, source: Download, found: Expected) -> Version:
        """The version that was downloaded. Raises ShardError if the server says that it was replaced meanwhile.

        A server may say so of every answer. If two downloads gave the same bytes, its word is not used.
        """
        try:
            source.unchanged()
        except ShardError:
            if self._replaced.get(url) != found.sha256:
                self._replaced[url] = found.sha256
                raise
            self._warn_once(
                "tags", f"{shown_url(url)}: the server names another version in each answer, of equal bytes"
            )
            return Version(found.num_bytes, "")
        return source.version

    @contextlib.contextmanager
    def _opened(self, url: str, elapsed_s: float) -> Iterator[ByteSource]:
        """Open a shard for reading, or the output of a command."""
        if protocol(url) == "pipe":
            with _command_output(url) as output:
                yield output
            return
        store = open_store(url, self.config.storage_options, self.config.retry)
        with Download(store, "", elapsed_s) as source:
            yield source

    def _read(self, source: ByteSource, url: str) -> bytes:
        if self.stopped.is_set():
            raise FetchStopped
        try:
            return source.read(_COPY_BYTES)
        except OSError as error:  # of a command's output
            raise ShardError(f"{shown_url(url)}: broke off ({error})") from error

    def _make_room(self, num_bytes: int, reserve: IO[bytes] | None) -> None:
        """Evict until num_bytes fit within the limit. `reserve` is extended to that size, so that others count it."""
        if num_bytes > self.config.max_bytes:
            raise ConfigError(
                f"a shard of {num_bytes} bytes is larger than the whole cache {self.config.root} "
                f"({self.config.max_bytes} bytes). Raise data.cache_gb (max_bytes in Python)."
            )
        with self._shared.changing():
            if self._shared.make_room(num_bytes):
                raise StorageError(
                    f"{self.config.root}: every file in the cache is being read, and {num_bytes} bytes more pass "
                    f"its limit of {self.config.max_bytes}. Raise data.cache_gb (max_bytes in Python), or lower "
                    "data.num_workers."
                )
            if reserve is not None:
                reserve.truncate(num_bytes)


def read_small(
    url: str, config: CacheConfig, part: str = "", ask: Callable[[Store], bytes | None] = lambda store: store.read("")
) -> bytes | None:
    """Read a small remote file (a manifest, a marker); None if it does not exist.

    A copy is kept in the cache, which is read only if `config.offline` is set.

    Args:
        url: The file.
        config: The cache, credentials and retries.
        part: Name of what `ask` returns, if that is not the whole file.
        ask: Reads it from the store of the file.
    """
    copy = config.root / f"{_hashed(url)}{part and f'.{part}'}.small"
    if config.offline:
        return read_file(copy) if copy.exists() else None
    content = ask(open_store(url, config.storage_options, config.retry))
    with contextlib.suppress(OSError):  # a cache that cannot be written is an error when it is needed
        if content is None:
            copy.unlink(missing_ok=True)
        elif not copy.exists() or read_file(copy) != content:
            replace_bytes(copy, content, shared=True)
    return content


def read_content(where: str, config: CacheConfig) -> bytes | None:
    """Read a small file here or in a store; None if it does not exist. Raises ManifestError if it cannot be read."""
    path = local_path(where)
    if path is None:
        return read_small(where, config)
    try:
        return read_file(path) if path.exists() else None
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}). Restore the original file.") from error


def read_contents(wheres: Iterable[str | None], config: CacheConfig) -> list[bytes | None]:
    """Read small files, several at the same time."""
    with ThreadPoolExecutor(_FETCHES) as pool:
        return list(pool.map(lambda where: None if where is None else read_content(where, config), wheres))


@contextlib.contextmanager
def claimed(name: str, config: CacheConfig) -> Iterator[None]:
    """Within the block, the sole right to make an entry of the cache. Without a folder to write to, no right at all."""
    folder = CacheFolder(config.root, config.max_bytes, _entry_of)
    try:
        config.root.mkdir(parents=True, exist_ok=True)
        claim = folder.claim(name, wait=True)
        assert claim is not None, "it was waited for"
    except OSError:
        yield
        return
    try:
        yield
    finally:
        folder.unclaim(name, claim)
        with contextlib.suppress(OSError), folder.changing():
            folder.make_room()


@dataclass(frozen=True, slots=True)
class _Note:
    """Of a shard without a marker: the version of the remote file, and the size and hash of what was downloaded."""

    version: Version
    found: Expected

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, content: bytes) -> "_Note | None":
        fields = metadata_of(content)
        try:
            return cls(Version(**fields["version"]), Expected(**fields["found"]))
        except (KeyError, TypeError):
            return None


def _identity(url: str) -> str:
    path = local_path(url)
    return url_identity(url) if path is None else str(path.absolute())


def _hashed(url: str) -> str:
    return sha256_of(_identity(url))[:40]


def _entry_of(name: str) -> str | None:
    """Every shard, every copy of a small file, every index, and what is left of every download, is an entry."""
    return name if name.endswith((*_ENTRIES, UNFINISHED, *OLDER_SUFFIXES)) else None


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
            f"{shown_url(url)}: sha256 {found.sha256} came, {expected.source} {expected.sha256}. Upload or prepare it "
            "again, or begin a new run if it was replaced on purpose."
        )
