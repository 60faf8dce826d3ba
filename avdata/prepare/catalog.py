"""Merge plan and shards into the manifest, and count its clips by split, status and class."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avdata.index import CONTENT_KEY, IndexOf, StaleIndex, checked_index, local_origin
from avdata.index_writing import build_index
from avdata.members import written_members
from avdata.prepare import description
from avdata.prepare.commit import changed_since_commit, committed, marker_problem, read_stats, storage_errors
from avdata.prepare.known import KnownShards, digest_of
from avdata.prepare.near_duplicates import first_of_groups
from avdata.prepare.plan import is_appended
from avdata.prepare.sources.remote import FailedRef
from avmanifest.columns import (
    NEAR_DUPLICATE_OF,
    PICTURE_HASHES,
    SOUND_FINGERPRINT,
    Column,
    extra_columns,
    with_extra,
)
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.failures import FAILED_COLUMNS, FailedClip, failed_clips
from avmanifest.files import open_descriptor, remove_unfinished, replacing, sha256_of, sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.records import PARTS, MarkerFacts
from avmanifest.schema import CLIP_SCHEMA, PLAN_SCHEMA
from avmanifest.table import (
    check_rows,
    completed,
    open_writer,
    read_batches,
    read_metadata,
    read_table,
    table_from_columns,
)

_Result = TypeVar("_Result")

_AT_ONCE: Final = 8  # threads that read or check shards
_TOGETHER: Final = 16  # shards that a thread is given
_GROUP_ROWS: Final = 65_536  # of the manifest
_KEPT_TABLES: Final = 256
PENDING_REASON = "no source has any clip of its shard; run again with a source that has"


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard of the plan. `rows` has PLAN_SCHEMA. Part 0 is the first run; a later part retries or appends clips."""

    part: int
    shard: ShardName
    rows: pa.Table
    is_retry: bool = False


def planned_shards(layout: Layout, first_part: int = 0) -> Iterator[PlannedShard]:
    """Every shard of the frozen plan, in order, from a part on. Only one shard's rows are in memory."""
    for part, path in enumerate(layout.plan_parts()):
        if part < first_part:
            continue
        pieces: list[pa.RecordBatch] = []
        current: ShardName | None = None
        is_retry = part > 0 and not is_appended(path)
        for batch in read_batches(path, PLAN_SCHEMA):
            for name, piece in _runs(batch):
                if name != current and current is not None:
                    yield PlannedShard(part, current, pa.Table.from_batches(pieces), is_retry)
                    pieces = []
                current = name
                pieces.append(piece)
        if current is not None:
            yield PlannedShard(part, current, pa.Table.from_batches(pieces), is_retry)


def _runs(batch: pa.RecordBatch) -> Iterator[tuple[ShardName, pa.RecordBatch]]:
    """Split a batch into runs of rows of the same shard."""
    encoded = batch.column("split").dictionary_encode()
    splits, shards = encoded.indices.to_numpy(), batch.column("shard").to_numpy()
    changes = np.flatnonzero((splits[1:] != splits[:-1]) | (shards[1:] != shards[:-1])) + 1
    for start, end in pairwise([0, *changes.tolist(), len(batch)]):
        if start < end:
            name = ShardName(encoded.dictionary[splits[start]].as_py(), int(shards[start]))
            yield name, batch.slice(start, end - start)


def each_shard(
    shards: Iterable[PlannedShard], work: Callable[[PlannedShard], _Result]
) -> Iterator[tuple[PlannedShard, _Result]]:
    """Every shard with the result of some work on it, in their order. Several are worked on at the same time."""
    return each_of_some(shards, lambda some: list(map(work, some)))


def each_of_some(
    shards: Iterable[PlannedShard], work_on: Callable[[Sequence[PlannedShard]], Sequence[_Result]]
) -> Iterator[tuple[PlannedShard, _Result]]:
    """As `each_shard`, for work that gives the results of some shards at once."""
    waiting = iter(shards)
    with ThreadPoolExecutor(_AT_ONCE, "shards") as pool:
        while groups := [some for _ in range(_AT_ONCE) if (some := list(islice(waiting, _TOGETHER)))]:
            for some, results in zip(groups, pool.map(work_on, groups), strict=True):
                yield from zip(some, results, strict=True)


