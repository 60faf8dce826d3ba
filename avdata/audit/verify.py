"""Verifies shards against their markers, indexes and the manifest: size, hash, count, members and their order."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avdata.audit.dataset import AuditDataset, DatasetKind
from avdata.audit.deep import DeepCheck
from avdata.audit.indexes import index_faults
from avdata.audit.parquet import read_stored_table
from avdata.audit.secrets import checked_columns, num_secrets
from avdata.shards import ByteFile, DamagedTar, TarSample, index_bytes, members_of, tar_samples
from avdata.store import Store
from avmanifest.columns import NEAR_DUPLICATE_OF
from avmanifest.errors import AvkitError, ConfigError, ShardError
from avmanifest.files import sha256_of_stream
from avmanifest.layout import ShardName
from avmanifest.records import parse_marker
from avmanifest.schema import CLIP_SCHEMA, PLAN_SCHEMA
from avmanifest.secrets import stored_text
from avmanifest.table import completed

_PARTS: Final = {"tar": ".tar", "idx": ".tar.idx", "parquet": ".parquet"}
_PLACE: Final = ["key", "position"]
_COPY_BYTES: Final = 1 << 20
_MOST_WORKERS: Final = 16


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """A problem and its position. An empty key or an offset of -1 means the whole file."""

    shard: str
    key: str
    offset: int
    problem: str

    def __str__(self) -> str:
        where = (
            f"{self.shard}"
            + (f" {self.key}" if self.key else "")
            + (f" at byte {self.offset}" if self.offset >= 0 else "")
        )
        return f"{where}: {self.problem}"


@dataclass(slots=True)
class Verification:
    """The result of `verify`: counts of what was read, and the faults."""

    deep: bool
    shards: int = 0
    samples: int = 0
    num_bytes: int = 0
    faults: list[Fault] = field(default_factory=list)
    secrets: dict[str, int] = field(default_factory=dict)  # rows or samples with a URL's password or token, by file

    @property
    def bad_shards(self) -> list[str]:
        """Names of the shards with faults, in order."""
        return list(dict.fromkeys(fault.shard for fault in self.faults))

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        faults = [{"shard": f.shard, "key": f.key, "offset": f.offset, "problem": f.problem} for f in self.faults]
        return {
            "deep": self.deep, "shards": self.shards, "samples": self.samples, "bytes": self.num_bytes,
            "whole": not faults, "faults": faults, "secrets": dict(self.secrets),
        }  # fmt: skip


def verify(
    dataset: AuditDataset, *, deep: bool = False, on_shard: Callable[[str], None] = lambda _: None
) -> Verification:
    """Read every byte of every shard and check it.

    The shards of a prepared dataset are compared with their markers, indexes and rows, with the plan and with the
    manifest; the index of each manifest with that and the markers. Other tars are checked for a valid structure.

    Args:
        dataset: A prepared dataset or tars.
        deep: Also decode every member, and compare the log-mels with the audio.
        on_shard: Called with the name of each finished shard.

    Raises:
        ConfigError: The dataset is a manifest without shards.
    """
    if dataset.kind is DatasetKind.MANIFEST:
        raise ConfigError(f"{dataset.root}: a manifest alone has no shards to verify. Give the dataset's folder.")
    check: Callable[[str], _Checked]
    if dataset.kind is DatasetKind.DATASET:
        names, faults = _dataset_shards(dataset)
        faults += [Fault(name, "", -1, problem) for name, problem in index_faults(dataset)]
        check = partial(_check_prepared, _Expected.of(dataset), deep=deep)
    else:
        names, faults = list(dataset.tars), []
        check = partial(_check_tar, dataset.store, deep=deep)
        faults = _keys_in_several(dataset)
    report = Verification(deep=deep, faults=faults, secrets=_manifest_secrets(dataset))
    with ThreadPoolExecutor(min(_MOST_WORKERS, os.cpu_count() or 1)) as pool:
        for name, checked in zip(names, pool.map(check, names), strict=True):
            report.shards += 1
            report.samples += checked.samples
            report.num_bytes += checked.num_bytes
            report.faults += sorted(checked.faults)
            report.secrets |= checked.secrets
            on_shard(name)
    return report


def _manifest_secrets(dataset: AuditDataset) -> dict[str, int]:
    """Number of rows with secrets in each manifest."""
    if dataset.kind is not DatasetKind.DATASET:
        return {}
    found = {}
    for split in dataset.splits:
        name = f"manifest/{split}.parquet"
        table = read_stored_table(dataset.store, name, CLIP_SCHEMA)
        found[name] = num_secrets(table, checked_columns(table.schema))
    return {name: count for name, count in found.items() if count}


@dataclass(slots=True)
class _Checked:
    """The result for one shard."""

    shard: str
    samples: int = 0
    num_bytes: int = 0
    faults: list[Fault] = field(default_factory=list)
    secrets: dict[str, int] = field(default_factory=dict)  # as in Verification

    def fault(self, problem: str, key: str = "", offset: int = -1) -> None:
        self.faults.append(Fault(self.shard, key, offset, problem))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """What the plan, the manifest and the config say of the shards."""

    store: Store
    plan_hash: str | None
    planned: Mapping[str, pa.Table]  # _PLACE of the planned rows by shard; empty without a plan
    merged: Mapping[str, pa.Table]  # the manifest's rows by shard
    deep: DeepCheck

    @classmethod
    def of(cls, dataset: AuditDataset) -> "_Expected":
        merged: dict[str, pa.Table] = {}
        for split in dataset.splits:
            table = read_stored_table(dataset.store, f"manifest/{split}.parquet", CLIP_SCHEMA)
            merged |= _by_shard(table, split)
        return cls(
            store=dataset.store,
            plan_hash=dataset.description.get("plan_hash"),
            planned=_planned(dataset.store),
            merged=merged,
            deep=DeepCheck.of(dataset.description.get("config", {})),
        )


def _by_shard(table: pa.Table, split: str) -> dict[str, pa.Table]:
    held = table.filter(pc.is_valid(table.column("shard"))).sort_by([("shard", "ascending"), ("position", "ascending")])
    numbers = held.column("shard").to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(held)] if len(held) else [0]
    return {
        str(ShardName(split, int(numbers[start]))): held.slice(start, stop - start)
        for start, stop in itertools.pairwise(starts)
    }


def _planned(store: Store) -> dict[str, pa.Table]:
    found: dict[str, pa.Table] = {}
    part = 0
    while store.size(name := f"plan/part-{part:05d}.parquet") is not None:
        table = read_stored_table(store, name, PLAN_SCHEMA, ["split", "shard", *_PLACE])
        for split in pc.unique(table.column("split")).to_pylist():
            mine = _by_shard(table.filter(pc.equal(table.column("split"), split)), split)
            found |= {name: rows.select(_PLACE) for name, rows in mine.items()}
        part += 1
    return found


def _dataset_shards(dataset: AuditDataset) -> tuple[list[str], list[Fault]]:
    """Names of all shards in the manifest or in the folders; faults for keys that the manifest has twice."""
    names: dict[str, None] = {}
    faults = []
    seen: Counter[str] = Counter()
    for split, content in dataset.splits.items():
        numbers = pc.unique(content.table.column("shard")).drop_null().to_pylist()
        names |= dict.fromkeys(str(ShardName(split, number)) for number in sorted(numbers))
    for folder in dataset.store.folders():
        if folder in dataset.splits or any(name.endswith("_stats.json") for name in dataset.store.listed(folder)):
            stems = (name.split(".")[0].removesuffix("_stats") for name in dataset.store.listed(folder))
            names |= dict.fromkeys(stem for stem in stems if stem.rsplit("/", 1)[-1].isdigit())
    table = pa.concat_tables([content.table.select(["key", "split"]) for content in dataset.splits.values()])
    if pc.count_distinct(table.column("key")).as_py() < len(table):
        seen.update(table.column("key").to_pylist())
        faults = [Fault("manifest", key, -1, f"{count} rows have this key") for key, count in seen.items() if count > 1]
    return sorted(names), faults


def _keys_in_several(dataset: AuditDataset) -> list[Fault]:
    table = pa.concat_tables([content.table.select(["key", "shard"]) for content in dataset.splits.values()])
    counts = table.group_by("key").aggregate([("shard", "count_distinct")])
    several = counts.filter(pc.greater(counts.column("shard_count_distinct"), 1)).column("key").to_pylist()
    return [Fault("shards", key, -1, "several shards have a sample of this key") for key in several]


def _check_prepared(expected: _Expected, shard: str, *, deep: bool) -> _Checked:
    checked = _Checked(shard)
    try:
        _check_parts(expected, checked, deep=deep)
    except AvkitError as error:
        checked.fault(str(error))
    return checked


def _check_parts(expected: _Expected, checked: _Checked, *, deep: bool) -> None:
    store, shard = expected.store, checked.shard
    stats = _marker(expected, checked)
    sizes = {part: store.size(f"{shard}{suffix}") for part, suffix in _PARTS.items()}
    for part, size in sizes.items():
        if size is None:
            checked.fault(f"{shard}{_PARTS[part]} is missing")
        elif stats is not None and size != stats["files"][part]["bytes"]:
            checked.fault(
                f"{shard}{_PARTS[part]} has {size:,} bytes, its marker says {stats['files'][part]['bytes']:,}"
            )
    same = {
        part: size is not None and _has_hash(store, f"{shard}{_PARTS[part]}", stats, part)
        for part, size in sizes.items()
    }
    rows = None
    if sizes["parquet"] is not None:
        rows = read_stored_table(store, f"{shard}.parquet", CLIP_SCHEMA)
        if count := num_secrets(rows, checked_columns(rows.schema)):
            checked.secrets[f"{shard}.parquet"] = count
        _check_rows(expected, checked, rows, stats)
    if sizes["tar"] is not None:
        checked.num_bytes = sizes["tar"]
        before = len(checked.faults)
        with store.open(f"{shard}.tar") as file:
            found = _check_samples(checked, file, rows)
            if rows is not None:
                _check_members(expected, checked, found, rows)
            # A flipped byte within a member is found only by decoding it.
            if deep or (not same["tar"] and len(checked.faults) == before):
                expected.deep.check(file, found, _rows_by_key(rows), partial(_deep_fault, checked))
        if sizes["idx"] is not None and store.content(f"{shard}.tar.idx") != index_bytes(
            [s.header for s in found], _end(found)
        ):
            checked.fault(f"{shard}.tar.idx does not have the offsets of the tar's samples")
    for part, suffix in _PARTS.items():
        if sizes[part] is not None and not same[part]:
            checked.fault(f"{shard}{suffix}: its sha256 differs from its marker's")


def _deep_fault(checked: _Checked, key: str, offset: int, problem: str) -> None:
    checked.fault(problem, key, offset)


def _end(found: Sequence[TarSample]) -> int:
    if not found:
        return 0
    last = found[-1].members[-1]
    return last.offset + last.size + (-last.size % 512)


def _marker(expected: _Expected, checked: _Checked) -> dict[str, Any] | None:
    """Read a shard's marker. None, with a fault, if it is missing or malformed."""
    name = f"{checked.shard}_stats.json"
    if expected.store.size(name) is None:
        checked.fault("it has no marker: prepare did not finish the shard, or the file was removed")
        return None
    try:
        stats = parse_marker(expected.store.content(name), name)
    except ShardError as error:
        checked.fault(str(error))
        return None
    if expected.plan_hash and stats.get("plan_hash") != expected.plan_hash:
        checked.fault(f"{name} belongs to another plan than dataset.json")
    return stats


