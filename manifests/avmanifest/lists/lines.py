"""Reading of lists with one clip per line, by a pattern or by columns that the recipe's TOML defines.

The values of a line have roles: `clip` (the name of a clip), `video_id` or `path`; `start`, `end`, `label`, `split`.
Other values become annotations if the recipe names them under `annotations`; otherwise they are ignored.
"""

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from avmanifest.clipnames import ClipName, parse_clip_name
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import open_file, open_text, require_file
from avmanifest.lists.dialects import (
    SAMPLED_ROWS,
    Dialect,
    encoding_of,
    find_dialect,
    is_blank,
    is_header,
    is_numbered,
    joined,
    number_remedy,
    problem_of_first,
    split_rows,
    utf8_content,
    utf8_remedy,
)
from avmanifest.lists.requests import (
    ListFile,
    Where,
    first_true,
    merge_rows,
    problem_of,
    request_table,
    single_labels,
    split_labels,
)
from avmanifest.recipe import ListSpec
from avmanifest.secrets import excerpt
from avmanifest.wording import counted

_LONGEST_LINE: Final = 1 << 20  # bytes
_BLANK: Final = r'\A[,;|"\s]*\z'  # as `is_blank`
_NEVER: Final = "\x01"  # Arrow's reader needs a delimiter; this character occurs in no list
_SHOWN: Final = 120  # characters of a wrong line in an error message
_WITHOUT_SUFFIX: Final = r"\.[A-Za-z0-9]{1,5}\z"


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_ANNOTATIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "text": str,
    "texts": lambda text: [text],
    "int": int,
    "float": _finite,
}


def read_pattern(list_file: ListFile) -> pa.Table:
    """Read a list whose lines match the recipe's `pattern`, an RE2 regular expression with named groups."""
    values, where = _matched(list_file)
    return _requests(list_file, values, where)


def read_columns(list_file: ListFile) -> pa.Table:
    """Read a list of values separated by the recipe's `delimiter`, in the order of its `columns`; quotes as in csv."""
    path, spec = list_file.path, list_file.spec
    expected = spec.expects or spec.delimiter.join(spec.columns)

    def is_clip(cells: Sequence[str]) -> bool:
        return len(cells) == len(spec.columns) and all(map(_is_number, _times(spec, cells)))

    dialect = _dialect_of_columns(list_file, is_clip)
    rows: list[list[str]] = []
    lines: list[int] = []
    for line, cells in csv_cells(path, dialect.delimiter):
        row = dialect.row(cells)
        if len(row) != len(spec.columns):
            raise ManifestError(
                f"{path}: line {line}: {counted(len(row), 'value')} {excerpt(spec.delimiter.join(row), _SHOWN)!r}, "
                f"expected the {len(spec.columns)} of {expected}. Correct the line, or `columns` and `delimiter` of "
                "the recipe."
            )
        rows.append(row)
        lines.append(line)

    def where(row: int) -> str:
        return f"{path}: line {lines[row]}"

    certain = [is_clip(row) for row in rows[:2]] if _times(spec, rows[0]) else []
    if dialect.has_header or _has_header(list_file, rows[0], where(0), certain):
        del rows[0], lines[0]
    values = {
        name: pa.array([cells[place].strip() for cells in rows], pa.string())
        for place, name in enumerate(spec.columns)
        if name != "_"
    }
    return _requests(list_file, values, where)


def _dialect_of_columns(list_file: ListFile, is_clip: Callable[[Sequence[str]], bool]) -> Dialect:
    """The form of the list: the recipe's, unless most of the first rows do not have it and have another one."""
    spec = list_file.spec
    lines = _first_lines(list_file.path)
    rows = [cells for cells in split_rows(lines, spec.delimiter) if cells]
    num_usual = sum(map(is_clip, rows))
    if num_usual >= len(rows) - 1:
        return Dialect(spec.delimiter)
    found = find_dialect(lines, spec.columns, is_clip, spec.delimiter, num_usual)
    if found is None:
        return Dialect(spec.delimiter)
    dialect, num_columns = found
    list_file.note(f"read with {dialect.describe(spec.delimiter, num_columns)}")
    return dialect


def _first_lines(path: Path) -> list[str]:
    """The first lines that are not blank; less if they cannot be decoded. `csv_cells` says what is wrong."""
    lines: list[str] = []
    try:
        with open_text(path, encoding=encoding_of(path), errors="replace") as file:
            while len(lines) < SAMPLED_ROWS and (line := file.readline(_LONGEST_LINE)):
                lines += [] if is_blank(line) else [line.rstrip("\r\n")]
    except (OSError, UnicodeError):
        return []
    return lines


