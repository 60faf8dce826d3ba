"""Parquet files of a dataset in a store, checked against the schema that they must have."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from avdata.store import Store
from avmanifest.errors import ManifestError, ShardError
from avmanifest.table import read_batches, read_table


def read_stored_table(store: Store, name: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet file as `avmanifest.table.read_table` does. Raises ManifestError as it does."""
    return read_table(_source(store, name), schema, columns, where=store.at(name))


def read_stored_batches(
    store: Store, name: str, schema: pa.Schema, columns: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """Read a parquet file as `avmanifest.table.read_batches` does. Raises ManifestError as it does."""
    yield from read_batches(_source(store, name), schema, columns, rows, where=store.at(name))


def _source(store: Store, name: str) -> Path | io.BytesIO:
    if store.is_local:
        return Path(store.path(name))
    try:
        return io.BytesIO(store.content(name))
    except ShardError as error:
        raise ManifestError(f"{store.at(name)}: cannot be read ({error}). Run the same prepare again.") from error
