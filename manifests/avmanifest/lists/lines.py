"""Lists of one clip per line, read as columns: a million rows in seconds, and a wrong line by its number."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from avmanifest.clipnames import CLIP_NAME, MILLISECONDS_FROM, YOUTUBE_ID
from avmanifest.errors import ManifestError
from avmanifest.lists.requests import (
    ListFile,
    Where,
    first_true,
    request_table,
    single_labels,
    split_labels,
)

_LONGEST_LINE: Final = 1 << 20  # bytes
_NEVER: Final = "\x01"  # the reader needs a delimiter; no list has this character
_SHOWN: Final = 120

_VGGSOUND: Final = (
    rf"(?P<video_id>{YOUTUBE_ID}),(?P<start>\d{{1,9}}),"
    r'(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^",]+)),(?P<split>[^",\s]+)'
)
_AUDIOSET: Final = (
    rf"(?P<video_id>{YOUTUBE_ID})\s*,\s*(?P<start>\d{{1,9}}(?:\.\d+)?)\s*,\s*(?P<end>\d{{1,9}}(?:\.\d+)?)\s*,"
    r'\s*"?(?P<labels>[^"]+?)"?'
)
_LABELED_CLIP: Final = CLIP_NAME + r"(?:,(?P<label>.*))?"
_NAME: Final = r"(?P<video_id>[A-Za-z0-9][A-Za-z0-9_-]*)(?:,(?P<number>\d{1,9}))?"
_MUSIC_PATHS: Final = rf"(?:[^,]*/)?(?P<folder>[^/,]+)/(?P<video_id>{YOUTUBE_ID})\.wav,[^,]*,\d+(?:,(?P<label>[^,]*))?"


def read_lines(path: Path) -> tuple[pa.Array, pa.Array]:
    """The lines of a text file that are not blank, without spaces around them, and their numbers from 1.

    A byte-order mark, CRLF and a missing last newline make no difference. Raises ManifestError for a file
    that is missing, empty or no UTF-8 text.
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


def match_lines(
    path: Path, pattern: str, form: str, *, comment: str = "", header: str = ""
) -> tuple[pa.StructArray, Where]:
    """The named groups of every line, and where each row stands; groups that took no part are empty.

    `form` says in an error what a line looks like. Lines that begin with `comment` are passed over, and so
    is a first line that is `header`. Raises ManifestError at the first line that does not match.
    """
    lines, numbers = read_lines(path)
    keep = pc.invert(pc.starts_with(lines, comment)) if comment else None
    if header and lines[0].as_py() == header:
        keep = pc.not_equal(numbers, numbers[0])
    if keep is not None:
        lines, numbers = pc.filter(lines, keep), pc.filter(numbers, keep)
    rows = pc.extract_regex(lines, rf"\A(?:{pattern})\z")
    row = first_true(pc.is_null(rows))
    if row is not None:
        raise ManifestError(_why_no_match(path, form, header, lines, numbers, rows, row))
    return rows, lambda row: f"{path}: line {numbers[row].as_py()}"


def read_vggsound(list_file: ListFile) -> pa.Table:
    """The official VGGSound list: id, start in whole seconds, label, split."""
    rows, where = match_lines(
        list_file.path, _VGGSOUND, "YOUTUBE_ID,START,LABEL,SPLIT (a label with commas in double quotes)"
    )
    quoted = pc.replace_substring(_group(rows, "quoted"), '""', '"')
    labels = pc.if_else(pc.equal(quoted, ""), _group(rows, "plain"), quoted)
    return request_table(
        list_file,
        where,
        video_id=_group(rows, "video_id"),
        start_s=_seconds(rows, "start"),
        labels=single_labels(labels),
        split=_group(rows, "split"),
    )


def read_audioset(list_file: ListFile) -> pa.Table:
    """An AudioSet list: id, start, end, and the ids of the labels; spaces after commas mean nothing."""
    form = 'YOUTUBE_ID, START, END, "LABEL,LABEL"'
    rows, where = match_lines(list_file.path, _AUDIOSET, form, comment="#")
    return request_table(
        list_file,
        where,
        video_id=_group(rows, "video_id"),
        start_s=_seconds(rows, "start"),
        end_s=_seconds(rows, "end"),
        labels=split_labels(_group(rows, "labels"), ","),
    )