def shard_problem(
    layout: Layout, planned: PlannedShard, plan_hash: str, *, hashes: bool, known: KnownShards | None = None
) -> str | None:
    """Why the shard has to be prepared; None if its files agree with its marker and its clips are the plan's.

    Of the tar only the size is compared, unless a file was changed after the marker: what changed bytes of it and kept
    size and time, such as a failing disk, is seen with `hashes` alone. So it is with all files of a shard that `known`
    has as checked.
    """
    shard = planned.shard
    state = None if known is None else known.state(planned.part, shard)
    if known is not None and not hashes and known.is_checked(shard, state):
        return None
    try:
        parts = PARTS if hashes or changed_since_commit(layout, shard) else ("idx", "parquet")
        stats, rows = committed(layout, shard, ["status", *_PLACE], hashes=parts)
    except (ShardError, ManifestError) as error:
        return str(error)
    if stats["plan_hash"] != plan_hash:
        return f"{layout.stats(shard)}: prepared for another plan"
    if rows.select(_PLACE) != planned.rows.select(_PLACE):
        return f"{layout.clips(shard)}: its clips are not those that the plan assigns to {shard}"
    if known is not None:
        known.note(shard, stats, state)
    return None


_PLACE = ["key", "split", "shard", "position"]


@dataclass(slots=True)
class Merged:
    """The shards of a merged manifest.

    Attributes:
        num_shards: Shards that have a marker.
        num_missing: Shards of the plan that have none.
        num_pending: Clips of those that no other shard has.
    """

    num_shards: int = 0
    num_missing: int = 0
    num_pending: int = 0

    def add(self, layout: Layout, planned: PlannedShard, *, is_whole: bool) -> None:
        """Count a shard."""
        if is_whole or layout.stats(planned.shard).exists():
            self.num_shards += 1
        else:
            self.num_missing += 1
            self.num_pending += 0 if planned.is_retry else len(planned.rows)


def merge_manifest(layout: Layout, stopped: FailedRef | None = None, known: KnownShards | None = None) -> Merged:
    """Write `manifest/SPLIT.parquet` for each split: every requested clip once, with its latest status.

    A retried clip has its row from the retry's shard. Clips of a shard that does not exist have no shard and the status
    `unavailable_missing`. Where steps have measured fingerprints, the column NEAR_DUPLICATE_OF is added.

    Args:
        layout: Paths of the dataset.
        stopped: Status and reason for clips of shards that do not exist, if a source was stopped before them.
        known: What is known of the shards. If by that the manifest is there already, it stays as it is. If it has the
            rows of some shards, these are taken from it. Afterwards `known` has the facts of the shards as they are.
    """
    latest = _retried_keys(layout)
    extra = description.extra_columns(layout)
    known = known or KnownShards(layout)
    if known.manifests and (present := _merged(layout, stopped, known, latest, extra)):
        return present
    counts = Merged()
    firsts = _near_duplicates(layout, latest, extra)
    schema = with_extra(CLIP_SCHEMA, extra if firsts is None else (*extra, NEAR_DUPLICATE_OF))
    old = {} if firsts is not None else _old_rows(layout, known, schema)
    known.manifests, known.columns = {}, sha256_of(str(schema))
    writers: dict[str, _ManifestWriter] = {}
    work_on = partial(_rows_of_some, layout, stopped, known, latest, old.keys())
    with storage_errors(layout.root), contextlib.ExitStack() as manifests:
        for folder in (layout.manifest("train").parent, layout.plan_part(0).parent):
            folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder, own=True)
        for each in old.values():
            manifests.callback(each.close)
        for planned, found in each_of_some(planned_shards(layout), work_on):
            counts.add(layout, planned, is_whole=found.is_whole)
            split, made_from = planned.shard.split, found.made_from
            own = _OldRange(old[split], old[split].next(known.merged(planned.shard)[1])) if split in old else None
            rows = own if found.is_merged else found.rows
            if rows is None:
                known.note_merged(planned.shard, bytes(16), 0)
                continue
            keys = planned.rows.column("key").to_pylist() if firsts or latest else []
            if firsts is not None and isinstance(rows, pa.Table):
                copies = [firsts.get(key) for key in keys] if firsts else [None] * len(rows)
                rows = rows.append_column(NEAR_DUPLICATE_OF.field, pa.array(copies, NEAR_DUPLICATE_OF.dtype))
                made_from += f" {[(place, first) for place, first in enumerate(copies) if first]}"
            if latest:
                keep = _kept(planned, keys, latest)
                made_from = f"{made_from} {_bits(keep)}"
            if isinstance(rows, pa.Table):
                rows = completed(rows, schema)
                rows = rows.filter(pa.array(keep)) if latest else rows
            known.note_merged(planned.shard, digest_of(made_from), len(rows))
            if split not in writers:
                unfinished = manifests.enter_context(replacing(layout.manifest(split), durable=True))
                writers[split] = manifests.enter_context(_ManifestWriter(unfinished, schema))
            writers[split].write(rows, f"{planned.shard} {made_from}\n")
    known.manifests = {split: sha256_of_file(layout.manifest(split)) for split in writers}
    return counts


