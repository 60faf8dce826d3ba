"""What inspect was given: a prepared dataset, a manifest alone, or shards alone; and its rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avdata.audit.store import Store, open_store
from avdata.audit.tars import rows_of
from avdata.load.urls import expand_urls
from avdata.shards import tar_samples
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.layout import SPLIT_PATTERN
from avmanifest.recipe import load_recipe, recipe_names
from avmanifest.schema import CLIP_SCHEMA

COLUMNS: Final = (
    "key", "video_id", "source", "start_s", "end_s", "labels", "split", "status", "reason", "shard", "duration_s",
    "fps", "height", "audio_video_offset_s", "num_bad_packets", "rms_dbfs", "silent", "still", "short", "source_sha256",
)  # fmt: skip
"""What is read of every row. `members` is summed up while it is read: it is most of a manifest."""

SCHEMA: Final = pa.schema([CLIP_SCHEMA.field(name) for name in COLUMNS])
_WALKED: Final = pa.schema([CLIP_SCHEMA.field(name) for name in (*COLUMNS, "members")])
_BATCH_ROWS: Final = 65_536
_USUAL_SPLITS: Final = ("train", "val", "test")
_COMPRESSED: Final = (".gz", ".tgz", ".zst", ".bz2", ".xz")


class DatasetKind(StrEnum):
    """What was given."""

    DATASET = "dataset"  # shards and manifest
    MANIFEST = "manifest"  # a parquet file, or a folder of them
    SHARDS = "shards"  # tars


@dataclass(frozen=True, slots=True)
class MemberSums:
    """Files and bytes of one kind of member: `frame.jpg` is every frame."""

    files: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class SplitRows:
    """The rows (SCHEMA) of a split, and what its samples' members add up to, by kind."""

    table: pa.Table
    members: Mapping[str, MemberSums]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDataset:
    """A dataset, or what there is of one."""

    root: str
    kind: DatasetKind
    splits: Mapping[str, SplitRows]
    description: Mapping[str, Any] = field(default_factory=dict)  # dataset.json; empty without one
    store: Store
    tars: tuple[str, ...] = ()  # of shards alone: their names in the store
    damaged: Mapping[str, str] = field(default_factory=dict)  # tars that could not be read to their end, and why


def open_audit_dataset(source: str, storage_options: Mapping[str, Any] | None = None) -> AuditDataset:
    """What is at a path or URL: a dataset's folder; a manifest's file or folder; a tar, a pattern or folder of tars.

    Raises ManifestError or ConfigError where there is nothing of the kind, naming what would be.
    """
    if source.endswith((".tar", *_COMPRESSED)):
        return _open_tars(expand_urls(source), source, storage_options)
    if source.endswith(".parquet"):
        store = open_store(source, storage_options)
        return _from_manifests(source, DatasetKind.MANIFEST, store, {PurePosixPath(source).stem: ""}, {})
    root = source.rstrip("/") or source
    store = open_store(root, storage_options)
    description = _description(store)
    if manifests := _manifests(store, "manifest/", description):
        return _from_manifests(root, DatasetKind.DATASET, store, manifests, description)
    if not description and (manifests := _manifests(store, "", {})):
        return _from_manifests(root, DatasetKind.MANIFEST, store, manifests, {})
    tars = [name for folder in ("", *store.folders()) for name in store.listed(folder) if name.endswith(".tar")]
    if tars and not description:
        return _from_tars(root, store, tars)
    raise ManifestError(
        f"{root}: no manifest in it, and no shards. Give the --out of an `avkit prepare` that ran to its end, a "
        "manifest's parquet file, or tars: 'shards/{00000..00009}.tar'."
    )


def _description(store: Store) -> dict[str, Any]:
    if store.size("dataset.json") is None:
        return {}
    try:
        found = json.loads(store.read("dataset.json"))
    except ValueError as error:
        raise ManifestError(f"{store.at('dataset.json')}: not JSON ({error}). Put the dataset's own back.") from error
    if not isinstance(found, dict) or not isinstance(found.get("recipe", {}), dict):
        raise ManifestError(f"{store.at('dataset.json')}: not a dataset's description. Put the dataset's own back.")
    return found


def _manifests(store: Store, folder: str, description: Mapping[str, Any]) -> dict[str, str]:
    """Split -> name of its manifest. Where nothing can be listed, the splits that the recipe has are tried."""
    listed = [name for name in store.listed(folder.rstrip("/")) if name.endswith(".parquet")]
    if not listed and description and not store.is_folder(""):
        recipe = description.get("recipe", {}).get("name")
        known = load_recipe(recipe).splits if recipe in recipe_names() else ()
        tried = [f"{folder}{split}.parquet" for split in dict.fromkeys((*_USUAL_SPLITS, *known))]
        listed = [name for name in tried if store.size(name) is not None]
    found = {PurePosixPath(name).stem: name for name in listed}
    first = {split: place for place, split in enumerate(_USUAL_SPLITS)}
    order = sorted(found, key=lambda split: (first.get(split, len(first)), split))
    return {split: found[split] for split in order if SPLIT_PATTERN.fullmatch(split)}


