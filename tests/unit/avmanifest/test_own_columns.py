"""Columns of a table without a use in avkit: which are kept, with which types, and what is said of the others."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avmanifest.columns import extra_columns
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.lists import read_requests
from avmanifest.lists.own_columns import united
from avmanifest.recipe import TableOptions, load_recipe
from avmanifest.schema import REQUEST_SCHEMA

ALL = TableOptions()


def read(path: Path, options: TableOptions = ALL) -> tuple[pa.Table, list[str]]:
    notes: list[str] = []
    return read_requests(load_recipe("table"), path, None, options, notes), notes


def csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "clips.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def jsonl(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def own(table: pa.Table) -> dict[str, list[Any]]:
    return {column.name: table.column(column.name).to_pylist() for column in extra_columns(table.schema)}


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-20", ""], [1, -20, None]),
        (["007", "12", "3"], ["007", "12", "3"]),
        (["+5", "6", ""], ["+5", "6", None]),
        (["0.5", "2", "1e-3"], [0.5, 2.0, 0.001]),
        (["0.5", "nan", ""], [0.5, None, None]),
        (["nan", "NaN", ""], ["nan", "NaN", None]),
        (["00.5", "1.0", "2"], ["00.5", "1.0", "2"]),
        (["123456789012345678", "1", "2"], [123456789012345678, 1, 2]),
        (["12345678901234567890", "1", "2"], ["12345678901234567890", "1", "2"]),
        (["0.12345678901234567", "1", "2"], ["0.12345678901234567", "1", "2"]),
        (["true", "False", ""], [True, False, None]),
        (["true", "yes", "no"], ["true", "yes", "no"]),
        (["2020-01-01", "2020-01-02", "x"], ["2020-01-01", "2020-01-02", "x"]),
        (["Rain.", '"a, ""b"""', "Ω"], ["Rain.", 'a, "b"', "Ω"]),
        (["inf", "1", "2"], ["inf", "1", "2"]),
    ],
)
def test_the_cells_of_a_csv_have_one_type_for_the_whole_column(
    tmp_path: Path, cells: list[str], values: list[Any]
) -> None:
    rows = "".join(f"a{number},{cell}\n" for number, cell in enumerate(cells))
    table, notes = read(csv(tmp_path, f"id,score\n{rows}"))
    assert own(table) == {"score": values}
    assert notes == []


def test_columns_that_cannot_be_kept_are_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    columns = {
        "id": ["a", "b"],
        "picture": [b"\xff", b"\x00"],
        "nothing": pa.nulls(2),
        "empty": pa.array([None, None], pa.string()),
        "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        "lasts": pa.array([1, 2], pa.duration("s")),
    }
    pq.write_table(pa.table(columns), path)
    table, notes = read(path)
    assert own(table) == {}
    assert notes == [
        "clips.parquet: column 'picture' is left out: it holds bytes that are not UTF-8 text",
        "clips.parquet: column 'nothing' is left out: it has no values",
        "clips.parquet: column 'empty' is left out: it has no values",
        "clips.parquet: column 'map' is left out: its type is map<string, int64 ('map')>, which the json of a sample "
        "cannot hold",
        "clips.parquet: column 'lasts' is left out: its type is duration[s], which the json of a sample cannot hold",
    ]


