"""Fetching a published model, and the record of its first fetch: size and hash, where none is published.

~/.cache/avkit/models/NAME/FILE    the file; elsewhere with another folder
~/.cache/avkit/models/NAME.json    its size, sha256 and date at the first fetch, and the folders that it was put in
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from avdata.file_download import PART_BYTES, Progress, Wanted, download_file, sole_right
from avdata.retrying import RetryPolicy
from avmanifest.errors import CheckpointError, ConfigError, StorageError
from avmanifest.files import cache_folder, hashes_of_file, open_file, read_file, replace_text, write_errors
from avmanifest.parsing import metadata_of
from avmanifest.secrets import excerpt
from avmodel.registry.entries import Entry

Say = Callable[[str], object]
_LARGEST_LIST: Final = 10 << 20  # bytes of a list of classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What a file was at its first fetch. A later download must be the same."""

    url: str
    bytes: int
    sha256: str
    fetched: str  # time, UTC
    files: tuple[str, ...] = ()  # absolute paths that it was put at


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A published model that is here."""

    entry: Entry
    path: Path
    bytes: int
    sha256: str
    was_there: bool
    first_hash: bool  # whether nobody publishes a hash of it, and this one was recorded just now


def models_folder() -> Path:
    """The folder of downloaded models, in the user's cache folder."""
    return cache_folder("models")


def pin_path(entry: Entry) -> Path:
    """The record of a model's first fetch."""
    return models_folder() / f"{entry.name}.json"


def read_pin(entry: Entry) -> Pin | None:
    """What the file was at its first fetch; None before it, or if the entry's address is another one now."""
    try:
        values = metadata_of(read_file(pin_path(entry)))
        pin = Pin(**{**values, "files": tuple(map(str, values["files"]))})
    except (OSError, TypeError, KeyError):
        return None
    is_whole = isinstance(pin.bytes, int) and isinstance(pin.sha256, str) and len(pin.sha256) == 64
    return pin if is_whole and pin.url == entry.url else None


def wanted_of(entry: Entry, pin: Pin | None) -> Wanted:
    """What the entry's file must be: as it is published, else as it was at the first fetch."""
    published = Wanted(num_bytes=entry.bytes or None, sha256=entry.sha256 or None, md5_prefix=entry.md5_prefix or None)
    if pin is None or (entry.sha256 and entry.bytes):
        return published
    if entry.sha256:
        return replace(published, num_bytes=pin.bytes)
    return replace(published, num_bytes=pin.bytes, sha256=pin.sha256, source=f"at the first download ({pin.fetched})")


def place_of(entry: Entry, folder: Path | None = None) -> Path:
    """Where its file goes: into a folder, or into the cache."""
    return (models_folder() / entry.name if folder is None else folder) / entry.file


def here(entry: Entry) -> Path | None:
    """Its file, in the cache or where it was last put; None if it was not downloaded.

    Raises CheckpointError for a file of another size than it was downloaded with.
    """
    pin = read_pin(entry)
    wanted = wanted_of(entry, pin)
    places = [place_of(entry), *(Path(file) for file in reversed(pin.files if pin else ()))]
    for path in places:
        if path.is_file():
            if wanted.num_bytes not in (None, path.stat().st_size):
                raise CheckpointError(
                    f"{path}: {path.stat().st_size:,} bytes, {wanted.source}: {wanted.num_bytes:,}. It was changed "
                    f"since its download. avkit download {entry.name} fetches it anew."
                )
            return path
    return None


def classes_path(file: Path) -> Path:
    """The list of a fine-tuned model's classes, beside its file."""
    return file.with_name(f"{file.stem}.classes.csv")