def _times(spec: ListSpec, cells: Sequence[str]) -> list[str]:
    """The cells of the columns of times."""
    return [cell for name, cell in zip(spec.columns, cells, strict=False) if name in ("start", "end")]


def _has_header(list_file: ListFile, first: Sequence[str], where: str, clips: Sequence[bool]) -> bool:
    """Whether the first row is a header, if the list has the form that the recipe expects.

    Args:
        list_file: The list; notes what differs from the recipe.
        first: The cells of the first row.
        where: Its place.
        clips: Whether the first two rows are clips; empty if that cannot be said for sure.

    Raises:
        ManifestError: The recipe expects another header, or the first row is neither a header nor a clip.
    """
    spec = list_file.spec
    shown, named = spec.delimiter.join(first), is_header(first, spec.columns) or is_numbered(first)
    if spec.header:
        if list(first) == next(csv.reader([spec.header], delimiter=spec.delimiter, skipinitialspace=True)):
            return True
        if named or clips[:1] != [True]:
            raise ManifestError(f"{where}: {_other_header(shown, spec.header)}")
    elif spec.skip_header:
        if clips[:1] != [True] or named:
            return True
    elif clips == [False, True]:
        if not named:
            raise ManifestError(f"{where}: {_a_header(shown, spec.expects or spec.delimiter.join(spec.columns))}")
        list_file.note("read with the first line as a header")
        return True
    else:
        return False
    list_file.note("read without a header: the first line is a clip")
    return False


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
                f"{path}: line {numbers[row].as_py()}: {excerpt(line, _SHOWN)!r} does not begin with the name of a "
                "clip, such as YOUTUBE_ID_000030 or YOUTUBE_ID_30000_40000. Correct the line."
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
    """The lines of a text file that have values, without surrounding spaces, and their numbers from 1.

    A byte-order mark, CRLF and a missing last newline are ignored. Raises ManifestError for a file that is missing,
    empty or not UTF-8 text.
    """
    try:
        require_file(path)
        table = pa.csv.read_csv(
            utf8_content(path),
            read_options=pa.csv.ReadOptions(column_names=["line"], block_size=4 * _LONGEST_LINE),
            parse_options=pa.csv.ParseOptions(delimiter=_NEVER, quote_char=False, ignore_empty_lines=False),
            convert_options=pa.csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False),
        )
    except OSError as error:
        raise ManifestError(f"{path}: the list cannot be read ({error})") from error
    except (pa.ArrowException, UnicodeError) as error:
        raise ManifestError(_why_unreadable(path)) from error
    lines = pc.utf8_trim_whitespace(table.column("line").combine_chunks())
    if problem := problem_of_first(lines[0].as_py() if len(lines) else ""):
        raise ManifestError(f"{path}: line 1 {problem}")
    numbers = pa.array(range(1, len(lines) + 1), pa.int64())
    filled = pc.invert(pc.match_substring_regex(lines, _BLANK))
    if not pc.any(filled).as_py():
        raise ManifestError(_is_empty(path))
    return pc.filter(lines, filled), pc.filter(numbers, filled)


