"""Reading of lists with one clip per line, by a pattern or by columns that the recipe's TOML defines.

The values of a line have roles: `clip` (the name of a clip), `video_id` or `path`; `start`, `end`, `label`, `split`.
Other values become annotations if the recipe names them under `annotations`; otherwise they are ignored.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from avmanifest.clipnames import ClipName, parse_clip_name
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.lists.requests import (
    ListFile,
    Where,
    first_true,
    merge_rows,
    request_table,
    single_labels,
    split_labels,
    undecodable,
)

_LONGEST_LINE: Final = 1 << 20  # bytes
_NEVER: Final = "\x01"  # Arrow's reader needs a delimiter; this character occurs in no list
_SHOWN: Final = 120  # characters of a wrong line in an error message
_WITHOUT_SUFFIX: Final = r"\.[A-Za-z0-9]{1,5}\z"
_ANNOTATIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "text": str,
    "texts": lambda text: [text],
    "int": int,
    "float": float,
}


def read_pattern(list_file: ListFile) -> pa.Table:
    """Read a list whose lines match the recipe's `pattern`, an RE2 regular expression with named groups."""
    values, where = _matched(list_file)
    return _requests(list_file, values, where)


def read_columns(list_file: ListFile) -> pa.Table:
    """Read a list of values separated by the recipe's `delimiter`, in the order of its `columns`; quotes as in csv."""
    spec = list_file.spec
    expected = spec.expects or spec.delimiter.join(spec.columns)
    rows: list[list[str]] = []
    lines: list[int] = []
    for line, cells in csv_cells(list_file.path, spec.delimiter):
        if len(cells) != len(spec.columns):
            raise ManifestError(
                f"{list_file.path}: line {line}: {len(cells)} values {spec.delimiter.join(cells)[:_SHOWN]!r}, expected "
                f"the {len(spec.columns)} of {expected}. Correct the line, or `columns` and `delimiter` of the recipe."
            )
        rows.append(cells)
        lines.append(line)

    def where(row: int) -> str:
        return f"{list_file.path}: line {lines[row]}"

    _check_header(list_file, rows, where)
    if spec.header or spec.skip_header:
        del rows[0], lines[0]
    values = {
        name: pa.array([cells[place].strip() for cells in rows], pa.string())
        for place, name in enumerate(spec.columns)
        if name != "_"
    }
    return _requests(list_file, values, where)


def _check_header(list_file: ListFile, rows: Sequence[Sequence[str]], where: Where) -> None:
    """Raise ManifestError if the recipe expects a header and the first row is none, or the other way round.

    If the recipe has no `header` to compare with, a row with numbers in all columns of times is taken for a clip.
    """
    spec = list_file.spec
    shown = spec.delimiter.join(rows[0])
    if spec.header:
        if rows[0] != next(csv.reader([spec.header], delimiter=spec.delimiter, skipinitialspace=True)):
            raise ManifestError(f"{where(0)}: {_other_header(shown, spec.header)}")
        return
    times = [place for place, name in enumerate(spec.columns) if name in ("start", "end")]
    clips = [all(_is_number(row[place]) for place in times) for row in rows[:2] if times]
    if spec.skip_header and clips[:1] == [True]:
        raise ManifestError(f"{where(0)}: {_not_a_header(shown)}")
    if not spec.skip_header and clips == [False, True]:
        raise ManifestError(f"{where(0)}: {_a_header(shown, spec.expects or spec.delimiter.join(spec.columns))}")


def read_clip_spans(path: Path) -> pa.Table:
    """Read a list of clip names as columns video_id, start_s and end_s; null if a name has no time.

    A line is the name of a clip. Text after a comma is ignored.
    """
    lines, numbers = read_lines(path)
    clips = []
    for row, line in enumerate(lines.to_pylist()):
        clip = parse_clip_name(line.partition(",")[0].rstrip())
        if clip is None:
            raise ManifestError(
                f"{path}: line {numbers[row].as_py()}: {line[:_SHOWN]!r} does not begin with the name of a clip, such "
                "as YOUTUBE_ID_000030 or YOUTUBE_ID_30000_40000. Correct the line."
            )
        clips.append(clip)
    return span_table(clips)


def span_table(clips: Sequence[ClipName]) -> pa.Table:
    """The clips as a table with the columns video_id, start_s and end_s (seconds)."""
    return pa.table(
        {
            "video_id": pa.array([clip.video_id for clip in clips], pa.string()),
            "start_s": pa.array([clip.start_s for clip in clips], pa.float64()),
            "end_s": pa.array([clip.end_s for clip in clips], pa.float64()),
        }
    )


