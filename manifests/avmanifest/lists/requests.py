"""The last step of every list reader: checking the columns and building a REQUEST_SCHEMA table."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.columns import Column
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.layout import SPLIT_PATTERN
from avmanifest.names import did_you_mean
from avmanifest.recipe import ListSpec, Recipe, canonical_label
from avmanifest.schema import REQUEST_SCHEMA
from avmanifest.secrets import stored_text

LATEST_START_S: Final = 1e9
"""Seconds (30 years). A larger start is an error in the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFile:
    """A list on disk, with its recipe and the recipe's entry for it. `notes` say how it was read if not as usual."""

    path: Path
    recipe: Recipe
    spec: ListSpec
    notes: list[str] = field(default_factory=list, compare=False)

    def note(self, text: str) -> None:
        """Tell the user in one line what was made of the list."""
        self.notes.append(f"{self.path.name}: {text}")

    @property
    def clip_seconds(self) -> float | None:
        """Duration of a clip in seconds where the list gives no end; None: to the end of the file."""
        return self.recipe.clip_seconds if self.spec.clip_seconds is None else self.spec.clip_seconds


Where = Callable[[int], str]
"""Function from a row number to its place in the list, such as `path: line 17`, for error messages."""


def request_table(
    list_file: ListFile,
    where: Where,
    *,
    video_id: pa.Array,
    start_s: pa.Array | None = None,
    end_s: pa.Array | None = None,
    labels: pa.ListArray | None = None,
    split: pa.Array | None = None,
    path: pa.Array | None = None,
    frame_times_s: pa.ListArray | None = None,
    annotations: Sequence[Mapping[str, Any]] | None = None,
    licence: pa.Array | None = None,
    own: Mapping[Column, pa.Array] = MappingProxyType({}),
) -> pa.Table:
    """Build a REQUEST_SCHEMA table: labels become canonical; spans, splits and paths are checked.

    The columns `own` of the list come after those of the schema.

    Defaults of missing columns: a start of 0; an end after the recipe's `clip_seconds`; no label; the list's split, or
    train; no path, so that the file is found by name; the recipe's frame times.

    Raises ManifestError, with the place in the list, for a row that is not valid.
    """
    rows = len(video_id)
    if not rows:
        raise ManifestError(f"{list_file.path}: lists no clips. Check that the file is complete.")
    if start_s is None:
        start_s = pa.repeat(pa.scalar(0.0), rows)
    if end_s is None:
        end_s = pa.nulls(rows, pa.float64())
    if list_file.clip_seconds is not None:
        end_s = pc.coalesce(end_s, pc.add(start_s, list_file.clip_seconds))
    if split is None:
        split = pa.repeat(pa.scalar((*list_file.spec.splits, "train")[0]), rows)
    else:
        _refuse_no_value(split, where)
        split = _usual_splits(split, list_file)
    if labels is None:
        labels = _repeated_list([], rows, pa.string())
    if frame_times_s is None:
        frame_times_s = _repeated_list(list_file.recipe.frame_times_s, rows, pa.float64())
    empty = pa.repeat(pa.scalar(""), rows)
    columns = {
        "video_id": _stored(video_id),
        "start_s": start_s,
        "end_s": end_s,
        "labels": canonical_labels(list_file.recipe, labels, where),
        "split": split,
        "path": empty if path is None else _stored(path),
        "frame_times_s": frame_times_s,
        "annotations": pa.repeat(pa.scalar("{}"), rows)
        if annotations is None
        else _stored(pa.array([json.dumps(entry, sort_keys=True) for entry in annotations], pa.string())),
        "licence": empty if licence is None else pc.coalesce(licence, ""),
    }
    table = pa.Table.from_arrays(
        [pc.cast(columns[field.name], field.type) for field in REQUEST_SCHEMA], schema=REQUEST_SCHEMA
    )
    _check_names(table, where)
    _check_spans(table, where)
    _check_splits(table, list_file.spec, where)
    for column, values in own.items():
        table = table.append_column(column.field, values)
    return table


def _stored(texts: pa.Array) -> pa.Array:
    """Texts as a plan stores them: URLs without user name, password and signature."""
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    with_url = pc.fill_null(pc.match_substring(texts, "://"), False)
    if not pc.any(with_url, min_count=0).as_py():
        return texts
    changed = [stored_text(text) for text in texts.filter(with_url).to_pylist()]
    return pc.replace_with_mask(texts, with_url, pa.array(changed, texts.type))


def list_column(rows: Sequence[Sequence[Any]], dtype: pa.DataType) -> pa.ListArray:
    """Python lists as an Arrow column of lists."""
    return pa.array(rows, pa.list_(dtype))


