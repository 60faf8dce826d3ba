"""Indexes tars that other tools wrote, so that the loader reads them like avkit's own."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa

from avdata.shards import Member, TarSample, tar_samples
from avmanifest.columns import CLIP_COLUMNS, flags, named
from avmanifest.errors import ShardError
from avmanifest.files import sha256_of
from avmanifest.parsing import metadata_of
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.secrets import identity as url_identity
from avmanifest.secrets import shown_url
from avmanifest.table import kept_table

SCHEMA: Final = pa.schema([CLIP_SCHEMA.field(name) for name in ("key", "labels", "status", "members", "frame_times_s")])

_INDEX_VERSION: Final = 2  # raised when other samples are found in the same tar


def foreign_rows(descriptor: int, url: str, label: str, index_folder: Path) -> pa.Table:
    """Index an open tar. Returns one manifest row per sample, with status `ok` and without hashes and flags.

    The index is stored in index_folder and reused while the size and modification time of the tar stay the same.

    Args:
        descriptor: File descriptor of the tar.
        url: Its URL, for messages and for the name of the index.
        label: Where labels are: see `MemberMap.label`.
        index_folder: Where indexes are stored.

    Raises:
        ShardError: The tar is damaged or truncated. The message has the tar and the byte.
    """
    stat = os.fstat(descriptor)
    identity = f"{_INDEX_VERSION}\n{url_identity(url)}\n{stat.st_size}\n{stat.st_mtime_ns}\n{label}"
    index = index_folder / f"{sha256_of(identity)[:40]}.index.parquet"

    def walk() -> pa.Table:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            try:
                return pa.Table.from_pylist(list(_walk(file, label)), schema=SCHEMA)
            except ShardError as error:
                raise ShardError(f"{shown_url(url)}: {error}") from error

    table = kept_table(index, SCHEMA, walk)
    for name in ("member_xxh3", "mel_block_xxh3", *named(flags(CLIP_COLUMNS))):
        field = CLIP_SCHEMA.field(name)
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def _walk(file: IO[bytes], label: str) -> Iterator[dict[str, Any]]:
    """Rows of a manifest, in file order."""
    label_member = label.partition(":")[0]
    for sample in tar_samples(file, read=label_member, adjacent=True):
        labels = []
        for member in sample.members:
            if label and member.name == label_member:
                labels = _labels(sample, member, label)
        members = [{"name": m.name, "offset": m.offset, "size": m.size} for m in sample.members]
        yield {"key": sample.key, "labels": labels, "status": "ok", "members": members, "frame_times_s": []}


def _labels(sample: TarSample, member: Member, label: str) -> list[str]:
    where = f"{sample.key}.{member.name}"
    if sample.content is None:
        raise ShardError(f"{where!r} of {member.size} bytes is no label")
    try:
        text = sample.content.decode().strip()
    except UnicodeDecodeError as error:
        raise ShardError(f"{where!r} gives no label {label!r} ({error})") from error
    value: Any = text
    if label.startswith("json:"):
        value = metadata_of(text).get(label.removeprefix("json:"))
    names = value if isinstance(value, list) else [value]
    if wrong := [name for name in names if not _is_name(name)]:
        raise ShardError(f"{where!r} gives no label {label!r}: {repr(wrong[0])[:80]} is no text and no number")
    return [str(name) for name in names]


def _is_name(value: Any) -> bool:
    """Whether the value can be a label: a text, a whole number or a finite one."""
    return (isinstance(value, str) and "\0" not in value) or (isinstance(value, int | float) and math.isfinite(value))