def _has_hash(store: Store, name: str, stats: Mapping[str, Any] | None, part: str) -> bool:
    """Whether the file has the marker's SHA-256; True without a marker."""
    if stats is None:
        return True
    with store.open(name) as file:
        return bool(sha256_of_stream(file)[0] == stats["files"][part]["sha256"])


def _check_rows(expected: _Expected, checked: _Checked, rows: pa.Table, stats: Mapping[str, Any] | None) -> None:
    """Compare the shard's rows with its marker, the plan and the merged manifest."""
    statuses = Counter(rows.column("status").to_pylist())
    if stats is not None and (stats["count"], stats["status_dict"]) != (len(rows), dict(statuses)):
        checked.fault(f"its marker counts {stats['count']} clips {stats['status_dict']}, its rows are {dict(statuses)}")
    planned = expected.planned.get(checked.shard)
    if planned is not None and rows.select(_PLACE) != planned:
        checked.fault("its clips differ from those of the plan")
    merged = expected.merged.get(checked.shard)
    if merged is None:
        # All of its clips may have been retried in a later shard.
        if statuses.get("ok"):
            checked.fault("the manifest does not have its clips: run the same prepare again")
        return
    kept = rows.filter(pc.is_in(rows.column("key"), value_set=merged.column("key").combine_chunks()))
    merged = merged.drop_columns([name for name in (NEAR_DUPLICATE_OF.name,) if name in merged.column_names])
    if completed(kept, merged.schema) != merged:
        checked.fault("the manifest's rows of its clips differ from its own rows")


