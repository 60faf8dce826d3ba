"""Files of a folder, wherever it is: on this machine, over http, in s3, gs, hf and whatever else fsspec reads.

A request that fails is made again as the store's RetryPolicy says, and then raises one typed error. Credentials and
endpoints are fsspec's own: the environment's variables, its configuration files, or storage options.
"""

import contextlib
import errno
import functools
import io
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from avdata.redirects import RedirectRefusedError, check_redirect
from avdata.remote_file import NoRanges, RangeFile, Version, http_range, http_stream, version_of
from avdata.retrying import RetryPolicy, within
from avdata.urls import check_url, protocol
from avmanifest.errors import AvkitError, ConfigError, ShardError, StorageError
from avmanifest.files import NotAFile, replace_bytes, replacing, require_file, sha256_of_stream
from avmanifest.secrets import excerpt, shown_url

T = TypeVar("T")

PACKAGES: Final = {
    "s3": "avkit[s3]",
    "s3a": "avkit[s3]",
    "gs": "avkit[gs]",
    "gcs": "avkit[gs]",
    "hf": "huggingface_hub",
    "abfs": "adlfs",
    "az": "adlfs",
    "memory": "fsspec",
}
"""Protocols that can be written, and what to install for each."""

_CONDITIONAL: Final = ("s3", "s3a", "gs", "gcs", "memory")
"""Of these, the ones whose `create` is one step: the server refuses to write over what is there."""

