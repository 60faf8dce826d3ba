"""Parquet in and out, checked against a schema and written so that equal rows give equal bytes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avmanifest.errors import ManifestError


def table_from_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; ManifestError names the row and the column that do not fit the schema."""
    known = set(schema.names)
    for number, row in enumerate(rows):
        if wrong := (row.keys() ^ known):
            raise ManifestError(f"row {number}: columns {sorted(wrong)} are missing or unknown; known: {schema.names}")
    columns = []
    for field in schema:
        try:
            columns.append(pa.array([row[field.name] for row in rows], field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ManifestError(f"column {field.name!r} holds a value that is not {field.type}: {error}") from error
    return pa.Table.from_arrays(columns, schema=schema)


def write_table(table: pa.Table, path: Path) -> None:
    """Write one parquet file. Compression and layout are fixed: equal tables give equal bytes."""
    with open_writer(path, table.schema) as writer:
        writer.write_table(table)


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer for tables that come piece by piece."""
    return pq.ParquetWriter(path, schema, compression="zstd", version="2.6")


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet file that must have this schema; `columns` reads only those.

    Raises ManifestError, naming the file and the column, for a file that cannot be read or has other columns.
    """
    with open_parquet(path, schema) as file:
        return file.read(columns=None if columns is None else list(columns))


def read_batches(
    path: Path, schema: pa.Schema, columns: Sequence[str] | None = None, rows: int = 16_384
) -> Iterator[pa.RecordBatch]:
    """The file in batches of at most `rows` rows, for work in bounded memory."""
    with open_parquet(path, schema) as file:
        yield from file.iter_batches(batch_size=rows, columns=None if columns is None else list(columns))


def open_parquet(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    """An open parquet file whose columns and types were checked against the schema."""
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file. Is this a dataset that `avkit prepare` finished?") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{path}: not a readable parquet file ({error}). Run the same prepare again.") from error
    found = file.schema_arrow
    for field in schema:
        if field.name not in found.names:
            file.close()
            raise ManifestError(f"{path}: no column {field.name!r}; it has {found.names}")
        if not found.field(field.name).type.equals(field.type):
            wrong = found.field(field.name).type
            file.close()
            raise ManifestError(f"{path}: column {field.name!r} is {wrong}, must be {field.type}")
    return file
