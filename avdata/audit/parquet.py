"""Parquet files of a dataset in a store, checked against the schema that they must have."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from avdata.store import Store
from avmanifest.errors import ManifestError, ShardError
from avmanifest.table import read_batches, read_schema, read_table


def read_stored_table(store: Store, name: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet file as `avmanifest.table.read_table` does. Raises ManifestError as it does."""
    return read_table(_source(store, name), schema, columns, where=store.at(name))


def read_stored_batches(
    store: Store, name: str, schema: pa.Schema, choose: Callable[[pa.Schema], Sequence[str]], rows: int
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Read a parquet file as `avmanifest.table.read_batches` does. Raises ManifestError as it does.

    Args:
        store: Where the file is.
        name: Its name.
        schema: The columns that it must have.
        choose: The columns to read, from the schema of the file with its extra columns.
        rows: Rows of a batch, at most.

    Returns:
        The schema of the file with its extra columns, and the rows. A remote file is fetched once.
    """
    source, where = _source(store, name), store.at(name)
    full = read_schema(source, schema, where=where)
    return full, read_batches(source, schema, choose(full), rows, where=where)


def _source(store: Store, name: str) -> Path | io.BytesIO:
    if store.is_local:
        return Path(store.path(name))
    try:
        return io.BytesIO(store.content(name))
    except ShardError as error:
        raise ManifestError(f"{store.at(name)}: cannot be read ({error}). Run the same prepare again.") from error
