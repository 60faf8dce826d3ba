"""Opens prepared folders and shard URLs as a Dataset."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from avdata.dataset import Dataset, Shard, dataset_from_table, read_names, select, unite
from avdata.index import Index
from avdata.load.cache import CacheConfig, read_content, read_contents
from avdata.load.foreign import foreign_rows
from avdata.load.indexes import find_index
from avdata.load.reader import ShardReader
from avdata.load.sample import SampleAccess
from avdata.members import MemberMap, written_members
from avdata.shards import require_tars
from avdata.urls import check_url, compression, expand_urls, is_tar, local_path, protocol
from avdata.where import Condition, parse_condition
from avmanifest.columns import joined
from avmanifest.errors import ConfigError, ManifestError, MissingSplit, ShardError
from avmanifest.layout import SPLIT_PATTERN, Layout
from avmanifest.names import near_paths
from avmanifest.records import parse_description, parse_marker, version_problem
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.secrets import shown_url
from avmanifest.splits import aliases_of, resolve_splits
from avmanifest.table import read_schema, read_table


def open_dataset(
    source: str | Path | Sequence[str | Path],
    split: str | Sequence[str] | None = None,
    *,
    members: MemberMap | None = None,
    exclude: Sequence[str] = (),
    where: str | None = None,
    cache: CacheConfig | None = None,
    allow_pipe: bool = False,
) -> Dataset:
    """Open a dataset.

    Args:
        source: The folder of a prepared dataset, several folders, or URLs of shards. URLs may have brace patterns
            (`train/{00000..00183}.tar`) and may be local paths, http, https, s3, gs, hf or abfs. A tar without avkit's
            manifest beside it is read once to index its members.
            A .tar.gz, .tgz, .tar.zst or .tzst is unpacked into the cache.
        split: Split of a prepared folder, or several, as `["train", "val"]` or `train,val`: their samples are one
            dataset, in the order of the splits. An alias of the dataset's recipe stands for its splits, such as
            `as_20k` and `train` of AudioSet (`avmanifest.splits`). None: `train`. Not for shard URLs.
        members: Which member is the frame, the log-mel, the audio, the label. For tars of other tools.
        exclude: Leave out samples with these flags, such as silent, still, short, or a flag of a step.
        where: Keep the samples for which this SQL expression over the manifest's columns is true (null is false), such
            as `rms_dbfs > -45 and 'dog barking' in labels`. Needs a manifest.
        cache: Where remote shards are kept; None: the default cache folder.
        allow_pipe: Permit `pipe:COMMAND` URLs. Commands run without a shell.

    Raises:
        ConfigError: The source does not exist, is ambiguous, or has no samples; or the condition cannot be used.
        MissingSplit: There is no such split.
        ManifestError: A manifest is damaged or does not match its shards.
        ShardError: A shard is damaged or cannot be read.

    Example:
        ```python
        dataset = open_dataset("data/mine", "val", exclude=["silent"], where="fps >= 24 and not still")
        print(dataset[0].labels, dataset[0].row["video_id"])
        ```
    """
    cache = cache or CacheConfig()
    condition = None if where is None else parse_condition(where)
    if is_folder(source):
        roots = [str(root) for root in ([source] if isinstance(source, str | Path) else source)]
        for root in roots:
            check_url(root, allow_pipe=False)
        if len({_place(root) for root in roots}) < len(roots):
            raise ConfigError(f"{source!r} names a folder twice. To repeat samples, use shares: mix(...).")
        parts = [part for root in roots for part in _open_folder(root.rstrip("/"), split, exclude, condition, cache)]
        return replace(unite(parts) if len(parts) > 1 else parts[0], access=SampleAccess(cache))
    require_folders(source, braces=split is not None)
    if split is not None:
        raise ConfigError(f"split={split!r} chooses within a prepared folder; {source!r} are shards. Name theirs.")
    urls = expand_urls(source)
    for url in urls:
        check_url(url, allow_pipe=allow_pipe)
        if is_folder(url):
            raise ConfigError(f"{shown_url(url)!r} is a folder among shards. Open it by itself, then unite the two.")
    return replace(_open_shards(urls, members, exclude, condition, cache), access=SampleAccess(cache))


def is_folder(source: str | Path | Sequence[str | Path]) -> bool:
    """Whether the source is one or more dataset folders, not shards. Remote shards are recognized by their suffix."""
    if not isinstance(source, str | Path):
        return len(source) > 0 and all(is_folder(entry) for entry in source)
    path = local_path(str(source))
    if path is not None:
        return path.is_dir()
    return protocol(str(source)) != "pipe" and not is_tar(str(source))


def _place(root: str) -> str:
    """The same for all names of one folder of this machine; of a URL, the URL without a slash at its end."""
    path = local_path(root)
    return root.rstrip("/") if path is None else str(path.resolve())


def require_folders(source: str | Path | Sequence[str | Path], *, braces: bool = False) -> None:
    """Raise ConfigError for a local path of the source that does not exist and is no tar's. Nothing is read.

    Args:
        source: As of `open_dataset`.
        braces: Whether a name with braces is that of a folder, too, and no pattern of shards.
    """
    if (missing := _missing_folder(source)) is not None and (braces or "{" not in missing.name):
        raise ConfigError(
            f"{shown_url(str(missing))}: no such folder. Prepare the dataset first, or name one that is there."
            f"{near_paths(missing)}"
        )


def _missing_folder(source: str | Path | Sequence[str | Path]) -> Path | None:
    """The first local path of the source that does not exist and whose name is not that of a tar."""
    for entry in [source] if isinstance(source, str | Path) else source:
        path = local_path(str(entry))
        if path is not None and not path.exists() and not is_tar(path.name):
            return path
    return None


def splits_of(root: str, split: str | Sequence[str] | None, cache: CacheConfig) -> tuple[str, ...]:
    """The splits of a prepared folder that `split` stands for, in their order; see `open_dataset`.

    Raises:
        ConfigError: The folder is no prepared dataset, or names a split twice.
        MissingSplit: There is no such split.
    """
    return _splits_of(root, split, _described(root, cache), cache)


def _splits_of(
    root: str, split: str | Sequence[str] | None, description: Mapping[str, Any], cache: CacheConfig
) -> tuple[str, ...]:
    path = local_path(root)
    known = [] if path is None else Layout(path).splits()  # a store need not list its files

    def has(name: str) -> bool:
        return name in known if path is not None else _open_index(root, name, description, cache) is not None

    return resolve_splits(split or "train", has, known=known, aliases=aliases_of(description), where=shown_url(root))


def _open_index(root: str, split: str, description: Mapping[str, Any], cache: CacheConfig) -> Index | None:
    """The index of a split; None: there is no such split, or no manifest of it."""
    if not SPLIT_PATTERN.fullmatch(split):
        return None
    return find_index(root, split, description["labels"], written_members(description, root), cache)


def _described(root: str, cache: CacheConfig) -> dict[str, Any]:
    """dataset.json of a folder that is to be read. Raises ConfigError if there is none, as `describe_dataset`."""
    description = describe_dataset(root, cache)
    if description is None and cache.offline and local_path(root) is None:
        raise ConfigError(
            f"{root}: its dataset.json is not in the cache {cache.root}, and data.offline=true forbids to ask the "
            "server. Run once without."
        )
    if description is None:
        raise ConfigError(
            f"{root}: no dataset.json, so not a prepared dataset. Name its shards instead, such as "
            f"'{root}/{{00000..00009}}.tar'."
        )
    return description


def _open_folder(
    root: str,
    split: str | Sequence[str] | None,
    exclude: Sequence[str],
    condition: Condition | None,
    cache: CacheConfig,
) -> list[Dataset]:
    """The chosen samples of each split. A split of several of which none is chosen is left out."""
    description = _described(root, cache)
    path = local_path(root)
    if path is not None and Layout(path).swap.exists():
        raise ManifestError(
            f"{root}: an operation is exchanging its files, or was stopped while it did. Wait, or finish it: "
            f"avkit dataset settle {root}"
        )
    splits = _splits_of(root, split, description, cache)
    found = [_open_split(root, name, description, exclude, condition, cache) for name in splits]
    if chosen := [select(dataset, keep) if keep is not None else dataset for dataset, keep in found if _any(keep)]:
        return chosen
    if condition is not None and not exclude:
        manifests = ", ".join(f"{shown_url(root)}/manifest/{name}.parquet" for name in splits)
        raise condition.chooses_none(sum(len(dataset) for dataset, _ in found), manifests)
    of_those = "" if condition is None else f", of those where {condition.text}"
    raise ConfigError(
        f"{shown_url(root)}/{'+'.join(splits)}: no sample is left without the flags {list(exclude)}{of_those}"
    )


def _open_split(
    root: str,
    split: str,
    description: Mapping[str, Any],
    exclude: Sequence[str],
    condition: Condition | None,
    cache: CacheConfig,
) -> tuple[Dataset, Bool[np.ndarray, " n"] | None]:
    """The samples of one split, and which of them are chosen; None: all."""
    index = _open_index(root, split, description, cache)
    if index is None:
        raise MissingSplit(f"{shown_url(root)}: split {split!r} has no manifest yet. Finish avkit prepare.", ())
    if unknown := set(exclude) - set(index.flags):
        raise ConfigError(f"unknown flags to exclude {sorted(unknown)}; known: {', '.join(index.flags)}")
    dataset = index.dataset(root)
    if not dataset.frame_names:
        image = written_members(description, root).image
        raise ConfigError(f"{root}: no sample has a member {image!r}. Prepare with frames.")
    if not exclude and condition is None:
        return dataset, None
    keep = np.ones(len(dataset), np.bool_)
    if condition is not None:
        keep &= _chosen(f"{root}/manifest/{split}.parquet", condition, len(dataset), cache)
    keep &= ~index.flagged(exclude)
    return dataset, keep


def _any(keep: Bool[np.ndarray, " n"] | None) -> bool:
    return keep is None or bool(keep.any())


def _chosen(place: str, condition: Condition, count: int, cache: CacheConfig) -> Bool[np.ndarray, " n"]:
    """For which of a manifest's `count` samples, ordered by shard, a condition is true."""
    table = _manifest(place, cache, ["status", "shard"], condition)
    samples = None if table is None else table.filter(pc.equal(table.column("status"), "ok"))
    if samples is None or len(samples) != count:
        raise ManifestError(f"{place}: was changed while it was read. Run the same command again.")
    chosen = condition.holds(samples, shown_url(place)).to_numpy(zero_copy_only=False)
    return np.asarray(chosen[np.argsort(samples.column("shard").to_numpy(), kind="stable")])


