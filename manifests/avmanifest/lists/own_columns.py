"""The columns of a table that avkit has no use of its own for: captions, speakers, licences, scores, nested labels.

They become extra columns of the dataset, with their types. What cannot be kept is named in a note, with the reason.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.columns import MOST_EXTRA, MOST_LEVELS, NAME_PATTERN, Column, is_taken, type_as_json
from avmanifest.errors import ConfigError
from avmanifest.lists.requests import ListFile
from avmanifest.secrets import excerpt, stored_text

SOURCE: Final = "list"
"""`Column.source` of these columns."""

MOST_CHARACTERS: Final = 1 << 16
"""Of a text; a longer one becomes null."""

_SHOWN: Final = 80  # characters of a name in a note
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_WHOLE: Final = r"\A-?(?:0|[1-9][0-9]{0,17})\z"
_NUMBER: Final = r"\A-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?\z"
_LONG_NUMBER: Final = r"[0-9](?:\.?[0-9]){15}"  # more digits than a float holds
_NOT_A_NUMBER: Final = ("nan", "NaN", "NAN")


def own_columns(list_file: ListFile, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> dict[Column, pa.Array]:
    """The extra columns from the unused columns of a table, by their names in it.

    Names become lower-case letters, digits and _; one that avkit uses gets `list_` before it. Texts are stored
    without the passwords of URLs. Notes of the list say what was renamed, changed and left out.

    Raises ConfigError for a column to keep that is not among them.
    """
    wanted = list_file.spec.options.columns
    if missing := [name for name in wanted or () if name != "*" and name not in columns]:
        known = excerpt(", ".join(columns), 500) or "none"
        raise ConfigError(f"{list_file.path}: no column {missing[0]!r} to keep; columns without another use: {known}")
    kept: dict[Column, pa.Array] = {}
    safe_names = {name for name in columns if NAME_PATTERN.fullmatch(name) and not is_taken(name)}
    for name, values in columns.items():
        if wanted is None or ("*" not in wanted and name not in wanted):
            continue
        shown = repr(excerpt(name, _SHOWN))
        if len(kept) == MOST_EXTRA:
            list_file.note(f"column {shown} and those after it are left out: a dataset has at most {MOST_EXTRA}")
            break
        try:
            array, changes = _stored(values)
        except (ValueError, pa.ArrowException) as error:
            list_file.note(f"column {shown} is left out: {excerpt(' '.join(str(error).split()), 200)}")
            continue
        for change in changes:
            list_file.note(f"column {shown}: {change}")
        safe = name if name in safe_names else _safe_name(name, {column.name for column in kept} | safe_names)
        if safe != name:
            list_file.note(f"column {shown} is called {safe} in the dataset")
        title = safe if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) else ""
        meaning = f"column {excerpt(name, _SHOWN)!r} of the list"
        column = Column(name=safe, dtype=array.type, meaning=meaning, in_json=True, title=title, source=SOURCE)
        kept[column] = array
    return kept


def typed_texts(texts: pa.Array) -> pa.Array:
    """A column of texts as bool, int64 or float64 if every filled cell is one, else as it is.

    A number that would be written in another way stays text, so that an id such as 007 or +5 is not changed.
    """
    filled = pc.drop_null(texts)
    if not len(filled):
        return texts
    if pc.all(pc.is_in(filled, pa.array([*_TRUE, *_FALSE]))).as_py():
        return pc.if_else(pc.is_valid(texts), pc.is_in(texts, pa.array(_TRUE)), None)
    if pc.all(pc.match_substring_regex(filled, _WHOLE)).as_py():
        return texts.cast(pa.int64())
    is_nan = pc.is_in(texts, pa.array(_NOT_A_NUMBER))
    numbers = pc.if_else(is_nan, None, texts)
    filled = pc.drop_null(numbers)
    is_number = pc.and_(
        pc.match_substring_regex(filled, _NUMBER), pc.invert(pc.match_substring_regex(filled, _LONG_NUMBER))
    )
    return numbers.cast(pa.float64()) if len(filled) and pc.all(is_number).as_py() else texts


def typed_values(values: Sequence[Any]) -> pa.Array:
    """Values of JSON as an Arrow column. If they have several types, those that are no texts become JSON texts."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])


def united(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """The rows of several lists. A column of its own that a list lacks is null in its rows.

    If such a column has several types, its values become texts: JSON, where they are none yet.
    """
    tables = list(tables)
    types: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            types.setdefault(field.name, set()).add(field.type)
    several = {name for name, found in types.items() if len(found) > 1 and name not in schema.names}
    changed = [_as_texts(table, several) for table in tables] if several else tables
    return pa.concat_tables(changed, promote_options="default")


def _as_texts(table: pa.Table, names: set[str]) -> pa.Table:
    for place, field in enumerate(table.schema):
        if field.name in names and field.type != pa.string():
            texts = [None if value is None else json.dumps(value) for value in table.column(place).to_pylist()]
            new = pa.field(field.name, pa.string(), metadata=field.metadata)
            table = table.set_column(place, new, pa.array(texts, pa.string()))
    return table


def _safe_name(name: str, others: set[str]) -> str:
    safe = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:48]
    safe = safe if NAME_PATTERN.fullmatch(safe) and not is_taken(safe) else f"list_{safe}".rstrip("_")
    number, free = 2, safe
    while free in others or is_taken(free):
        free = f"{safe}_{number}"
        number += 1
    return free