def csv_cells(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The rows of a delimited file that are not blank, each with its line number.

    Spaces after a delimiter are ignored. Raises ManifestError for a file that is missing, empty, not UTF-8 text or has
    wrong quotes.
    """
    has_rows = False
    for line, cells in csv_rows(path, delimiter, "list", strict=True):
        if line == 1 and (problem := problem_of_first(delimiter.join(cells))):
            raise ManifestError(f"{path}: line 1 {problem}")
        if any(cell.strip() for cell in cells):
            has_rows = True
            yield line, cells
    if not has_rows:
        raise ManifestError(_is_empty(path))


def csv_rows(path: Path, delimiter: str, kind: str, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The rows of a delimited file, blank ones too, each with the number of its last line, which a ManifestError names.

    Args:
        path: The file.
        delimiter: The character between values.
        kind: What messages call the file.
        strict: Refuse wrong quotes, and ignore spaces after a delimiter.
    """
    try:
        with open_text(path, encoding=encoding_of(path), errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=strict, skipinitialspace=strict)
            try:
                for cells in reader:
                    if problem := problem_of(cells):
                        raise ManifestError(f"{path}: line {reader.line_num} {problem}. {utf8_remedy(path)}")
                    yield reader.line_num, cells
            except csv.Error as error:
                raise ManifestError(f"{path}: line {reader.line_num}: not csv text ({error})") from error
    except (OSError, UnicodeError) as error:
        raise ManifestError(f"{path}: the {kind} cannot be read ({error})") from error


def _matched(list_file: ListFile) -> tuple[dict[str, pa.Array], Where]:
    """The named groups of every line, and the place of each row. Groups that did not match are empty."""
    path, spec = list_file.path, list_file.spec
    lines, numbers = read_lines(path)
    if spec.comment:
        keep = pc.invert(pc.starts_with(lines, spec.comment))
        lines, numbers = pc.filter(lines, keep), pc.filter(numbers, keep)
    is_clip = _line_check(list_file)
    dialect = _dialect_of_pattern(list_file, lines[:SAMPLED_ROWS].to_pylist(), is_clip)
    if dialect is not None:
        if dialect.has_header:
            lines, numbers = lines[1:], numbers[1:]
        rows = split_rows(lines.to_pylist(), dialect.delimiter)
        lines = pa.array([joined(dialect.row(row)) for row in rows], pa.string())
    try:
        rows = pc.extract_regex(lines, rf"\A(?:{spec.pattern})\z")
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"recipe {list_file.recipe.name}: pattern {spec.pattern!r} of {path.name}: {error}"
        ) from error
    if dialect is None and len(rows):
        here, first = f"{path}: line {numbers[0].as_py()}", lines[0].as_py()
        clips = list(map(is_clip, lines[:2].to_pylist()))
        certain = {"start", "end", "clip"} & {field.name for field in rows.type}
        if spec.skip_header and not spec.header and clips[0] and not certain and not is_header([first], ()):
            raise ManifestError(f"{here}: {_not_a_header(first)}")
        if _has_header(list_file, next(split_rows([first], spec.delimiter)), here, clips):
            lines, numbers, rows = lines[1:], numbers[1:], rows[1:]
    row = first_true(pc.is_null(rows))
    if row is not None:
        line, expected = lines[row].as_py(), spec.expects or f"what the recipe's pattern {spec.pattern!r} matches"
        here = f"{path}: line {numbers[row].as_py()}"
        raise ManifestError(f"{here}: {_shown(line)} is not {expected}. Correct the line.")
    values = {field.name: pc.struct_field(rows, field.name) for field in rows.type}
    return values, lambda row: f"{path}: line {numbers[row].as_py()}"


def _line_check(list_file: ListFile) -> Callable[[str], bool]:
    """Whether a line is a clip: it matches the recipe's pattern, and a name in it is the name of a clip."""
    spec, pattern = list_file.spec, re.compile(list_file.spec.pattern)
    needs_start = list_file.clip_seconds is not None

    def is_clip(line: str) -> bool:
        match = pattern.fullmatch(line)
        if match is None or "clip" not in match.groupdict():
            return match is not None
        clip = parse_clip_name((match["clip"] or "").strip(), spec.unit)
        return clip is not None and (clip.start_s is not None or not needs_start)

    return is_clip


def _dialect_of_pattern(list_file: ListFile, sample: Sequence[str], is_clip: Callable[[str], bool]) -> Dialect | None:
    """The form of the list if most of the first lines do not match the recipe's pattern and another form does."""
    num_usual = sum(map(is_clip, sample))
    if num_usual >= len(sample) - 1 and (num_usual > 1 or num_usual == len(sample)):
        return None
    roles = list(re.compile(list_file.spec.pattern).groupindex)
    found = find_dialect(sample, roles, lambda cells: is_clip(joined(cells)), list_file.spec.delimiter, num_usual)
    if found is None:
        return None
    dialect, num_columns = found
    list_file.note(f"read with {dialect.describe(list_file.spec.delimiter, num_columns)}")
    return dialect


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
            f"{where(row)}: {name} is {text!r}, must be a number, such as 12.5{number_remedy(text)}. Correct the line."
        ) from error
    return pc.divide(numbers, 1000.0) if milliseconds else numbers


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", text.strip(), re.ASCII) is not None


def _shown(line: str) -> str:
    return repr(excerpt(line, _SHOWN) + ("..." if len(line) > _SHOWN else ""))


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


_NOT_UTF8: Final = "is not UTF-8 text"


def _why_unreadable(path: Path) -> str:
    """The reason why Arrow could not read a file, from reading it line by line."""
    problems: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
        (f"is longer than {_LONGEST_LINE} bytes", lambda line: len(line) > _LONGEST_LINE),
        ("contains the control character \\x01", lambda line: _NEVER.encode() in line),
        ("has a NUL character", lambda line: b"\0" in line),
        (_NOT_UTF8, _is_not_utf8),
    )
    with open_file(path) as file:
        empty = True
        for number, line in enumerate(file, start=1):
            empty = False
            for problem, has_problem in problems:
                if has_problem(line):
                    if problem == _NOT_UTF8:
                        return f"{path}: line {number} {problem}. {utf8_remedy(path)}"
                    return f"{path}: line {number} {problem}. Check that this is the list as a text file."
    return _is_empty(path) if empty else f"{path}: not a text file"


def _is_empty(path: Path) -> str:
    return f"{path}: the list is empty. Get it again from its source."


def _is_not_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False