_HTTP: Final = ("http", "https")
_BLOCK_BYTES: Final = 1 << 20
_STREAM_BLOCK_BYTES: Final = 8 << 20
_REQUESTS: Final = 16  # at once
_PASSING_STATUS: Final = (408, 425, 429)  # of HTTP: too early, too slow or too often; 500 and more may pass too
_SILENCE_S: Final = 60.0  # of an HTTP server, after which it is asked again
_WRITERS_ADVICE: Final = "Committed shards are safe; when the store answers again, run the same command again."


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of files. Names are relative to it, with slashes; the empty name is the folder, or file, itself."""

    root: str  # as given by the user, without secrets: for messages
    filesystem: Any = field(repr=False)
    base: str = field(repr=False)  # the root as a path of the file system, with its secrets
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    error: type[AvkitError] = StorageError  # raised when a request is given up
    advice: str = _WRITERS_ADVICE  # the end of its message

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a local disk."""
        return isinstance(self.filesystem, LocalFileSystem)

    @property
    def is_conditional(self) -> bool:
        """Whether, of two writers that create a file at the same moment, one learns that it lost."""
        return protocol(self.root) in _CONDITIONAL

    def path(self, name: str) -> str:
        """The file's path in the file system; an empty name is the root."""
        return f"{self.base.rstrip('/')}/{name}" if name else self.base

    def local(self, name: str) -> Path | None:
        """The path of a file on a local disk; None for a remote one."""
        return Path(self.path(name)) if self.is_local else None

    def at(self, name: str) -> str:
        """The file's name for messages."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file below the folder, by name."""
        prefix = self.path("").rstrip("/") + "/"

        def ask() -> dict[str, int]:
            self.filesystem.invalidate_cache()
            try:
                found: dict[str, Any] = self.filesystem.find(self.base, detail=True)
            except FileNotFoundError:
                return {}
            return {name[len(prefix) :]: int(info["size"]) for name, info in found.items() if name.startswith(prefix)}

        return self._ask("list", "", ask)

    def is_folder(self, name: str) -> bool:
        """Whether there is a folder with that name; always False over http, which has no folders."""
        if protocol(self.root) in _HTTP:
            return False
        return self._ask("be read", name, lambda: bool(self.filesystem.isdir(self.path(name))))

    def listed(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; empty over http, which cannot list folders."""
        start = len(self.base.rstrip("/")) + 1
        return sorted(entry["name"][start:] for entry in self._entries(folder) if entry["type"] == "file")

    def folders(self) -> list[str]:
        """Names of the folders in the root, sorted."""
        found = [entry["name"] for entry in self._entries("") if entry["type"] == "directory"]
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in found)

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if there is no such file."""
        info = self._ask("be read", name, lambda: _unless_missing(partial(self.filesystem.info, self.path(name))))
        if info is None or info.get("type") == "directory":
            return None
        return int(info["size"]) if info.get("size") is not None else len(self.content(name))

    def read(self, name: str) -> bytes | None:
        """Read a whole file; None if there is no such file."""
        ask = self._reading(name, partial(self.filesystem.cat_file, self.path(name)))
        return self._ask("be read", name, lambda: _unless_missing(ask))

    def content(self, name: str) -> bytes:
        """Read a whole file. Raises the store's error if it is missing."""
        ask = self._reading(name, partial(self.filesystem.cat_file, self.path(name)))
        return self._ask("be read", name, lambda: bytes(ask()))

    def version(self, name: str) -> Version:
        """What the store says of the file now, asked without content. Raises the store's error if it is missing."""

        def ask() -> Version:
            self.filesystem.invalidate_cache(self.path(name))
            version = version_of(self.filesystem.info(self.path(name)))
            if not version.tag and version.size and protocol(self.root) in _HTTP:
                with contextlib.suppress(OSError):  # some servers name the version only beside content
                    version = http_range(self.filesystem, self.path(name), 0, 1)[1]
            return version

        return self._ask("be read", name, ask)

    def read_range(self, name: str, start: int, size: int, version: Version | None = None) -> bytes:
        """Read `size` bytes of a file from offset `start` on; fewer at its end.

        Args:
            name: The file.
            start: Offset in bytes.
            size: In bytes.
            version: What earlier ranges were read from: another version now is an error.
        """
        if not size:
            return b""

        def ask() -> bytes:
            found: Version | None
            if protocol(self.root) in _HTTP:
                content, found = http_range(self.filesystem, self.path(name), start, size)
            else:
                content = bytes(self.filesystem.cat_file(self.path(name), start=start, end=start + size))
                found = version if version is None or self.is_local else self.version(name)
            if version is not None and found is not None and version.differs(found):
                raise self._changed(name, version, found)
            if version is not None and version.size is not None and len(content) != min(size, version.size - start):
                raise OSError(f"{len(content)} of {size} bytes came from byte {start} on")
            return content

        return self._ask("be read", name, self._reading(name, ask), size)

    def open(self, name: str, block_bytes: int = _BLOCK_BYTES) -> io.BufferedIOBase:
        """Open a file for reading and seeking. A remote one is read `block_bytes` at a time, or more.

        Over HTTP each answer is compared with the version at opening; elsewhere `unchanged` says it afterwards.
        """
        if (path := self.local(name)) is not None:
            return self._ask("be read", name, self._reading(name, lambda: path.open("rb")))
        version = self.version(name)
        if version.size is None:
            return io.BytesIO(self.content(name))
        compared = version if protocol(self.root) in _HTTP else Version(version.size, "")
        read = partial(self.read_range, name, version=compared)
        return io.BufferedReader(RangeFile(read, version.size), block_bytes)

    def unchanged(self, name: str, version: Version) -> None:
        """Raise the store's error if the file is another version now."""
        found = self.version(name)
        if version.differs(found):
            raise self._changed(name, version, found)

    def sha256(self, name: str) -> str | None:
        """Hash of a file: the store's own if it has one (hf), otherwise of its bytes; None if there is no such file."""

        def ask() -> str:
            return str((self.filesystem.info(self.path(name)).get("lfs") or {}).get("sha256") or "")

        def hashed(elapsed_s: float) -> str:
            with Download(self, name, elapsed_s) as file:
                return sha256_of_stream(file)[0]

        known = self._ask("be read", name, lambda: _unless_missing(self._reading(name, ask)))
        return self.retry.run(hashed, is_final) if known == "" else known

    def fetch(self, name: str, path: Path) -> bool:
        """Download a small file to `path`, whole or not at all. False if there is no such file."""
        content = self.read(name)
        if content is None:
            return False
        replace_bytes(path, content)
        return True

    def fetch_all(self, names: Iterable[tuple[str, Path]]) -> list[bool]:
        """`fetch` of many files at once."""
        with ThreadPoolExecutor(_REQUESTS, "fetch") as pool:
            return list(pool.map(lambda pair: self.fetch(*pair), names))

    def download(self, name: str, path: Path) -> None:
        """Download a file of any size to `path`."""

        def copy(elapsed_s: float) -> None:
            with Download(self, name, elapsed_s) as source, path.open("wb") as target:
                while chunk := source.read(_BLOCK_BYTES):
                    target.write(chunk)
                source.unchanged()

        self.retry.run(copy, is_final)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; an older one is replaced. What was written is read back and compared."""

        def ask() -> None:
            self.filesystem.pipe_file(self.path(name), content)
            if (held := self.filesystem.cat_file(self.path(name))) != content:
                raise OSError(f"{len(content)} bytes were written, and {len(held)} others read back")

        self._ask("write", name, ask, len(content))

    def create(self, name: str, content: bytes) -> bytes:
        """Write a small file unless it exists. Returns its content afterwards: ours, or the other writer's.

        One writer wins where the store knows conditional writes (S3's If-None-Match, gs). Elsewhere the last of two
        that write in the same moment does, and the first may have read its own content before.
        """

        def ask() -> bytes:
            refused: Exception | None = None
            try:
                self.filesystem.pipe_file(self.path(name), content, mode="create")
            except Exception as error:
                refused = error  # it exists, or the answer to a write that went through was lost
            held = self.read(name)
            if held is None:
                raise refused or OSError("nothing is there after the write")
            if held != content and content.startswith(held):
                self.filesystem.rm_file(self.path(name))
                raise OSError(f"{len(held)} of {len(content)} bytes arrived")
            if held != content and refused is None and self.is_conditional:
                raise OSError("another content was read back than was written")
            return held

        return self._ask("write", name, ask)

    def put(self, path: Path, name: str) -> None:
        """Upload a file, and check that all of its bytes arrived."""
        size = path.stat().st_size

        def ask() -> None:
            if (target := self.local(name)) is not None:
                with replacing(target) as unfinished:
                    shutil.copyfile(path, unfinished)
            else:
                self.filesystem.put_file(str(path), self.path(name))
            self._check_arrived(name, size)

        self._ask("write", name, ask, size)

    def copy(self, source: str, target: str) -> bool:
        """Copy a file within the store; False if the source is gone."""

        def ask() -> bool:
            size = self.filesystem.info(self.path(source))["size"]
            self.filesystem.cp_file(self.path(source), self.path(target))
            self._check_arrived(target, size)
            return True

        return self._ask("write", target, lambda: _unless_missing(ask)) is not None

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, in this order; those that are gone already are no error."""
        for name in names:

            def ask(name: str = name) -> None:
                try:
                    self.filesystem.rm_file(self.path(name))
                except (FileNotFoundError, KeyError):  # KeyError: fsspec's own, in memory
                    return

            self._ask("remove", name, ask)

    def _check_arrived(self, name: str, size: int) -> None:
        self.filesystem.invalidate_cache()
        info = _unless_missing(partial(self.filesystem.info, self.path(name)))
        if (held := 0 if info is None else info["size"]) != size:
            raise OSError(f"{held} of {size} bytes arrived")

    def _entries(self, folder: str) -> list[dict[str, Any]]:
        if not self.is_folder(folder):
            return []
        return self._ask("list", folder, lambda: list(self.filesystem.ls(self.path(folder), detail=True)))

    def _reading(self, name: str, ask: Callable[[], T]) -> Callable[[], T]:
        """The request, which first refuses a local path that is no regular file: a FIFO would be waited on."""

        def checked() -> T:
            if self.is_local:
                require_file(self.path(name))
            return ask()

        return checked

    def _changed(self, name: str, version: Version, found: Version) -> AvkitError:
        return self.error(
            f"{self.at(name)}: was replaced while it was read (it was {version}; now it is {found}). Run the same "
            "command again."
        )

    def _ask(self, what: str, name: str, ask: Callable[[], T], num_bytes: int = 0) -> T:
        """Make a request that moves `num_bytes` bytes, with retries. Raises the store's error if it fails."""
        made = 0

        def attempt(elapsed_s: float) -> T:
            nonlocal made
            made += 1
            return ask() if self.is_local else within(self.retry.limit_s(elapsed_s, num_bytes), ask)

        try:
            # An AvkitError is of a request within the request, which was given up.
            return self.retry.run(attempt, lambda error: isinstance(error, AvkitError) or is_final(error))
        except AvkitError:
            raise
        except Exception as error:  # each store has errors of its own
            attempts = f"; {made} attempts" if made > 1 else ""
            raise self.error(f"{self.at(name)}: cannot {what} ({reason(error)}{attempts}). {self.advice}") from error


class Download:
    """A file of a store that is read once, from start to end. A context manager.

    Every read raises the store's error if the file breaks off, or comes slower than the store's RetryPolicy allows.

    Args:
        store: The store.
        name: The file.
        elapsed_s: Seconds that earlier attempts took.

    Attributes:
        version: The version that is being read. Only `unchanged` says that all of it was this one.
    """

    def __init__(self, store: Store, name: str, elapsed_s: float = 0.0) -> None:
        self._store, self._name = store, name
        self._began_s = time.monotonic() - elapsed_s
        self._elapsed_s = elapsed_s
        self._received = 0
        self.version = self._within("be fetched", self._info)
        self._file = self._within("be fetched", self._open)

    def __enter__(self) -> "Download":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # a connection that broke cannot be closed properly
            self._file.close()

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes; fewer only at the end of the file."""
        content = self._within("be read to its end", lambda: _read_full(self._file, size))
        self._received += len(content)
        return content

    def unchanged(self) -> None:
        """Raise the store's error if the file was replaced since it was opened, or if not all of it came."""
        size = self.version.size
        if size is not None and self._received != size:
            raise self._store.error(f"{self._store.at(self._name)}: {self._received} bytes came, expected {size}")
        self._store.unchanged(self._name, self.version)

    def _info(self) -> Version:
        path = self._store.path(self._name)
        self._store.filesystem.invalidate_cache(path)
        return version_of(self._store.filesystem.info(path))

    def _open(self) -> Any:
        filesystem, path = self._store.filesystem, self._store.path(self._name)
        if protocol(self._store.root) not in _HTTP:
            if self._store.is_local:
                require_file(path)
            return filesystem.open(path, "rb", cache_type="readahead", block_size=_STREAM_BLOCK_BYTES)
        file, answered = http_stream(filesystem, path, self.version.size)
        if answered.tag:  # it may have been replaced since the question
            self.version = answered
        return file

    def _within(self, what: str, ask: Callable[[], T]) -> T:
        """Make a request within what is left of the time for the whole file."""
        store = self._store
        limit_s = None if store.is_local else store.retry.limit_s(self._elapsed_s, self._received)
        if limit_s is not None:
            limit_s = max(self._elapsed_s + limit_s - (time.monotonic() - self._began_s), 0.0)
        try:
            return within(limit_s, ask)
        except Exception as error:
            raise store.error(f"{store.at(self._name)}: cannot {what} ({reason(error)}). {store.advice}") from error


def _read_full(file: Any, size: int) -> bytes:
    """Read until `size` bytes or the end of the file have come: one read of a connection returns what is there."""
    content = file.read(size)
    while len(content) < size and (more := file.read(size - len(content))):
        content += more
    return bytes(content)


def open_store(root: str, storage_options: Mapping[str, Any] | None = None, retry: RetryPolicy | None = None) -> Store:
    """Open the store of a path or URL for reading. Its requests raise ShardError, by default after one attempt.

    Raises ConfigError for an unsupported protocol, or one whose package is not installed.
    """
    check_url(root, allow_pipe=False)
    return Store(
        shown_url(root),
        *_resolved(root, storage_options or {}),
        retry or RetryPolicy(attempts=1),
        ShardError,
        "Check the address.",
    )


def open_writable(url: str, retry: RetryPolicy | None = None) -> Store:
    """Open the store of a URL for reading and writing. No request is made yet.

    Raises ConfigError for a protocol that cannot be written, or whose package is not installed.
    """
    if "::" in url or protocol(url) not in PACKAGES:
        known = ", ".join(f"{name}://" for name in PACKAGES)
        raise ConfigError(f"{shown_url(url)!r}: cannot be written; known: a folder, {known}")
    check_url(url, allow_pipe=False)
    filesystem, base = _resolved(url, {"use_listings_cache": False, "skip_instance_cache": True})
    base = base.rstrip("/")
    if not base.strip("/"):
        raise ConfigError(f"{shown_url(url)!r}: names no bucket")
    return Store(shown_url(url.rstrip("/")), filesystem, base, retry or RetryPolicy())


def _resolved(url: str, storage_options: Mapping[str, Any]) -> tuple[Any, str]:
    check_url(url, allow_pipe=True)
    try:
        filesystem, base = fsspec.core.url_to_fs(url, **url_options(url, storage_options))
    except ImportError as error:
        package = PACKAGES.get(protocol(url), "fsspec[http]")
        raise ConfigError(f"{shown_url(url)}: {error}. Install it: pip install '{package}'") from error
    except Exception as error:
        raise ConfigError(f"{shown_url(url)}: cannot be opened ({reason(error)}). Check the address.") from error
    return filesystem, str(base)


def url_options(url: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for fsspec: a timeout for HTTP servers that stop sending, and a check of their redirects."""
    if protocol(url) not in _HTTP:
        return dict(storage_options)
    from aiohttp import ClientTimeout  # noqa: PLC0415 - takes long, and only HTTP needs it

    timeout = ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
    given = {"timeout": timeout, **storage_options.get("client_kwargs", {})}
    return {**storage_options, "client_kwargs": {"trace_configs": _redirect_checks(), **given}}


@functools.cache
def _redirect_checks() -> list[Any]:
    """The same object at every call, because fsspec keeps one client for equal options."""
    from aiohttp import TraceConfig  # noqa: PLC0415

    checks = TraceConfig()
    checks.on_request_redirect.append(check_redirect)
    return [checks]


def is_final(error: BaseException) -> bool:
    """Whether a retry is useless: the server refused (HTTP 4xx), or the file does not exist or may not be accessed."""
    chain = _chain(error)
    status = getattr(chain[-1], "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in _PASSING_STATUS
    if any(
        isinstance(one, PermissionError | NotImplementedError | NotAFile | NoRanges) or _is_no_place(one)
        for one in chain
    ):
        return True
    # fsspec turns many HTTP errors into FileNotFoundError; for S3 it does so only if the server said so.
    is_missing = isinstance(chain[-1], FileNotFoundError) or type(chain[-1]).__module__.startswith("botocore")
    return is_missing and any(isinstance(one, FileNotFoundError) for one in chain)


def _is_no_place(error: BaseException) -> bool:
    """Whether there can be no file at a path: it leads through a file, or links lead back to themselves."""
    return isinstance(error, OSError) and error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def missing(error: BaseException) -> bool:
    """Whether a request failed because there is no such file."""
    chain = _chain(error)
    refused = any(isinstance(one, RedirectRefusedError) for one in chain)
    return (
        not refused
        and is_final(error)
        and any(isinstance(one, FileNotFoundError) or _is_no_place(one) for one in chain)
    )


def timed_out(error: BaseException) -> bool:
    """Whether a request failed because no answer came in time."""
    return any(isinstance(one, TimeoutError) for one in _chain(error))


def reason(error: BaseException) -> str:
    """The original cause of an error, in one line."""
    root = _chain(error)[-1]
    return excerpt(" ".join(f"{type(root).__name__}: {root}".split()), 300)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes; the original cause is last."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def _unless_missing(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and not _is_no_place(error):
            raise
        # For fsspec, a refused redirect is a missing file, too, and so is one of a server that fails or isn't reached.
        if any(isinstance(one, RedirectRefusedError) for one in _chain(error)) or _is_of_server(error):
            raise
        return None


def _is_of_server(error: BaseException) -> bool:
    """Whether a web server failed or was not reached, which says nothing of its files."""
    root = _chain(error)[-1]
    is_http = type(root).__module__.startswith("aiohttp") or isinstance(root, ConnectionError | TimeoutError)
    return is_http and not is_final(error)
