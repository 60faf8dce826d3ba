"""Reading and writing of parquet files with a schema check. Equal rows give equal bytes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avmanifest.errors import ManifestError


def table_from_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of the schema. Raises ManifestError that names the row or column that does not match."""
    columns_of_schema = set(schema.names)
    for number, row in enumerate(rows):
        if wrong := (row.keys() ^ columns_of_schema):
            raise ManifestError(f"row {number}: columns {sorted(wrong)} are missing or unknown; known: {schema.names}")
    columns = []
    for field in schema:
        try:
            columns.append(pa.array([row[field.name] for row in rows], field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ManifestError(f"column {field.name!r} has a value that is not {field.type}: {error}") from error
    return pa.Table.from_arrays(columns, schema=schema)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a parquet file. Compression and layout are fixed, so that equal tables give equal bytes."""
    with open_writer(path, table.schema) as writer:
        writer.write_table(table)


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer for a table that is written in several pieces."""
    return pq.ParquetWriter(path, schema, compression="zstd", version="2.6")


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet file that must have this schema.

    Args:
        path: The file.
        schema: The columns and types that the file must have.
        columns: The columns to read. None: all.

    Raises:
        ManifestError: The file cannot be read, or a column is missing or has another type.
    """
    with open_parquet(path, schema) as file:
        return file.read(columns=None if columns is None else list(columns))


def read_batches(
    path: Path, schema: pa.Schema, columns: Sequence[str] | None = None, rows: int = 16_384
) -> Iterator[pa.RecordBatch]:
    """Read a parquet file in batches of at most `rows` rows, to bound memory. Errors as for `read_table`."""
    with open_parquet(path, schema) as file:
        yield from file.iter_batches(batch_size=rows, columns=None if columns is None else list(columns))


def open_parquet(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    """Open a parquet file and check its columns and types. Raises ManifestError as `read_table` does."""
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file. Check that `avkit prepare` has finished this dataset.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{path}: not a readable parquet file ({error}). Run the same prepare again.") from error
    present = file.schema_arrow
    for field in schema:
        if field.name not in present.names:
            file.close()
            raise ManifestError(f"{path}: no column {field.name!r}; it has {present.names}")
        if not present.field(field.name).type.equals(field.type):
            wrong = present.field(field.name).type
            file.close()
            raise ManifestError(f"{path}: column {field.name!r} is {wrong}, must be {field.type}")
    return file