def _open_shards(
    urls: Sequence[str],
    members: MemberMap | None,
    exclude: Sequence[str],
    condition: Condition | None,
    cache: CacheConfig,
) -> Dataset:
    """Open shards by the manifest beside each, or by reading the headers of a tar without one."""
    # The output of a command (pipe:) has no manifest beside it.
    has_stem = [url.endswith(".tar") and protocol(url) != "pipe" for url in urls]
    stems = [url.removesuffix(".tar") if named else None for url, named in zip(urls, has_stem, strict=True)]
    markers = read_contents([None if stem is None else f"{stem}_stats.json" for stem in stems], cache)
    shards = [_shard(url, marker) for url, marker in zip(urls, markers, strict=True)]
    paths = [local_path(url) for url, marker in zip(urls, markers, strict=True) if marker is None]
    require_tars([path for path in paths if path is not None and compression(path.name) is None])
    if condition is not None and (bare := [one.name for one in shards if not one.prepared]):
        raise condition.has_no_columns(bare[0])
    tables: list[pa.Table] = []
    with ShardReader(shards, cache) as reader:
        for number, (stem, marker) in enumerate(zip(stems, markers, strict=True)):
            if marker is None:
                table, shards[number] = _walked(reader, number, members or MemberMap(), cache)
                tables.append(table.append_column("shard", pa.nulls(len(table), pa.int32())))
            else:
                rows = _manifest(f"{stem}.parquet", cache, condition=condition)
                if rows is None:
                    where = shown_url(f"{stem}.parquet")
                    raise ShardError(f"{where}: missing, though the shard's marker is there. Prepare it again.")
                tables.append(rows)
    table = joined(tables)
    number_of = pa.array(np.repeat(np.arange(len(tables), dtype=np.int32), [len(rows) for rows in tables]))
    ok = pc.equal(table.column("status"), "ok")
    table, number_of = table.filter(ok), number_of.filter(ok.combine_chunks())
    if condition is not None:
        chosen = condition.chosen(table, shown_url(urls[0]) + (" and following" if len(urls) > 1 else ""))
        table, number_of = table.filter(chosen), number_of.filter(chosen)
    description = _description_of(urls[0], cache) if shards[0].prepared else None
    return dataset_from_table(
        table.set_column(table.schema.get_field_index("shard"), "shard", number_of),
        shards,
        members or (MemberMap() if description is None else written_members(description, urls[0])),
        classes=None if description is None else description.get("labels"),
        exclude=exclude,
    )