def test_types_of_a_parquet_table_are_kept_or_widened(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    columns = {
        "id": ["a", "b"],
        "small": pa.array([1, -2], pa.int8()),
        "half": pa.array([0.5, float("inf")], pa.float32()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "day": [datetime.date(2020, 1, 2), None],
        "box": [[0.25, 0.5], []],
        "who": [{"name": "Ω", "turns": [{"at": 1.5}]}, None],
        "hash": pa.array([2**64 - 1, 0], pa.uint64()),
    }
    pq.write_table(pa.table(columns), path)
    table, notes = read(path)
    assert own(table) == {
        "small": [1, -2],
        "half": [0.5, None],
        "kind": ["x", "y"],
        "day": ["2020-01-02", None],
        "box": [[0.25, 0.5], []],
        "who": [{"name": "Ω", "turns": [{"at": 1.5}]}, None],
        "hash": [2**64 - 1, 0],
    }
    assert table.schema.field("small").type == pa.int64()
    assert notes == ["clips.parquet: column 'half': 1 numbers that are not finite are null"]


def test_json_lines_keep_nested_values_and_several_types_become_text(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "tags": ["x"], "who": {"n": 1}, "any": 1, "when": "2020-01-01 00:00:00"},
        {"id": "b", "tags": [], "any": "two", "late": True},
        {"id": "c", "any": {"three": 3}, "when": None},
    ]
    table, _ = read(jsonl(tmp_path, rows))
    assert own(table) == {
        "tags": [["x"], [], None],
        "who": [{"n": 1}, None, None],
        "any": ["1", "two", '{"three": 3}'],
        "when": ["2020-01-01 00:00:00", None, None],
        "late": [None, True, None],
    }


def test_names_are_made_safe_and_those_of_every_dataset_are_left_to_it(tmp_path: Path) -> None:
    header = "id,Speaker Name,speaker_name,status,9 lives,Ω,duration_s,__,../x"
    table, notes = read(csv(tmp_path, f"{header}\na,1,2,3,4,5,6,7,8\n"))
    assert own(table) == {
        "speaker_name_2": [1],
        "speaker_name": [2],
        "list_status": [3],
        "list_9_lives": [4],
        "list": [5],
        "list_duration_s": [6],
        "list_2": [7],
        "x": [8],
    }
    assert "clips.csv: column 'status' is called list_status in the dataset" in notes
    assert len(notes) == 7


def test_the_licence_of_a_table_is_that_of_the_manifest_too(tmp_path: Path) -> None:
    table, _ = read(csv(tmp_path, "id,License\na,CC-BY\nb,\n"))
    assert table.column("licence").to_pylist() == ["CC-BY", ""]
    assert own(table) == {"license": ["CC-BY", None]}


def test_hostile_cells_are_stored_without_harm(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    url = "see https://user:secret@host.example/x?token=abc"
    columns = {
        "id": ["a", "b", "c"],
        "caption": ["x" * 65_537, "nul\0byte", url],
        "notes": [[{"text": url}], [{"text": "\0"}], [{"text": "x" * 65_537}]],
    }
    pq.write_table(pa.table(columns), path)
    table, notes = read(path)
    found = own(table)
    assert found["caption"][:2] == [None, "nul\ufffdbyte"]
    assert "secret" not in json.dumps(found)
    assert "abc" not in json.dumps(found)
    assert found["notes"][1:] == [[{"text": "\ufffd"}], [{"text": None}]]
    assert notes == [
        "clips.parquet: column 'caption': 1 texts of more than 65,536 characters are null",
        "clips.parquet: column 'caption': NUL characters are replaced in 1 texts",
        "clips.parquet: column 'notes': 1 texts of more than 65,536 characters are null",
    ]


def test_deep_values_and_too_many_columns_are_left_out(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(9):
        deep = [deep]
    table, notes = read(jsonl(tmp_path, [{"id": "a", "deep": deep} | {f"c{number}": 1 for number in range(300)}]))
    assert len(own(table)) == 256
    assert notes == [
        "clips.jsonl: column 'deep' is left out: its type has more than 8 levels",
        "clips.jsonl: column 'c256' and those after it are left out: a dataset has at most 256",
    ]


def test_bytes_that_are_not_utf_8_leave_only_their_column_out(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_bytes(b"id,caption,score\na,caf\xe9,1\n")
    table, notes = read(path)
    assert own(table) == {"score": [1]}
    assert notes == ["clips.csv: column 'caption' is left out: it holds bytes that are not UTF-8 text"]


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    path = csv(tmp_path, "id,caption,score\na,rain,1\n")
    assert own(read(path, TableOptions(columns=("score",)))[0]) == {"score": [1]}
    assert own(read(path, TableOptions(columns=None))[0]) == {}
    assert read(path, TableOptions(columns=None))[0].schema.equals(REQUEST_SCHEMA)
    with pytest.raises(ConfigError, match="no column 'speaker' to keep; columns without another use: caption, score"):
        read(path, TableOptions(columns=("speaker",)))
    with pytest.raises(ManifestError, match="line 2"):
        read(csv(tmp_path, "id,caption\na,rain,1\n"))


def test_lists_with_different_columns_are_united() -> None:
    def rows(**columns: list[Any]) -> pa.Table:
        return pa.table({"video_id": ["v"], **columns})

    table = united([rows(score=[1], who=["x"]), rows(score=["high"]), rows()], pa.schema([("video_id", pa.string())]))
    assert table.to_pydict() == {"video_id": ["v"] * 3, "score": ["1", "high", None], "who": ["x", None, None]}
