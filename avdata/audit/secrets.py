"""Finds and removes passwords and tokens of URLs that earlier versions of avkit stored in a dataset.

They stood in two columns of the manifest's rows: `source`, and `reason` with the message of an error. Both can be
cleaned. An id or an annotation with a secret is part of the plan and of the samples: only preparing again removes it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avdata.prepare.catalog import write_index
from avdata.prepare.commit import marker_bytes, read_stats
from avdata.prepare.description import read_description
from avmanifest.columns import extra_columns
from avmanifest.errors import ManifestError, ShardError
from avmanifest.files import read_file, replace_text, replacing, sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.parsing import parse_object
from avmanifest.secrets import shown_source, stored_text, without_secrets
from avmanifest.table import write_table

CLEANABLE: Final[dict[str, Callable[[str], str]]] = {"source": shown_source, "reason": without_secrets}
"""Columns that can be cleaned, and how."""

PLANNED: Final[dict[str, Callable[[str], str]]] = {"video_id": stored_text, "annotations": stored_text}
"""Columns that come from the list."""


def checked_columns(schema: pa.Schema) -> dict[str, Callable[[str], str]]:
    """The columns of a manifest that are searched for secrets: those above, and extra columns of texts."""
    own = {column.name: stored_text for column in extra_columns(schema) if pa.types.is_string(column.dtype)}
    return CLEANABLE | PLANNED | own


ADVICE: Final = (
    "`avkit verify DATASET --repair` removes them from manifests. In tars, and in the columns video_id and "
    "annotations, they come from the list: prepare again with --overwrite."
)
"""What to do about secrets in a dataset."""

_SUSPECT: Final = r"://|:/\w|@|=|hf_|gh[oprsu]_|A[KS]IA|(?i:authorization|cookie|bearer)"
_REDO: Final = "clean-"  # folder in _tmp: the files of a shard that are about to replace the present ones


def num_secrets(table: pa.Table, columns: Mapping[str, Callable[[str], str]]) -> int:
    """Number of rows that have a secret in one of the columns."""
    found = [changed for name in columns if name in table.column_names and (changed := _changed(table, name, columns))]
    return len(set().union(*(rows for rows, _ in found)))


def shown_rows(table: pa.Table) -> pa.Table:
    """The rows without the secrets of the columns CLEANABLE; other columns stay as they are."""
    for name in CLEANABLE:
        if name in table.column_names and (changed := _changed(table, name, CLEANABLE)):
            rows, values = changed
            column = table.column(name)
            mask = pa.array([row in rows for row in range(len(table))])
            replaced = pc.replace_with_mask(pa.array(column.to_pylist(), column.type), mask, values)
            table = table.set_column(table.column_names.index(name), table.schema.field(name), replaced)
    return table


def _changed(
    table: pa.Table, name: str, columns: Mapping[str, Callable[[str], str]]
) -> tuple[dict[int, None], pa.Array] | None:
    """The numbers of the rows with a secret in a column, in order, and what they become; None if there are none."""
    column = table.column(name)
    suspects = pc.indices_nonzero(pc.fill_null(pc.match_substring_regex(column, _SUSPECT), False))
    if not len(suspects):
        return None
    texts = column.take(suspects).to_pylist()
    shown = {text: columns[name](text) for text in set(texts)}
    rows = {int(row): text for row, text in zip(suspects.to_pylist(), texts, strict=True) if shown[text] != text}
    if not rows:
        return None
    return dict.fromkeys(rows), pa.array([shown[text] for text in rows.values()], column.type)


def clean(layout: Layout) -> list[str]:
    """Clean the rows of all shards and manifests of a dataset; the names of the files that were rewritten.

    A shard's rows and its marker are prepared beside, then both replaced. A run that is killed in between is completed
    by the next call. The tars are not touched. The caller holds the publishing lock.

    Raises:
        ManifestError: A file cannot be read.
        OSError: A file cannot be written.
    """
    layout.temporary.mkdir(parents=True, exist_ok=True)
    cleaned = [layout.name(path) for path in _complete(layout)]
    for split in layout.splits():
        for shard in layout.shards(split):
            if _is_whole(layout, shard) and (table := _to_clean(layout.clips(shard))) is not None:
                folder = layout.temporary / f"{_REDO}{shard.split}-{shard.number:05d}"
                with replacing(folder, durable=True) as unfinished:
                    _prepare(layout, shard, table, unfinished)
                cleaned += [layout.name(path) for path in _complete(layout)]
        manifest = layout.manifest(split)
        if (table := _to_clean(manifest)) is not None:
            with replacing(manifest, durable=True) as unfinished:
                write_table(table, unfinished)
            cleaned.append(layout.name(manifest))
            if layout.sample_index(split).exists():
                write_index(layout, split, read_description(layout))
    if _update_croissant(layout):
        cleaned.append(layout.name(layout.croissant))
    return list(dict.fromkeys(cleaned))


def _to_clean(path: Path) -> pa.Table | None:
    """The cleaned rows of a parquet file; None if it has no secrets, or is missing."""
    if not path.exists():
        return None
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: not a readable parquet file ({error}). Run the same prepare again.") from error
    return shown_rows(table) if num_secrets(table, CLEANABLE) else None


def _is_whole(layout: Layout, shard: ShardName) -> bool:
    """Whether the rows are those of the marker. Others are damaged: `verify` says so, and nothing makes them good."""
    try:
        expected = read_stats(layout, shard)["files"]["parquet"]
        return layout.clips(shard).exists() and sha256_of_file(layout.clips(shard)) == expected["sha256"]
    except ShardError:
        return False


def _prepare(layout: Layout, shard: ShardName, table: pa.Table, folder: Path) -> None:
    """Write a shard's cleaned rows, and the marker that belongs to them, into a folder."""
    folder.mkdir(parents=True)
    clips = folder / layout.clips(shard).name
    write_table(table, clips)
    stats = read_stats(layout, shard)
    stats["files"]["parquet"] = {"bytes": clips.stat().st_size, "sha256": sha256_of_file(clips)}
    (folder / layout.stats(shard).name).write_bytes(marker_bytes(stats))


def _complete(layout: Layout) -> Iterator[Path]:
    """Give the prepared files their places: rows first, then the marker. Yields the paths that were replaced."""
    for folder in sorted(layout.temporary.glob(f"{_REDO}*")):
        split, _, number = folder.name.removeprefix(_REDO).rpartition("-")
        shard = ShardName(split, int(number))
        for path in (layout.clips(shard), layout.stats(shard)):
            prepared = folder / path.name
            if prepared.exists():
                prepared.replace(path)
                yield path
        folder.rmdir()


def _update_croissant(layout: Layout) -> bool:
    """Let croissant.json have the hashes of the manifests as they are now; whether it was rewritten."""
    if not layout.croissant.exists():
        return False
    content = parse_object(read_file(layout.croissant), layout.croissant)
    manifests = {layout.name(path): path for path in map(layout.manifest, layout.splits()) if path.exists()}
    stale = [
        (entry, sha256)
        for entry in content.get("distribution", [])
        if (path := manifests.get(entry.get("contentUrl"))) and (sha256 := sha256_of_file(path)) != entry.get("sha256")
    ]
    for entry, sha256 in stale:
        entry["sha256"] = sha256
    if stale:
        replace_text(layout.croissant, json.dumps(content, indent=1, ensure_ascii=False) + "\n", durable=True)
    return bool(stale)
