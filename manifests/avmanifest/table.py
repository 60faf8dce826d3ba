"""Reading and writing of parquet files with a schema check. Equal rows give equal bytes.

Every page of a file has a checksum, which is checked when the page is read.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avmanifest.columns import CLIP_COLUMNS, extra_columns, with_extra
from avmanifest.errors import ManifestError
from avmanifest.files import replacing, require_file
from avmanifest.schema import is_optional

_Rows = TypeVar("_Rows", pa.Table, pa.RecordBatch)
_NEVER_NULL: Final = frozenset(column.name for column in CLIP_COLUMNS if not column.nullable)
_PLACE: Final = ("name", "offset", "size")  # of a member
_MANY_ROWS: Final = 10_000
_LARGEST: Final = 2**60  # so that the sum of an offset and a size has 64 bits
_last: tuple[pa.Schema, pa.Schema, pa.Schema] = (pa.schema([]), pa.schema([]), pa.schema([]))
"""Of the file that was opened last: its schema, the one that was asked for, and what `_full_schema` found."""
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


def table_from_columns(columns: Mapping[str, pa.Array | pa.ChunkedArray], num_rows: int, schema: pa.Schema) -> pa.Table:
    """A table of this schema. Columns that are not given are null."""
    arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(num_rows, f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a parquet file. Compression and layout are fixed, so that equal tables give equal bytes."""
    with open_writer(path, table.schema) as writer:
        writer.write_table(table)


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer for a table that is written in several pieces."""
    return pq.ParquetWriter(path, schema, compression="zstd", version="2.6", write_page_checksum=True)


def read_table(
    source: Path | BinaryIO,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    *,
    where: str = "",
    check: bool = True,
) -> pa.Table:
    """Read a parquet file of this schema.

    Optional columns that an older file lacks are filled with nulls. Columns that are neither in the schema nor declared
    as extra columns (`columns.extra_columns`) are left out.

    Args:
        source: The file, or its content.
        schema: The columns and types that the file must have.
        columns: The columns to read, extra ones too. None: all of the schema, then the extra columns of the file.
        where: Name of the file in messages. Empty: its path.
        check: Look at the values. Without, `check_rows` has to follow: for many tables at once that is much less work.

    Raises:
        ManifestError: The file cannot be read or is damaged, or a column is missing or has another type.
    """
    with _open(source, schema, where) as (file, name, full), _damage(name):
        fields = _chosen(full, columns, name)
        threads = file.metadata.num_rows > _MANY_ROWS  # dividing less among threads takes longer than reading it
        rows = file.read(_present(file, fields), use_threads=threads)
        return completed(_checked(rows, name, schema) if check else rows, fields)


def check_rows(rows: pa.Table, schema: pa.Schema, where: str) -> None:
    """Raise ManifestError, which names `where`, for values that `read_table` refuses."""
    with _damage(where):
        _checked(rows, where, schema)


def read_schema(source: Path | BinaryIO, schema: pa.Schema, *, where: str = "") -> pa.Schema:
    """The schema of what `read_table` reads from a file: `schema`, and the extra columns that the file declares.

    Raises ManifestError as `read_table` does.
    """
    with _open(source, schema, where) as (_, _, full):
        return full


def read_metadata(path: Path) -> Mapping[bytes, bytes]:
    """The metadata of a parquet file and of its schema. Raises ManifestError if the file cannot be read."""
    with _open(path, pa.schema([]), "") as (file, _, _):
        return dict(file.metadata.metadata or {}) | dict(file.schema_arrow.metadata or {})


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
) -> Generator[pa.RecordBatch, None, None]:
    """Read a parquet file in batches of at most `rows` rows, to bound memory. As `read_table` otherwise."""
    with _open(source, schema, where) as (file, name, full):
        fields = _chosen(full, columns, name)
        batches = file.iter_batches(batch_size=rows, columns=_present(file, fields))
        while True:
            with _damage(name):
                batch = next(batches, None)
                if batch is None:
                    return
                part = completed(_checked(batch, name, schema), fields)
            yield part


@contextlib.contextmanager
def _open(source: Path | BinaryIO, schema: pa.Schema, where: str) -> Iterator[tuple[pq.ParquetFile, str, pa.Schema]]:
    """Open a parquet file and check its columns and types.

    Yields the file, its name for messages, and the schema with the file's extra columns.
    """
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
        yield file, name, _full_schema(file.schema_arrow, schema, name)


def _full_schema(present: pa.Schema, schema: pa.Schema, name: str) -> pa.Schema:
    """`schema` and the extra columns of a file that has these columns. Raises ManifestError if it lacks one."""
    global _last  # noqa: PLW0603 - the files of many shards have one schema
    had, asked, full = _last
    if asked is schema and present.equals(had, check_metadata=True):
        return full
    names = present.names
    for field in schema:
        if names.count(field.name) > 1:
            raise ManifestError(f"{name}: column {field.name!r} is there twice. Run the same prepare again.")
        if field.name not in names:
            if is_optional(field):
                continue
            raise ManifestError(f"{name}: no column {field.name!r}; it has {names}")
        found = present.field(field.name).type
        if not found.equals(field.type):
            raise ManifestError(f"{name}: column {field.name!r} is {found}, must be {field.type}")
    extra = extra_columns(pa.schema([field for field in present if field.name not in schema.names]))
    if twice := [column.name for column in extra if names.count(column.name) > 1]:
        raise ManifestError(f"{name}: column {twice[0]!r} is there twice. Run the same prepare again.")
    full = with_extra(schema, extra)
    _last = present, schema, full
    return full


@contextlib.contextmanager
def _damage(name: str) -> Iterator[None]:
    """Convert an error in reading the content into a ManifestError."""
    try:
        yield
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def _checked(part: _Rows, name: str, schema: pa.Schema) -> _Rows:
    """The rows, if their values can be used. Raises ManifestError for the first column with one that cannot.

    Arrow reads texts that are not UTF-8 and lists that point outside of their values without a word: `validate` finds
    them. Nulls, numbers that are not finite and negative places would go wrong far from here. Extra columns may have
    nulls and negative numbers.
    """
    part.validate(full=True)
    for column in part.schema.names:
        values = part.column(column)
        if column not in schema.names:
            if not all(pc.all(pc.is_finite(numbers), min_count=0).as_py() for numbers in _floats(values)):
                raise ManifestError(
                    f"{name}: column {column!r} has a number that is not finite. Run the same prepare again."
                )
            continue
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


def _floats(values: pa.Array | pa.ChunkedArray) -> Iterator[pa.Array | pa.ChunkedArray]:
    """All numbers with a fraction in a column, also those in its lists and structs."""
    if pa.types.is_list(values.type):
        yield from _floats(pc.list_flatten(values))
    elif pa.types.is_struct(values.type):
        for place in range(values.type.num_fields):
            yield from _floats(pc.struct_field(values, [place]))
    elif pa.types.is_floating(values.type):
        yield values


def _are_places(values: pa.Array | pa.ChunkedArray) -> bool:
    """Whether all numbers are from 0 to _LARGEST."""
    ends = pc.min_max(values)
    return (ends["min"].as_py() or 0) >= 0 and (ends["max"].as_py() or 0) <= _LARGEST


def _unreadable(name: str, error: Exception) -> ManifestError:
    return ManifestError(f"{name}: not a readable parquet file ({error}). Run the same prepare again.")


def _chosen(full: pa.Schema, columns: Sequence[str] | None, name: str) -> list[pa.Field]:
    """The fields of these columns. Raises ManifestError for a name that the schema does not have."""
    if columns is None:
        return list(full)
    if unknown := [column for column in columns if column not in full.names]:
        raise ManifestError(f"{name}: no column {unknown[0]!r}; known: {', '.join(full.names)}")
    return [full.field(column) for column in columns]


def _present(file: pq.ParquetFile, fields: Sequence[pa.Field]) -> list[str]:
    """The columns to read that the file has."""
    there = set(file.schema_arrow.names)
    return [field.name for field in fields if field.name in there]


def completed(part: _Rows, fields: Sequence[pa.Field] | pa.Schema) -> _Rows:
    """The rows with exactly these columns, in this order. Missing ones are null."""
    there = set(part.schema.names)
    arrays = [
        part.column(field.name) if field.name in there else pa.nulls(part.num_rows, field.type) for field in fields
    ]
    return type(part).from_arrays(arrays, schema=pa.schema(fields))
