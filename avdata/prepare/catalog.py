"""Merge plan and shards into the manifest, and count its clips by split, status and class."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avdata.index import CONTENT_KEY, IndexOf, build_index, local_origin
from avdata.members import written_members
from avdata.prepare import description
from avdata.prepare.commit import changed_since_commit, committed, marker_problem, read_stats, storage_errors
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
from avmanifest.files import read_file, remove_unfinished, replacing
from avmanifest.layout import Layout, ShardName
from avmanifest.records import PARTS
from avmanifest.schema import CLIP_SCHEMA, PLAN_SCHEMA
from avmanifest.table import completed, open_writer, read_batches, read_table

_Result = TypeVar("_Result")

_AT_ONCE: Final = 8  # shards that are read or checked
_GROUP_ROWS: Final = 65_536  # of the manifest
PENDING_REASON = "no source has any clip of its shard; run again with a source that has"


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard of the plan. `rows` has PLAN_SCHEMA. Part 0 is the first run; a later part retries or appends clips."""

    part: int
    shard: ShardName
    rows: pa.Table
    is_retry: bool = False


def planned_shards(layout: Layout) -> Iterator[PlannedShard]:
    """Every shard of the frozen plan, in order. Only one shard's rows are in memory."""
    for part, path in enumerate(layout.plan_parts()):
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
    waiting = iter(shards)
    with ThreadPoolExecutor(_AT_ONCE, "shards") as pool:
        while group := list(islice(waiting, 16 * _AT_ONCE)):
            yield from zip(group, pool.map(work, group), strict=True)


def shard_problem(layout: Layout, planned: PlannedShard, plan_hash: str, *, hashes: bool) -> str | None:
    """Why the shard has to be prepared; None if its files agree with its marker and its clips are the plan's.

    Of the tar only the size is compared, unless a file was changed after the marker: what changed bytes of it and kept
    size and time, such as a failing disk, is seen with `hashes` alone.
    """
    shard = planned.shard
    try:
        parts = PARTS if hashes or changed_since_commit(layout, shard) else ("idx", "parquet")
        stats, rows = committed(layout, shard, ["status", *_PLACE], hashes=parts)
    except (ShardError, ManifestError) as error:
        return str(error)
    if stats["plan_hash"] != plan_hash:
        return f"{layout.stats(shard)}: prepared for another plan"
    if rows.select(_PLACE) != planned.rows.select(_PLACE):
        return f"{layout.clips(shard)}: its clips are not those that the plan assigns to {shard}"
    return None


_PLACE = ["key", "split", "shard", "position"]


def merge_manifest(layout: Layout, stopped: FailedRef | None = None) -> None:
    """Write `manifest/SPLIT.parquet` for each split: every requested clip once, with its latest status.

    A retried clip has its row from the retry's shard. Clips of a shard that does not exist have no shard and the status
    `unavailable_missing`. Where steps have measured fingerprints, the column NEAR_DUPLICATE_OF is added.

    Args:
        layout: Paths of the dataset.
        stopped: Status and reason for clips of shards that do not exist, if a source was stopped before them.
    """
    latest = _retried_keys(layout)
    extra = description.extra_columns(layout)
    firsts = _near_duplicates(layout, latest, extra)
    schema = with_extra(CLIP_SCHEMA, extra if firsts is None else (*extra, NEAR_DUPLICATE_OF))
    writers: dict[str, _ManifestWriter] = {}
    with storage_errors(layout.root), contextlib.ExitStack() as manifests:
        for folder in (layout.manifest("train").parent, layout.plan_part(0).parent):
            folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder, own=True)
        for planned, found in each_shard(planned_shards(layout), lambda one: _manifest_rows(layout, one, stopped)):
            if found is None:
                continue
            rows, made_from = found
            keys = planned.rows.column("key").to_pylist() if firsts or latest else []
            if firsts is not None:
                copies = [firsts.get(key) for key in keys] if firsts else [None] * len(rows)
                rows = rows.append_column(NEAR_DUPLICATE_OF.field, pa.array(copies, NEAR_DUPLICATE_OF.dtype))
                made_from += f" {[(place, first) for place, first in enumerate(copies) if first]}"
            rows = completed(rows, schema)
            if latest:
                keep = [latest.get(key, 0) == planned.part for key in keys]
                rows, made_from = rows.filter(pa.array(keep)), f"{made_from} {''.join('01'[kept] for kept in keep)}"
            split = planned.shard.split
            if split not in writers:
                unfinished = manifests.enter_context(replacing(layout.manifest(split), durable=True))
                writers[split] = manifests.enter_context(_ManifestWriter(unfinished, schema))
            writers[split].write(rows, f"{planned.shard} {made_from}\n")


