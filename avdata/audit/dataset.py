"""Opens what inspect and verify read: a prepared dataset, a manifest without shards, or shards without a manifest."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avdata.audit.parquet import read_stored_batches
from avdata.audit.secrets import shown_rows
from avdata.audit.tars import rows_of
from avdata.shards import require_tars, tar_samples
from avdata.store import Store, open_store
from avdata.urls import compression, expand_urls, is_tar, local_path
from avdata.where import Condition, parse_condition
from avmanifest.columns import CLIP_COLUMNS, NEAR_DUPLICATE_OF, Column, columns_of, flags, joined, measured, named
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.layout import SPLIT_PATTERN, USUAL_SPLITS, ordered_splits
from avmanifest.names import near_paths
from avmanifest.recipe import load_recipe, recipe_names
from avmanifest.records import parse_description
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.secrets import shown_url

_ALWAYS: Final = (
    "key", "video_id", "source", "start_s", "end_s", "labels", "split", "status", "reason", "shard", "source_sha256",
    NEAR_DUPLICATE_OF.name,
)  # fmt: skip
_BATCH_ROWS: Final = 65_536


class DatasetKind(StrEnum):
    """What an AuditDataset was opened from."""

    DATASET = "dataset"  # a folder with shards and a manifest
    MANIFEST = "manifest"  # a parquet file, or a folder of them
    SHARDS = "shards"  # tars without a manifest


@dataclass(frozen=True, slots=True)
class MemberSums:
    """Number of files and of bytes of one kind of member, such as `frame.jpg` for all frames."""

    files: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class SplitRows:
    """The rows of a split, and the files and bytes of its members by kind.

    The table has the columns of `kept_names`, `columns` all that the manifest has.
    """

    table: pa.Table
    members: Mapping[str, MemberSums]
    columns: tuple[Column, ...] = CLIP_COLUMNS
    num_rows: int = 0  # before a condition chose among them


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDataset:
    """A dataset, or the part of one that was given."""

    root: str  # as given, without secrets
    kind: DatasetKind
    splits: Mapping[str, SplitRows]
    description: Mapping[str, Any] = field(default_factory=dict)  # dataset.json; empty without one
    store: Store
    tars: tuple[str, ...] = ()  # of DatasetKind.SHARDS: names of the shards in the store
    damaged: Mapping[str, str] = field(default_factory=dict)  # error by tar that could not be read to its end
    where: str | None = None  # the condition that its clips meet

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of all splits."""
        return tuple({column.name: column for split in self.splits.values() for column in split.columns}.values())


def kept_names(schema: pa.Schema) -> list[str]:
    """The columns that are kept in memory: what identifies a clip, its flags and what is measured.

    `members`, most of a manifest's size, is summed up while it is read.
    """
    columns = columns_of(schema)
    kept = {*_ALWAYS, *named(flags(columns)), *named(measured(columns))}
    return [name for name in schema.names if name in kept]


def open_audit_dataset(source: str, *, where: str | None = None) -> AuditDataset:
    """Open a dataset, a manifest or tars.

    Args:
        source: Path or URL of a prepared folder, of a manifest's parquet file or its folder, of a tar, of a brace
            pattern of tars, or of a folder of tars.
        where: Keep the clips, failed ones included, for which this SQL expression over the manifest's columns is true.

    Raises:
        ConfigError: The protocol is not supported, the path is that of another file, or a named tar does not exist,
            is compressed or is no tar; or the condition cannot be used, or no clip meets it.
        ManifestError: There is neither a manifest nor a shard, or the manifest is damaged.
    """
    condition = None if where is None else parse_condition(where)
    if is_tar(source):
        return _open_tars(expand_urls(source), source, condition)
    if source.endswith(".parquet"):
        store = open_store(source)
        return _from_manifests(source, DatasetKind.MANIFEST, store, {PurePosixPath(source).stem: ""}, {}, condition)
    root = source.rstrip("/") or source
    path = local_path(root)
    if path is not None and not _is_readable_folder(path):
        raise ConfigError(
            f"{root}: not a folder that you can read. Give the --out of an `avkit prepare`, a manifest's parquet file, "
            "or tars: 'shards/{00000..00009}.tar'."
        )
    store = open_store(root)
    description = _description(store)
    if manifests := _manifests(store, "manifest/", description):
        return _from_manifests(root, DatasetKind.DATASET, store, manifests, description, condition)
    if not description and (manifests := _manifests(store, "", {})):
        return _from_manifests(root, DatasetKind.MANIFEST, store, manifests, {}, condition)
    tars = [name for folder in ("", *store.folders()) for name in store.listed(folder) if name.endswith(".tar")]
    if tars and not description:
        return _from_tars(root, store, tars, condition)
    near = near_paths(path) if path is not None and not path.exists() else ""
    raise ManifestError(
        f"{root}: no manifest in it, and no shards. Give the --out of an `avkit prepare` that ran to its end, a "
        f"manifest's parquet file, or tars: 'shards/{{00000..00009}}.tar'.{near}"
    )


