"""How a list was saved: its encoding, delimiter, quotes, header, and the order of its columns.

Spreadsheets, R and pandas save the same list in many forms. What can be decided from the content is read; what cannot
stays an error of the reader, with the line.
"""

import codecs
import csv
import io
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from avmanifest.files import open_file, read_file

DELIMITERS: Final = (",", "\t", ";", "|")
SAMPLED_ROWS: Final = 200
"""Rows by which the form of a list is decided."""

_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLED_BYTES: Final = 4096

COLUMN_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "video_id": ("id", "videoid", "youtubeid", "ytid", "yid", "vid", "video", "youtube"),
        "clip": ("clip", "clipid", "clipname", "name"),
        "path": ("path", "file", "filename", "filepath", "videopath"),
        "start": ("start", "starts", "startseconds", "starttime", "startsec", "begin", "onset"),
        "end": ("end", "ends", "endseconds", "endtime", "endsec", "stop", "offset"),
        "label": ("label", "labels", "class", "classes", "classname", "category", "positivelabels"),
        "split": ("split", "set", "subset", "traintestsplit", "traintest", "partition", "fold"),
    }
)
"""Usual names of the columns of lists, without spaces, marks and capital letters."""

_NUMBERED: Final = re.compile(r"(?:[VX]|Column|Unnamed: )?(\d{1,3})")
_COMMA_NUMBER: Final = re.compile(r"\s*(-?\d{1,9}),(\d{1,9})\s*")
_SEPARATOR_LINE: Final = re.compile(r"\"?sep=(?:.|\\t)?\"?", re.IGNORECASE)
_WHOLE: Final = re.compile(r"\A(\d{1,9})\.0{1,9}\Z")


def encoding_of(path: Path) -> str:
    """The encoding of a text file: by its byte-order mark, else by the zero bytes of UTF-16, else UTF-8."""
    with open_file(path) as file:
        start = file.read(_SAMPLED_BYTES)
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    even, odd = start[0::2].count(0), start[1::2].count(0)
    if even + odd > len(start) // 4 and min(even, odd) == 0:
        return "utf-16-le" if odd else "utf-16-be"
    return "utf-8-sig"


def utf8_remedy(path: Path) -> str:
    """What to do with a text file that is not UTF-8, as the end of a message."""
    return (
        "Save it as UTF-8 text; a file from Windows is converted by "
        f"iconv -f cp1252 -t utf-8 {shlex.quote(path.name)} > NEW."
    )


def number_remedy(text: str) -> str:
    """What to do with a text that is no number, as the end of a message; empty: nothing is known."""
    if match := _COMMA_NUMBER.fullmatch(text):
        return f": write a point in place of the comma, {match[1]}.{match[2]}"
    return ""


def problem_of_first(line: str) -> str:
    """The problem of the first line of a list, as words after its place; empty: none."""
    if _SEPARATOR_LINE.fullmatch(line.strip()):
        return f"is {line.strip()!r}, which a spreadsheet writes for itself. Delete that line."
    return ""


def utf8_content(path: Path) -> Path | io.BytesIO:
    """The file itself if it is UTF-8, else its content as UTF-8. Raises UnicodeError if it cannot be decoded."""
    encoding = encoding_of(path)
    if encoding == "utf-8-sig":
        return path
    return io.BytesIO(read_file(path).decode(encoding).encode())


def fold_name(name: str) -> str:
    """A column's name without spaces, marks and capital letters, as in COLUMN_NAMES."""
    return re.sub(r"[\W_]+", "", name.casefold())


def has_name(name: str, role: str) -> bool:
    """Whether a column of this name has the role: a role of COLUMN_NAMES, or a name of its own."""
    folded = fold_name(name)
    return folded != "" and (folded == fold_name(role) or folded in COLUMN_NAMES.get(role, ()))


def is_header(cells: Sequence[str], roles: Sequence[str]) -> bool:
    """Whether a row names columns: none of its cells is a number, and one is a usual name or that of a role."""
    known = (*COLUMN_NAMES, *roles)
    return not any(re.fullmatch(r"\s*[\d.]+\s*", cell) for cell in cells) and any(
        has_name(cell, role) for cell in cells for role in known
    )


def is_numbered(cells: Sequence[str]) -> bool:
    """Whether a row holds the numbers that R, pandas and spreadsheets write as names: V1, V2 and so on, or 0, 1."""
    named = [cell.strip() for cell in cells]
    if named[0] in ("", "Unnamed: 0"):  # above the row numbers
        del named[0]
    numbers = [int(match[1]) for name in named if (match := _NUMBERED.fullmatch(name))]
    return len(numbers) == len(named) > 1 and numbers in (list(range(len(named))), list(range(1, len(named) + 1)))