class _ManifestWriter:
    """Writes the rows of many shards in row groups of at least _GROUP_ROWS, with the hash that CONTENT_KEY names."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = open_writer(path, schema)
        self._rows: list[pa.Table] = []
        self._num_rows = 0
        self._content = hashlib.sha256(str(schema).encode())

    def __enter__(self) -> "_ManifestWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        self._writer.add_key_value_metadata({CONTENT_KEY: self._content.hexdigest()})
        self._writer.close()

    def write(self, rows: pa.Table, made_from: str) -> None:
        """Append rows. Equal rows must have the same `made_from`, others another."""
        self._content.update(made_from.encode())
        self._rows.append(rows)
        self._num_rows += len(rows)
        if self._num_rows >= _GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(pa.concat_tables(self._rows))
        self._rows, self._num_rows = [], 0


def _near_duplicates(layout: Layout, latest: Mapping[str, int], columns: Sequence[Column]) -> dict[str, str] | None:
    """Keys of clips with the key of the first of their near duplicates. None if no fingerprints were measured.

    Clips of train come last: so a training on the clips that are first sees none of which another split has a copy.
    """
    names = [column.name for column in columns if column.name in (PICTURE_HASHES.name, SOUND_FINGERPRINT.name)]
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
        for planned in planned_shards(layout)
        if planned.part > 0 and (not planned.is_retry or marker_problem(layout, planned.shard) is None)
        for key in planned.rows.column("key").to_pylist()
    }


def _manifest_rows(layout: Layout, planned: PlannedShard, stopped: FailedRef | None) -> tuple[pa.Table, str] | None:
    """The shard's rows (CLIP_SCHEMA and extra columns) in plan order, and what they are made from.

    None for a retry's shard that does not exist.
    """
    try:
        stats, rows = committed(layout, planned.shard, None)
    except (ShardError, ManifestError):
        pending = f"{stopped.status} {stopped.reason}" if stopped else "unavailable_missing"
        return None if planned.is_retry else (pending_rows(planned.rows, stopped), pending)
    return rows, stats["files"]["parquet"]["sha256"]


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
    schema = with_extra(CLIP_SCHEMA, own)
    columns = [values[f.name].cast(f.type) if f.name in values else pa.nulls(count, f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def failures(layout: Layout) -> Iterator[FailedClip]:
    """The failed clips of the merged manifest, split by split."""
    for split in layout.splits():
        yield from failed_clips(read_batches(layout.manifest(split), CLIP_SCHEMA, list(FAILED_COLUMNS)))


def write_index(layout: Layout, split: str, described: Mapping[str, Any]) -> bool:
    """Write the index of a split's manifest, which loaders map. Without a sample there is none, and False is returned.

    Args:
        layout: Paths of the dataset.
        split: Name of the split.
        described: Its dataset.json.

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

    def markers(shards: Sequence[ShardName]) -> list[bytes | None]:
        paths = map(layout.stats, shards)
        return [read_file(path) if path.exists() else None for path in paths]

    with storage_errors(path):
        try:
            with replacing(path) as unfinished, unfinished.open("xb") as file:
                build_index(index_of, layout.manifest(split), markers, file, path.parent)
        except ConfigError:  # no sample
            path.unlink(missing_ok=True)
            return False
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
