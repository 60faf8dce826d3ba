"""Parquet files of a dataset, checked against the schema that they must have."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from avdata.store import Store
from avmanifest.errors import ManifestError, ShardError


def open_parquet(store: Store, name: str, schema: pa.Schema) -> pq.ParquetFile:
    """Open a parquet file that has the columns of the schema. Raises ManifestError for anything else."""
    where = store.at(name)
    try:
        source = store.path(name) if store.is_local else io.BytesIO(store.content(name))
        file = pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError, ShardError) as error:
        raise ManifestError(f"{where}: not a readable parquet file ({error}). Run the same prepare again.") from error
    for wanted in schema:
        found = file.schema_arrow.field(wanted.name).type if wanted.name in file.schema_arrow.names else None
        if found is None or not found.equals(wanted.type):
            file.close()
            raise ManifestError(f"{where}: column {wanted.name!r} must be {wanted.type}, and is {found or 'missing'}")
    return file