def _merged(
    layout: Layout,
    stopped: FailedRef | None,
    known: KnownShards,
    latest: Mapping[str, int],
    extra: Sequence[Column],
) -> Merged | None:
    """The shards of the manifest that is there, if it is whole and what the merge would write; else None.

    What is known of shards that have changed is forgotten.
    """
    counts, is_known = Merged(), _fingerprints(extra) == []
    contents: dict[str, Any] = {}
    schema = str(with_extra(CLIP_SCHEMA, extra)).encode()

    def is_checked(planned: PlannedShard) -> bool:
        return known.is_checked(planned.shard, known.state(planned.part, planned.shard))

    for planned, is_whole in each_shard(planned_shards(layout), is_checked):
        counts.add(layout, planned, is_whole=is_whole)
        is_known &= is_whole or not layout.stats(planned.shard).exists()
        if not is_known or (planned.is_retry and not is_whole):
            continue
        made_from = known.facts(planned.shard).parquet_sha256 if is_whole else _pending(stopped)
        if latest:
            made_from += f" {_bits(_kept(planned, planned.rows.column('key').to_pylist(), latest))}"
        digest = contents.setdefault(planned.shard.split, hashlib.sha256(schema))
        digest.update(f"{planned.shard} {made_from}\n".encode())
    is_there = is_known and contents.keys() == known.manifests.keys()
    return counts if is_there and all(map(partial(_is_manifest, layout, known, contents), contents)) else None


def _is_manifest(layout: Layout, known: KnownShards, contents: Mapping[str, Any], split: str) -> bool:
    """Whether the manifest of a split has this content, and is as it was written."""
    path = layout.manifest(split)
    try:
        content = read_metadata(path).get(CONTENT_KEY.encode(), b"").decode()
        return content == contents[split].hexdigest() and sha256_of_file(path) == known.manifests[split]
    except (OSError, ManifestError):
        return False


def _kept(planned: PlannedShard, keys: Sequence[str], latest: Mapping[str, int]) -> list[bool]:
    """Which rows of a shard are the last ones of their clips."""
    return [latest.get(key, 0) == planned.part for key in keys]


def _bits(values: Iterable[bool]) -> str:
    return "".join("01"[value] for value in values)


def _old_rows(layout: Layout, known: KnownShards, schema: pa.Schema) -> dict[str, "_OldRows"]:
    """The rows of the manifests that are there, by split, of those that are as they were written."""
    if known.columns != sha256_of(str(schema)):
        return {}
    found = {}
    for split, sha256 in known.manifests.items():
        with contextlib.suppress(OSError):
            if sha256_of_file(layout.manifest(split)) == sha256:
                found[split] = _OldRows(layout.manifest(split), schema)
    return found


