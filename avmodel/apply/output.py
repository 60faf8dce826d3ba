"""Results that grow window by window and appear whole."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from soundfile import LibsndfileError

from avmanifest.errors import StorageError
from avmanifest.files import replacing
from avmanifest.secrets import shown_content

_NOTE = b"avkit"
_GROUP_ROWS = 256


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file, or a folder, that stands at `path` at the end of the block, or not at all.

    An older one is replaced then. Raises StorageError for what the disk doesn't take.
    """
    try:
        with replacing(path, durable=True) as unfinished:
            yield unfinished
    except (OSError, LibsndfileError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise StorageError(f"{path}: not written ({reason or error}). Free space, or give another --out.") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The content as JSON, whole or not at all."""
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(shown_content(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class Rows:
    """Rows of a Parquet file under way. Made by `parquet_rows`."""

    def __init__(self, path: Path, note: Mapping[str, Any]) -> None:
        self.num_rows = 0
        self._path, self._note = path, {_NOTE: json.dumps(note).encode()}
        self._waiting: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def append(self, **row: float | str | Float[np.ndarray, " _"]) -> None:
        """Append a row. All rows have the first row's columns and vector lengths."""
        self._waiting.append(row)
        self.num_rows += 1
        if len(self._waiting) == _GROUP_ROWS:
            self.write_group()

    def write_group(self) -> None:
        """Put the rows that wait into a row group."""
        if not self._waiting:
            return
        table = pa.table({name: _column([row[name] for row in self._waiting]) for name in self._waiting[0]})
        if self._writer is None:
            schema = table.schema.with_metadata(self._note)
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd", write_page_checksum=True)
        self._writer.write_table(table.replace_schema_metadata(self._note))
        self._waiting = []

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def parquet_rows(path: Path, note: Mapping[str, Any]) -> Iterator[Rows]:
    """Rows that are written, group by group, to a file that appears whole; its metadata has the note under `avkit`."""
    with whole(path) as unfinished:
        rows = Rows(unfinished, note)
        try:
            yield rows
            rows.write_group()
        finally:
            rows.close()


def _column(values: list[Any]) -> pa.Array:
    if not isinstance(values[0], np.ndarray):
        return pa.array(values)
    flat = pa.array(np.stack(values).astype(np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, len(values[0]))