def _is_readable_folder(path: Path) -> bool:
    """False for a file, or a folder without rights; a missing path is reported where no manifest is found."""
    try:
        return not path.exists() or (path.is_dir() and os.access(path, os.R_OK | os.X_OK))
    except OSError:  # a folder above may not be read
        return False


def _description(store: Store) -> dict[str, Any]:
    if store.size("dataset.json") is None:
        return {}
    return parse_description(store.content("dataset.json"), store.at("dataset.json"))


def _manifests(store: Store, folder: str, description: Mapping[str, Any]) -> dict[str, str]:
    """The manifest's file name by split. In stores that cannot list files, the recipe's splits are tried."""
    listed = [name for name in store.listed(folder.rstrip("/")) if name.endswith(".parquet")]
    if not listed and description and not store.is_folder(""):
        recipe = description.get("recipe", {}).get("name")
        known = load_recipe(recipe).splits if recipe in recipe_names() else ()
        tried = [f"{folder}{split}.parquet" for split in dict.fromkeys((*USUAL_SPLITS, *known))]
        listed = [name for name in tried if store.size(name) is not None]
    found = {PurePosixPath(name).stem: name for name in listed}
    return {split: found[split] for split in ordered_splits(found)}


def _from_manifests(
    root: str,
    kind: DatasetKind,
    store: Store,
    manifests: Mapping[str, str],
    description: Mapping[str, Any],
    condition: Condition | None,
) -> AuditDataset:
    splits: dict[str, SplitRows] = {}
    for split, name in manifests.items():
        found = read_split(store, name, condition=condition)
        # A manifest file of several splits: users may have concatenated manifests.
        names = pc.unique(found.table.column("split")).to_pylist()
        if kind is DatasetKind.MANIFEST and len(names) > 1:
            for own in names:
                splits[own] = read_split(store, name, own, condition=condition)
        else:
            splits[names[0] if names and kind is DatasetKind.MANIFEST else split] = found
    return AuditDataset(
        root=shown_url(root),
        kind=kind,
        splits=_chosen(splits, condition, shown_url(root)),
        description=description,
        store=store,
        where=None if condition is None else condition.text,
    )


def _chosen(splits: Mapping[str, SplitRows], condition: Condition | None, root: str) -> Mapping[str, SplitRows]:
    """The splits that have clips which meet the condition. Raises ConfigError if none has."""
    if condition is None:
        return splits
    if not any(len(content.table) for content in splits.values()):
        raise condition.chooses_none(sum(content.num_rows for content in splits.values()), root)
    return {split: content for split, content in splits.items() if len(content.table)}


def read_split(store: Store, name: str, split: str | None = None, *, condition: Condition | None = None) -> SplitRows:
    """Read a manifest's rows, or those of one split, and sum up the members batch by batch.

    Secrets that an earlier version stored in the rows are not shown. Raises ConfigError if the condition cannot be
    used.
    """
    sums: dict[str, MemberSums] = {}
    pieces: list[pa.RecordBatch] = []
    num_rows = 0

    def wanted(found: pa.Schema) -> list[str]:
        used = [] if condition is None else condition.columns(found, store.at(name))
        return list(dict.fromkeys([*kept_names(found), "members", *used]))

    full, batches = read_stored_batches(store, name, CLIP_SCHEMA, wanted, _BATCH_ROWS)
    kept = kept_names(full)
    for batch in batches:
        mine = batch if split is None else batch.filter(pc.equal(batch.column("split"), split))
        num_rows += len(mine)
        if condition is not None:
            mine = mine.filter(condition.holds(pa.Table.from_batches([mine]), store.at(name)))
        _add(sums, mine.column("members"))
        pieces.append(mine.select(kept))
    table = pa.Table.from_batches(pieces, pa.schema([full.field(name) for name in kept]))
    return SplitRows(shown_rows(table), sums, columns_of(full), num_rows)


def _add(sums: dict[str, MemberSums], members: pa.ListArray) -> None:
    """Add a batch's members to the sums, by kind."""
    flat = members.flatten()
    names = pc.struct_field(flat, "name").dictionary_encode()
    codes, sizes = names.indices.to_numpy(), pc.struct_field(flat, "size").to_numpy()
    files, num_bytes = np.bincount(codes), np.bincount(codes, sizes)
    more: dict[str, MemberSums] = {}
    for name, count, total in zip(names.dictionary.to_pylist(), files.tolist(), num_bytes.tolist(), strict=True):
        merge_sums(more, {member_kind(name): MemberSums(count, int(total))})
    merge_sums(sums, more)


