"""Reading and writing of parquet files with a schema check. Equal rows give equal bytes.

Every page of a file has a checksum, which is checked when the page is read.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avmanifest.errors import ManifestError
from avmanifest.files import replacing, require_file
from avmanifest.schema import is_optional

_Rows = TypeVar("_Rows", pa.Table, pa.RecordBatch)
_NEVER_NULL: Final = ("key", "split", "status", "members")
_PLACE: Final = ("name", "offset", "size")  # of a member
_LARGEST: Final = 2**60  # so that the sum of an offset and a size has 64 bits
_UNREADABLE: Final = (pa.ArrowException, OSError, ValueError)  # ValueError: names that are not UTF-8


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
    return pq.ParquetWriter(path, schema, compression="zstd", version="2.6", write_page_checksum=True)


def read_table(
    source: Path | BinaryIO, schema: pa.Schema, columns: Sequence[str] | None = None, *, where: str = ""
) -> pa.Table:
    """Read a parquet file of this schema.

    Optional columns that an older file lacks are filled with nulls. Columns that are not in the schema are left out.

    Args:
        source: The file, or its content.
        schema: The columns and types that the file must have.
        columns: The columns to read. None: all of the schema.
        where: Name of the file in messages. Empty: its path.

    Raises:
        ManifestError: The file cannot be read or is damaged, or a column is missing or has another type.
    """
    with _open(source, schema, where) as (file, name), _damage(name):
        return _completed(_checked(file.read(_present(file, schema, columns)), name), schema, columns)


def kept_table(path: Path, schema: pa.Schema, make: Callable[[], pa.Table]) -> pa.Table:
    """The table of a file that can be made again, such as an index.

    If the file is missing or damaged, the table is made and stored. If it cannot be stored, it is made again next time.
    """
    try:
        return read_table(path, schema)
    except ManifestError:
        table = make()
    with contextlib.suppress(OSError), replacing(path, shared=True) as unfinished:
        write_table(table, unfinished)
    return table


def read_batches(
    source: Path | BinaryIO,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    rows: int = 16_384,
    *,
    where: str = "",
) -> Iterator[pa.RecordBatch]:
    """Read a parquet file in batches of at most `rows` rows, to bound memory. As `read_table` otherwise."""
    with _open(source, schema, where) as (file, name):
        batches = file.iter_batches(batch_size=rows, columns=_present(file, schema, columns))
        while True:
            with _damage(name):
                batch = next(batches, None)
                if batch is None:
                    return
                part = _completed(_checked(batch, name), schema, columns)
            yield part


@contextlib.contextmanager
def _open(source: Path | BinaryIO, schema: pa.Schema, where: str) -> Iterator[tuple[pq.ParquetFile, str]]:
    """Open a parquet file and check its columns and types. Yields the file, and its name for messages."""
    name = where or str(source)
    try:
        if isinstance(source, Path):
            require_file(source)
        file = pq.ParquetFile(source, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise ManifestError(f"{name}: no such file. Check that `avkit prepare` has finished this dataset.") from error
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error
    with file:
        present = file.schema_arrow
        for field in schema:
            if present.names.count(field.name) > 1:
                raise ManifestError(f"{name}: column {field.name!r} is there twice. Run the same prepare again.")
            if field.name not in present.names:
                if is_optional(field):
                    continue
                raise ManifestError(f"{name}: no column {field.name!r}; it has {present.names}")
            found = present.field(field.name).type
            if not found.equals(field.type):
                raise ManifestError(f"{name}: column {field.name!r} is {found}, must be {field.type}")
        yield file, name


@contextlib.contextmanager
def _damage(name: str) -> Iterator[None]:
    """Convert an error in reading the content into a ManifestError."""
    try:
        yield
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def _checked(part: _Rows, name: str) -> _Rows:
    """The rows, if their values can be used. Raises ManifestError for the first column with one that cannot.

    Arrow reads texts that are not UTF-8 and lists that point outside of their values without a word: `validate` finds
    them. Nulls, numbers that are not finite and negative places would go wrong far from here.
    """
    part.validate(full=True)
    for column in part.schema.names:
        values = part.column(column)
        if column in _NEVER_NULL and values.null_count:
            raise ManifestError(f"{name}: column {column!r} has {values.null_count} nulls. Run the same prepare again.")
        if pa.types.is_list(values.type):
            values = pc.list_flatten(values)
            if values.null_count:
                raise ManifestError(f"{name}: a list in column {column!r} has a null. Run the same prepare again.")
        is_member = pa.types.is_struct(values.type)
        for field in [pc.struct_field(values, name) for name in _PLACE] if is_member else [values]:
            problem = ""
            if is_member and field.null_count:
                problem = "a null"
            elif pa.types.is_floating(field.type) and not pc.all(pc.is_finite(field), min_count=0).as_py():
                problem = "a number that is not finite"
            elif pa.types.is_signed_integer(field.type) and not _are_places(field):
                problem = "a number that is negative or too large"
            if problem:
                raise ManifestError(f"{name}: column {column!r} has {problem}. Run the same prepare again.")
    return part


def _are_places(values: pa.Array | pa.ChunkedArray) -> bool:
    """Whether all numbers are from 0 to _LARGEST."""
    ends = pc.min_max(values)
    return (ends["min"].as_py() or 0) >= 0 and (ends["max"].as_py() or 0) <= _LARGEST


def _unreadable(name: str, error: Exception) -> ManifestError:
    return ManifestError(f"{name}: not a readable parquet file ({error}). Run the same prepare again.")


def _present(file: pq.ParquetFile, schema: pa.Schema, columns: Sequence[str] | None) -> list[str]:
    """The columns to read that the file has."""
    there = set(file.schema_arrow.names)
    return [name for name in (schema.names if columns is None else columns) if name in there]


def _completed(part: _Rows, schema: pa.Schema, columns: Sequence[str] | None) -> _Rows:
    """The rows with exactly these columns, in this order. Missing ones are null."""
    fields = list(schema) if columns is None else [schema.field(name) for name in columns]
    arrays = [
        part.column(field.name) if field.name in part.schema.names else pa.nulls(part.num_rows, field.type)
        for field in fields
    ]
    return type(part).from_arrays(arrays, schema=pa.schema(fields))
