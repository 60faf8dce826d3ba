"""A folder in an object store, through fsspec: s3, gs, hf, abfs. Every request is tried again before it is given up.

Credentials, endpoints and time-outs are fsspec's own: the environment's variables, or its configuration files.
"""

import itertools
import re
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from avdata.retrying import RetryPolicy
from avmanifest.errors import ConfigError, StorageError
from avmanifest.files import replace_bytes, replacing, sha256_of_stream

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

_HF_REPO: Final = re.compile(r"hf:(?!//)([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
_PROTOCOL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*):(?://|(?=:))")
_LOCAL: Final = ("file", "local")
_REQUESTS: Final = 16  # at once


def place_of(word: str | Path) -> str | Path:
    """The folder or URL that a user's word names: `hf:USER/NAME` is a dataset repository of the hub.

    Raises ConfigError for another word that begins with `hf:`.
    """
    if isinstance(word, Path):
        return word
    if match := _HF_REPO.fullmatch(word):
        return f"hf://datasets/{match[1]}"
    if word.startswith("hf:") and not word.startswith("hf://"):
        raise ConfigError(f"{word!r}: a repository is written hf:USER/NAME")
    return word


def local_folder(out: str | Path) -> Path | None:
    """The folder that an output names; None if it is the URL of a folder elsewhere."""
    if isinstance(out, Path):
        return out
    match = _PROTOCOL.match(out)
    if match is None:
        return Path(out)
    return Path(out[match.end() :]) if match[1].lower() in _LOCAL else None


@dataclass(frozen=True, slots=True)
class Bucket:
    """Files below a URL. Names are relative to it, with slashes."""

    url: str  # as the user wrote it
    filesystem: Any = field(repr=False)
    base: str  # the URL, as the file system writes it
    patience: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def is_conditional(self) -> bool:
        """Whether of two that create a file in the same moment one learns that it lost."""
        match = _PROTOCOL.match(self.url)
        return match is not None and match[1].lower() in _CONDITIONAL

    def sizes(self) -> dict[str, int]:
        """Every file, with its bytes."""
        found = self._ask("list", "", self._find)
        return {name[len(self.base) + 1 :]: int(info["size"]) for name, info in found.items()}

    def read(self, name: str) -> bytes | None:
        """Content of a file; None if there is none."""

        def ask() -> bytes | None:
            try:
                content: bytes = self.filesystem.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

        return self._ask("read", name, ask)

    def fetch(self, name: str, path: Path) -> bool:
        """Copy a file here, whole or not at all; whether there is one."""
        content = self.read(name)
        if content is None:
            return False
        replace_bytes(path, content)
        return True

    def fetch_all(self, names: Iterable[tuple[str, Path]]) -> list[bool]:
        """`fetch` of many files at once."""
        with ThreadPoolExecutor(_REQUESTS, "fetch") as pool:
            return list(pool.map(lambda pair: self.fetch(*pair), names))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, over an older one."""
        self._ask("write", name, lambda: self.filesystem.pipe_file(self._path(name), content))

    def create(self, name: str, content: bytes) -> bytes:
        """Write a small file unless it exists; what it holds afterwards, ours or another's.

        One writer wins where the store knows conditional writes (S3's If-None-Match, gs). Elsewhere the last of two
        that write in the same moment does, and the first may have read its own content before.
        """

        def ask() -> bytes:
            try:
                self.filesystem.pipe_file(self._path(name), content, mode="create")
            except Exception:
                # It exists, or the answer to a write that went through was lost.
                held = self.read(name)
                if held is None:
                    raise
                return held
            return content if self.is_conditional else (self.read(name) or content)

        return self._ask("write", name, ask)

    def sha256(self, name: str) -> str | None:
        """Hash of a file: the store's own, where it has one (hf), else of its bytes, read once; None without a file."""

        def ask() -> str | None:
            try:
                known = (self.filesystem.info(self._path(name)).get("lfs") or {}).get("sha256")
                if known:
                    return str(known)
                with self.filesystem.open(self._path(name), "rb") as file:
                    return sha256_of_stream(file)[0]
            except FileNotFoundError:
                return None

        return self._ask("read", name, ask)

    def local(self, name: str) -> Path | None:
        """The path of a file that lies on this machine."""
        return Path(self._path(name)) if isinstance(self.filesystem, LocalFileSystem) else None

    def download(self, name: str, path: Path) -> None:
        """Copy a file of any size here."""
        self._ask("read", name, lambda: self.filesystem.get_file(self._path(name), str(path)))

    def put(self, path: Path, name: str) -> None:
        """Upload a file, and see that the whole of it is there."""
        size = path.stat().st_size

        def ask() -> None:
            if (target := self.local(name)) is not None:
                with replacing(target) as unfinished:
                    shutil.copyfile(path, unfinished)
            else:
                self.filesystem.put_file(str(path), self._path(name))
            self.filesystem.invalidate_cache()
            held = self.filesystem.info(self._path(name))["size"]
            if held != size:
                raise OSError(f"{held} of {size} bytes arrived")

        self._ask("write", name, ask)

    def copy(self, source: str, target: str) -> bool:
        """Copy a file within the store; False if the source is gone."""

        def ask() -> bool:
            try:
                self.filesystem.cp_file(self._path(source), self._path(target))
            except FileNotFoundError:
                return False
            return True

        return self._ask("write", target, ask)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, in this order; those that are gone already are no matter."""
        for name in names:

            def ask(name: str = name) -> None:
                try:
                    self.filesystem.rm_file(self._path(name))
                except (FileNotFoundError, KeyError):  # KeyError: fsspec's own, in memory
                    return

            self._ask("remove", name, ask)

    def at(self, name: str) -> str:
        """The file as a message should name it."""
        return f"{self.url}/{name}" if name else self.url

    def _path(self, name: str) -> str:
        return f"{self.base}/{name}"

    def _find(self) -> dict[str, Any]:
        self.filesystem.invalidate_cache()
        try:
            found: dict[str, Any] = self.filesystem.find(self.base, detail=True)
        except FileNotFoundError:
            return {}
        return {name: info for name, info in found.items() if name.startswith(f"{self.base}/")}

    def _ask(self, what: str, name: str, ask: Callable[[], T]) -> T:
        """The answer, after as many attempts as it takes. Raises StorageError."""
        began_s = time.monotonic()
        for attempt in itertools.count(1):
            try:
                return ask()
            except StorageError:
                raise  # a request within the request was given up
            except Exception as error:  # each store has errors of its own
                # A file that is missing is an answer by now; what is left is a bucket that does not exist.
                final = isinstance(error, PermissionError | NotImplementedError | FileNotFoundError)
                wait_s = None if final else self.patience.next_delay_s(attempt, time.monotonic() - began_s)
                if wait_s is None:
                    raise StorageError(
                        f"{self.at(name)}: cannot {what} ({_reason(error)}; {attempt} attempts). Committed shards are "
                        "safe; when the store answers again, run the same command again."
                    ) from error
            time.sleep(wait_s)
        raise AssertionError("the loop above ends by itself")


def open_bucket(url: str, patience: RetryPolicy | None = None) -> Bucket:
    """The folder of a URL. Nothing is asked of the store yet.

    Raises ConfigError for a protocol that cannot be written, or whose package is not installed.
    """
    match = _PROTOCOL.match(url)
    protocol = match[1].lower() if match else ""
    if "::" in url or protocol not in PACKAGES:
        raise ConfigError(f"{url!r}: cannot be written; known: a folder, {', '.join(f'{p}://' for p in PACKAGES)}")
    try:
        filesystem, base = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise ConfigError(f"{url}: {error}. Install it: pip install '{PACKAGES[protocol]}'") from error
    except Exception as error:
        raise ConfigError(f"{url}: cannot be opened ({_reason(error)}). Check the address.") from error
    base = base.rstrip("/")
    if not base.strip("/"):
        raise ConfigError(f"{url!r}: names no bucket")
    return Bucket(url.rstrip("/"), filesystem, base, patience or RetryPolicy())


def open_place(place: str | Path) -> Bucket:
    """The files of a folder on this machine, or of a URL. Errors as for open_bucket."""
    place = place_of(place)
    folder = local_folder(place)
    if folder is None:
        return open_bucket(str(place))
    return Bucket(str(folder), LocalFileSystem(), str(folder.resolve()))


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
