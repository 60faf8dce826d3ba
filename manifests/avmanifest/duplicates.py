"""Duplicates in a manifest: equal keys, equal source files, overlapping clips, and leaks between splits."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.clipnames import parse_clip_name
from avmanifest.columns import NEAR_DUPLICATE_OF

EXAMPLES: Final = 20
_COLUMNS: Final = ["key", "split", "video_id", "source"]
_FOOTAGE: Final = ["key", "video_id", "source_sha256", "source", "start_s", "end_s"]
_OF_SAMPLES: Final = [*_COLUMNS, "source_sha256", "start_s", "end_s"]


def repeats(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Count the duplicates and leaks in manifest rows.

    Duplicates are equal keys (`keys`), and samples made from the same source bytes (`contents`): either the source
    files have different names and an equal SHA-256, or the samples are the same span of one file. Different spans of a
    video are not duplicates. Leaks are keys, videos (`videos`, by id; also counted by pair of splits) and contents that
    occur in more than one split. Where steps have measured fingerprints, both also count near duplicates (`near`).

    Returns:
        `duplicates` and `leaks`; for each kind the number of `groups`, the number of `clips` in them, and examples.
    """
    clips = table.select(_COLUMNS)
    contents = _same_contents(table)
    keys = _repeated(clips, "key")
    videos = clips.slice(0, 0)
    if len(pc.unique(clips.column("split"))) > 1:
        videos = clips.filter(pc.not_equal(clips.column("video_id"), ""))  # which leaves nulls out, too
    videos = _repeated(videos, "video_id", among="split")
    duplicates = {"keys": keys, "contents": contents}
    if NEAR_DUPLICATE_OF.name in table.column_names:
        duplicates["near"] = _near(table)
    leaks = {kind: _repeated(clips, "group", among="split") for kind, clips in duplicates.items()} | {"videos": videos}
    found = {"duplicates": duplicates, "leaks": leaks}
    counts = {
        what: {kind: _counts_and_examples(clips) for kind, clips in kinds.items()} for what, kinds in found.items()
    }
    counts["leaks"]["videos"]["by_splits"] = _by_splits(videos)
    return counts


def shared_footage(table: pa.Table, other: pa.Table) -> pa.Array:
    """Keys of the samples in `table` whose footage is also in samples of `other`; sorted, without duplicates.

    Both tables are manifest rows. Two samples share footage if their keys are equal, or if their spans overlap in one
    video (by id) or in one file (by SHA-256). A file that was cut from a video begins at the start in its name.
    """
    ours, theirs = (
        rows.filter(pc.equal(rows.column("status"), "ok")).select(_FOOTAGE).combine_chunks() for rows in (table, other)
    )
    shared = [
        pc.filter(ours.column("key"), pc.is_in(ours.column("key"), value_set=theirs.column("key"))),
        _overlapping(ours, theirs, "video_id"),
        _overlapping(ours, theirs, "source_sha256"),
        _overlapping(_in_file(ours, theirs), _in_file(theirs, ours), "source_sha256"),
    ]
    keys = pa.chunked_array([chunk for column in shared for chunk in column.chunks], pa.string())
    return pc.unique(keys).sort()


def _overlapping(ours: pa.Table, theirs: pa.Table, identity: str) -> pa.ChunkedArray:
    """Keys of our rows that overlap one of their rows of the same identity."""
    pairs = _with_identity(ours, identity).join(
        _with_identity(theirs, identity), identity, join_type="inner", right_suffix="_other", use_threads=False
    )
    begins_before = pc.less(pairs.column("start_s"), pc.fill_null(pairs.column("end_s_other"), math.inf))
    ends_after = pc.greater(pc.fill_null(pairs.column("end_s"), math.inf), pairs.column("start_s_other"))
    return pairs.filter(pc.and_(begins_before, ends_after)).column("key")


def _with_identity(rows: pa.Table, identity: str) -> pa.Table:
    return rows.select(["key", identity, "start_s", "end_s"]).filter(
        pc.fill_null(pc.not_equal(rows.column(identity), ""), False)
    )


def _in_file(rows: pa.Table, other: pa.Table) -> pa.Table:
    """The rows whose file the other table has, too, with the times in that file.

    A row has times in the video. Its file may hold a part of the video, as its name then says: `ID_000030.mp4`.
    """
    rows = rows.filter(pc.is_in(rows.column("source_sha256"), value_set=other.column("source_sha256")))
    sources, starts = (rows.column(name).to_pylist() for name in ("source", "start_s"))
    begins = pa.array(list(map(_begin_of_file, sources, starts)), pa.float64())
    for name in ("start_s", "end_s"):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, name, pc.subtract(rows.column(name), begins))
    return rows


def _begin_of_file(source: str | None, start_s: float | None) -> float:
    """The time in the video at which a clip's file begins, by its name; 0 for the file of a whole video."""
    named = parse_clip_name(source or "")
    if named is None or named.start_s is None or start_s is None or start_s < named.start_s:
        return 0.0
    return named.start_s


def _repeated(rows: pa.Table, by: str, among: str | None = None) -> pa.Table:
    """Rows whose value in column `by` occurs in several rows, or with several values of column `among`.

    The value is added as column `group`.
    """
    column = rows.column(by)
    if pc.count_distinct(column).as_py() == len(rows):  # the usual case: no repeats, one pass
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


def _near(table: pa.Table) -> pa.Table:
    """Clips of which others are near duplicates, or which are; the group is the key of the first."""
    of_group = pc.coalesce(table.column(NEAR_DUPLICATE_OF.name), table.column("key"))
    firsts = pc.unique(table.column(NEAR_DUPLICATE_OF.name).drop_null())
    return table.select(_COLUMNS).append_column("group", of_group).filter(pc.is_in(of_group, value_set=firsts))


def _counts_and_examples(rows: pa.Table) -> dict[str, Any]:
    groups = pc.unique(rows.column("group")).slice(0, EXAMPLES)
    few = rows.filter(pc.is_in(rows.column("group"), value_set=groups)).slice(0, 10 * EXAMPLES)
    clips: dict[str, list[dict[str, str]]] = {group: [] for group in groups.to_pylist()}
    for row in few.select(["group", *_COLUMNS]).to_pylist():
        clips[row.pop("group")].append(row)
    return {
        "groups": pc.count_distinct(rows.column("group")).as_py(),
        "clips": len(rows),
        "examples": [{"same": group, "clips": rows_of_group} for group, rows_of_group in clips.items()],
    }


def _by_splits(videos: pa.Table) -> dict[str, int]:
    """For each pair of splits, the number of videos that are in both."""
    pairs = videos.group_by(["group", "split"]).aggregate([])
    splits: Sequence[str] = sorted(pc.unique(pairs.column("split")).to_pylist())
    ids = {split: pairs.filter(pc.equal(pairs.column("split"), split)).column("group") for split in splits}
    return {
        f"{first} and {second}": pc.sum(pc.is_in(ids[first], value_set=ids[second].combine_chunks())).as_py() or 0
        for first, second in itertools.combinations(splits, 2)
    }
