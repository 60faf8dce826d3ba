"""The plan: every clip once, in a place that depends on the seed and the list alone."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avdata.prepare.plan import freeze, hash_table, make_plan
from avmanifest.errors import ManifestError
from avmanifest.schema import PLAN_SCHEMA, REQUEST_SCHEMA
from avmanifest.table import read_table

splits = st.sampled_from(["train", "test"])
asked = st.lists(st.tuples(st.integers(0, 15), splits), max_size=30)
seeds = st.integers(0, 3)
sizes = st.integers(1, 7)


def requests(rows: list[tuple[int, str]]) -> tuple[pa.Table, pa.Array]:
    """A list of clips by number and split; the place in the list is the start time."""
    table = pa.Table.from_pylist(
        [
            {
                "video_id": f"v{number}", "start_s": float(place), "end_s": None, "labels": ["a"], "split": split,
                "path": "", "frame_times_s": [], "annotations": "{}", "licence": "",
            }
            for place, (number, split) in enumerate(rows)
        ],
        schema=REQUEST_SCHEMA,
    )  # fmt: skip
    return table, pa.array([f"k{number}" for number, _ in rows], pa.string())


@given(asked, seeds, sizes)
def test_every_key_has_one_place_and_the_first_row_stays(rows, seed, size):
    plan = make_plan(*requests(rows), seed=seed, shard_size=size)
    found = plan.table.to_pylist()
    first = {}
    for place, (number, split) in enumerate(rows):
        first.setdefault(f"k{number}", (split, float(place)))
    assert {row["key"]: (row["split"], row["start_s"]) for row in found} == first
    assert len(found) == len(first) == len(rows) - plan.num_duplicates
    crossing = {f"k{number}" for number, split in rows if first[f"k{number}"][0] != split}
    assert set(plan.cross_split_keys) == crossing
    for split in ("train", "test"):
        places = [(row["shard"], row["position"]) for row in found if row["split"] == split]
        assert places == [divmod(place, size) for place in range(len(places))]


@given(asked, seeds, sizes, st.randoms())
def test_the_order_of_the_list_has_no_say(rows, seed, size, random):
    once = list(dict.fromkeys(rows))
    once = [row for place, row in enumerate(once) if row[0] not in {number for number, _ in once[:place]}]
    again = once.copy()
    random.shuffle(again)
    places = [
        {(row["key"], row["shard"], row["position"]) for row in plan.table.to_pylist()}
        for plan in (make_plan(*requests(listed), seed=seed, shard_size=size) for listed in (once, again))
    ]
    assert places[0] == places[1]


@given(asked, seeds, st.integers(1, 20))
def test_a_larger_limit_keeps_what_a_smaller_one_keeps(rows, seed, limit):
    few, more = (
        set(make_plan(*requests(rows), seed=seed, shard_size=4, limit=n).table.column("key").to_pylist())
        for n in (limit, limit + 3)
    )
    assert few <= more
    assert len(few) == min(limit, len({number for number, _ in rows}))


def test_seeds_shuffle_differently():
    table, keys = requests([(number, "train") for number in range(16)])
    orders = {tuple(make_plan(table, keys, seed=seed, shard_size=4).table.column("key").to_pylist()) for seed in (0, 1)}
    assert len(orders) == 2
    assert tuple(keys.to_pylist()) not in orders


@given(asked, st.integers(1, 5))
def test_the_hash_is_of_the_rows_alone(rows, pieces):
    table = make_plan(*requests(rows), seed=0, shard_size=4).table
    cut = pa.concat_tables([table.slice(start, pieces) for start in range(0, len(table), pieces)] or [table])
    assert hash_table(cut) == hash_table(table)
    if len(table) > 1:
        assert hash_table(table.take([1, 0, *range(2, len(table))])) != hash_table(table)


@pytest.mark.parametrize("key", ["", "_a", "a.b", "a/b", "../a", "a" * 81, "a\n", "é", None])
def test_a_key_that_other_tools_cannot_read_is_refused(key):
    table, _ = requests([(0, "train")])
    with pytest.raises(ManifestError, match="row 0 of the list gives the key"):
        make_plan(table, pa.array([key], pa.string()), seed=0, shard_size=4)


def test_a_frozen_plan_is_read_back(tmp_path):
    plan = make_plan(*requests([(number, "train") for number in range(5)]), seed=0, shard_size=2)
    freeze(plan, tmp_path / "plan" / "part-00000.parquet")
    assert hash_table(read_table(tmp_path / "plan" / "part-00000.parquet", PLAN_SCHEMA)) == plan.hash
    assert [path.name for path in (tmp_path / "plan").iterdir()] == ["part-00000.parquet"]
