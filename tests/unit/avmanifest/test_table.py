"""Parquet files of another version of avkit: columns that were added since are null, unknown ones are left out."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avmanifest.errors import ManifestError
from avmanifest.schema import CLIP_SCHEMA, is_optional
from avmanifest.table import read_batches, read_table, table_from_rows, write_table

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("damage", pa.float64(), metadata={"optional": "true"}),
        pa.field("size", pa.int64()),
    ]
)
ROWS = [{"key": f"clip-{number}", "damage": 0.5, "size": number} for number in range(5)]


def written(path: Path, *, without: tuple[str, ...] = (), more: dict[str, pa.Array] | None = None) -> Path:
    table = table_from_rows(ROWS, SCHEMA).drop_columns(list(without))
    for name, values in (more or {}).items():
        table = table.append_column(name, values)
    write_table(table, path)
    return path


def test_an_optional_column_that_an_older_file_lacks_is_null(tmp_path: Path) -> None:
    path = written(tmp_path / "old.parquet", without=("damage",))
    expected = [row | {"damage": None} for row in ROWS]
    assert read_table(path, SCHEMA).to_pylist() == expected
    assert read_table(path, SCHEMA).schema == SCHEMA
    assert [row for batch in read_batches(path, SCHEMA, rows=2) for row in batch.to_pylist()] == expected
    assert read_table(io.BytesIO(path.read_bytes()), SCHEMA, ["damage", "size"]).column_names == ["damage", "size"]


def test_a_column_of_a_newer_version_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "new.parquet", more={"unknown": pa.array(range(5))})
    assert read_table(path, SCHEMA).to_pylist() == ROWS
    assert [row for batch in read_batches(path, SCHEMA, rows=2) for row in batch.to_pylist()] == ROWS


@pytest.mark.parametrize("missing", ["key", "size"])
def test_any_other_missing_column_is_refused(tmp_path: Path, missing: str) -> None:
    path = written(tmp_path / "bad.parquet", without=(missing,))
    with pytest.raises(ManifestError, match=f"bad.parquet: no column '{missing}'"):
        read_table(path, SCHEMA)
    with pytest.raises(ManifestError, match=f"afar: no column '{missing}'"):
        list(read_batches(io.BytesIO(path.read_bytes()), SCHEMA, where="afar"))


def test_an_optional_column_of_another_type_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "bad.parquet", without=("damage",), more={"damage": pa.array(["much"] * 5)})
    with pytest.raises(ManifestError, match="column 'damage' is string, must be double"):
        read_table(path, SCHEMA)


def test_the_columns_of_the_first_release_are_not_optional() -> None:
    assert not any(is_optional(CLIP_SCHEMA.field(name)) for name in ("key", "status", "members", "labels", "shard"))


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    content = written(tmp_path / "rows.parquet", without=("damage",)).read_bytes()
    schema = SCHEMA.remove(SCHEMA.get_field_index("damage"))  # a damaged name of an optional column reads as missing
    expected = read_table(io.BytesIO(content), schema)
    silent = []
    for bit in range(0, len(content) * 8, 5):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = read_table(io.BytesIO(damaged), schema)
        except ManifestError:
            continue
        if found != expected:
            silent.append(bit)
    assert silent == []


def test_a_file_without_checksums_of_its_pages_is_read(tmp_path: Path) -> None:
    pq.write_table(table_from_rows(ROWS, SCHEMA), tmp_path / "old.parquet")
    assert read_table(tmp_path / "old.parquet", SCHEMA).to_pylist() == ROWS
