"""The table of columns, and extra columns: the user's and those of steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from avmanifest.columns import (
    CLIP_COLUMNS,
    NAME_PATTERN,
    NEAR_DUPLICATE_OF,
    Column,
    check_extra,
    columns_of,
    extra_columns,
    flags,
    schema_of,
    type_as_json,
    with_extra,
)
from avmanifest.errors import ManifestError
from avmanifest.records import columns_of_description
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_batches, read_schema, read_table, write_table

NESTED = pa.list_(pa.struct([("name", pa.string()), ("scores", pa.list_(pa.float64()))]))
OWN = (
    Column(name="caption", dtype=pa.string(), meaning="of the list", in_json=True, source="list"),
    Column(name="turn", dtype=pa.int64(), meaning="of the list", unit="degrees", title="turn", source="list"),
    Column(name="black", dtype=pa.bool_(), meaning="no picture", flag=True, in_json=True, source="step black"),
    Column(name="speakers", dtype=NESTED, meaning="of the list", source="list"),
)
ROWS = [
    {"key": "a", "caption": "rain", "turn": -90, "black": True, "speakers": [{"name": "x", "scores": [0.5]}]},
    {"key": "b", "caption": None, "turn": None, "black": None, "speakers": None},
]
KEY = schema_of(CLIP_COLUMNS[:1])


def written(path: Path, columns: tuple[Column, ...] = OWN) -> Path:
    names = ["key", *(column.name for column in columns)]
    rows = [{name: row[name] for name in names} for row in ROWS]
    write_table(pa.Table.from_pylist(rows, with_extra(KEY, columns)), path)
    return path


def test_a_column_is_the_same_after_parquet_and_after_json(tmp_path: Path) -> None:
    stored = read_schema(written(tmp_path / "rows.parquet"), KEY)
    assert extra_columns(stored) == OWN
    assert columns_of_description({"columns": [column.as_dict() for column in OWN]}, "dataset.json") == OWN
    assert columns_of(CLIP_SCHEMA) == tuple(replace(column, nullable=True) for column in CLIP_COLUMNS)


def test_extra_columns_are_read_with_the_rows_and_may_be_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.parquet")
    assert read_table(path, KEY).to_pylist() == ROWS
    assert [row for batch in read_batches(path, KEY, rows=1) for row in batch.to_pylist()] == ROWS
    assert read_table(path, KEY, ["black"]).to_pylist() == [{"black": True}, {"black": None}]
    assert [column.name for column in flags(extra_columns(read_schema(path, KEY)))] == ["black"]
    with pytest.raises(ManifestError, match=r"rows.parquet: no column 'blak'; known: key, caption, turn"):
        read_table(path, KEY, ["blak"])


def test_names_of_the_contract_match_the_pattern_and_no_extra_column_has_one() -> None:
    assert all(NAME_PATTERN.fullmatch(column.name) for column in CLIP_COLUMNS)
    taken = Column(name="status", dtype=pa.string(), meaning="", source="list")
    with pytest.raises(ValueError, match="avkit has a column of this name"):
        check_extra(taken)
    assert extra_columns(pa.schema([taken.field])) == ()
    of_manifest = replace(taken, name=NEAR_DUPLICATE_OF.name)
    with pytest.raises(ValueError, match="avkit has a column of this name"):
        check_extra(of_manifest)
    assert extra_columns(pa.schema([of_manifest.field, NEAR_DUPLICATE_OF.field])) == (NEAR_DUPLICATE_OF,)


def test_an_extra_column_of_a_newer_type_is_left_out(tmp_path: Path) -> None:
    newer = Column(name="at", dtype=pa.timestamp("us"), meaning="", source="step clock")
    rows = pa.Table.from_pylist([{"key": "a", "at": 0, "caption": "x"}], with_extra(KEY, [newer, OWN[0]]))
    write_table(rows, tmp_path / "rows")
    assert read_table(tmp_path / "rows", KEY).to_pylist() == [{"key": "a", "caption": "x"}]


@pytest.mark.parametrize(
    "entry",
    [
        "caption",
        {"name": "caption"},
        {"name": "../caption", "type": "string"},
        {"name": "caption", "type": "map"},
        {"name": "caption", "type": {"list": {"of": "string"}}},
        {"name": "caption", "type": "string", "meaning": 3},
        {"name": "caption", "type": "string", "flag": True},
        {"name": "key", "type": "string"},
    ],
)
def test_what_is_no_column_in_a_description_is_refused(entry: Any) -> None:
    with pytest.raises(ManifestError, match=r"dataset\.json: not a column"):
        columns_of_description({"columns": [entry]}, "dataset.json")


def test_a_type_of_many_levels_is_refused() -> None:
    deep: pa.DataType = pa.string()
    for _ in range(9):
        deep = pa.list_(deep)
    with pytest.raises(ValueError, match="more than 8 levels"):
        type_as_json(deep)
    content: Any = "string"
    for _ in range(50):
        content = {"list": content}
    with pytest.raises(ManifestError, match="not a column"):
        columns_of_description({"columns": [{"name": "deep", "type": content}]}, "dataset.json")


def test_a_number_that_is_not_finite_is_refused_at_any_depth(tmp_path: Path) -> None:
    column = OWN[3]
    value = [{"name": "x", "scores": [float("nan")]}]
    write_table(pa.Table.from_pylist([{"key": "a", "speakers": value}], with_extra(KEY, [column])), tmp_path / "rows")
    with pytest.raises(ManifestError, match="'speakers' has a number that is not finite"):
        read_table(tmp_path / "rows", KEY)