def read_clips(list_file: ListFile) -> pa.Table:
    """Clip names, each perhaps with a label: everything after the first comma."""
    form = "YOUTUBE_ID_START or YOUTUBE_ID_START,LABEL"
    rows, where = match_lines(list_file.path, _LABELED_CLIP, form, header=list_file.spec.header)
    start_s, end_s = _span(rows)
    row = first_true(pc.is_null(start_s))
    if row is not None and list_file.clip_seconds is not None:
        raise ManifestError(f"{where(row)}: the name has no start second; expected {form}")
    labels = pc.replace_substring_regex(_group(rows, "label"), r'\A\s*"(.*)"\s*\z', r"\1")
    return request_table(
        list_file,
        where,
        video_id=_group(rows, "video_id"),
        start_s=pc.coalesce(start_s, 0.0),
        end_s=end_s,
        labels=single_labels(pc.replace_substring(labels, '""', '"')),
    )


def read_names(list_file: ListFile) -> pa.Table:
    """Plain names, each perhaps with a number whose meaning is not published: annotation `list_number`."""
    form = "NAME or NAME,NUMBER"
    rows, where = match_lines(list_file.path, _NAME, form, header=list_file.spec.header)
    numbers = _group(rows, "number").to_pylist()
    annotations = [{"list_number": int(number)} if number else {} for number in numbers]
    return request_table(list_file, where, video_id=_group(rows, "video_id"), annotations=annotations)


def read_music_paths(list_file: ListFile) -> pa.Table:
    """Audio path, frames path, number of frames: the audio's folder is the label, its name the video."""
    form = "FOLDERS/LABEL/YOUTUBE_ID.wav,FRAMES,NUMBER or the same with ,LABEL"
    rows, where = match_lines(list_file.path, _MUSIC_PATHS, form)
    folder, label = _group(rows, "folder"), _group(rows, "label")
    row = first_true(pc.and_(pc.not_equal(label, ""), pc.not_equal(label, folder)))
    if row is not None:
        raise ManifestError(
            f"{where(row)}: the label {label[row].as_py()!r} is not the audio's folder, {folder[row].as_py()!r}"
        )
    return request_table(list_file, where, video_id=_group(rows, "video_id"), labels=single_labels(folder))


def read_clip_spans(path: Path) -> tuple[pa.Table, Where]:
    """video_id, start_s and end_s (null where the name does not say) of a list of clip names."""
    rows, where = match_lines(path, _LABELED_CLIP, "a clip's name, and perhaps a comma and more")
    start_s, end_s = _span(rows)
    return pa.table({"video_id": _group(rows, "video_id"), "start_s": start_s, "end_s": end_s}), where


def _span(rows: pa.StructArray) -> tuple[pa.Array, pa.Array]:
    """Start and end in seconds, null where a name has none; two numbers far apart count milliseconds."""
    start, end = _seconds(rows, "start"), _seconds(rows, "end")
    milliseconds = pc.fill_null(pc.greater_equal(pc.subtract(end, start), MILLISECONDS_FROM), False)
    return (
        pc.if_else(milliseconds, pc.divide(start, 1000.0), start),
        pc.if_else(milliseconds, pc.divide(end, 1000.0), end),
    )


def _group(rows: pa.StructArray, name: str) -> pa.Array:
    return pc.struct_field(rows, name)


def _seconds(rows: pa.StructArray, name: str) -> pa.Array:
    text = _group(rows, name)
    return pc.cast(pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text), pa.float64())


def _why_no_match(
    path: Path,
    form: str,
    header: str,
    lines: pa.Array,
    numbers: pa.Array,
    rows: pa.StructArray,
    row: int,
) -> str:
    line = lines[row].as_py()
    shown = line if len(line) <= _SHOWN else line[:_SHOWN] + "..."
    here = f"{path}: line {numbers[row].as_py()}"
    if row == 0 and not header and len(rows) > 1 and rows[1].is_valid:
        return f"{here}: {shown!r} looks like a header, and this list has none. Delete that line: every line is {form}."
    return f"{here}: {shown!r} is not {form}"


def _why_unreadable(path: Path) -> str:
    """What a reader that only says no did not like, found line by line."""
    problems: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
        (f"is longer than {_LONGEST_LINE} bytes", lambda line: len(line) > _LONGEST_LINE),
        ("holds the control character \\x01", lambda line: _NEVER.encode() in line),
        ("is not UTF-8 text", _is_not_utf8),
    )
    with path.open("rb") as file:
        empty = True
        for number, line in enumerate(file, start=1):
            empty = False
            for problem, found in problems:
                if found(line):
                    return f"{path}: line {number} {problem}. Is this the list, as text?"
    return f"{path}: the list is empty. Get it again from its source." if empty else f"{path}: no text list"


def _is_not_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False
