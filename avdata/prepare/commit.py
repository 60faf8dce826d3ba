"""Write a shard in a workspace, verify it, and publish it: its files get their final names, the marker last.

A shard exists if its marker (the stats file) exists and the file sizes agree with it. No file is opened for writing
under its final name. So a process may be killed between any two lines of this file: the next run finds either a
complete shard or leftovers, which it removes.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from avdata.prepare.segments import Segment, read_segment, record_of, recorded_segments
from avdata.shards import check_member, end_of_archive, index_bytes, member_columns, members_of, walk_samples
from avmanifest.columns import Column, with_extra
from avmanifest.errors import ManifestError, ShardError, StorageError
from avmanifest.files import NotAFile, disk_error, read_file, remove, replace_bytes, sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.records import PARTS, parse_marker
from avmanifest.schema import CLIP_SCHEMA, FORMAT_VERSION
from avmanifest.table import read_table, table_from_rows, write_table

Observer = Callable[[str], None]

PUBLISH_LOCK: Final = "publish.lock"
"""Receives the name of every step. An exception that it raises ends the run."""

_DOWNLOAD: Final = ("unavailable_", "blocked_", "net_")
_ALIVE: Final = "alive.lock"
_COPY_BYTES: Final = 1 << 20  # read and written at a time


@contextlib.contextmanager
def storage_errors(what: object) -> Iterator[None]:
    """Convert an OSError within this context into a StorageError. `what` is named if the error has no path."""
    try:
        yield
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "error")
        raise StorageError(
            f"{error.filename or what}: cannot write ({reason}: {error.strerror}). Committed shards are "
            "safe; make room or repair the output, then run the same command again."
        ) from error


@contextlib.contextmanager
def disk_errors(what: object) -> Iterator[None]:
    """Convert an error that a full or failing disk caused (avmanifest.files.disk_error) into a StorageError.

    Other errors pass, an OSError about one file among them. `what` is named if the disk's error has no path.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if (cause := disk_error(error)) is None:
            raise
        reason = errno.errorcode.get(cause.errno or 0, "error")
        is_full = cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room" if is_full else "repair the disk, or replace the file if only this one cannot be read"
        raise StorageError(
            f"{cause.filename or what}: the disk cannot be used ({reason}: {cause.strerror}). Committed shards and "
            f"finished clips are safe; {remedy}, then run the same command again."
        ) from error


@dataclass(frozen=True, slots=True)
class EndedShard:
    """A shard whose clips have all ended, as it is to be written.

    Attributes:
        name: Name of the shard.
        segments: The results of its clips in plan order, failures included. Each is read before the next one is asked
            for.
        plan_hash: Stored in the marker.
        columns: The dataset's extra columns. A row that has no value of one gets null.
    """

    name: ShardName
    segments: Iterable[Segment]
    plan_hash: str
    columns: Sequence[Column] = ()


@dataclass(frozen=True, slots=True)
class BuiltShard:
    """A verified shard in a workspace: paths of tar, idx, parquet and marker, and the marker's content."""

    shard: ShardName
    files: tuple[Path, Path, Path, Path]
    stats: dict[str, Any]


def build_shard(
    shard: EndedShard,
    files: tuple[Path, Path, Path, Path],
    observe: Observer = lambda _: None,
    fsync: Callable[[int], None] = os.fsync,
) -> BuiltShard:
    """Write and verify one shard, without publishing it.

    Args:
        shard: The shard.
        files: Paths of the new tar, idx, parquet and marker, which do not exist yet.
        observe: Receives the name of every step.
        fsync: Called with the descriptor of every file and folder written.

    Raises:
        StorageError: The disk is full or fails.
        ShardError: A clip's segment or the tar reads back differently from what was written.
    """
    tar, index, clips, stats = files
    with storage_errors(tar.parent):
        rows, offsets, end, digest = _write_tar(tar, shard.segments, fsync)
        observe(f"{shard.name}: tar written")
        _write(index, index_bytes(offsets, end), fsync)
        observe(f"{shard.name}: idx written")
        empty: dict[str, Any] = dict.fromkeys(column.name for column in shard.columns)
        write_table(table_from_rows([empty | row for row in rows], with_extra(CLIP_SCHEMA, shard.columns)), clips)
        _sync(clips, fsync)
        observe(f"{shard.name}: parquet written")
        _verify(tar, digest, rows, offsets)
        observe(f"{shard.name}: verified")
        hashes = (digest, sha256_of_file(index), sha256_of_file(clips))
        parts = {
            name: {"bytes": path.stat().st_size, "sha256": sha256}
            for name, path, sha256 in zip(PARTS, (tar, index, clips), hashes, strict=True)
        }
        content = marker_of((row["status"] for row in rows), parts, shard.plan_hash)
        _write(stats, marker_bytes(content), fsync)
        observe(f"{shard.name}: stats written")
    return BuiltShard(shard.name, files, content)


