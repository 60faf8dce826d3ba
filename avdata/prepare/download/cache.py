"""A disk cache of fetched media with a size limit, safe for several runs at once.

A fetch writes into the folder KEY.part. When it has ended, its files are renamed to KEY.0, KEY.1, ..., and the record
KEY.json is written last. Media count as cached only if their record exists and the file sizes agree with it. A video
that is permanently unavailable has a record with the reason and no files.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Final

from avdata.prepare.commit import storage_errors
from avdata.prepare.sources.media import MediaRef
from avdata.prepare.sources.remote import FailedRef, FetchedFile, RemoteRef, Span
from avmanifest.files import replace_text

_FIELDS: Final = {"file", "bytes", *(field.name for field in fields(FetchedFile))}
UNAVAILABLE_S: Final = 7 * 86_400.0
"""Seconds for which a record of an unavailable video is valid; then it is fetched again."""


@dataclass(frozen=True, slots=True)
class CachedMedia:
    """Cached media: the path of each file and the part of the whole video that it holds."""

    files: tuple[tuple[Path, FetchedFile], ...]

    def needs_no_fetch(self, span: Span) -> bool:
        """Whether no fetch is needed for the span: a file holds all of it, or the video is known to end before it."""
        return any(file.contains(span) or file.ends_before(span) for _, file in self.files)

    def media_for(self, ref: RemoteRef) -> MediaRef | FailedRef:
        """The clip's media for the decoder, or the failure `media_window` if no file holds the clip's span."""
        for path, file in self.files:
            if ref.is_clip or file.contains(ref.span):
                return MediaRef(
                    path=str(path),
                    is_clip=ref.is_clip,
                    starts_at_s=file.starts_at_s,
                    source=ref.source,
                    name=ref.name,
                )
        reason = "the clip lies past the end of the video"
        return FailedRef(status="media_window", reason=reason, source=ref.source, name=ref.name)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A permanent failure: the status and reason with which the video's clips end."""

    status: str
    reason: str