def _check_samples(checked: _Checked, file: ByteFile, rows: pa.Table | None) -> list[TarSample]:
    """Walk the tar. What can be read of it; keys out of place and damage are faults."""
    found: list[TarSample] = []
    seen: set[str] = set()
    num_with_secrets = 0
    try:
        for sample in tar_samples(file, read="json"):
            if sample.content and b"://" in sample.content:
                text = sample.content.decode(errors="replace")
                num_with_secrets += stored_text(text) != text
            if sample.key in seen:
                checked.fault("members of this key are not adjacent", sample.key, sample.header)
            seen.add(sample.key)
            found.append(sample)
    except DamagedTar as error:
        checked.fault(error.reason, _key_at(rows, error.offset), error.offset)
    checked.samples = len(found)
    if num_with_secrets:
        checked.secrets[f"{checked.shard.removesuffix('.tar')}.tar"] = num_with_secrets
    return found


def _key_at(rows: pa.Table | None, offset: int) -> str:
    """The key of the sample at an offset, by the shard's rows; empty if unknown."""
    if rows is None:
        return ""
    found: str = ""
    for key, members in zip(rows.column("key").to_pylist(), rows.column("members").to_pylist(), strict=True):
        if members and offset >= members[0]["offset"] - 512:
            found = str(key)
            if offset < members[-1]["offset"] + members[-1]["size"] + 512:
                return found
    return found


