"""JSON and TOML from outside, read strictly, with one typed error for everything that is wrong with it.

Refused beside wrong syntax: nesting deeper than MAX_DEPTH, a key that is twice in an object, numbers that are not
finite (NaN, Infinity, 1e999) or have more than 64 bits, and text that no file name or no UTF-8 file can hold (a NUL,
half of a surrogate pair).
"""

import json
import math
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, get_type_hints

from avmanifest.errors import AvkitError, ConfigError, ManifestError
from avmanifest.files import read_file
from avmanifest.secrets import excerpt

MAX_DEPTH: Final = 64
"""Deepest nesting of lists and objects that is read."""

_FORMS: Final[dict[Any, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple[str, ...]: "a list of texts",
    tuple[float, ...]: "a list of numbers",
    Mapping[str, tuple[str, ...]]: "a table of lists of texts",
}
"""What a value of a TOML table has to be, by the type of its field."""


def parse_json(
    content: bytes | str,
    where: object,
    error: type[AvkitError] = ManifestError,
    advice: str = "",
    *,
    finite: bool = True,
) -> Any:
    """The value of a JSON text.

    Args:
        content: The text; bytes are UTF-8 (or, by their byte-order mark, UTF-16 or UTF-32).
        where: The file, named in the error.
        error: The error to raise.
        advice: End of the error's message: what to do.
        finite: Refuse numbers that are not finite. Records of training may have them.

    Raises:
        AvkitError: Of the type `error`: the text is not JSON, or has what this module refuses.
    """
    try:
        value = json.loads(
            content,
            object_pairs_hook=_object,
            parse_constant=_not_finite if finite else None,
            parse_float=_finite if finite else None,
        )
        _check(value)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: not valid JSON: {_reason(problem, content)}{advice and f'. {advice}'}") from problem
    return value


def parse_object(
    content: bytes | str,
    where: object,
    error: type[AvkitError] = ManifestError,
    advice: str = "",
    *,
    finite: bool = True,
) -> dict[str, Any]:
    """The object of a JSON text. Arguments and errors as for `parse_json`; other values than objects are refused."""
    value = parse_json(content, where, error, advice, finite=finite)
    if not isinstance(value, dict):
        raise error(f"{where}: a JSON {type(value).__name__}, expected an object{advice and f'. {advice}'}")
    return value


def metadata_of(content: bytes | str | None) -> dict[str, Any]:
    """The object of a JSON text that other tools wrote beside their data; empty if it is none.

    NaN and duplicate keys are allowed, because such files have them in fields that are not read.
    """
    try:
        value = json.loads(content or "")
        _check(value)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def parse_toml(text: str, where: object, error: type[AvkitError] = ManifestError) -> dict[str, Any]:
    """The table of a TOML text. Arguments and errors as for `parse_json`. Numbers that are not finite are allowed."""
    try:
        table = tomllib.loads(text)
        _check(table)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: not valid TOML: {_reason(problem, text)}") from problem
    return table


def read_json(path: Path, error: type[AvkitError] = ManifestError, advice: str = "") -> Any:
    """The value of a JSON file. Arguments and errors as for `parse_json`; also for a file that cannot be read."""
    try:
        content = read_file(path)
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}){advice and f'. {advice}'}") from problem
    return parse_json(content, path, error, advice)


def are_names(value: Any) -> bool:
    """Whether a value that was read is a list of texts, none of them twice."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def field_values(
    kind: type, table: Mapping[str, Any], where: str, *, between: str = ": ", given: Collection[str] = ()
) -> dict[str, Any]:
    """The values of a TOML table for the fields of a dataclass, lists as tuples.

    Args:
        kind: The dataclass. A value for a field of another type than text, numbers, bool and lists or tables of them is
            the caller's: it is taken as it is.
        table: The table.
        where: The table's place in its file, named in errors.
        between: What stands between that place and a key in an error.
        given: Fields that the table cannot have: the caller gives them.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of another type than its field.
    """
    known = {field.name: field for field in fields(kind) if field.name not in given}
    if unknown := [key for key in table if key not in known]:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where}: needs the key {name!r}")
    kinds = get_type_hints(kind)
    return {key: _field_value(value, kinds[key], f"{where}{between}{key}") for key, value in table.items()}


def _field_value(value: Any, kind: Any, where: str) -> Any:
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (str, bool, int) and type(value) is kind and (kind is not int or value >= 0):
        return value
    if kind == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind == tuple[float, ...] and isinstance(value, list) and all(type(item) in (int, float) for item in value):
        return tuple(float(item) for item in value)
    if kind == Mapping[str, tuple[str, ...]] and isinstance(value, dict):
        return {key: _field_value(item, tuple[str, ...], f"{where}.{key}") for key, item in value.items()}
    if kind in _FORMS:
        raise ConfigError(f"{where} must be {_FORMS[kind]}, not {value!r}")
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {excerpt(name, 80)!r} is there twice")
            seen.add(name)
    return fields


class _NotFinite(ValueError):
    """A number of the text is not finite."""

    def __init__(self, number: str) -> None:
        super().__init__(f"{number[:40]} is not a finite number")
        self.number = number


def _not_finite(name: str) -> float:
    raise _NotFinite(name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotFinite(text)
    return value


def _check(value: Any) -> None:
    """Raise ValueError for nesting or text that is refused."""
    level = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, int) and item.bit_length() > 64:
                raise ValueError(f"a whole number of {item.bit_length()} bits; at most 64 are read")
            elif isinstance(item, dict):
                deeper += item.keys()
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
        if not deeper:
            return
        level = deeper
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str) -> None:
    if not text.isascii():
        text.encode()  # UnicodeEncodeError for half of a surrogate pair
    if "\0" in text:
        raise ValueError("a text has a NUL character")


def _reason(problem: Exception, content: bytes | str) -> str:
    if isinstance(problem, RecursionError):
        return "nested too deeply"
    if isinstance(problem, _NotFinite):
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
        outside_texts = re.finditer(rf'"(?:\\.|[^"\\])*"|{re.escape(problem.number)}', text)
        place = next((found.start() for found in outside_texts if not found[0].startswith('"')), 0)
        return f"{problem} (line {text.count(chr(10), 0, place) + 1})"
    return excerpt(str(problem), 300)
