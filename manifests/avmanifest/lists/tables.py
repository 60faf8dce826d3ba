"""Reading of a table of clips (csv, tsv, jsonl or parquet) whose columns are named by options."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from avmanifest.columns import MOST_EXTRA
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import open_text, require_file
from avmanifest.lists.dialects import (
    DELIMITERS,
    Dialect,
    encoding_of,
    fold_name,
    has_name,
    is_header,
    number_remedy,
    problem_of_first,
    split_rows,
    utf8_content,
    utf8_remedy,
)
from avmanifest.lists.lines import csv_rows
from avmanifest.lists.own_columns import own_columns, typed_texts, typed_values
from avmanifest.lists.requests import (
    ListFile,
    Where,
    merge_rows,
    problem_of,
    request_table,
    single_labels,
    split_labels,
)
from avmanifest.names import did_you_mean
from avmanifest.parsing import parse_object
from avmanifest.recipe import TableOptions
from avmanifest.secrets import excerpt
from avmanifest.settings import declared
from avmanifest.wording import counted

_ROLES: Final = {
    "id_column": ("id", "video_id"),
    "path_column": ("path", "path"),
    "start_column": ("start", "start"),
    "end_column": ("end", "end"),
    "label_column": ("label", "label"),
    "split_column": ("split", "split"),
}
"""Option -> the usual name of its column, and the role of columns with other usual names in COLUMN_NAMES."""

_NUMBERS: Final = ("start_column", "end_column")
_DELIMITERS: Final = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_JSON_LINES: Final = (".jsonl", ".ndjson")
_LONGEST_HEADER: Final = 1 << 20  # characters
TABLE_SUFFIXES: Final = (*_DELIMITERS, *_JSON_LINES, ".parquet")


def read_table_list(list_file: ListFile) -> pa.Table:
    """The clips of a table as a REQUEST_SCHEMA table.

    A clip needs an id or a path. Without a column of ids, the id is the path without its suffix. Without a start, the
    clip begins at 0.

    Raises:
        ConfigError: A column does not exist; the message lists the existing ones.
        ManifestError: A value has the wrong type; the message names the line.
    """
    path, options = list_file.path, list_file.spec.options
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        columns, unused, where = _read_delimited(list_file, _DELIMITERS[suffix])
    elif suffix in _JSON_LINES:
        columns, unused, where = _read_json_lines(list_file)
    elif suffix == ".parquet":
        columns, unused, where = _read_parquet(list_file)
    else:
        raise ConfigError(f"{path}: a table is one of {', '.join(TABLE_SUFFIXES)}, not {suffix!r}")
    files = columns.get("path_column")
    ids = columns.get("id_column")
    if ids is None:
        ids = pc.replace_substring_regex(files, r"\.[A-Za-z0-9]{1,5}\z", "")
    start_s, split = columns.get("start_column"), columns.get("split_column")
    table = request_table(
        list_file,
        where,
        video_id=ids,
        start_s=None if start_s is None else pc.coalesce(start_s, 0.0),
        end_s=columns.get("end_column"),
        labels=_labels(columns.get("label_column"), options),
        split=None if split is None else pc.coalesce(split, "train"),
        path=None if files is None else pc.coalesce(files, ""),
        licence=_licences(unused),
        own=own_columns(list_file, unused),
    )
    return merge_rows(table) if list_file.spec.merge else table


def _licences(unused: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Array | None:
    """The clips' licences, for the column that every manifest has. The table's column is kept besides."""
    name = next((name for name in unused if fold_name(name) in ("licence", "license")), None)
    if name is None or not pa.types.is_string(unused[name].type):
        return None
    column = unused[name]
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _labels(column: pa.Array | None, options: TableOptions) -> pa.ListArray | None:
    if column is None or isinstance(column, pa.ListArray):
        return column
    if options.label_separator is None:
        return single_labels(column)
    return split_labels(column, options.label_separator)


def _option_of(field: str) -> str:
    """The option of a field of TableOptions."""
    return next(one.option.name for one in declared(TableOptions) if one.path == field and one.option is not None)


def _choose(list_file: ListFile, present: Sequence[str]) -> dict[str, str]:
    """Field of TableOptions -> name of its column, for the columns that the table has."""
    path, options = list_file.path, list_file.spec.options
    if twice := sorted({name for name in present if name and list(present).count(name) > 1}):
        raise ConfigError(f"{path}: the header has the columns {twice} twice. Rename them.")
    if options.label_separator == "":
        raise ConfigError("--label-separator is empty. Leave it out if a cell has one label.")
    chosen = {}
    for option, (usual, role) in _ROLES.items():
        requested = getattr(options, option)
        if requested is not None and requested not in present:
            hint = did_you_mean(requested, present) or ";"
            raise ConfigError(
                f"{path}: no column {requested!r} for {_option_of(option)}{hint} it has {', '.join(present)}"
            )
        if (name := requested or usual) in present:
            chosen[option] = name
        elif others := [name for name in present if has_name(name, role)]:
            if len(others) > 1:
                raise ConfigError(
                    f"{path}: {' or '.join(others)} may be the column. Name one with {_option_of(option)}."
                )
            chosen[option] = others[0]
            list_file.note(f"read with column {others[0]} as {option}")
    if not {"id_column", "path_column"} & chosen.keys():
        raise ConfigError(
            f"{path}: no column of ids or of paths; it has {', '.join(present)}. "
            "Name one with --id-column or --path-column, or write the names of the columns into the first line."
        )
    if len(set(chosen.values())) < len(chosen):
        raise ConfigError(f"{path}: one column has two uses: {chosen}. Name the columns with options.")
    return chosen


_Read = tuple[dict[str, pa.Array], dict[str, pa.Array | pa.ChunkedArray], Where]
"""Columns by the option that names them, the unused columns by name, and the place of a row."""


def _unused(list_file: ListFile, present: Sequence[str], chosen: Mapping[str, str]) -> list[str]:
    """The columns to keep besides those that have a use."""
    used = set(chosen.values())
    return [name for name in present if name and name not in used] if list_file.spec.options.columns else []


def _read_delimited(list_file: ListFile, usual: str) -> _Read:
    path = list_file.path
    raw, delimiter = _header(list_file, usual)
    header = [name.strip() for name in raw]
    chosen = _choose(list_file, header)
    types = {name: pa.float64() if option in _NUMBERS else pa.string() for option, name in chosen.items()}
    unused = _unused(list_file, header, chosen)
    try:
        table = pa.csv.read_csv(
            utf8_content(path),
            read_options=pa.csv.ReadOptions(column_names=_distinct(header), skip_rows_after_names=1),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(types, pa.string()) | dict.fromkeys(unused, pa.binary()),
                include_columns=[*types, *unused],
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        columns = {name: pc.utf8_trim_whitespace(table.column(name)).combine_chunks() for name in types}
        columns = {name: _filled(column).cast(types[name]) for name, column in columns.items()}
    except (pa.ArrowException, OSError, UnicodeError) as error:
        why = _why_not_delimited(path, delimiter, len(header), types)
        raise ManifestError(why or f"{path}: not a readable table ({error})") from error

    def where(row: int) -> str:
        return f"{path}: line {_line_of_row(path, delimiter, row)}"

    others = {name: _texts(table.column(name).combine_chunks()) for name in unused}
    return {option: columns[name] for option, name in chosen.items()}, others, where


def _texts(cells: pa.Array) -> pa.Array:
    """Cells as texts, numbers or truths; bytes, if they are not UTF-8."""
    try:
        texts = cells.cast(pa.string())
    except pa.ArrowException:
        return cells
    return typed_texts(_filled(pc.utf8_trim_whitespace(texts)))


def _filled(column: pa.Array) -> pa.Array:
    """The cells with text; others become null."""
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names for Arrow: columns without a name get one that no header has."""
    return [name or f"\0{place}" for place, name in enumerate(names)]