def read_lines(path: Path) -> tuple[pa.Array, pa.Array]:
    """The lines of a text file that are not blank, without surrounding spaces, and their numbers from 1.

    A byte-order mark, CRLF and a missing last newline are ignored. Raises ManifestError for a file that is missing,
    empty or not UTF-8 text.
    """
    try:
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(column_names=["line"], block_size=4 * _LONGEST_LINE),
            parse_options=pa.csv.ParseOptions(delimiter=_NEVER, quote_char=False, ignore_empty_lines=False),
            convert_options=pa.csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False),
        )
    except OSError as error:
        raise ManifestError(f"{path}: the list cannot be read ({error})") from error
    except pa.ArrowInvalid as error:
        raise ManifestError(_why_unreadable(path)) from error
    lines = pc.utf8_trim_whitespace(table.column("line").combine_chunks())
    numbers = pa.array(range(1, len(lines) + 1), pa.int64())
    filled = pc.not_equal(lines, "")
    if not pc.any(filled).as_py():
        raise ManifestError(f"{path}: the list is empty. Get it again from its source.")
    return pc.filter(lines, filled), pc.filter(numbers, filled)


def csv_cells(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The rows of a delimited file that are not blank, each with its line number.

    Spaces after a delimiter are ignored. Raises ManifestError for a file that is missing, empty, not UTF-8 text or has
    wrong quotes.
    """
    has_rows = False
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
            try:
                for cells in reader:
                    if undecodable(cells):
                        raise ManifestError(
                            f"{path}: line {reader.line_num} is not UTF-8 text. Save the list as UTF-8."
                        )
                    if cells:
                        has_rows = True
                        yield reader.line_num, cells
            except csv.Error as error:
                raise ManifestError(f"{path}: line {reader.line_num}: not csv text ({error})") from error
    except OSError as error:
        raise ManifestError(f"{path}: the list cannot be read ({error})") from error
    if not has_rows:
        raise ManifestError(f"{path}: the list is empty. Get it again from its source.")


def _matched(list_file: ListFile) -> tuple[dict[str, pa.Array], Where]:
    """The named groups of every line, and the place of each row. Groups that did not match are empty."""
    path, spec = list_file.path, list_file.spec
    lines, numbers = read_lines(path)
    if spec.comment:
        keep = pc.invert(pc.starts_with(lines, spec.comment))
        lines, numbers = pc.filter(lines, keep), pc.filter(numbers, keep)
    try:
        rows = pc.extract_regex(lines, rf"\A(?:{spec.pattern})\z")
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"recipe {list_file.recipe.name}: pattern {spec.pattern!r} of {path.name}: {error}"
        ) from error
    if (spec.header or spec.skip_header) and len(rows):
        if spec.header and lines[0].as_py() != spec.header:
            raise ManifestError(f"{path}: line {numbers[0].as_py()}: {_other_header(lines[0].as_py(), spec.header)}")
        if not spec.header and rows[0].is_valid:
            raise ManifestError(f"{path}: line {numbers[0].as_py()}: {_not_a_header(lines[0].as_py())}")
        lines, numbers, rows = lines[1:], numbers[1:], rows[1:]
    row = first_true(pc.is_null(rows))
    if row is not None:
        line, expected = lines[row].as_py(), spec.expects or f"what the recipe's pattern {spec.pattern!r} matches"
        here = f"{path}: line {numbers[row].as_py()}"
        if row == 0 and not (spec.header or spec.skip_header) and len(rows) > 1 and rows[1].is_valid:
            raise ManifestError(f"{here}: {_a_header(line, expected)}")
        raise ManifestError(f"{here}: {_shown(line)} is not {expected}. Correct the line.")
    values = {field.name: pc.struct_field(rows, field.name) for field in rows.type}
    return values, lambda row: f"{path}: line {numbers[row].as_py()}"


def _requests(list_file: ListFile, values: Mapping[str, pa.Array], where: Where) -> pa.Table:
    """A REQUEST_SCHEMA table from columns by role."""
    spec = list_file.spec
    start_s, end_s = (_seconds(values.get(name), name, spec.unit == "ms", where) for name in ("start", "end"))
    video_id = values.get("video_id")
    if "clip" in values:
        clips = [_clip(name, list_file, where, row) for row, name in enumerate(values["clip"].to_pylist())]
        spans = span_table(clips)
        video_id, start_s, end_s = (spans.column(name).combine_chunks() for name in spans.column_names)
    elif video_id is None:
        video_id = pc.replace_substring_regex(values["path"], _WITHOUT_SUFFIX, "")
    table = request_table(
        list_file,
        where,
        video_id=video_id,
        start_s=None if start_s is None else pc.coalesce(start_s, 0.0),
        end_s=end_s,
        labels=_labels(list_file, values, where),
        split=values.get("split"),
        path=values.get("path"),
        annotations=_annotations(spec.annotations, values, where) if spec.annotations else None,
    )
    return merge_rows(table) if spec.merge else table


def _clip(name: str, list_file: ListFile, where: Where, row: int) -> ClipName:
    clip = parse_clip_name(name.strip(), list_file.spec.unit)
    expected = list_file.spec.expects or "the name of a clip, such as YOUTUBE_ID_000030"
    if clip is None:
        raise ManifestError(f"{where(row)}: {_shown(name)} is not {expected}. Correct the name.")
    if clip.start_s is None and list_file.clip_seconds is not None:
        raise ManifestError(
            f"{where(row)}: the name {_shown(name)} has no start; expected {expected}. Correct the name."
        )
    return clip


def _labels(list_file: ListFile, values: Mapping[str, pa.Array], where: Where) -> pa.ListArray | None:
    if "label" not in values:
        return None
    label = values["label"]
    if "same_label" in values:
        other = values["same_label"]
        row = first_true(pc.and_(pc.not_equal(other, ""), pc.not_equal(other, label)))
        if row is not None:
            raise ManifestError(
                f"{where(row)}: the line has the labels {label[row].as_py()!r} and {other[row].as_py()!r}. "
                "Correct one of them."
            )
    separator = list_file.spec.options.label_separator
    if separator is not None:
        return split_labels(label, separator)
    unquoted = pc.replace_substring_regex(label, r'\A\s*"(.*)"\s*\z', r"\1")
    return single_labels(pc.replace_substring(unquoted, '""', '"'))


def _annotations(kinds: Mapping[str, str], values: Mapping[str, pa.Array], where: Where) -> list[dict[str, Any]]:
    """The annotations of each row; empty values are left out."""
    annotations: list[dict[str, Any]] = [{} for _ in range(len(next(iter(values.values()))))]
    for name, kind in kinds.items():
        for row, text in enumerate(values[name].to_pylist()):
            if text:
                try:
                    annotations[row][name] = _ANNOTATIONS[kind](text)
                except ValueError as error:
                    raise ManifestError(
                        f"{where(row)}: {name} is {text!r}, must be {kind}. Correct the line."
                    ) from error
    return annotations


def _seconds(texts: pa.Array | None, name: str, milliseconds: bool, where: Where) -> pa.Array | None:
    """A column of texts as times in seconds; empty becomes null."""
    if texts is None:
        return None
    filled = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    try:
        numbers = pc.cast(filled, pa.float64())
    except pa.ArrowInvalid as error:
        row, text = next((row, text) for row, text in enumerate(texts.to_pylist()) if text and not _is_number(text))
        raise ManifestError(
            f"{where(row)}: {name} is {text!r}, must be a number, such as 12.5. Correct the line."
        ) from error
    return pc.divide(numbers, 1000.0) if milliseconds else numbers


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", text.strip(), re.ASCII) is not None


def _shown(line: str) -> str:
    return repr(line if len(line) <= _SHOWN else line[:_SHOWN] + "...")


def _other_header(line: str, header: str) -> str:
    return (
        f"the header is {_shown(line)}, expected {header!r}. "
        "Check that this is the right list; correct its header or the recipe's."
    )


def _not_a_header(line: str) -> str:
    return (
        f"{_shown(line)} is a clip, but the recipe expects a header in the first line. "
        "Set skip_header = false, or add the header."
    )


def _a_header(line: str, expected: str) -> str:
    return (
        f"{_shown(line)} looks like a header, but the recipe expects none: every line is {expected}. "
        "Delete that line, or set skip_header = true in a recipe of your own."
    )


def _why_unreadable(path: Path) -> str:
    """The reason why Arrow could not read a file, from reading it line by line."""
    problems: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
        (f"is longer than {_LONGEST_LINE} bytes", lambda line: len(line) > _LONGEST_LINE),
        ("contains the control character \\x01", lambda line: _NEVER.encode() in line),
        ("is not UTF-8 text", _is_not_utf8),
    )
    with path.open("rb") as file:
        empty = True
        for number, line in enumerate(file, start=1):
            empty = False
            for problem, has_problem in problems:
                if has_problem(line):
                    return f"{path}: line {number} {problem}. Check that this is the list as a text file."
    return f"{path}: the list is empty. Get it again from its source." if empty else f"{path}: not a text file"


def _is_not_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False