def _walked(reader: ShardReader, number: int, members: MemberMap, cache: CacheConfig) -> tuple[pa.Table, Shard]:
    shard = reader.shards[number]
    with reader.leases() as leases:
        descriptor = leases.descriptor(number)
        table = foreign_rows(descriptor, shard.url, members.label, cache.root)
        return table, Shard(shard.url, reader.num_bytes(descriptor), reader.sha256(number), prepared=False)


def _description_of(shard_url: str, cache: CacheConfig) -> dict[str, Any] | None:
    """dataset.json of a prepared shard `ROOT/SPLIT/NUMBER.tar`; None if there is none."""
    parts = shard_url.rsplit("/", 2)
    return describe_dataset(parts[0] if len(parts) == 3 else str((Path(shard_url).resolve()).parents[1]), cache)


def describe_dataset(root: str, cache: CacheConfig) -> dict[str, Any] | None:
    """Read dataset.json of a folder; None if there is none.

    Raises:
        ManifestError: It is damaged, or this version of avkit does not read its format.
    """
    where = f"{root}/dataset.json"
    content = read_content(where, cache)
    if content is None:
        return None
    description = parse_description(content, where)
    if problem := version_problem(description.get("format_version")):
        raise ManifestError(f"{where}: {problem}")
    # A flipped bit in the name of one of these would give the classes another order, or the log-mels another profile.
    missing = {"recipe", "config", "labels"} - description.keys()
    if missing or "mel" not in description["config"]:
        raise ManifestError(f"{where}: has no {min(missing, default='config.mel')}. Restore the original file.")
    return description