def member_kind(name: str) -> str:
    """A member's name without its number: `frame.jpg` for `frame07.jpg`."""
    stem, dot, suffix = name.partition(".")
    return stem.rstrip("0123456789") + dot + suffix if dot else name


def _open_tars(urls: Sequence[str], source: str, condition: Condition | None) -> AuditDataset:
    for url in urls:
        if compression(url) is not None:
            raise ConfigError(
                f"{shown_url(url)}: a compressed tar can be trained on, not inspected. Unpack it to .tar first."
            )
    shared = _shared_folder(urls)
    store = open_store(shared or ("/" if urls[0].startswith("/") else "."))
    names = [url[len(shared) :].lstrip("/") for url in urls]
    if missing := [url for url, name in zip(urls, names, strict=True) if store.size(name) is None]:
        raise ConfigError(
            f"{missing[0]}: no such shard. Name existing shards; {len(missing)} of {len(urls)} do not exist."
        )
    if store.is_local and not any(store.size(f"{name.removesuffix('.tar')}_stats.json") for name in names):
        require_tars([Path(store.path(name)) for name in names])
    return _from_tars(source, store, names, condition)


def _shared_folder(urls: Sequence[str]) -> str:
    """The deepest folder above the folders of all URLs, so that names keep their split: `train/00000.tar`."""
    parts = [url.split("/")[:-1] for url in urls]
    shared = 0
    while all(len(part) > shared and part[: shared + 1] == parts[0][: shared + 1] for part in parts):
        shared += 1
    if all(len(part) == shared for part in parts) and shared > (3 if "://" in urls[0] else 1):
        shared -= 1
    return "/".join(parts[0][:shared])


def _from_tars(root: str, store: Store, names: Sequence[str], condition: Condition | None) -> AuditDataset:
    """Open tars. The rows come from avkit's parquet file beside a tar if there is one, else from the tar itself."""
    tables: dict[str, list[pa.Table]] = {}
    sums: dict[str, dict[str, MemberSums]] = {}
    damaged: dict[str, str] = {}
    columns: dict[str, dict[str, Column]] = {}
    num_rows: dict[str, int] = {}
    kept = kept_names(CLIP_SCHEMA)
    walked_schema = pa.schema([CLIP_SCHEMA.field(name) for name in (*kept, "members")])
    for number, name in enumerate(names):
        stem = name.removesuffix(".tar")
        folder = PurePosixPath(name).parent.name
        split = folder if SPLIT_PATTERN.fullmatch(folder) else "shards"
        if store.size(f"{stem}_stats.json") is not None and store.size(f"{stem}.parquet") is not None:
            found = read_split(store, f"{stem}.parquet", condition=condition)
            tables.setdefault(split, []).append(found.table)
            columns.setdefault(split, {}).update({column.name: column for column in found.columns})
            num_rows[split] = num_rows.get(split, 0) + found.num_rows
            merge_sums(sums.setdefault(split, {}), found.members)
            continue
        if condition is not None:
            raise condition.has_no_columns(store.at(name))
        version = store.version(name)
        with store.open(name) as file:
            walked = rows_of(
                _until_damage(tar_samples(file, read="json"), name, damaged), walked_schema, split=split, shard=number
            )
        store.unchanged(name, version)
        for batch in walked.to_batches():
            _add(sums.setdefault(split, {}), batch.column("members"))
        tables.setdefault(split, []).append(walked.select(kept))
    splits = {
        split: SplitRows(joined(found), sums.get(split, {}), tuple(columns[split].values()), num_rows[split])
        if split in columns
        else SplitRows(joined(found), sums.get(split, {}))
        for split, found in tables.items()
    }
    return AuditDataset(
        root=shown_url(root),
        kind=DatasetKind.SHARDS,
        splits=_chosen(splits, condition, shown_url(root)),
        store=store,
        tars=tuple(names),
        damaged=damaged,
        where=None if condition is None else condition.text,
    )


def _until_damage(found: Iterator[Any], name: str, damaged: dict[str, str]) -> Iterator[Any]:
    try:
        yield from found
    except ShardError as error:
        damaged[name] = str(error)


def merge_sums(sums: dict[str, MemberSums], more: Mapping[str, MemberSums]) -> None:
    """Add `more` to the sums."""
    for kind, added in more.items():
        before = sums.get(kind, MemberSums(0, 0))
        sums[kind] = MemberSums(before.files + added.files, before.num_bytes + added.num_bytes)