class _OldRows:
    """The rows of a manifest that is written anew, read once from the first to the last."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._batches = read_batches(path, CLIP_SCHEMA)
        self._batch: pa.RecordBatch | None = None
        self._begin = 0  # of the batch
        self._end = 0  # of the rows of the shards so far

    def next(self, count: int) -> range:
        """Where the next shard has its rows."""
        self._end += count
        return range(self._end - count, self._end)

    def take(self, rows: range) -> pa.Table:
        """Some rows, all of them behind those that were taken before. Raises ManifestError if there are fewer."""
        parts, at = [], rows.start
        while at < rows.stop:
            while self._batch is None or self._begin + len(self._batch) <= at:
                self._begin += 0 if self._batch is None else len(self._batch)
                self._batch = next(self._batches, None)
                if self._batch is None:
                    raise ManifestError(
                        f"{self._path}: has {self._begin} rows. Remove it, and run the same prepare again."
                    )
            parts.append(self._batch.slice(at - self._begin, rows.stop - at))
            at += len(parts[-1])
        return completed(pa.Table.from_batches(parts, None if parts else self._schema), self._schema)

    def close(self) -> None:
        """Close the file."""
        self._batches.close()


@dataclass(frozen=True, slots=True)
class _OldRange:
    """Rows of a manifest that is written anew."""

    source: _OldRows
    rows: range

    def __len__(self) -> int:
        return len(self.rows)


class _ManifestWriter:
    """Writes the rows of many shards in row groups of at least _GROUP_ROWS, with the hash that CONTENT_KEY names."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = open_writer(path, schema)
        self._rows: list[pa.Table | _OldRange] = []
        self._num_rows = self._num_joined = 0
        self._content = hashlib.sha256(str(schema).encode())

    def __enter__(self) -> "_ManifestWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        self._writer.add_key_value_metadata({CONTENT_KEY: self._content.hexdigest()})
        self._writer.close()

    def write(self, rows: pa.Table | _OldRange, made_from: str) -> None:
        """Append rows. Equal rows must have the same `made_from`, others another."""
        self._content.update(made_from.encode())
        last = self._rows[-1] if self._rows else None
        if isinstance(rows, _OldRange) and isinstance(last, _OldRange) and last.rows.stop == rows.rows.start:
            self._rows[-1] = _OldRange(last.source, range(last.rows.start, rows.rows.stop))
        else:
            self._rows.append(rows)
        self._num_rows += len(rows)
        if self._num_rows >= _GROUP_ROWS:
            self._write()
        elif len(self._rows) - self._num_joined >= _KEPT_TABLES:
            # A table of few rows takes many times the memory of its rows.
            self._rows[self._num_joined :] = [self._joined(self._num_joined)]
            self._num_joined += 1

    def _joined(self, first: int = 0) -> pa.Table:
        """The rows that wait to be written, in one piece: so that the bytes do not depend on where they are from."""
        tables = [rows if isinstance(rows, pa.Table) else rows.source.take(rows.rows) for rows in self._rows[first:]]
        return pa.concat_tables(tables).combine_chunks()

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(self._joined())
        self._rows, self._num_rows, self._num_joined = [], 0, 0


def _near_duplicates(layout: Layout, latest: Mapping[str, int], columns: Sequence[Column]) -> dict[str, str] | None:
    """Keys of clips with the key of the first of their near duplicates. None if no fingerprints were measured.

    Clips of train come last: so a training on the clips that are first sees none of which another split has a copy.
    """
    names = _fingerprints(columns)
    if not names:
        return None
    parts = []
    for planned in planned_shards(layout):
        if marker_problem(layout, planned.shard) is None:
            rows = read_table(layout.clips(planned.shard), CLIP_SCHEMA, ["key", "split", "status", *names])
            is_latest = [latest.get(key, 0) == planned.part for key in rows.column("key").to_pylist()]
            parts.append(rows.filter(pa.array(is_latest)).filter(pc.equal(pc.field("status"), "ok")))
    if not parts:
        return {}
    rows = pa.concat_tables(parts)
    is_train = pc.equal(rows.column("split"), "train")
    rows = pa.concat_tables([rows.filter(pc.invert(is_train)), rows.filter(is_train)])
    keys = rows.column("key").to_pylist()
    firsts = first_of_groups(*(_arrays(rows, column) for column in (PICTURE_HASHES, SOUND_FINGERPRINT)))
    return {keys[clip]: keys[first] for clip, first in enumerate(firsts.tolist()) if first != clip}


def _fingerprints(columns: Sequence[Column]) -> list[str]:
    """Those of these columns by which near duplicates are found."""
    return [column.name for column in columns if column.name in (PICTURE_HASHES.name, SOUND_FINGERPRINT.name)]


def _arrays(rows: pa.Table, column: Column) -> list[np.ndarray] | None:
    """The lists of a column as arrays, empty where there is none. None if there is no such column."""
    if column.name not in rows.column_names:
        return None
    lists = rows.column(column.name).combine_chunks().fill_null([])
    values, ends = lists.flatten().to_numpy(), np.cumsum(pc.list_value_length(lists).to_numpy())
    return np.split(values, ends[:-1]) if len(ends) else []