def _shard(url: str, marker: bytes | None) -> Shard:
    if marker is None:
        return Shard(url, None, None, prepared=False)
    tar = parse_marker(marker, f"marker of {shown_url(url)}")["files"]["tar"]
    return Shard(url, tar["bytes"], tar["sha256"], prepared=True)


def manifest_rows(root: str, split: str, columns: Sequence[str], cache: CacheConfig) -> pa.Table | None:
    """Read columns of a split's manifest, failed clips included; None if there is no such manifest.

    Args:
        root: Folder or URL of the dataset.
        split: Name of the split.
        columns: Columns of CLIP_SCHEMA, or extra ones.
        cache: Credentials and retries for a remote dataset.

    Raises:
        ManifestError: The file is not a manifest.
    """
    return _manifest(f"{root}/manifest/{split}.parquet", cache, columns)


def manifest_table(root: str, split: str, cache: CacheConfig) -> pa.Table:
    """A split's manifest with all its columns: a row for each requested clip, failed ones included.

    Raises:
        ManifestError: The file is missing or no manifest.
    """
    where = f"{root}/manifest/{split}.parquet"
    path = local_path(where)
    content = path if path is not None else read_content(where, cache)
    if content is None or (path is not None and not path.exists()):
        raise ManifestError(f"{shown_url(where)}: missing. Run the same prepare again.")
    return read_table(io.BytesIO(content) if isinstance(content, bytes) else content, CLIP_SCHEMA, where=where)


def _manifest(
    where: str, cache: CacheConfig, columns: Sequence[str] | None = None, condition: Condition | None = None
) -> pa.Table | None:
    """The rows of a manifest in these columns and those of the condition; None: those a dataset is built from."""
    path = local_path(where)
    source: Path | io.BytesIO | None = path
    if path is None:
        content = read_content(where, cache)
        source = None if content is None else io.BytesIO(content)
    elif not path.exists():
        source = None
    if source is None:
        return None
    full = read_schema(source, CLIP_SCHEMA, where=where)
    names = read_names(full) if columns is None else columns
    if condition is not None:
        names = list(dict.fromkeys([*names, *condition.columns(full, shown_url(where))]))
    return read_table(source, CLIP_SCHEMA, names, where=where)