def _from_manifests(
    root: str, kind: DatasetKind, store: Store, manifests: Mapping[str, str], description: Mapping[str, Any]
) -> AuditDataset:
    splits: dict[str, SplitRows] = {}
    for split, name in manifests.items():
        found = read_split(store, name)
        # A manifest file may hold several splits, if somebody joined them.
        names = pc.unique(found.table.column("split")).to_pylist()
        if kind is DatasetKind.MANIFEST and len(names) > 1:
            for own in names:
                splits[own] = read_split(store, name, own)
        else:
            splits[names[0] if names and kind is DatasetKind.MANIFEST else split] = found
    return AuditDataset(root=root, kind=kind, splits=splits, description=description, store=store)


def read_split(store: Store, name: str, split: str | None = None) -> SplitRows:
    """A manifest's rows, or those of one split of it; its members batch by batch."""
    sums: dict[str, MemberSums] = {}
    pieces: list[pa.RecordBatch] = []
    with store.parquet(name, CLIP_SCHEMA) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[*COLUMNS, "members"]):
            mine = batch if split is None else batch.filter(pc.equal(batch.column("split"), split))
            _add(sums, mine.column("members"))
            pieces.append(mine.select(COLUMNS))
    return SplitRows(pa.Table.from_batches(pieces, SCHEMA), sums)


def _add(sums: dict[str, MemberSums], members: pa.ListArray) -> None:
    """Count a batch's members by kind: the digits at the end of a name's stem are left out."""
    flat = members.flatten()
    names = pc.struct_field(flat, "name").dictionary_encode()
    codes, sizes = names.indices.to_numpy(), pc.struct_field(flat, "size").to_numpy()
    files, num_bytes = np.bincount(codes), np.bincount(codes, sizes)
    more: dict[str, MemberSums] = {}
    for name, count, total in zip(names.dictionary.to_pylist(), files.tolist(), num_bytes.tolist(), strict=True):
        _merge(more, {member_kind(name): MemberSums(count, int(total))})
    _merge(sums, more)


def member_kind(name: str) -> str:
    """A member's name without its number: `frame07.jpg` is `frame.jpg`."""
    stem, dot, suffix = name.partition(".")
    return stem.rstrip("0123456789") + dot + suffix if dot else name


def _open_tars(urls: Sequence[str], source: str, storage_options: Mapping[str, Any] | None) -> AuditDataset:
    for url in urls:
        if url.endswith(_COMPRESSED):
            raise ConfigError(f"{url}: a compressed archive is not a shard. Unpack it to .tar first.")
    shared = _shared_folder(urls)
    store = open_store(shared or ("/" if urls[0].startswith("/") else "."), storage_options)
    names = [url[len(shared) :].lstrip("/") for url in urls]
    if missing := [url for url, name in zip(urls, names, strict=True) if store.size(name) is None]:
        raise ConfigError(
            f"{missing[0]}: no such shard. Name shards that are there; {len(missing)} of {len(urls)} are not."
        )
    return _from_tars(source, store, names)


def _shared_folder(urls: Sequence[str]) -> str:
    """The deepest folder above the URLs' own folders, so that a shard's name keeps its split: `train/00000.tar`."""
    parts = [url.split("/")[:-1] for url in urls]
    shared = 0
    while all(len(part) > shared and part[: shared + 1] == parts[0][: shared + 1] for part in parts):
        shared += 1
    if all(len(part) == shared for part in parts) and shared > (3 if "://" in urls[0] else 1):
        shared -= 1
    return "/".join(parts[0][:shared])


def _from_tars(root: str, store: Store, names: Sequence[str]) -> AuditDataset:
    """Shards alone. One with avkit's rows beside it is not walked."""
    tables: dict[str, list[pa.Table]] = {}
    sums: dict[str, dict[str, MemberSums]] = {}
    damaged: dict[str, str] = {}
    for number, name in enumerate(names):
        stem = name.removesuffix(".tar")
        folder = PurePosixPath(name).parent.name
        split = folder if SPLIT_PATTERN.fullmatch(folder) else "shards"
        if store.size(f"{stem}_stats.json") is not None and store.size(f"{stem}.parquet") is not None:
            found = read_split(store, f"{stem}.parquet")
            tables.setdefault(split, []).append(found.table)
            _merge(sums.setdefault(split, {}), found.members)
            continue
        with store.open(name) as file:
            walked = rows_of(
                _until_damage(tar_samples(file, read="json"), name, damaged), _WALKED, split=split, shard=number
            )
        for batch in walked.to_batches():
            _add(sums.setdefault(split, {}), batch.column("members"))
        tables.setdefault(split, []).append(walked.select(COLUMNS))
    splits = {split: SplitRows(pa.concat_tables(found), sums.get(split, {})) for split, found in tables.items()}
    return AuditDataset(
        root=root, kind=DatasetKind.SHARDS, splits=splits, store=store, tars=tuple(names), damaged=damaged
    )


def _until_damage(found: Iterator[Any], name: str, damaged: dict[str, str]) -> Iterator[Any]:
    try:
        yield from found
    except ShardError as error:
        damaged[name] = str(error)


def _merge(sums: dict[str, MemberSums], more: Mapping[str, MemberSums]) -> None:
    for kind, one in more.items():
        before = sums.get(kind, MemberSums(0, 0))
        sums[kind] = MemberSums(before.files + one.files, before.num_bytes + one.num_bytes)
