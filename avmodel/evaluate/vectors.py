"""Vectors of features as files have them: Parquet with a key, and a fixed-size list of float32 for each stream.

No torch is imported: `avmodel.evaluate.store` writes such files, and `avkit inspect --embedding` draws them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32

from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import require_file
from avmodel.evaluate.embed.config import EMBEDDINGS

ADVICE: Final = "Delete it: it is made again."


def find_parts(path: Path) -> list[Path]:
    """The files of vectors at a path: one file, a folder of parts, or the --out of `avkit evaluate embed`.

    Raises ConfigError if there is none.
    """
    if path.is_file():
        return [path]
    for folder in (path, path / EMBEDDINGS):
        if parts := sorted(folder.glob("part-*.parquet")):
            return parts
    raise ConfigError(
        f"{path}: no embedding. Give the --out of `avkit evaluate embed`, or a parquet file with the columns key and "
        "one list of float32 for each stream."
    )


def read_keys(parts: Sequence[Path], advice: str = ADVICE) -> list[str]:
    """The keys of all parts, in order. Raises ManifestError as `read_vectors`."""
    return [key for path in parts for key in _read_part(path, advice, ["key"]).column("key").to_pylist()]


def read_vectors(
    parts: Sequence[Path], advice: str = ADVICE, keys: Sequence[str] | None = None
) -> tuple[list[str], dict[str, Float32[np.ndarray, "n _"]]]:
    """The keys of all parts, in order, and the vectors of each stream.

    Args:
        parts: The files.
        advice: What a message ends with.
        keys: Read the vectors of these alone; None: all.

    Raises:
        ManifestError: A part is damaged, is not of features, or has other columns than the first.
    """
    tables: list[pa.Table] = []
    for path in parts:
        table = _read_part(path, advice)
        if tables and table.schema != tables[0].schema:
            raise ManifestError(f"{path}: has other columns than the first part. {advice}")
        if keys is not None:
            table = table.filter(pc.is_in(table.column("key"), value_set=pa.array(keys, pa.string())))
        tables.append(table)
    table = pa.concat_tables(tables)
    values = {}
    for name in table.column_names:
        if name in ("key", "labels"):
            continue
        column = table.column(name).combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        values[name] = flat.reshape(len(table), column.type.list_size).copy()
    return table.column("key").to_pylist(), values


def _read_part(path: Path, advice: str, columns: list[str] | None = None) -> pa.Table:
    try:
        require_file(path)
        table = pq.read_table(path, columns=columns, page_checksum_verification=True).replace_schema_metadata(None)
        table.validate(full=True)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ManifestError(f"{path}: not a part of features ({error}). {advice}") from error
    for field in table.schema:
        wanted = field.name == "labels" or (
            pa.types.is_string(field.type)
            if field.name == "key"
            else pa.types.is_fixed_size_list(field.type) and pa.types.is_float32(field.type.value_type)
        )
        if not wanted or table.column(field.name).null_count:
            raise ManifestError(f"{path}: column {field.name!r} is not one of features. {advice}")
    if "key" not in table.column_names:
        raise ManifestError(f"{path}: no column of keys. {advice}")
    return table