def single_labels(labels: pa.Array) -> pa.ListArray:
    """A column of labels as a column of lists with one label, or none where the label is empty or null."""
    return split_labels(labels, None)


def split_labels(labels: pa.Array, separator: str | None) -> pa.ListArray:
    """Split each cell at the separator into labels without surrounding spaces. None: a cell is one label."""
    filled = pc.utf8_trim_whitespace(pc.coalesce(labels, ""))
    if separator is None:
        cells = pa.ListArray.from_arrays(pa.array(range(len(filled) + 1), pa.int32()), filled)
    else:
        cells = pc.split_pattern(filled, separator)
    if not isinstance(cells, pa.ListArray):
        cells = cells.combine_chunks()
    values = pc.utf8_trim_whitespace(cells.flatten())
    filled_values = pc.not_equal(values, "")
    if pc.all(filled_values).as_py():
        return _with_values(cells, values)
    before = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(pc.cast(filled_values, pa.int64()))])
    offsets = pc.cast(pc.take(before, _offsets(cells)), pa.int32())
    return pa.ListArray.from_arrays(offsets, pc.filter(values, filled_values))


def canonical_labels(recipe: Recipe, labels: pa.ListArray, where: Where) -> pa.ListArray:
    """The labels by their canonical names. Raises ManifestError for the first row with an unknown label."""
    spelled = labels.flatten()
    empty = first_true(pc.fill_null(pc.equal(spelled, ""), True))
    if empty is not None:
        raise ManifestError(f"{where(_row_of(labels, empty))}: one of the labels is empty. Remove it.")
    strange = first_true(pc.match_substring(spelled, "\0"))
    if strange is not None:
        raise ManifestError(f"{where(_row_of(labels, strange))}: one of the labels has a NUL character. Remove it.")
    if not recipe.labels or not len(spelled):
        return _with_values(labels, spelled)
    values = pc.dictionary_encode(spelled)
    names = []
    for spelling in values.dictionary.to_pylist():
        try:
            names.append(canonical_label(recipe, spelling))
        except ConfigError as error:
            row = _row_of(labels, int(pc.index(spelled, spelling).as_py()))
            raise ManifestError(f"{where(row)}: {error}") from error
    return _with_values(labels, pc.take(pa.array(names, pa.string()), values.indices))


def merge_rows(table: pa.Table) -> pa.Table:
    """Merge rows with equal id, start, end, split and path, in the order of the first of them.

    Labels are united, and annotations that are lists are concatenated. Other annotations, and extra columns, are those
    of the first row.
    """
    same = ["video_id", "start_s", "end_s", "split", "path"]
    kept = ["labels", "frame_times_s", "annotations", "licence"]
    numbered = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    groups = numbered.group_by(same, use_threads=False).aggregate([("row", "min"), ("row", "list")])
    rows = groups.sort_by("row_min").column("row_list").combine_chunks()  # group_by keeps no order
    firsts = pc.list_element(rows, 0)
    labels = table.column("labels").to_pylist()
    merged = [list(dict.fromkeys(label for row in group for label in labels[row])) for group in rows.to_pylist()]
    columns = {name: pc.take(table.column(name), firsts) for name in (*same, *kept)}
    columns["labels"] = list_column(merged, pa.string())
    if len(rows) < table.num_rows:
        annotations = table.column("annotations").to_pylist()
        joined = [_joined([annotations[row] for row in group]) for group in rows.to_pylist()]
        columns["annotations"] = pa.array(joined, pa.string())
    columns |= {name: pc.take(table.column(name), firsts) for name in table.column_names[len(REQUEST_SCHEMA) :]}
    return pa.Table.from_arrays([columns[name] for name in table.column_names], schema=table.schema)


def _joined(annotations: Sequence[str]) -> str:
    """Merge JSON objects: lists of the same name are concatenated; of other values the first one is kept."""
    if len(set(annotations)) == 1 and annotations[0] == "{}":
        return "{}"
    merged: dict[str, Any] = {}
    for entry in map(json.loads, annotations):
        for name, value in entry.items():
            if isinstance(value, list) and isinstance(merged.get(name), list):
                merged[name] = merged[name] + value
            else:
                merged.setdefault(name, value)
    return json.dumps(merged, sort_keys=True)


def problem_of(texts: Iterable[str]) -> str:
    """Problem of texts that were read with errors="surrogateescape", as words after their place; empty: none.

    They may hold bytes that are not UTF-8, or a NUL, which is in no text and no file name.
    """
    for text in texts:
        if "\0" in text:
            return "has a NUL character"
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            return "is not UTF-8 text"
    return ""


def first_true(mask: pa.Array) -> int | None:
    """The number of the first row where the mask is true; None if there is none."""
    row = int(pc.index(mask, True).as_py())
    return None if row < 0 else row