def _check_members(expected: _Expected, checked: _Checked, found: Sequence[TarSample], rows: pa.Table) -> None:
    """Check that tar and rows have the same samples with the same members at the same offsets."""
    meant = {
        row["key"]: row
        for row in rows.select(["key", "status", "members", "frame_times_s"]).to_pylist()
        if row["status"] == "ok"
    }
    there = {sample.key: sample for sample in found}
    for key, row in meant.items():
        if key not in there:
            checked.fault(
                "its row has status ok, but the tar has no such sample",
                key,
                row["members"][0]["offset"] if row["members"] else -1,
            )
    for key, sample in there.items():
        if key not in meant:
            checked.fault("the sample has no row", key, sample.header)
            continue
        places, held = members_of(meant[key]), list(sample.members)
        if places != held:
            first = next((h for h, p in zip(held, places, strict=False) if h != p), held[-1])
            checked.fault(
                f"{first.name} differs from its row in offset or size, or the members differ", key, first.offset
            )
        missing = expected.deep.missing_members([m.name for m in held], len(meant[key]["frame_times_s"]))
        if missing:
            checked.fault(f"members are missing: {', '.join(missing)}", key, sample.header)
    order = [key for key in meant if key in there]
    if order != [key for key in there if key in meant]:
        checked.fault("its samples are not in the order of its rows")


def _rows_by_key(rows: pa.Table | None) -> dict[str, dict[str, Any]]:
    if rows is None:
        return {}
    columns = ["key", "duration_s", "members", "member_xxh3", "mel_block_xxh3"]
    return {row["key"]: row for row in rows.select(columns).to_pylist()}


def _check_tar(store: Store, name: str, *, deep: bool) -> _Checked:
    """Check a tar without avkit's marker."""
    checked = _Checked(name)
    try:
        checked.num_bytes = store.size(name) or 0
        with store.open(name) as file:
            found = _check_samples(checked, file, None)
            for sample in found:
                names = Counter(member.name for member in sample.members)
                if twice := [name for name, count in names.items() if count > 1]:
                    checked.fault(f"repeated members: {', '.join(twice)}", sample.key, sample.header)
            if deep:
                DeepCheck().check(file, found, {}, partial(_deep_fault, checked))
    except AvkitError as error:
        checked.fault(str(error))
    return checked


def shards_of(faults: Sequence[Fault]) -> Iterator[ShardName]:
    """The prepared shards that have faults, in order, each once."""
    for name in dict.fromkeys(fault.shard for fault in faults):
        split, slash, number = name.partition("/")
        if slash and number.isdigit():
            yield ShardName(split, int(number))
