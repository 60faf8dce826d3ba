"""A disk cache of fetched media with a size limit, safe for several runs at once.

A fetch writes into the folder KEY.part. When it has ended, its files are renamed to KEY.0, KEY.1, ..., and the record
KEY.json is written last. Media count as cached only if their record exists and the file sizes agree with it. A video
that is permanently unavailable has a record with the reason and no files.
"""

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Final

from avdata.cache import CacheFolder, lock_file
from avdata.prepare.commit import storage_errors
from avdata.prepare.sources.media import MediaRef
from avdata.prepare.sources.remote import FailedRef, FetchedFile, RemoteRef, Span
from avmanifest.files import flush, open_file, read_file, replace_text
from avmanifest.parsing import metadata_of

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

    The record is the entry's main file: media that `find` or `publish` returned are locked until `release`, so that no
    run removes them.

    Args:
        folder: Created if it does not exist.
        limit_bytes: Size of all media above which `make_room` removes some.

    Raises:
        StorageError: The folder cannot be written.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self._shared = CacheFolder(folder, limit_bytes, _record_of)
        self._in_use: dict[str, BinaryIO] = {}  # the locked record by key
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, key: str, *, use_unavailable: bool = True) -> CachedMedia | Unavailable | None:
        """Look up a key.

        Args:
            key: A fetch key.
            use_unavailable: Whether a valid record of an unavailable video is returned, or counts as None.

        Returns:
            The media, the recorded permanent failure, or None if the media have to be fetched.
        """
        path = self.folder / f"{key}.json"
        record = _read(path) if self._lock(key) else None
        media = None if record is None or record["status"] != "ok" else self._media(record["files"])
        if media is None:
            self.release(key)
        if record is None or record["status"] == "ok":
            return media
        fresh = use_unavailable and 0 <= time.time() - path.stat().st_mtime < UNAVAILABLE_S
        return Unavailable(record["status"], record["reason"]) if fresh else None

    def release(self, key: str) -> None:
        """Allow the removal of the key's media by this and other runs."""
        if (record := self._in_use.pop(key, None)) is not None:
            record.close()

    def lock(self, key: str) -> BinaryIO | None:
        """Lock the key for a fetch; None if another run holds the lock. Release it with `unlock`."""
        with storage_errors(self.folder):
            return self._shared.claim(key, wait=False)

    def unlock(self, key: str, lock: BinaryIO) -> None:
        """Release the key's lock."""
        self._shared.unclaim(key, lock)

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
            for file in files:
                flush(part / file.name)
            with self._shared.changing():
                self._remove(key)
                for number, file in enumerate(files):
                    target = self.folder / f"{key}.{number}"
                    (part / file.name).replace(target)
                    entries.append({"file": target.name, "bytes": target.stat().st_size, **asdict(file)})
                self._record(key, {"status": "ok", "reason": "", "files": entries})
                held = self.find(key)
            self.drop_part(key)
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
        with storage_errors(self.folder), self._shared.changing():
            self._remove(key)

    def make_room(self, needed_later: Iterable[str] = ()) -> int:
        """Remove media that no run uses, least recently used first, until they are within the limit.

        Args:
            needed_later: Keys that are removed last: only a resume after a kill would need their media.

        Returns:
            Bytes by which the limit is still exceeded.
        """
        with storage_errors(self.folder), self._shared.changing():
            return self._shared.make_room(last={f"{key}.json" for key in needed_later})

    def close(self) -> None:
        """Release all media: other runs may then remove them."""
        for key in list(self._in_use):
            self.release(key)

    def _media(self, entries: list[dict[str, Any]]) -> CachedMedia | None:
        """The files of a record; None if one is missing or has another size."""
        files = []
        for entry in entries:
            path = self.folder / entry["file"]
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                return None
            covers = tuple(entry["covers"])
            files.append((path, FetchedFile(entry["name"], entry["starts_at_s"], covers, entry["video_end_s"])))
        return CachedMedia(tuple(files))

    def _lock(self, key: str) -> bool:
        """Lock the key's record against removal. False if there is none."""
        if (held := self._in_use.get(key)) is not None and lock_file(held.fileno(), touch_after_ns=0):
            return True
        self.release(key)
        try:
            record = open_file(self.folder / f"{key}.json")
        except FileNotFoundError:
            return False
        if lock_file(record.fileno(), touch_after_ns=0):
            self._in_use[key] = record
            return True
        record.close()
        return False

    def _record(self, key: str, record: dict[str, Any]) -> None:
        replace_text(self.folder / f"{key}.json", json.dumps(record), durable=True)

    def _remove(self, key: str) -> None:
        """Remove the key's record, then its files. Only within `changing`."""
        self.release(key)
        (self.folder / f"{key}.json").unlink(missing_ok=True)
        for path in self.folder.glob(f"{key}.[0-9]*"):
            path.unlink(missing_ok=True)


def _record_of(name: str) -> str | None:
    """The record of the entry to which a file of the cache belongs."""
    key, _, suffix = name.partition(".")
    return f"{key}.json" if key and (suffix == "json" or suffix.isdecimal()) else None


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None if it does not exist or is incomplete."""
    try:
        record = metadata_of(read_file(path))
        whole = {"status", "reason", "files"} <= record.keys() and all(
            entry.keys() >= _FIELDS for entry in record["files"]
        )
    except (OSError, AttributeError, TypeError):
        return None
    return record if whole else None
