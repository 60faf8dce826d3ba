"""Opens prepared folders and shard URLs as a Dataset."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from avdata.dataset import Dataset, Shard, dataset_from_table, read_names, select, unite
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
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.layout import Layout
from avmanifest.records import parse_description, parse_marker, version_problem
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.secrets import shown_url
from avmanifest.table import read_schema, read_table


def open_dataset(
    source: str | Path | Sequence[str | Path],
    split: str | None = None,
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
        split: Split of a prepared folder; None: `train`. Not for shard URLs.
        members: Which member is the frame, the log-mel, the audio, the label. For tars of other tools.
        exclude: Leave out samples with these flags, such as silent, still, short, or a flag of a step.
        where: Keep the samples for which this SQL expression over the manifest's columns is true (null is false), such
            as `rms_dbfs > -45 and 'dog barking' in labels`. Needs a manifest.
        cache: Where remote shards are kept; None: the default cache folder.
        allow_pipe: Permit `pipe:COMMAND` URLs. Commands run without a shell.

    Raises:
        ConfigError: The source does not exist, is ambiguous, or has no samples; or the condition cannot be used.
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
        if len(set(roots)) < len(roots):
            raise ConfigError(f"{source!r} names a folder twice. To repeat samples, use shares: mix(...).")
        parts = [_open_folder(root.rstrip("/"), split or "train", exclude, condition, cache) for root in roots]
        return replace(unite(parts) if len(parts) > 1 else parts[0], access=SampleAccess(cache))
    if split is not None:
        if (missing := _missing_folder(source)) is not None:
            raise ConfigError(f"{missing}: no such folder. Prepare the dataset first, or name one that is there.")
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


def _missing_folder(source: str | Path | Sequence[str | Path]) -> Path | None:
    """The first local path of the source that does not exist and whose name is not that of a tar."""
    for entry in [source] if isinstance(source, str | Path) else source:
        path = local_path(str(entry))
        if path is not None and not path.exists() and not is_tar(path.name):
            return path
    return None


def _open_folder(
    root: str, split: str, exclude: Sequence[str], condition: Condition | None, cache: CacheConfig
) -> Dataset:
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
    path = local_path(root)
    if path is not None and Layout(path).swap.exists():
        raise ManifestError(
            f"{root}: an operation is exchanging its files, or was stopped while it did. Wait, or finish it: "
            f"avkit dataset settle {root}"
        )
    if path is not None and split not in (splits := Layout(path).splits()):
        raise ConfigError(f"{root}: no split {split!r}; known: {', '.join(splits)}")
    members = written_members(description, root)
    index = find_index(root, split, description["labels"], members, cache)
    if index is None:
        raise ConfigError(f"{root}: no split {split!r}, or no manifest of it. Name another, or finish avkit prepare.")
    if unknown := set(exclude) - set(index.flags):
        raise ConfigError(f"unknown flags to exclude {sorted(unknown)}; known: {', '.join(index.flags)}")
    dataset = index.dataset(root)
    if not dataset.frame_names:
        raise ConfigError(f"{root}: no sample has a member {members.image!r}. Prepare with frames.")
    if not exclude and condition is None:
        return dataset
    keep = np.ones(len(dataset), np.bool_)
    if condition is not None:
        keep &= _chosen(f"{root}/manifest/{split}.parquet", condition, len(dataset), cache)
    keep &= ~index.flagged(exclude)
    if not keep.any():
        chosen = "" if condition is None else f", of those where {condition.text}"
        raise ConfigError(f"{shown_url(root)}/{split}: no sample is left without the flags {list(exclude)}{chosen}")
    return select(dataset, keep)


def _chosen(place: str, condition: Condition, count: int, cache: CacheConfig) -> Bool[np.ndarray, " n"]:
    """For which of a manifest's `count` samples, ordered by shard, a condition is true."""
    table = _manifest(place, cache, ["status", "shard"], condition)
    samples = None if table is None else table.filter(pc.equal(table.column("status"), "ok"))
    if samples is None or len(samples) != count:
        raise ManifestError(f"{place}: was changed while it was read. Run the same command again.")
    chosen = condition.chosen(samples, shown_url(place)).to_numpy(zero_copy_only=False)
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