def is_blank(line: str) -> bool:
    """Whether a line has no values: the empty rows of a spreadsheet are lines of delimiters."""
    return line.strip("".join(DELIMITERS) + '" \r\n') == ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of a delimited list."""

    delimiter: str
    has_header: bool = False
    cells: tuple[int, ...] | None = None  # places of the needed columns, in the order of the roles; None: all
    whole_numbers: bool = False  # `30.0` means `30`
    empty: tuple[int, ...] = ()  # places of columns that were left out because no row has a value there

    def row(self, cells: Sequence[str]) -> list[str]:
        """The cells of a line in the order of the roles; all of them if one is not empty where it was to be."""
        whole = self.cells is None or any(cells[place].strip() for place in self.empty if place < len(cells))
        chosen = cells if whole else [cells[place] for place in self.cells or () if place < len(cells)]
        stripped = [cell.strip() for cell in chosen]
        return [_WHOLE.sub(r"\1", cell) for cell in stripped] if self.whole_numbers else stripped

    def describe(self, usual: str, num_columns: int) -> str:
        """What was made of the list, in one line, as far as it differs from the usual form."""
        names = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
        said = [f"values separated by {names.get(self.delimiter, repr(self.delimiter))}"]
        if self.has_header:
            said.append("the first line as a header")
        if self.cells is not None:
            order = list(self.cells) == list(range(self.cells[0], self.cells[0] + len(self.cells)))
            said.append(
                f"columns {', '.join(str(place + 1) for place in self.cells)} of {num_columns}"
                + ("" if order else " in the order of their names")
            )
        if self.whole_numbers:
            said.append("30.0 as 30")
        return ", ".join(said if self.delimiter != usual or len(said) == 1 else said[1:])


def find_dialect(
    lines: Sequence[str], roles: Sequence[str], accepts: Callable[[list[str]], bool], usual: str, num_usual: int
) -> tuple[Dialect, int] | None:
    """The form in which most lines of a list make sense; of several the least unusual one.

    Args:
        lines: The first lines of the list, SAMPLED_ROWS at most.
        roles: The roles of the needed columns, in their order.
        accepts: Whether a row of cells in this order is a clip.
        usual: The delimiter of the official list.
        num_usual: The number of lines that are clips in the official form.

    Returns:
        The form, under which more lines are clips than in the official form and more than half of them, and the number
        of columns. None: there is none.
    """
    best: tuple[Dialect, int] | None = None
    most = max(num_usual, len(lines) // 2)
    for delimiter in dict.fromkeys((usual, *DELIMITERS)):
        rows = list(split_rows(lines, delimiter))
        for dialect in _candidates(rows, roles, delimiter):
            good = sum(accepts(dialect.row(row)) for row in rows[dialect.has_header :])
            if good > most and (dialect.has_header or accepts(dialect.row(rows[0]))):
                best, most = (dialect, len(rows[-1])), good
    return best


def split_rows(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The cells of each line. A line whose quotes are not closed is one cell."""
    for line in lines:
        try:
            yield next(csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True), [line])
        except csv.Error:
            yield [line]


def joined(cells: Iterable[str]) -> str:
    """The cells as a line with commas, quoted where necessary."""
    return ",".join('"' + cell.replace('"', '""') + '"' if re.search('[",]', cell) else cell for cell in cells)


def _candidates(rows: Sequence[Sequence[str]], roles: Sequence[str], delimiter: str) -> Iterator[Dialect]:
    """Forms to try, the most usual ones first."""
    header = is_header(rows[0], roles) or is_numbered(rows[0])
    body = rows[1:] if header else rows
    width = max(map(len, rows))
    filled = [place for place in range(width) if any(place < len(row) and row[place].strip() for row in body)]
    empty = tuple(place for place in range(width) if place not in filled)
    places: list[tuple[int, ...] | None] = [tuple(filled) if empty else None]
    if header and (named := _named_places(rows[0], roles)) is not None:
        places, empty = [named], ()
    elif all(row and row[0].strip().isdecimal() for row in body):  # the row numbers that R and pandas write
        places.append(tuple(filled[1:]))
    for cells in places:
        for whole_numbers in (False, True):
            yield Dialect(delimiter, header, cells, whole_numbers, empty)


def _named_places(header: Sequence[str], roles: Sequence[str]) -> tuple[int, ...] | None:
    """The place of each role's column by its name; None unless each role is the name of exactly one column."""
    places = []
    for role in roles:
        named = [place for place, name in enumerate(header) if has_name(name, role)]
        if len(named) != 1:
            return None
        places += named
    return tuple(places) if len(set(places)) == len(places) else None