def fetch(
    entry: Entry,
    folder: Path | None = None,
    *,
    offline: bool = False,
    retry: RetryPolicy | None = None,
    part_bytes: int = PART_BYTES,
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> Fetched:
    """Download a published model unless its file is here already; it is compared with its size and hash in any case.

    Args:
        entry: The model.
        folder: Where its file goes. None: the cache.
        offline: Ask no server.
        retry: Attempts and waits of the requests.
        part_bytes: Bytes that are asked for at once.
        progress: Called with the bytes that are here, and those of the whole; None: not known.
        say: Gets a message for the user.

    Raises:
        ConfigError: It is not here and `offline` is set; the server has no such file; or `folder` has another file of
            that name.
        CheckpointError: What is here, or came, is not the file that was published, or was fetched the first time.
        StorageError: The server does not answer, or the disk is full. The next call goes on.
    """
    path = place_of(entry, folder)
    with sole_right(path, say):
        pin = read_pin(entry)
        wanted = wanted_of(entry, pin)
        was_there = _is_whole(entry, path, wanted, own=folder is None, offline=offline, say=say)
        if not was_there:
            if offline:
                raise _not_there(path)
            download_file(
                entry.url,
                path,
                wanted,
                check=what_is_no_weights,
                retry=retry,
                part_bytes=part_bytes,
                progress=progress,
                say=say,
            )
        _fetch_classes(entry, path, offline=offline, retry=retry)
        if wanted.sha256 is not None:
            sha256 = wanted.sha256
        else:
            sha256, _ = hashes_of_file(path)
        size = path.stat().st_size
        _write_pin(entry, path, size, sha256, pin)
    return Fetched(
        entry=entry,
        path=path,
        bytes=size,
        sha256=sha256,
        was_there=was_there,
        first_hash=pin is None and not entry.sha256,
    )


def _is_whole(entry: Entry, path: Path, wanted: Wanted, *, own: bool, offline: bool, say: Say) -> bool:
    """Whether the file is there and is the published one. A changed one of the cache is fetched anew."""
    if not path.exists():
        return False
    try:
        problem = what_is_no_weights(path) or wanted.difference(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}). Give another folder.") from error
    if not problem:
        return True
    if not own:
        raise ConfigError(
            f"{path}: is there and is not {entry.name} ({problem}). Remove it, or give --to another folder."
        )
    if offline:
        raise CheckpointError(f"{path}: is damaged ({problem}). Run once without --offline: it is fetched anew.")
    say(f"{path}: differs from the published file ({problem}); it is fetched anew")
    path.unlink()
    return False


def what_is_no_weights(path: Path) -> str:
    """What a file begins with that is neither a torch file nor .safetensors, such as a web page; empty if it is one."""
    with open_file(path) as file:
        begin = file.read(64)
    if begin.startswith((b"PK", b"\x80")) or begin[8:9] == b"{":
        return ""
    return f"it begins with {excerpt(begin.decode('latin-1'), 40)!r}, as no file of weights does"


def _not_there(path: Path) -> ConfigError:
    return ConfigError(f"{path}: is not there, and --offline asks no server. Run once without --offline.")


def _fetch_classes(entry: Entry, path: Path, *, offline: bool, retry: RetryPolicy | None) -> None:
    target = classes_path(path)
    if not entry.classes_url or target.exists():
        return
    if offline:
        raise _not_there(target)

    def is_list(file: Path) -> str:
        with open_file(file) as opened:
            content = opened.read(_LARGEST_LIST + 1)
        return "" if b"display_name" in content.partition(b"\n")[0] else "its first line has no column display_name"

    download_file(entry.classes_url, target, Wanted(), check=is_list, retry=retry)


def _write_pin(entry: Entry, path: Path, size: int, sha256: str, pin: Pin | None) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    pin = pin or Pin(url=entry.url, bytes=size, sha256=sha256, fetched=now)
    files = [*(file for file in pin.files if file != str(path.absolute())), str(path.absolute())]
    with write_errors(pin_path(entry), "Set XDG_CACHE_HOME to a folder of yours."):
        replace_text(pin_path(entry), json.dumps({**asdict(pin), "files": files}, indent=1) + "\n", durable=True)
