import csv
import dataclasses
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from avmanifest.clipnames import ClipName, parse_clip_name
from avmanifest.errors import AvkitError
from avmanifest.keys import clip_keys
from avmanifest.labels import fold_label
from avmanifest.lists import ListFile, read_clip_names, read_list, read_requests
from avmanifest.recipe import ListSpec, TableOptions, canonical_label, load_recipe, recipe_names
from avmanifest.schema import KEY_PATTERN, REQUEST_SCHEMA

YOUTUBE_IDS = st.text("ABCxyz0189-_", min_size=11, max_size=11)
VGGSOUND = load_recipe("vggsound")
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60)


def in_file(content: str | bytes, suffix: str) -> Path:
    with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return Path(file.name)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            YOUTUBE_IDS, st.integers(0, 99_999), st.sampled_from(VGGSOUND.labels), st.sampled_from(VGGSOUND.splits)
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_vggsound_reads_what_a_csv_writer_writes(
    rows: list[tuple[str, int, str, str]], line_end: str, mark: bool, last_newline: bool
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end).writerows(rows)
    content = text.getvalue() if last_newline else text.getvalue().removesuffix(line_end)
    path = in_file(content.encode("utf-8-sig" if mark else "utf-8"), ".csv")
    try:
        table = read_requests(VGGSOUND, path)
    finally:
        path.unlink()
    columns = (table.column(name).to_pylist() for name in ("video_id", "start_s", "labels", "split"))
    assert [
        (video_id, int(start_s), label, split) for video_id, start_s, (label,), split in zip(*columns, strict=True)
    ] == rows


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(TEXT.filter(bool), st.floats(0, 1e8)), min_size=1, max_size=30, unique=True))
def test_every_id_and_start_has_a_valid_key_of_its_own(rows: list[tuple[str, float]]) -> None:
    rows = list({(video_id, start_s + 0.0) for video_id, start_s in rows})  # no -0.0 beside 0.0
    table = pa.table({"video_id": [row[0] for row in rows], "start_s": [row[1] for row in rows]})
    keys = clip_keys(load_recipe("table"), table).to_pylist()
    assert len(set(keys)) == len(rows)
    assert all(KEY_PATTERN.fullmatch(key) for key in keys)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(YOUTUBE_IDS, st.integers(0, 10**7)), min_size=1, max_size=20, unique=True))
def test_audioset_keys_tell_id_and_start(rows: list[tuple[str, int]]) -> None:
    table = pa.table({"video_id": [row[0] for row in rows], "start_s": [row[1] / 1000 for row in rows]})
    keys = clip_keys(load_recipe("audioset"), table).to_pylist()
    assert [(key[3:14], int(key[15:])) for key in keys] == rows


@settings(deadline=None, max_examples=100)
@given(
    YOUTUBE_IDS,
    st.integers(0, 999_989).filter(lambda start: start == 0 or start % 1000),  # ID_1000 is second 1
    st.sampled_from(["", ".mp4", ".webm"]),
    st.sampled_from(["", "a b/", "/x/y/"]),
)
def test_all_spellings_of_a_clip_name_mean_one_clip(video_id: str, start: int, suffix: str, folder: str) -> None:
    spellings = {
        f"{start:06d}": None,
        f"{start}": None,
        f"{start}.000": None,
        f"{start * 1000}_{start * 1000 + 10_000}": start + 10.0,
        f"{start:06d}_{start + 10:06d}": start + 10.0,
    }
    names = {f"{folder}{video_id}_{spelling}{suffix}": end_s for spelling, end_s in spellings.items()}
    for name, end_s in names.items():
        assert parse_clip_name(name) == ClipName(video_id, float(start), end_s)
    path = in_file("\n".join(names), ".txt")
    try:
        table = read_clip_names(path)
    finally:
        path.unlink()
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (video_id, float(start), end_s) for end_s in names.values()
    ]


@settings(deadline=None, max_examples=100)
@given(TEXT)
def test_folding_twice_is_folding_once(spelling: str) -> None:
    assert fold_label(fold_label(spelling)) == fold_label(spelling)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(VGGSOUND.labels), st.sampled_from("_ -,."), st.booleans())
def test_case_and_separators_do_not_change_a_label(label: str, separator: str, upper: bool) -> None:
    spelling = label.replace(" ", separator)
    assert canonical_label(VGGSOUND, spelling.upper() if upper else spelling) == label