def _retried_keys(layout: Layout) -> dict[str, int]:
    """The last part of each key that was appended, or is in an existing shard of a retry."""
    return {
        key: planned.part
        for planned in planned_shards(layout, first_part=1)
        if not planned.is_retry or marker_problem(layout, planned.shard) is None
        for key in planned.rows.column("key").to_pylist()
    }


class _Found(NamedTuple):
    """A shard's rows for the manifest: CLIP_SCHEMA and extra columns, in plan order."""

    rows: pa.Table | None  # None: of a retry's shard that does not exist, or `is_merged`
    made_from: str
    is_whole: bool  # the shard
    is_merged: bool = False  # the manifest that is there has the rows


def _rows_of_some(
    layout: Layout,
    stopped: FailedRef | None,
    known: KnownShards,
    latest: Mapping[str, int],
    splits: Collection[str],
    some: Sequence[PlannedShard],
) -> list[_Found]:
    """`_manifest_rows` of some shards. If the values of all rows together are in order, none is looked at alone.

    The manifests of these splits are read besides, so shards whose rows are in it are not.
    """

    def found_of(planned: PlannedShard, *, check: bool) -> _Found:
        shard = planned.shard
        if shard.split in splits and known.is_checked(shard, known.state(planned.part, shard)):
            made_from = known.facts(shard).parquet_sha256
            bits = f" {_bits(_kept(planned, planned.rows.column('key').to_pylist(), latest))}" if latest else ""
            if known.merged(shard)[0] == digest_of(made_from + bits):
                return _Found(None, made_from, is_whole=True, is_merged=True)
        return _manifest_rows(layout, stopped, known, planned, check=check)

    found = [found_of(planned, check=False) for planned in some]
    try:
        if tables := [one.rows for one in found if one.is_whole and one.rows is not None]:
            check_rows(pa.concat_tables(tables), CLIP_SCHEMA, str(layout.root))
    except (ManifestError, pa.ArrowInvalid):  # a shard is damaged, or has other extra columns
        return [found_of(planned, check=True) for planned in some]
    return found


def _manifest_rows(
    layout: Layout,
    stopped: FailedRef | None,
    known: KnownShards,
    planned: PlannedShard,
    *,
    check: bool,
) -> _Found:
    """The rows of a shard, read."""
    try:
        stats, rows = committed(layout, planned.shard, None, check=check)
    except (ShardError, ManifestError):
        known.forget(planned.shard)
        rows = None if planned.is_retry else pending_rows(planned.rows, stopped)
        return _Found(rows, _pending(stopped), is_whole=False)
    if not known.is_checked(planned.shard, known.state(planned.part, planned.shard)):
        known.note(planned.shard, stats)
    return _Found(rows, stats["files"]["parquet"]["sha256"], is_whole=True)


def _pending(stopped: FailedRef | None) -> str:
    """What rows of clips that no shard holds are made from."""
    return f"{stopped.status} {stopped.reason}" if stopped else "unavailable_missing"


def pending_rows(plan: pa.Table, stopped: FailedRef | None = None) -> pa.Table:
    """Manifest rows of planned clips that no shard holds; `stopped` as in merge_manifest."""
    count = len(plan)
    values: dict[str, pa.Array | pa.ChunkedArray] = {
        name: plan.column(name)
        for name in ("key", "video_id", "start_s", "end_s", "labels", "split", "annotations", "licence")
    }
    values |= {
        "status": pa.repeat(stopped.status if stopped else "unavailable_missing", count),
        "reason": pa.repeat(stopped.reason if stopped else PENDING_REASON, count),
        "source": pa.repeat("", count),
    }
    for name in ("members", "member_xxh3", "mel_block_xxh3", "frame_times_s"):
        values[name] = pa.array([[]] * count, CLIP_SCHEMA.field(name).type)
    own = extra_columns(plan.schema)
    values |= {column.name: plan.column(column.name) for column in own}
    return table_from_columns(values, count, with_extra(CLIP_SCHEMA, own))


def failures(layout: Layout) -> Iterator[FailedClip]:
    """The failed clips of the merged manifest, split by split."""
    for split in layout.splits():
        yield from failed_clips(read_batches(layout.manifest(split), CLIP_SCHEMA, list(FAILED_COLUMNS)))