def _header(list_file: ListFile, usual: str) -> tuple[list[str], str]:
    """The names in the first line, and the delimiter: the usual one of the suffix, unless another one splits them."""
    path = list_file.path
    try:
        with open_text(path, encoding=encoding_of(path), errors="surrogateescape", newline="") as file:
            line = file.readline(_LONGEST_HEADER)
            rest = file.read(1)
    except (OSError, UnicodeError) as error:
        raise ManifestError(f"{path}: the table cannot be read ({error})") from error
    if not line.strip() and not rest:
        raise ManifestError(f"{path}: the table is empty; its first line must name the columns")
    if problem := problem_of([line]):
        raise ManifestError(f"{path}: line 1 {problem}. {utf8_remedy(path)}")
    if problem := problem_of_first(line):
        raise ManifestError(f"{path}: line 1 {problem}")
    headers = {delimiter: next(split_rows([line.strip("\r\n")], delimiter)) for delimiter in (usual, *DELIMITERS)}
    if len(headers[usual]) == 1:
        other = max(headers, key=lambda delimiter: len(headers[delimiter]))
        named = [getattr(list_file.spec.options, option) for option in _ROLES]
        if len(headers[other]) > 1 and is_header(headers[other], list(filter(None, named))):
            list_file.note(f"read with {Dialect(other).describe(usual, 0)}")
            return headers[other], other
    return headers[usual], usual


def _line_of_row(path: Path, delimiter: str, row: int) -> int:
    lines = (line for line, cells in csv_rows(path, delimiter, "table") if cells)
    return next(line for number, line in enumerate(lines) if number == row + 1)