ROWS = st.fixed_dictionaries(
    {
        "id": TEXT.map(str.strip).filter(bool),
        "start": st.one_of(st.none(), st.floats(0, 1e6)),
        "label": st.lists(TEXT.map(str.strip).filter(lambda text: text and ";" not in text), max_size=3),
        "split": st.sampled_from(["train", "val", "my_split"]),
    }
)


@settings(deadline=None, max_examples=50)
@given(st.lists(ROWS, min_size=1, max_size=15))
def test_csv_jsonl_and_parquet_of_the_same_rows_read_alike(rows: list[dict[str, Any]]) -> None:
    flat = [{**row, "label": ";".join(row["label"])} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["id", "start", "label", "split"], quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    parquet = pa.BufferOutputStream()
    pa.parquet.write_table(
        pa.Table.from_pylist(
            rows,
            schema=pa.schema(
                {"id": pa.string(), "start": pa.float64(), "label": pa.list_(pa.string()), "split": pa.string()}
            ),
        ),
        parquet,
    )
    contents = {
        ".csv": text.getvalue(),
        ".jsonl": "\n".join(json.dumps(row) for row in rows),
        ".parquet": parquet.getvalue().to_pybytes(),
    }
    tables = []
    for suffix, content in contents.items():
        path = in_file(content, suffix)
        try:
            tables.append(read_requests(load_recipe("table"), path, None, TableOptions(label_separator=";")))
        finally:
            path.unlink()
    assert tables[0].column("video_id").to_pylist() == [row["id"] for row in rows]
    assert tables[0].column("start_s").to_pylist() == [row["start"] or 0.0 for row in rows]
    assert tables[0].column("labels").to_pylist() == [row["label"] for row in rows]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


FORMS = {
    repr(dataclasses.replace(spec, url="", sha256="", file="", counts={}, splits=())): spec
    for name in recipe_names()
    for spec in load_recipe(name).lists
    if spec.format not in ("folder", "synth")
}


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(sorted(FORMS)),
    st.one_of(
        st.binary(max_size=200),
        TEXT.map(str.encode),
        st.recursive(
            st.one_of(st.none(), st.floats(), TEXT), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)
        ).map(lambda value: json.dumps(value).encode()),
    ),
    st.sampled_from([".csv", ".jsonl", ".parquet", ".json"]),
)
def test_a_reader_returns_rows_or_raises_a_typed_error_for_any_content(form: str, content: bytes, suffix: str) -> None:
    recipe = dataclasses.replace(load_recipe("table"), key="x-{slug}_{start_ms}")
    path = in_file(content, suffix)
    try:
        spec = dataclasses.replace(FORMS[form], splits=("test",))
        table = read_list(ListFile(path=path, recipe=recipe, spec=spec))
        assert table.schema.equals(REQUEST_SCHEMA)
    except AvkitError as error:
        assert path.name in str(error)
    finally:
        path.unlink()


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), min_size=1, max_size=12)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(YOUTUBE_IDS, st.integers(0, 9999), st.integers(1, 60), CELLS, CELLS), min_size=1, max_size=12),
    st.permutations(["video_id", "start", "end", "label", "quality"]),
    st.sampled_from("&,;\t|"),
    st.booleans(),
)
def test_columns_in_any_order_between_any_delimiter(
    rows: list[tuple[str, int, int, str, str]], columns: list[str], delimiter: str, with_header: bool
) -> None:
    names = ("video_id", "start", "end", "label", "quality")
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    if with_header:
        writer.writerow([name.upper() for name in columns])
    for video_id, start, length, label, quality in rows:
        cells = dict(zip(names, (video_id, start, start + length, label, quality), strict=True))
        writer.writerow([cells[name] for name in columns])
    spec = ListSpec(
        format="columns",
        delimiter=delimiter,
        columns=tuple(columns),
        skip_header=with_header,
        annotations={"quality": "text"},
    )
    path = in_file(text.getvalue(), ".txt")
    try:
        table = read_list(ListFile(path=path, recipe=load_recipe("table"), spec=spec))
    finally:
        path.unlink()
    read = [
        (
            row["video_id"],
            int(row["start_s"]),
            int(row["end_s"] - row["start_s"]),
            row["labels"][0],
            json.loads(row["annotations"])["quality"],
        )
        for row in table.to_pylist()
    ]
    assert read == rows