def _stored(values: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, list[str]]:
    """A column as a dataset stores it, and what was changed.

    Raises ValueError or ArrowException, with the reason, if it cannot be stored.
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    dtype = _stored_type(array.type)
    type_as_json(dtype)
    if array.null_count == len(array):
        raise ValueError("it has no values")
    array = pc.cast(array, dtype)
    if pa.types.is_string(dtype):
        return _stored_texts(array)
    if pa.types.is_floating(dtype):
        finite = pc.is_finite(array)
        bad = pc.sum(pc.invert(finite)).as_py()
        return pc.if_else(finite, array, None), [f"{bad:,} {_INFINITE}"] if bad else []
    if pa.types.is_nested(dtype):
        changes: dict[str, int] = {}
        cleaned = pa.array([_stored_value(value, changes) for value in array.to_pylist()], dtype)
        return cleaned, [f"{count:,} {what}" for what, count in changes.items()]
    return array, []


_LONG: Final = f"texts of more than {MOST_CHARACTERS:,} characters are null"
_NUL: Final = "NUL characters are replaced"
_INFINITE: Final = "numbers that are not finite are null"


def _stored_texts(texts: pa.Array) -> tuple[pa.Array, list[str]]:
    changes = []
    too_long = pc.greater(pc.utf8_length(texts), MOST_CHARACTERS)
    if bad := pc.sum(too_long).as_py():
        changes.append(f"{bad:,} {_LONG}")
        texts = pc.if_else(too_long, None, texts)
    with_nul = pc.match_substring(texts, "\0")
    if bad := pc.sum(with_nul).as_py():
        changes.append(f"{_NUL} in {bad:,} texts")
        texts = pc.replace_substring(texts, "\0", "\ufffd")
    with_url = pc.fill_null(pc.match_substring(texts, "://"), False)
    if not pc.any(with_url, min_count=0).as_py():
        return texts, changes
    changed = [stored_text(text) for text in texts.filter(with_url).to_pylist()]
    return pc.replace_with_mask(texts, with_url, pa.array(changed, texts.type)), changes


def _stored_value(value: Any, changes: dict[str, int]) -> Any:
    """A nested value as a dataset stores it. `changes` counts what was changed."""
    what = ""
    if isinstance(value, dict):
        return {name: _stored_value(inner, changes) for name, inner in value.items()}
    if isinstance(value, list):
        return [_stored_value(inner, changes) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        what, value = _INFINITE, None
    if isinstance(value, str):
        if len(value) > MOST_CHARACTERS:
            what, value = _LONG, None
        else:
            value = stored_text(value.replace("\0", "\ufffd")) if "\0" in value or "://" in value else value
    if what:
        changes[what] = changes.get(what, 0) + 1
    return value


def _stored_type(dtype: pa.DataType, levels: int = MOST_LEVELS) -> pa.DataType:
    """The type in which a dataset stores values of a type. Raises ValueError for one that it cannot store."""
    if levels < 0:
        raise ValueError(f"its type has more than {MOST_LEVELS} levels")
    if pa.types.is_dictionary(dtype):
        return _stored_type(dtype.value_type, levels)
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return pa.list_(_stored_type(dtype.value_type, levels - 1))
    if pa.types.is_struct(dtype):
        names = [field.name for field in dtype]
        if not names or len(set(names)) < len(names):
            raise ValueError("a struct in it has no fields, or two of one name")
        return pa.struct([(field.name, _stored_type(field.type, levels - 1)) for field in dtype])
    if pa.types.is_boolean(dtype) or dtype == pa.uint64():
        return dtype
    if pa.types.is_integer(dtype):
        return pa.int64()
    if pa.types.is_floating(dtype) or (pa.types.is_decimal(dtype) and dtype.precision <= 15):
        return pa.float64()
    if pa.types.is_null(dtype) and levels == MOST_LEVELS:
        raise ValueError("it has no values")
    as_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if any(kind(dtype) for kind in (*as_text, pa.types.is_decimal, pa.types.is_temporal)) and not pa.types.is_duration(
        dtype
    ):
        return pa.string()
    if pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype):
        raise ValueError("it holds bytes that are not UTF-8 text")
    raise ValueError(f"its type is {excerpt(str(dtype), 100)}, which the json of a sample cannot hold")