def _offsets(lists: pa.ListArray) -> pa.Array:
    lengths = pc.coalesce(pc.list_value_length(lists), 0)
    return pa.concat_arrays([pa.array([0], pa.int32()), pc.cast(pc.cumulative_sum(lengths), pa.int32())])


def _with_values(lists: pa.ListArray, values: pa.Array) -> pa.ListArray:
    """Lists with the same lengths (null: empty) and other values."""
    return pa.ListArray.from_arrays(_offsets(lists), values)


def _row_of(lists: pa.ListArray, place: int) -> int:
    return int(pc.list_parent_indices(lists)[place].as_py())


def _repeated_list(values: Sequence[Any], rows: int, dtype: pa.DataType) -> pa.ListArray:
    return pa.repeat(pa.scalar(list(values), pa.list_(dtype)), rows)


def _check_names(table: pa.Table, where: Where) -> None:
    row = first_true(pc.fill_null(pc.equal(table.column("video_id"), ""), True))
    if row is not None:
        raise ManifestError(f"{where(row)}: the clip has no id. Fill it in, or delete the row.")
    row = first_true(pc.match_substring(table.column("video_id"), "\0"))
    if row is not None:
        raise ManifestError(f"{where(row)}: the id has a NUL character. Correct the row.")
    outside = r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)|\x00"
    row = first_true(pc.match_substring_regex(table.column("path"), outside))
    if row is not None:
        raise ManifestError(
            f"{where(row)}: path {table.column('path')[row].as_py()!r} must lie below the source's folder. "
            "Write it relative to the FOLDER of --source local:FOLDER, without '..'."
        )


def _check_spans(table: pa.Table, where: Where) -> None:
    start_s, end_s = table.column("start_s"), table.column("end_s")
    good_start = pc.and_(pc.greater_equal(start_s, 0.0), pc.less(start_s, LATEST_START_S))
    row = first_true(pc.invert(pc.fill_null(good_start, False)))
    if row is not None:
        raise ManifestError(f"{where(row)}: start {start_s[row].as_py()} is not 0 or more seconds. Correct the row.")
    good_end = pc.and_(pc.greater(end_s, start_s), pc.less(end_s, 2 * LATEST_START_S))
    row = first_true(pc.invert(pc.fill_null(good_end, True)))
    if row is not None:
        raise ManifestError(
            f"{where(row)}: the clip ends at {end_s[row].as_py()} s, which is not after its start, "
            f"{start_s[row].as_py()} s. Correct the row."
        )


_NO_VALUE: Final = ("NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None")
_SPLIT_NAMES: Final = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))


def _usual_splits(split: pa.Array, list_file: ListFile) -> pa.Array:
    """The splits by the names of the recipe: `TRAIN` is train, and `valid` is val.

    Where a list has two names for one split, such as valid and validation, it is not clear that they are one, and the
    names stay as they are. Without splits in the recipe only capital letters are changed.
    """
    known = list_file.spec.splits
    folded = {name: name.strip().lower() for name in pc.unique(split).to_pylist() if name is not None}
    renamed: dict[str, str] = {}
    for name, lower in folded.items():
        same = next((names for names in _SPLIT_NAMES if lower in names), (lower,))
        usual = lower
        if known and lower not in known and len(set(same) & set(folded.values())) == 1:
            usual = next((other for other in same if other in known), lower)
        if usual != name:
            renamed[name] = usual
    if not renamed:
        return split
    list_file.note("read with " + ", ".join(f"split {name} as {usual}" for name, usual in renamed.items()))
    return pa.array([renamed.get(name, name) for name in split.to_pylist()], pa.string())


def _refuse_no_value(split: pa.Array, where: Where) -> None:
    """Raise ManifestError for a split such as NA, which programs write where there is none."""
    for name in pc.unique(split).to_pylist():
        if name is not None and name.strip() in _NO_VALUE:
            place = where(int(pc.index(split, name).as_py()))
            raise ManifestError(
                f"{place}: split is {name.strip()!r}, which R, pandas and spreadsheets write where there is no "
                "value. Write the clip's split there. In a table an empty cell means train."
            )


def _check_splits(table: pa.Table, spec: ListSpec, where: Where) -> None:
    for split in pc.unique(table.column("split")).to_pylist():
        valid = split in spec.splits if spec.splits else SPLIT_PATTERN.fullmatch(split or "") is not None
        if not valid:
            row = int(pc.index(table.column("split"), split).as_py()) if split is not None else 0
            rule = (
                f"known: {', '.join(spec.splits)}"
                if spec.splits
                else "a split is lower-case letters, digits and _, such as train, val, test"
            )
            hint = did_you_mean(split or "", spec.splits) or ";"
            raise ManifestError(f"{where(row)}: unknown split {split!r}{hint} {rule}")