def _why_not_delimited(path: Path, delimiter: str, width: int, types: Mapping[str, pa.DataType]) -> str | None:
    """The first wrong line and what is wrong with it. None if no line is wrong.

    pyarrow reads whole columns, and its errors do not name a line.
    """
    rows = csv_rows(path, delimiter, "table")
    _, header = next(rows)
    names = [name.strip() for name in header]
    numbers = [names.index(name) for name, dtype in types.items() if dtype == pa.float64()]
    for line, cells in rows:
        if cells and len(cells) != width:
            return f"{path}: line {line}: {counted(len(cells), 'value')} for {counted(width, 'column')}"
        for column in numbers if cells else ():
            if cells[column] and not _is_number(cells[column]):
                shown, remedy = excerpt(cells[column], 80), number_remedy(cells[column])
                return f"{path}: line {line}: {names[column]} is {shown!r}, must be seconds, such as 12.5{remedy}"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_json_lines(list_file: ListFile) -> _Read:
    path = list_file.path
    first = _first_values(path)
    chosen = _choose(list_file, list(first))
    lists = isinstance(first.get(chosen.get("label_column", "")), list)
    types = {
        name: pa.float64()
        if role in _NUMBERS
        else (pa.list_(pa.string()) if role == "label_column" and lists else pa.string())
        for role, name in chosen.items()
    }
    try:
        table = pa.json.read_json(
            path,
            read_options=pa.json.ReadOptions(block_size=1 << 24),
            parse_options=pa.json.ParseOptions(
                explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="ignore"
            ),
        )
    except (pa.ArrowException, OSError) as error:
        why = _why_not_json_lines(path, types)
        raise ManifestError(why or f"{path}: not a list of JSON objects, one per line ({error})") from error
    columns = {role: table.column(name).combine_chunks() for role, name in chosen.items()}
    others = _json_values(list_file, set(chosen.values())) if list_file.spec.options.columns else {}
    return columns, others, lambda row: f"{path}: line {_json_line_of_row(path, row)}"


def _json_values(list_file: ListFile, used: set[str]) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The unused values of all lines, by name. Arrow's own reader takes texts such as 2020-01-01 for times."""
    path = list_file.path
    columns: dict[str, list[Any]] = {}
    count = 0
    for _, entry in _objects(path):
        for name, value in entry.items():
            if name in used:
                continue
            if name not in columns and len(columns) > 2 * MOST_EXTRA:
                continue  # own_columns says that there are too many
            values = columns.setdefault(name, [])
            values += [None] * (count - len(values))
            values.append(value)
        count += 1
    return {name: typed_values(values + [None] * (count - len(values))) for name, values in columns.items()}


def _first_values(path: Path) -> dict[str, Any]:
    """The names of all lines, each with its first value that is not null. A line may lack any of them."""
    first: dict[str, Any] = {}
    for _, entry in _objects(path):
        for name, value in entry.items():
            if first.get(name) is None:
                first[name] = value
    if not first:
        raise ManifestError(f"{path}: expected a JSON object on every line")
    return first


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of the lines that are not blank, each with its line's number from 1."""
    for number, line in _filled_lines(path):
        yield number, parse_object(line, f"{path}: line {number}")


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its number from 1."""
    try:
        with open_text(path) as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not a list of JSON objects, one per line ({error})") from error


def _json_line_of_row(path: Path, row: int) -> int:
    return [number for number, _ in _filled_lines(path)][row]


def _why_not_json_lines(path: Path, types: Mapping[str, pa.DataType]) -> str | None:
    expected: dict[pa.DataType, tuple[Any, str]] = {
        pa.float64(): ((int, float), "a number of seconds"),
        pa.string(): (str, "text"),
        pa.list_(pa.string()): (list, "a list of texts, as on earlier lines"),
    }
    for number, entry in _objects(path):
        for name, dtype in types.items():
            kind, words = expected[dtype]
            value = entry.get(name)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                return f"{path}: line {number}: {name} is {excerpt(repr(value), 80)}, must be {words}"
    return None


def _read_parquet(list_file: ListFile) -> _Read:
    path = list_file.path
    try:
        require_file(path)
        with pa.parquet.ParquetFile(path) as file:
            chosen = _choose(list_file, file.schema_arrow.names)
            unused = _unused(list_file, file.schema_arrow.names, chosen)
            table = file.read(columns=list(dict.fromkeys([*chosen.values(), *unused])))
            table.validate(full=True)  # Arrow reads texts that are not UTF-8 without a word
    except (OSError, pa.ArrowException, ValueError) as error:  # ValueError: names that are not UTF-8
        raise ManifestError(f"{path}: not a readable parquet file ({error})") from error
    columns = {}
    for role, name in chosen.items():
        column = table.column(name)
        kind = column.type
        if role in _NUMBERS:
            dtype = pa.float64()
        elif role == "label_column" and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            dtype = pa.list_(pa.string())
        else:
            dtype = pa.string()
        try:
            columns[role] = pc.cast(column, dtype).combine_chunks()
        except pa.ArrowException as error:
            raise ManifestError(f"{path}: column {name!r} is {kind}, must be {dtype} ({error})") from error
    return columns, {name: table.column(name) for name in unused}, lambda row: f"{path}: row {row}"
