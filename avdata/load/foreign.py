"""Tars that others wrote: walked once, then read like ours."""

import contextlib
import json
import os
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from avdata.load.dataset import FLAGS
from avmanifest.errors import ShardError
from avmanifest.files import replacing, sha256_of
from avmanifest.schema import CLIP_SCHEMA

SCHEMA: Final = pa.schema([CLIP_SCHEMA.field(name) for name in ("key", "labels", "status", "members", "frame_times_s")])
_MAX_LABEL_BYTES: Final = 1 << 20
_END_BYTES: Final = 2 * tarfile.BLOCKSIZE


def foreign_rows(descriptor: int, url: str, label: str, index_folder: Path) -> pa.Table:
    """One `ok` row per sample of an open tar, as a manifest would have it; flags are null.

    The rows are kept in index_folder and read from there as long as the tar has the same size and time. Raises
    ShardError, naming the tar and the byte, for a tar that is damaged or cut.
    """
    stat = os.fstat(descriptor)
    identity = f"{url}\n{stat.st_size}\n{stat.st_mtime_ns}\n{label}"
    kept = index_folder / f"{sha256_of(identity)[:40]}.index.parquet"
    table = _kept_rows(kept)
    if table is None:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            table = pa.Table.from_pylist(list(_walk(file, url, label)), schema=SCHEMA)
        _keep_rows(table, kept)
    for flag in FLAGS:
        table = table.append_column(flag, pa.nulls(len(table), pa.bool_()))
    return table


def _kept_rows(path: Path) -> pa.Table | None:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        return None
    return table if table.schema.equals(SCHEMA) else None


def _keep_rows(table: pa.Table, path: Path) -> None:
    """Write the index, if that is possible here: without it the tar is walked again the next time."""
    with contextlib.suppress(OSError), replacing(path, shared=True) as unfinished:
        pq.write_table(table, unfinished)


def _walk(file: IO[bytes], url: str, label: str) -> Iterator[dict[str, Any]]:
    """Rows in file order. A sample is what adjacent files share up to the first dot of their name.

    Left out as webdataset does: folders, links, names without a dot or nothing before it, names in `__meta__`.
    """
    seen: set[str] = set()
    row: dict[str, Any] = {"key": None}
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
            for info in tar:
                if info.size < 0 or info.offset_data < end or info.issparse():
                    raise ShardError(
                        f"{url}: {info.name!r} at byte {info.offset} has {info.size} bytes at {info.offset_data}: a "
                        "sparse file, or a damaged header. Pack the archive again."
                    )
                end = info.offset_data + info.size + (-info.size % tarfile.BLOCKSIZE)
                folder, base = posixpath.split(info.name)
                stem, _, member = base.partition(".")
                if not info.isreg() or not stem or not member or "/__" in f"/{info.name}":
                    continue
                key = posixpath.join(folder, stem)
                if key != row["key"]:
                    if key in seen:
                        raise ShardError(f"{url}: members of {key!r} are not adjacent (byte {info.offset})")
                    if row["key"] is not None:
                        yield row
                    seen.add(key)
                    row = {"key": key, "labels": [], "status": "ok", "members": [], "frame_times_s": []}
                name = member.lower()
                row["members"].append({"name": name, "offset": info.offset_data, "size": info.size})
                if label and name == label.partition(":")[0]:
                    row["labels"] = _labels(tar, info, url, label)
    except tarfile.TarError as error:
        raise ShardError(f"{url}: not a whole, uncompressed tar archive ({error})") from error
    if row["key"] is not None:
        yield row
    file.seek(end)
    if file.read(_END_BYTES) != bytes(_END_BYTES):
        raise ShardError(f"{url}: the archive's closing blocks are missing after byte {end}: it was cut, or damaged")


def _labels(tar: tarfile.TarFile, info: tarfile.TarInfo, url: str, label: str) -> list[str]:
    content = tar.extractfile(info)
    if content is None or info.size > _MAX_LABEL_BYTES:
        raise ShardError(f"{url}: {info.name!r} of {info.size} bytes is no label")
    try:
        text = content.read().decode().strip()
        if not label.startswith("json:"):
            return [text]
        found = json.loads(text)[label.removeprefix("json:")]
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{url}: {info.name!r} gives no label {label!r} ({error!r})") from error
    return [str(one) for one in found] if isinstance(found, list) else [str(found)]