def write_index(layout: Layout, split: str, described: Mapping[str, Any], known: KnownShards | None = None) -> bool:
    """Write the index of a split's manifest, which loaders map. Without a sample there is none, and False is returned.

    Args:
        layout: Paths of the dataset.
        split: Name of the split.
        described: Its dataset.json.
        known: What is known of the shards as they are now. With it, an index of the manifest that is whole stays.

    Raises:
        ManifestError: The manifest does not agree with the shards' markers.
        ShardError: A marker is damaged.
        StorageError: The disk is full or fails.
    """
    path = layout.sample_index(split)
    index_of = IndexOf(
        root=str(layout.root),
        split=split,
        origin=local_origin(layout.manifest(split)),
        classes=described["labels"],
        members=written_members(described, str(layout.dataset_json)),
    )

    if known is not None and _is_index(path, index_of):
        return True
    facts = (known or KnownShards(layout)).facts

    def markers(shards: Sequence[ShardName]) -> Iterator[MarkerFacts | None]:
        for shard in shards:
            yield facts(shard) if layout.stats(shard).exists() else None

    with storage_errors(path):
        try:
            with replacing(path) as unfinished, unfinished.open("xb") as file:
                build_index(index_of, layout.manifest(split), markers, file, path.parent)
        except ConfigError:  # no sample
            path.unlink(missing_ok=True)
            return False
    return True


def _is_index(path: Path, index_of: IndexOf) -> bool:
    """Whether the file is an index of this, and whole."""
    try:
        descriptor = open_descriptor(path)
    except OSError:
        return False
    try:
        checked_index(descriptor, str(path), index_of)
    except (StaleIndex, ManifestError):
        return False
    finally:
        os.close(descriptor)
    return True


def coverage(layout: Layout) -> dict[str, dict[str, Any]]:
    """Counts by split from the manifest: clips requested, ok, by status, and by class in the order of the rows."""
    report = {}
    for split in layout.splits():
        statuses: dict[str, int] = {}
        classes: dict[str, list[int]] = {}
        for batch in read_batches(layout.manifest(split), CLIP_SCHEMA, ["status", "labels"]):
            for entry in pc.value_counts(batch.column("status")).to_pylist():
                statuses[entry["values"]] = statuses.get(entry["values"], 0) + entry["counts"]
            for label, requested, ok in _per_class(batch):
                counts = classes.setdefault(label, [0, 0])
                counts[0] += ok
                counts[1] += requested
        report[split] = {
            "requested": sum(statuses.values()),
            "ok": statuses.get("ok", 0),
            "statuses": dict(sorted(statuses.items(), key=lambda item: (-item[1], item[0]))),
            "classes": {label: {"ok": ok, "requested": requested} for label, (ok, requested) in classes.items()},
        }
    return report


def shards_coverage(layout: Layout, shards: Iterable[PlannedShard]) -> dict[str, dict[str, Any]]:
    """As `coverage`, without classes, for some shards. Counts come from the markers; no manifest is needed."""
    report: dict[str, dict[str, Any]] = {}
    for planned in shards:
        exists = layout.stats(planned.shard).exists()
        statuses = (
            read_stats(layout, planned.shard)["status_dict"] if exists else {"unavailable_missing": len(planned.rows)}
        )
        split = report.setdefault(planned.shard.split, {"requested": 0, "ok": 0, "statuses": {}, "classes": {}})
        split["requested"] += len(planned.rows)
        split["ok"] += statuses.get("ok", 0)
        for status, number in statuses.items():
            split["statuses"][status] = split["statuses"].get(status, 0) + number
    return report


def _per_class(batch: pa.RecordBatch) -> Iterator[tuple[str, int, int]]:
    """Label, clips requested and clips ok, for each label in a batch of rows."""
    rows = pc.list_parent_indices(batch.column("labels"))
    table = pa.table(
        {
            "label": batch.column("labels").flatten(),
            "ok": pc.equal(batch.column("status").take(rows), "ok").cast(pa.int64()),
        }
    )
    counts = table.group_by("label", use_threads=False).aggregate([("ok", "count"), ("ok", "sum")])
    yield from zip(*(counts.column(name).to_pylist() for name in ("label", "ok_count", "ok_sum")), strict=True)
