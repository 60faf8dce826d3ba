"""What stands twice: keys, source files, footage, and what several splits share."""

import math
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

EXAMPLES: Final = 20
_COLUMNS: Final = ["key", "split", "video_id", "source"]
_FOOTAGE: Final = ["key", "video_id", "source_sha256", "start_s", "end_s"]
_OF_SAMPLES: Final = [*_COLUMNS, "source_sha256", "start_s", "end_s"]


def repeats(table: pa.Table) -> dict[str, dict[str, Any]]:
    """`duplicates` and `leaks` of manifest rows.

    Duplicates: keys that stand twice (`keys`), and samples made of the same source bytes (`contents`): their source
    files have different names and one sha256, or they are the same span of one file. Different spans of one video are
    not the same. Leaks are what more than one split has: `keys`, `videos` (by id, and by pair of splits), `contents`.
    Each with the number of `groups`, of `clips` in them, and some examples.
    """
    clips = table.select(_COLUMNS)
    contents = _same_contents(table)
    keys = _repeated(clips, "key")
    videos = clips.slice(0, 0)
    if len(pc.unique(clips.column("split"))) > 1:
        videos = clips.filter(pc.not_equal(clips.column("video_id"), ""))  # which leaves nulls out, too
    videos = _repeated(videos, "video_id", among="split")
    return {
        "duplicates": {"keys": _found(keys), "contents": _found(contents)},
        "leaks": {
            "keys": _found(_repeated(keys, "group", among="split")),
            "videos": _found(videos) | {"by_splits": _by_splits(videos)},
            "contents": _found(_repeated(contents, "group", among="split")),
        },
    }


def shared_footage(one: pa.Table, other: pa.Table) -> pa.Array:
    """Keys of the samples of `one` (manifest rows) that show what samples of `other` show, sorted, none twice.

    Two samples do if their keys are equal, or if their spans overlap in one video (by id) or in one file (by sha256).
    """
    ours, theirs = (
        table.filter(pc.equal(table.column("status"), "ok")).select(_FOOTAGE).combine_chunks() for table in (one, other)
    )
    found = [pc.filter(ours.column("key"), pc.is_in(ours.column("key"), value_set=theirs.column("key")))]
    for identity in ("video_id", "source_sha256"):
        pairs = _known(ours, identity).join(
            _known(theirs, identity), identity, join_type="inner", right_suffix="_other", use_threads=False
        )
        begins_before = pc.less(pairs.column("start_s"), pc.fill_null(pairs.column("end_s_other"), math.inf))
        ends_after = pc.greater(pc.fill_null(pairs.column("end_s"), math.inf), pairs.column("start_s_other"))
        found.append(pairs.filter(pc.and_(begins_before, ends_after)).column("key"))
    keys = pa.chunked_array([chunk for column in found for chunk in column.chunks], pa.string())
    return pc.unique(keys).sort()


def _known(rows: pa.Table, identity: str) -> pa.Table:
    return rows.select(["key", identity, "start_s", "end_s"]).filter(
        pc.fill_null(pc.not_equal(rows.column(identity), ""), False)
    )


def _repeated(rows: pa.Table, by: str, among: str | None = None) -> pa.Table:
    """Rows whose value of a column stands in several rows, or with several values of another; `group` is the value."""
    column = rows.column(by)
    if pc.count_distinct(column).as_py() == len(rows):  # one pass where nothing is repeated, which is nearly always
        return _grouped(rows.slice(0, 0), by)
    pairs = rows.select([by]) if among is None else rows.select([by, among]).group_by([by, among]).aggregate([])
    counted = pairs.group_by(by).aggregate([([], "count_all")])
    values = counted.filter(pc.greater(counted.column("count_all"), 1)).column(by)
    return _grouped(rows.filter(pc.is_in(column, value_set=values.combine_chunks())), by)


def _grouped(rows: pa.Table, by: str) -> pa.Table:
    return rows if by == "group" else rows.append_column("group", rows.column(by).cast(pa.string()))


def _same_contents(table: pa.Table) -> pa.Table:
    of_samples = pc.and_(pc.equal(table.column("status"), "ok"), pc.is_valid(table.column("source_sha256")))
    same = _repeated(table.select(_OF_SAMPLES).filter(of_samples), "source_sha256")
    several_names = _repeated(same, "group", among="source")
    one_name = same.filter(
        pc.invert(pc.is_in(same.column("group"), value_set=pc.unique(several_names.column("group"))))
    )
    span = pc.binary_join_element_wise(
        one_name.column("group"),
        one_name.column("start_s").cast(pa.string()),
        one_name.column("end_s").cast(pa.string()),
        " ",
    )
    spans = _repeated(one_name.drop_columns("group").append_column("group", span), "group")
    return pa.concat_tables([several_names, spans])


def _found(rows: pa.Table) -> dict[str, Any]:
    groups = pc.unique(rows.column("group")).slice(0, EXAMPLES)
    few = rows.filter(pc.is_in(rows.column("group"), value_set=groups)).slice(0, 10 * EXAMPLES)
    clips: dict[str, list[dict[str, str]]] = {group: [] for group in groups.to_pylist()}
    for row in few.select(["group", *_COLUMNS]).to_pylist():
        clips[row.pop("group")].append(row)
    return {
        "groups": pc.count_distinct(rows.column("group")).as_py(),
        "clips": len(rows),
        "examples": [{"same": group, "clips": found} for group, found in clips.items()],
    }


def _by_splits(videos: pa.Table) -> dict[str, int]:
    """For each pair of splits, the videos that both have."""
    pairs = videos.group_by(["group", "split"]).aggregate([])
    splits: Sequence[str] = sorted(pc.unique(pairs.column("split")).to_pylist())
    held = {split: pairs.filter(pc.equal(pairs.column("split"), split)).column("group") for split in splits}
    return {
        f"{one} and {other}": pc.sum(pc.is_in(held[one], value_set=held[other].combine_chunks())).as_py() or 0
        for place, one in enumerate(splits)
        for other in splits[place + 1 :]
    }