class MediaCache:
    """A folder of media that several runs may share. Call `close` at the end.

    While other runs use the folder, a run removes only media that it fetched itself.

    Args:
        folder: Created if it does not exist.
        limit_bytes: Size of all media above which `make_room` removes some.

    Raises:
        StorageError: The folder cannot be written.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self._limit_bytes = limit_bytes
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._users = (folder / "users.lock").open("ab")
            fcntl.flock(self._users, fcntl.LOCK_SH)
        self._own: set[str] = set()
        self._sizes: dict[str, int] = {}
        for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
            if record := _read(path):
                self._sizes[path.stem] = sum(file["bytes"] for file in record["files"])

    @property
    def num_bytes(self) -> int:
        """Size of all media that this run knows to be in the cache."""
        return sum(self._sizes.values())

    def find(self, key: str, *, use_unavailable: bool = True) -> CachedMedia | Unavailable | None:
        """Look up a key.

        Args:
            key: A fetch key.
            use_unavailable: Whether a valid record of an unavailable video is returned, or counts as None.

        Returns:
            The media, the recorded permanent failure, or None if the media have to be fetched.
        """
        path = self.folder / f"{key}.json"
        record = _read(path)
        if record is None:
            return None
        if record["status"] != "ok":
            fresh = use_unavailable and 0 <= time.time() - path.stat().st_mtime < UNAVAILABLE_S
            return Unavailable(record["status"], record["reason"]) if fresh else None
        files = []
        for entry in record["files"]:
            file = self.folder / entry["file"]
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                return None
            covers = tuple(entry["covers"])
            files.append((file, FetchedFile(entry["name"], entry["starts_at_s"], covers, entry["video_end_s"])))
        with contextlib.suppress(OSError):
            os.utime(path)  # make_room removes the least recently used first
        self._sizes[key] = self._sizes.pop(key, sum(entry["bytes"] for entry in record["files"]))
        return CachedMedia(tuple(files))

    def lock(self, key: str) -> BinaryIO | None:
        """Lock the key for a fetch; None if another run holds the lock. Release it with `unlock`."""
        path = self.folder / f"{key}.lock"
        with storage_errors(self.folder):
            lock = path.open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:  # else the lock file was removed meanwhile
                    return lock
            except (BlockingIOError, FileNotFoundError):
                pass
        lock.close()
        return None

    def unlock(self, key: str, lock: BinaryIO) -> None:
        """Release the key's lock."""
        (self.folder / f"{key}.lock").unlink(missing_ok=True)
        lock.close()

    def part(self, key: str) -> Path:
        """The folder for a fetch, with what an interrupted fetch left in it. The caller holds the key's lock."""
        with storage_errors(self.folder):
            folder = self.folder / f"{key}.part"
            folder.mkdir(exist_ok=True)
        return folder

    def publish(self, key: str, files: tuple[FetchedFile, ...]) -> CachedMedia:
        """Move the fetched files from the key's part folder to their final names and write the record."""
        part = self.part(key)
        entries: list[dict[str, Any]] = []
        with storage_errors(self.folder):
            self._remove(key)
            for number, file in enumerate(files):
                target = self.folder / f"{key}.{number}"
                source = part / file.name
                with source.open("rb") as content:
                    os.fsync(content.fileno())
                size = source.stat().st_size
                source.replace(target)
                entries.append({"file": target.name, "bytes": size, **asdict(file)})
            self._record(key, {"status": "ok", "reason": "", "files": entries})
            self.drop_part(key)
        self._own.add(key)
        self._sizes[key] = sum(entry["bytes"] for entry in entries)
        held = self.find(key)
        assert isinstance(held, CachedMedia), "it was written just now"
        return held

    def record_unavailable(self, key: str, unavailable: Unavailable) -> None:
        """Record that the key's media are permanently unavailable, and remove its part folder."""
        with storage_errors(self.folder):
            self._record(key, {**asdict(unavailable), "files": []})
        self.drop_part(key)

    def drop_part(self, key: str) -> None:
        """Remove the part folder, so that the next fetch starts from the beginning."""
        shutil.rmtree(self.folder / f"{key}.part", ignore_errors=True)

    def remove(self, key: str) -> None:
        """Remove the media and their record; a later run fetches them again."""
        with storage_errors(self.folder):
            self._remove(key)
        self._sizes.pop(key, None)

    def make_room(self, keep: set[str], needed_later: set[str]) -> int:
        """Remove media, least recently used first, until they are within the limit.

        Args:
            keep: Keys that are never removed.
            needed_later: Keys that are removed last: only a resume after a kill would need their media.

        Returns:
            Bytes by which the limit is still exceeded.
        """
        excess = self.num_bytes - self._limit_bytes
        if excess <= 0:
            return 0
        with self._no_other_runs() as alone:
            removable = [key for key in self._sizes if key not in keep and (alone or key in self._own)]
            for key in sorted(removable, key=needed_later.__contains__):
                if excess <= 0:
                    break
                excess -= self._sizes.pop(key)
                self._remove(key)
        return max(excess, 0)

    def close(self) -> None:
        """Release the folder: other runs may then remove this run's media."""
        self._users.close()

    def _record(self, key: str, record: dict[str, Any]) -> None:
        replace_text(self.folder / f"{key}.json", json.dumps(record), durable=True)

    def _remove(self, key: str) -> None:
        """Remove the key's record, then its files."""
        (self.folder / f"{key}.json").unlink(missing_ok=True)
        for path in self.folder.glob(f"{key}.[0-9]*"):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _no_other_runs(self) -> Iterator[bool]:
        """Whether no other run uses the folder. If so, none can start to use it while the block runs."""
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        try:
            yield alone
        finally:
            fcntl.flock(self._users, fcntl.LOCK_SH)  # a failed upgrade to LOCK_EX may have released it


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None if it does not exist or is incomplete."""
    try:
        record = json.loads(path.read_bytes())
        whole = {"status", "reason", "files"} <= record.keys() and all(
            entry.keys() >= _FIELDS for entry in record["files"]
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return dict(record) if whole else None