def commit_shard(
    layout: Layout,
    shard: EndedShard,
    workspace: "Workspace",
    observe: Observer = lambda _: None,
    fsync: Callable[[int], None] = os.fsync,
) -> dict[str, Any]:
    """Write, verify and publish one shard. If another run has published it, theirs is kept.

    Its files are written in the workspace; other arguments and errors are those of build_shard.

    Returns:
        The marker of the published shard.
    """
    name = shard.name
    built = build_shard(shard, workspace.files(name), observe, fsync)
    with storage_errors(layout.root), workspace.publishing():
        if is_committed(layout, name, shard.plan_hash):
            return read_stats(layout, name)
        for path in layout.files(name):
            path.unlink(missing_ok=True)
        for source, target in zip(built.files, layout.files(name), strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            _publish(source, target)
            observe(f"{name}: {target.name} published")
        _sync(layout.stats(name).parent, fsync)
    return built.stats


def _write_tar(
    path: Path, segments: Iterable[Segment], fsync: Callable[[int], None]
) -> tuple[list[dict[str, Any]], list[int], int, str]:
    """Join the segments. Returns rows with offsets in the tar, sample offsets, end of the samples, sha256."""
    rows, offsets, end = [], [], 0
    sha256 = hashlib.sha256()
    with path.open("xb") as tar:
        for segment in segments:
            row = dict(segment.row)
            if segment.blocks is not None:
                members = members_of(row)
                row |= member_columns([replace(member, offset=member.offset + end) for member in members])
                offsets.append(end)
                with segment.opened() as (blocks, start, size):
                    for member in members:
                        placed = replace(member, offset=member.offset + start)
                        check_member(blocks, placed, str(segment.blocks), row["key"])
                    blocks.seek(start)
                    left = size
                    while left and (chunk := blocks.read(min(left, _COPY_BYTES))):
                        left -= len(chunk)
                        sha256.update(chunk)
                        tar.write(chunk)
                    end += size - left
            rows.append(row)
        closing = end_of_archive(end)
        sha256.update(closing)
        tar.write(closing)
        tar.flush()
        fsync(tar.fileno())
    return rows, offsets, end, sha256.hexdigest()


def _write(path: Path, content: bytes, fsync: Callable[[int], None]) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        fsync(file.fileno())


def _sync(path: Path, fsync: Callable[[int], None]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(source: Path, target: Path) -> None:
    """Give the file its final name; never replace a file. The caller holds the publishing lock."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        source.rename(target)  # a file system without hard links


def _verify(tar: Path, digest: str, rows: Sequence[Mapping[str, Any]], offsets: Sequence[int]) -> None:
    """Read the tar back and compare its bytes, samples and offsets with what was written."""
    if sha256_of_file(tar) != digest:
        raise ShardError(f"{tar}: reads back differently from what was written. Check the disk.")
    expected = [
        (row["key"], start, members_of(row))
        for row, start in zip((row for row in rows if row["status"] == "ok"), offsets, strict=True)
    ]
    if list(walk_samples(tar)) != expected:
        raise ShardError(f"{tar}: its samples differ from the shard's rows. Check the disk.")


def marker_of(
    statuses: Iterable[str], files: Mapping[str, Mapping[str, Any]], plan_hash: str, version: int = FORMAT_VERSION
) -> dict[str, Any]:
    """The content of a marker. `count` to `status_dict` are the names that img2dataset's tools read."""
    counts = Counter(statuses)
    not_downloaded = sum(n for status, n in counts.items() if status.startswith(_DOWNLOAD))
    return {
        "format_version": version,
        "plan_hash": plan_hash,
        "count": counts.total(),
        "successes": counts["ok"],
        "failed_to_download": not_downloaded,
        "failed_to_subsample": counts.total() - counts["ok"] - not_downloaded,
        "status_dict": dict(sorted(counts.items())),
        "files": {name: {"bytes": files[name]["bytes"], "sha256": files[name]["sha256"]} for name in PARTS},
    }


def marker_bytes(stats: Mapping[str, Any]) -> bytes:
    """A marker as it is stored. Equal stats give equal bytes."""
    return json.dumps(stats, indent=1, sort_keys=True).encode()


def read_stats(layout: Layout, shard: ShardName) -> dict[str, Any]:
    """A marker's content. Raises ShardError if the file is not a marker of this format version."""
    path = layout.stats(shard)
    try:
        content = read_file(path)
    except NotAFile as error:
        raise ShardError(f"{path}: {error.strerror}. Remove it, and prepare the shard again.") from error
    return parse_marker(content, path)


def committed(
    layout: Layout,
    shard: ShardName,
    columns: Sequence[str] | None,
    *,
    hashes: Collection[str] = (),
    check: bool = True,
) -> tuple[dict[str, Any], pa.Table]:
    """A shard's marker and its rows, if its files have the sizes that the marker says. A mirror has no tar and no idx.

    Args:
        layout: Paths of the dataset.
        shard: Name of the shard.
        columns: The columns to read; None: all.
        hashes: Of these PARTS the sha256 is compared, too. With any, `columns` must have the status, and the counts of
            the marker are compared with it.
        check: Check the rows, as `avmanifest.table.read_table` does.

    Raises:
        ShardError: The shard does not exist, or what is wrong with it.
        ManifestError: Its rows are damaged.
    """
    *parts, marker = layout.files(shard)
    if not marker.exists():
        raise ShardError(f"{marker}: no marker")
    stats = read_stats(layout, shard)
    for name, path in zip(PARTS, parts, strict=True):
        if layout.is_mirror and name != "parquet":
            continue
        if not path.exists():
            raise ShardError(f"{path}: missing")
        size = path.stat().st_size
        if size != stats["files"][name]["bytes"]:
            raise ShardError(f"{path}: {size} bytes, its marker says {stats['files'][name]['bytes']}")
        if name in hashes and sha256_of_file(path) != stats["files"][name]["sha256"]:
            raise ShardError(f"{path}: its sha256 differs from its marker's")
    rows = read_table(layout.clips(shard), CLIP_SCHEMA, columns, check=check)
    if hashes:
        statuses = rows.column("status").to_pylist()
        expected = marker_of(statuses, stats["files"], stats["plan_hash"], stats["format_version"])
        if read_file(marker) != marker_bytes(expected):
            raise ShardError(f"{marker}: does not agree with the shard's rows")
    return stats, rows


def marker_problem(layout: Layout, shard: ShardName, *, hashes: bool = False) -> str | None:
    """What is wrong with a shard, or None. `hashes`: compare the sha256 of every local file, too."""
    try:
        committed(layout, shard, ["status"], hashes=PARTS if hashes else ())
    except (ShardError, ManifestError) as error:
        return str(error)
    return None


def is_committed(layout: Layout, shard: ShardName, plan_hash: str, *, hashes: bool = False) -> bool:
    """Whether the shard exists, agrees with its marker (see marker_problem), and is of this plan."""
    return marker_problem(layout, shard, hashes=hashes) is None and read_stats(layout, shard)["plan_hash"] == plan_hash


def changed_since_commit(layout: Layout, shard: ShardName) -> bool:
    """Whether a file of a shard that has a marker was changed after it: by its time, the marker is the last of them."""
    *parts, marker = layout.files(shard)
    try:
        at_ns = marker.stat().st_mtime_ns
        return any(path.stat().st_mtime_ns > at_ns for path in parts if path.exists())
    except FileNotFoundError:
        return False


def quarantine(layout: Layout, shard: ShardName) -> Path:
    """Move a shard's files into a new folder of the quarantine, marker first; the folder.

    The caller holds the publishing lock.
    """
    folder = layout.quarantine / f"{shard.split}-{shard.number:05d}-{uuid.uuid4().hex[:8]}"
    with storage_errors(folder):
        folder.mkdir(parents=True)
        for path in reversed(layout.files(shard)):
            if path.exists():
                path.rename(folder / path.name)
    return folder


@contextlib.contextmanager
def publishing(layout: Layout) -> Iterator[None]:
    """Hold the publishing lock of the folder: only one run at a time publishes or removes files of the dataset."""
    layout.temporary.mkdir(parents=True, exist_ok=True)
    with (layout.temporary / PUBLISH_LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Workspace:
    """A run's folder for temporary files under `_tmp`. Call `close` at the end.

    A run holds a lock in its workspace while it lives. What a run that was stopped or killed leaves, the next runs take
    up (`adopt`) or remove (`others`). Its dataset.json says to which dataset the clips in it belong.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.path = layout.temporary / uuid.uuid4().hex
        with storage_errors(layout.temporary), self.publishing():
            self.path.mkdir()
            self._alive = (self.path / _ALIVE).open("xb")
            fcntl.flock(
                self._alive, fcntl.LOCK_EX
            )  # with the publishing lock held, so that no run removes the folder before

    def file(self, shard: ShardName, name: str) -> Path:
        """A new path in the shard's folder of the workspace."""
        folder = _shard_folder(self.path, shard)
        folder.mkdir(exist_ok=True)
        return folder / f"{uuid.uuid4().hex}-{name}"

    def files(self, shard: ShardName) -> tuple[Path, Path, Path, Path]:
        """New paths of a shard's tar, idx, parquet and marker."""
        with storage_errors(self.path):
            tar, index, clips, stats = (self.file(shard, path.name) for path in self._layout.files(shard))
        return tar, index, clips, stats

    def drop(self, shard: ShardName) -> None:
        """Remove a shard's temporary files."""
        shutil.rmtree(_shard_folder(self.path, shard), ignore_errors=True)

    def adopt(
        self, shard: ShardName, planned: Sequence[Mapping[str, Any]], columns: Sequence[Column] = ()
    ) -> dict[str, Segment]:
        """Move the shard's finished clips from the workspaces of ended runs into this one.

        Args:
            shard: Name of the shard.
            planned: Its rows in the plan.
            columns: The dataset's extra columns.

        Returns:
            The clips by key. Damaged ones, and those of another plan or other settings, are left out.

        Raises:
            StorageError: The disk fails.
        """
        description = self.path / self._layout.dataset_json.name
        with storage_errors(self.path):
            if not description.exists() and self._layout.dataset_json.exists():
                replace_bytes(description, read_file(self._layout.dataset_json))
            if any(_shard_folder(folder, shard).exists() for folder in self._folders()):
                with self.publishing():
                    self._take_over(shard)
        rows = {row["key"]: row for row in planned}
        recorded = recorded_segments(_shard_folder(self.path, shard))
        found = (read_segment(blocks, rows, columns) for blocks, _ in recorded)
        return {segment.row["key"]: segment for segment in found if segment is not None}

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Hold the dataset's publishing lock; see `publishing`."""
        with publishing(self._layout):
            yield

    def others(self, *, keep: bool = True) -> list[Path]:
        """Tidy the workspaces of ended runs; those of other running runs. The caller holds the publishing lock.

        With `keep`, finished clips of the dataset's uncommitted shards are kept, so that a run can adopt them.
        """
        for folder in self._abandoned():
            if not (keep and self._is_ours(folder) and self._tidied(folder)):
                shutil.rmtree(folder, ignore_errors=True)
        return [folder for folder in self._folders() if not is_abandoned(folder / _ALIVE)]

    def close(self) -> None:
        """Release the workspace, with the finished clips of shards that are not committed. Remove the rest of it."""
        with contextlib.suppress(OSError):
            if not (self._is_ours(self.path) and self._tidied(self.path)):
                shutil.rmtree(self.path, ignore_errors=True)
        self._alive.close()

    def _take_over(self, shard: ShardName) -> None:
        for folder in self._abandoned():
            if self._is_ours(folder):
                for blocks, record in recorded_segments(_shard_folder(folder, shard)):
                    target = self.file(shard, "clip")
                    blocks.replace(target)
                    record.replace(record_of(target))

    def _folders(self) -> list[Path]:
        return [folder for folder in self.path.parent.iterdir() if folder.is_dir() and folder != self.path]

    def _abandoned(self) -> list[Path]:
        return [folder for folder in self._folders() if is_abandoned(folder / _ALIVE)]

    def _is_ours(self, folder: Path) -> bool:
        """Whether the clips in a workspace have the plan and the settings of the dataset."""
        description = self._layout.dataset_json
        ours = folder / description.name
        return ours.exists() and description.exists() and read_file(ours) == read_file(description)

    def _tidied(self, folder: Path) -> bool:
        """Remove all files of a workspace but finished clips of uncommitted shards; whether there are any."""
        kept = {folder / _ALIVE, folder / self._layout.dataset_json.name}
        has_clips = False
        for path in set(folder.iterdir()) - kept:
            shard = _shard_of_folder(path.name)
            is_done = shard is not None and self._layout.stats(shard).exists()
            finished = set() if is_done else {file for pair in recorded_segments(path) for file in pair}
            has_clips |= bool(finished)
            for leftover in set(path.iterdir()) - finished if finished else (path,):
                remove(leftover)
        return has_clips


def _shard_folder(workspace: Path, shard: ShardName) -> Path:
    return workspace / f"{shard.split}-{shard.number:05d}"


def _shard_of_folder(name: str) -> ShardName | None:
    """The shard whose folder of a workspace has this name; None: it is none."""
    split, _, number = name.rpartition("-")
    return ShardName(split, int(number)) if split and number.isdecimal() else None


def is_abandoned(lock: Path) -> bool:
    """Whether no running run holds the workspace's lock. Without a lock file, its run was killed while it started."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
