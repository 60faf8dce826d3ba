"""Queries of clips: what is found, in which order, and what is counted, beside a plain reckoning row by row."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avdata.audit.maps import Maps
from avdata.audit.rows import BINS, FAILED, Area, ClipRows, Query, parse_query
from avmanifest.columns import CLIP_COLUMNS, schema_of
from avmanifest.errors import ConfigError

SCHEMA = schema_of(CLIP_COLUMNS)
HOSTILE = "</script><img src=x onerror=alert(1)>"


def clips(rows) -> pa.Table:
    empty = dict.fromkeys(SCHEMA.names) | {"status": "ok", "split": "train", "labels": [], "members": []}
    return pa.Table.from_pylist([empty | {"key": f"k{place}"} | row for place, row in enumerate(rows)], schema=SCHEMA)


def rows_of(rows, maps=None) -> ClipRows:
    return ClipRows(table=clips(rows), columns=CLIP_COLUMNS, maps=maps)


ROWS = rows_of(
    [
        {"status": "ok", "duration_s": 3.0, "labels": ["dog"], "silent": True, "rms_dbfs": -20.0},
        {"status": "media_corrupt", "reason": "Bad Packet", "labels": ["cat", "dog"]},
        {"status": "net_dns", "split": "test", "video_id": "VID", "duration_s": float("nan")},
        {"status": "internal", "reason": "IndexError", "labels": None},
        {"status": "ok", "duration_s": 1.0, "labels": ["cat"], "rms_dbfs": -40.0, "source": HOSTILE},
        {"status": "removed", "labels": [None]},
        {"status": "ok", "duration_s": 2.0, "split": "test", "rms_dbfs": -30.0},
        {"status": "of_another_tool"},
    ],
    Maps(rows=np.array([0, 4, 6]), streams={"fusion": np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])}, said="t-SNE"),
)


def found(**query):
    answer = ROWS.answer(Query(**query))
    assert answer["total"] == len(answer["rows"])
    return [row[0] for row in answer["rows"]]


def test_failures_come_first_and_those_that_need_a_look_before_others():
    assert [ROWS.statuses[row[3]] for row in ROWS.answer(Query())["rows"]] == [
        "internal", "net_dns", "media_corrupt", "removed", "of_another_tool", "ok", "ok", "ok",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ({"text": "bad PACKET"}, [1]),
        ({"text": "vid"}, [2]),
        ({"text": "<img"}, [4]),
        ({"text": "dog cat"}, [1]),
        ({"text": "k0 dog nothing"}, []),
        ({"text": "[.*"}, []),
        ({"status": FAILED}, [3, 2, 1, 5, 7]),
        ({"status": ROWS.statuses.index("ok"), "split": 1}, [6]),
        ({"flag": 0}, [0]),
        ({"label": ROWS.labels.index("dog")}, [1, 0]),
        ({"sort": "key"}, list(range(8))),
        ({"sort": "key", "descending": True}, list(range(7, -1, -1))),
        ({"sort": 0, "limit": 8}, [4, 6, 0, 1, 2, 3, 5, 7]),
        ({"sort": 0, "descending": True}, [0, 6, 4, 1, 2, 3, 5, 7]),
        ({"sort": "labels"}, [5, 4, 1, 0, 2, 3, 6, 7]),
        ({"sort": "flags", "descending": True}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"sort": "split", "descending": True}, [2, 6, 0, 1, 3, 4, 5, 7]),
        ({"bins": ((0, 0, 20),), "sort": "key"}, [4, 6]),
        ({"bins": ((0, 0, 20), (1, 15, 39)), "sort": "key"}, [6]),
        ({"area": Area(stream=0, left=0.4, top=0.4, right=1.0, bottom=1.0), "sort": "key"}, [4, 6]),
    ],
)
def test_what_is_found(query, places):
    assert found(**query) == places


def test_pages_follow_each_other():
    whole = found(sort="key")
    assert [row[0] for row in ROWS.answer(Query(sort="key", offset=2, limit=3))["rows"]] == whole[2:5]
    assert ROWS.answer(Query(offset=100))["rows"] == []


def test_a_histogram_counts_what_meets_all_but_its_own_brush():
    counts = ROWS.answer(Query(bins=((0, 0, 20),)))["counts"]
    assert sum(counts[0]) == 3  # all durations: the brush is its own
    assert sum(counts[1]) == 2  # loudness of the two that it leaves
    assert ROWS.answer(Query(bins=((0, 0, 20),)))["mapped"] == "011"


def test_what_can_be_chosen_among_has_counts():
    choices = json.loads(json.dumps(ROWS.choices(), allow_nan=False))
    assert choices["labels"] == [["", 1], ["cat", 2], ["dog", 2]]
    assert choices["splits"] == [["train", 6], ["test", 2]]
    assert choices["flags"] == [["silent", 1, "nothing to hear"]]
    assert [column["title"] for column in choices["columns"]] == ["Duration", "Loudness"]
    assert choices["maps"]["labels"] == ["dog", "cat", "no label"]
    assert (choices["ok"], choices["total"]) == (5, 8)


def test_no_row_and_no_label_are_no_trouble():
    empty = rows_of([])
    assert empty.answer(Query())["total"] == 0
    assert empty.choices()["ok"] is None
    assert rows_of([{}]).answer(Query(text="k", sort="labels"))["total"] == 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ok", "media_corrupt"]),
            st.none() | st.floats(-5, 5),
            st.lists(st.sampled_from(["a", "b"]), max_size=2),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, BINS - 1),
    st.integers(0, BINS - 1),
)
def test_filters_agree_with_a_plain_reckoning(made, first, last):
    rows = rows_of([{"status": status, "duration_s": value, "labels": labels} for status, value, labels in made])
    bins = ((0, first, last),) if rows.measured else ()
    label = rows.labels.index("a") if "a" in rows.labels else None
    answer = rows.answer(Query(bins=bins, label=label, status=FAILED, sort="key", limit=100))
    wanted = set()
    for place, (status, value, labels) in enumerate(made):
        in_brush = True
        if bins:
            low, high = rows.measured[0].low, rows.measured[0].high
            share = None if value is None else (min(max(value, low), high) - low) / (high - low or 1.0)
            in_brush = share is not None and first <= min(int(share * BINS), BINS - 1) <= last
        if status != "ok" and in_brush and (label is None or "a" in labels):
            wanted.add(place)
    assert {row[0] for row in answer["rows"]} == wanted


@pytest.mark.parametrize(
    "query",
    [
        {"status": 99}, {"split": -1}, {"flag": 5}, {"label": 3}, {"bins": ((7, 0, 1),)}, {"sort": 9}, {"sort": "size"},
        {"area": Area(stream=1, left=0.0, top=0.0, right=1.0, bottom=1.0)},
    ],
)  # fmt: skip
def test_a_query_of_what_there_is_not_is_refused(query):
    with pytest.raises(ConfigError, match="not"):
        ROWS.answer(Query(**query))


def test_a_query_is_read_as_the_script_writes_it():
    text = json.dumps(
        {"text": "a b", "status": -1, "split": None, "flag": 0, "label": None, "bins": [[0, 1, 2]],
         "area": [0, 0, 0.25, 1, 1], "sort": 2, "descending": True, "offset": 50, "limit": 9000}
    )  # fmt: skip
    assert parse_query(text) == Query(
        text="a b", status=FAILED, flag=0, bins=((0, 1, 2),), sort=2, descending=True, offset=50, limit=500,
        area=Area(stream=0, left=0.0, top=0.25, right=1.0, bottom=1.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "null", '{"status": "ok"}', '{"status": true}', '{"bins": [[1]]}', '{"bins": 3}',
        '{"sort": null}',
        '{"sort": "status", "area": [0, 1]}', '{"sort": "status", "area": 3}', '{"sort": "status", "text": 5}',
        '{"sort": "status", "offset": 1e400}', '{"sort": "status", "descending": 1}',
        '{"sort": "status", "bins": [["a", 1, 2]]}',
    ],
)  # fmt: skip
def test_what_is_no_query_is_refused(text):
    with pytest.raises(ConfigError):
        parse_query(text)
