"""Fetched media on disk: each fetched once, whole or not there, and never more of them than the limit allows.

A fetch fills KEY.part; its files then get their names, and last of all the record KEY.json. Media exist if and only
if their record does and the sizes in it are true. A video that can never be had has a record too, with the reason.
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
VERDICT_S: Final = 7 * 86_400.0
"""For so long nobody asks again for a video that was said to be gone."""


@dataclass(frozen=True, slots=True)
class Held:
    """Media in the cache: their files, with places in the whole video."""

    files: tuple[tuple[Path, FetchedFile], ...]

    def settles(self, span: Span) -> bool:
        """Whether one of the files has all of the span, or it is known that none could."""
        return any(file.holds(span) or file.ends_before(span) for _, file in self.files)

    def media_for(self, ref: RemoteRef) -> MediaRef | FailedRef:
        """The clip's media as the decoder takes them; a clip of which nothing was fetched lies past the video's end."""
        for path, file in self.files:
            if ref.is_clip or file.holds(ref.span):
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
class Verdict:
    """The permanent reason why media cannot be had."""

    status: str
    reason: str


class MediaCache:
    """A folder of media. Several runs may share it; what it has to remove for room, it removes oldest first.

    While other runs use the folder a run removes only what it fetched itself.
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
        """Of all media that this run knows to be in the cache."""
        return sum(self._sizes.values())

    def find(self, key: str, *, verdicts: bool = True) -> Held | Verdict | None:
        """What is there under the key; None if it has to be fetched. `verdicts` False: what is gone is asked again."""
        path = self.folder / f"{key}.json"
        record = _read(path)
        if record is None:
            return None
        if record["status"] != "ok":
            fresh = verdicts and 0 <= time.time() - path.stat().st_mtime < VERDICT_S
            return Verdict(record["status"], record["reason"]) if fresh else None
        files = []
        for entry in record["files"]:
            file = self.folder / entry["file"]
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                return None
            covers = tuple(entry["covers"])
            files.append((file, FetchedFile(entry["name"], entry["starts_at_s"], covers, entry["video_end_s"])))
        with contextlib.suppress(OSError):
            os.utime(path)  # the oldest use goes first
        self._sizes[key] = self._sizes.pop(key, sum(entry["bytes"] for entry in record["files"]))
        return Held(tuple(files))

    def lock(self, key: str) -> BinaryIO | None:
        """The right to fetch the key; None while another run has it. `unlock` gives it back."""
        path = self.folder / f"{key}.lock"
        with storage_errors(self.folder):
            lock = path.open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:  # not one that was removed meanwhile
                    return lock
            except (BlockingIOError, FileNotFoundError):
                pass
        lock.close()
        return None

    def unlock(self, key: str, lock: BinaryIO) -> None:
        """Give back the right to fetch the key."""
        (self.folder / f"{key}.lock").unlink(missing_ok=True)
        lock.close()

    def part(self, key: str) -> Path:
        """The folder that a fetch fills, with what an earlier one left in it. Called with the key's lock held."""
        with storage_errors(self.folder):
            folder = self.folder / f"{key}.part"
            folder.mkdir(exist_ok=True)
        return folder

    def publish(self, key: str, files: tuple[FetchedFile, ...]) -> Held:
        """Make what a fetch brought into the key's part folder the key's media."""
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
        assert isinstance(held, Held), "it was written just now"
        return held

    def condemn(self, key: str, verdict: Verdict) -> None:
        """Remember that the key's media can never be had."""
        with storage_errors(self.folder):
            self._record(key, {**asdict(verdict), "files": []})
        self.drop_part(key)

    def drop_part(self, key: str) -> None:
        """Forget what a fetch left: going on with it would end the same way."""
        shutil.rmtree(self.folder / f"{key}.part", ignore_errors=True)

    def forget(self, key: str) -> None:
        """Remove the media; a later run fetches them anew."""
        with storage_errors(self.folder):
            self._remove(key)
        self._sizes.pop(key, None)

    def make_room(self, keep: set[str], needed_later: set[str]) -> int:
        """Remove media, oldest first, until the limit is kept; how many bytes it is still exceeded by.

        Never those of `keep`; those of `needed_later` (which only a resume after a kill would want) last.
        """
        excess = self.num_bytes - self._limit_bytes
        if excess <= 0:
            return 0
        with self._alone() as alone:
            removable = [key for key in self._sizes if key not in keep and (alone or key in self._own)]
            for key in sorted(removable, key=needed_later.__contains__):
                if excess <= 0:
                    break
                excess -= self._sizes.pop(key)
                self._remove(key)
        return max(excess, 0)

    def close(self) -> None:
        """Give up the folder."""
        self._users.close()

    def _record(self, key: str, record: dict[str, Any]) -> None:
        replace_text(self.folder / f"{key}.json", json.dumps(record), durable=True)

    def _remove(self, key: str) -> None:
        """Remove the key's record, then its files."""
        (self.folder / f"{key}.json").unlink(missing_ok=True)
        for path in self.folder.glob(f"{key}.[0-9]*"):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other run uses the folder; none comes while the block runs."""
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        try:
            yield alone
        finally:
            fcntl.flock(self._users, fcntl.LOCK_SH)  # a failed attempt at the other kind may have cost it


def _read(path: Path) -> dict[str, Any] | None:
    """A record, or None for one that isn't there or isn't whole."""
    try:
        record = json.loads(path.read_bytes())
        whole = {"status", "reason", "files"} <= record.keys() and all(
            entry.keys() >= _FIELDS for entry in record["files"]
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return dict(record) if whole else None
