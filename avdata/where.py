"""Conditions on clips: an SQL expression over the manifest's columns, which DuckDB parses and evaluates.

The expression sees nothing but the columns of its own row: no files, no settings, no clock, no other rows.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.errors import ConfigError
from avmanifest.names import did_you_mean
from avmanifest.wording import counted

if TYPE_CHECKING:
    import duckdb

_LONGEST: Final = 100_000  # characters
_DEPTH: Final = 128  # of nested expressions: the tree is read by recursion
_SHOWN: Final = 160  # characters of a condition in a message
_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "max_expression_depth": str(_DEPTH),
    "lock_configuration": "true",
}
_EXPRESSIONS: Final = frozenset(
    {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA"}
    | {"OPERATOR", "TYPE"}
)
_REFUSED: Final = {
    "SUBQUERY": "a query within it",
    "WINDOW": "a window function (OVER)",
    "STAR": "* or COLUMNS()",
    "PARAMETER": "a parameter (? or $1)",
}
_MACROS: Final = re.compile(r"(array|list)_\w+|fdiv|fmod|if|nullif|split_part", re.IGNORECASE)
_BRACKETS: Final = re.compile(r"'[^']*'|\"[^\"]*\"|[()\[\]{}]")
_SIGNS: Final = re.compile(rf"(?:[-+~!@]\s*){{{_DEPTH}}}")
_LISTS: Final = "A value is looked for in a column of lists by 'VALUE' in COLUMN."
_QUOTES: Final = "Text is in single quotes, a column that has the name of an SQL keyword in double quotes."


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that was parsed. `names` are the columns that it uses, as it spells them."""

    text: str
    names: tuple[str, ...]

    def columns(self, known: pa.Schema, where: str) -> list[str]:
        """The names of the columns that it uses, as the schema spells them: case does not matter.

        Args:
            known: The columns that the rows have.
            where: Name of the manifest in messages.

        Raises:
            ConfigError: A column is unknown, or two columns have the name.
        """
        found: list[str] = []
        for name in self.names:
            alike = [column for column in known.names if column.casefold() == name.casefold()]
            if not alike:
                hint = did_you_mean(name, known.names) or "."
                raise _refused(
                    self.text,
                    f"{where} has no column {_short(name)!r}{hint} Its columns: {', '.join(known.names)}. {_QUOTES}",
                )
            if len(alike) > 1:
                raise _refused(self.text, f"{where} has the columns {alike}, which differ in case alone")
            found.append(alike[0])
        return list(dict.fromkeys(found))

    def holds(self, rows: pa.Table, where: str) -> pa.BooleanArray:
        """Whether it is true, for each row; null is false.

        Args:
            rows: The rows, with at least its columns.
            where: Name of the manifest in messages.

        Raises:
            ConfigError: A column is unknown, it is not true or false, or it cannot be evaluated for a row.
        """
        used = rows.select(self.columns(rows.schema, where))
        # A condition without columns is evaluated as often as there are rows, too.
        view = used.append_column(_unused(used), pa.nulls(len(rows), pa.bool_()))
        with _connection() as connection, _duckdb_errors(self.text):
            connection.register("clips", view)
            found = connection.sql(f"SELECT ({self.text}\n) AS holds FROM clips")  # noqa: S608  # parsed: one expression
            if (kind := str(found.types[0])) != "BOOLEAN":
                raise _refused(self.text, f"it is {kind}, not true or false. Compare it: EXPRESSION = VALUE")
            holds = found.to_arrow_table().column("holds")
        return pc.fill_null(holds.combine_chunks(), False)

    def chosen(self, rows: pa.Table, where: str) -> pa.BooleanArray:
        """As `holds`. Raises ConfigError, too, if it is true for no row."""
        holds = self.holds(rows, where)
        if not holds.true_count:
            raise self.chooses_none(len(rows), where)
        return holds

    def has_no_columns(self, shard: str) -> ConfigError:
        """The error for a tar without a manifest."""
        return _refused(
            self.text,
            f"{shard} has no manifest beside it, so its clips have no columns. Leave the condition out, or name shards "
            "that avkit prepared.",
        )

    def chooses_none(self, num_rows: int, where: str) -> ConfigError:
        """The error for rows for none of which it is true."""
        return _refused(self.text, f"it is true for none of the {counted(num_rows, 'clip')} of {where}")


def parse_condition(text: str) -> Condition:
    """Parse an SQL expression such as `not still and rms_dbfs > -45 and 'dog barking' in labels`.

    Raises:
        ConfigError: It is no expression, or more than one; or it has a query, an aggregate, a window function, or a
            function of something else than its arguments, such as random() or now().
    """
    if len(text) > _LONGEST:
        raise _refused(text, f"it has {len(text):,} characters, more than {_LONGEST:,}. Put long lists into a column")
    if not text.strip():
        raise ConfigError("--where '': the condition is empty. Leave it out, or give one such as \"not silent\"")
    if "\0" in text:
        raise _refused(text, "it has a null character")
    try:
        text.encode()
    except UnicodeError as error:
        raise _refused(text, "it is not UTF-8") from error
    if _nesting(text) > _DEPTH or _SIGNS.search(text):
        raise _too_deep(text)
    with _connection() as connection, _duckdb_errors(text):
        query, plain = (_parsed(connection, text, expression) for expression in (text, "true"))
        select = query.pop("select_list")
        plain.pop("select_list")
        if query != plain or len(select) != 1 or select[0].get("alias"):
            raise _refused(text, "it must be one expression, without SELECT, FROM, ORDER BY, AS or a comma")
        names: dict[str, None] = {}
        functions: dict[str, None] = {}
        _walk(select[0], frozenset(), names, functions, text)
        for name in functions:
            _check_function(connection, name, text)
    return Condition(text, tuple(names))


@contextlib.contextmanager
def _connection() -> Iterator["duckdb.DuckDBPyConnection"]:
    import duckdb  # noqa: PLC0415  # takes 0.1 s, and few runs have a condition

    with duckdb.connect(config=_SETTINGS) as connection:
        yield connection


@contextlib.contextmanager
def _duckdb_errors(text: str) -> Iterator[None]:
    """Convert an error of DuckDB into a ConfigError."""
    import duckdb  # noqa: PLC0415

    try:
        yield
    except duckdb.Error as error:
        raise _not_sql(text, str(error)) from error
    except (UnicodeError, RecursionError, pa.ArrowException) as error:
        raise _refused(text, f"it cannot be evaluated ({type(error).__name__})") from error


def _nesting(text: str) -> int:
    """How deep brackets are nested: DuckDB's parser needs minutes for thousands of open ones."""
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(found[0], 0)
        deepest = max(deepest, depth)
    return deepest


_NOT_A_QUERY: Final = "not implemented"  # what DuckDB says of the tree of a statement that is no SELECT


def _parsed(connection: "duckdb.DuckDBPyConnection", text: str, expression: str) -> dict[str, Any]:
    """The query `SELECT expression` as DuckDB's tree."""
    rows = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {expression}"]).fetchall()
    tree = json.loads(rows[0][0])
    if tree["error"] and tree["error_type"] != _NOT_A_QUERY:
        raise _not_sql(text, tree["error_message"])
    if tree["error"] or len(tree["statements"]) != 1:
        raise _refused(text, "it must be one expression, without a semicolon")
    node: dict[str, Any] = tree["statements"][0]["node"]
    if "select_list" not in node:
        raise _refused(text, "it must be one expression, without UNION or another query")
    return node


def _walk(node: Any, bound: frozenset[str], names: dict[str, None], functions: dict[str, None], text: str) -> None:
    """Collect the columns and functions of a tree. `bound` are the parameters of the lambdas around it.

    Raises ConfigError for an expression that is of more than the row.
    """
    if isinstance(node, list):
        for child in node:
            _walk(child, bound, names, functions, text)
        return
    if not isinstance(node, Mapping):
        return
    kind = node.get("class")
    if kind is not None and kind not in _EXPRESSIONS:
        raise _refused(text, f"it must not have {_REFUSED.get(kind, kind)}: it is about the columns of one clip")
    if kind == "COLUMN_REF":
        if (first := node["column_names"][0]) not in bound:
            names[first] = None
        return
    if kind == "LAMBDA":
        parameters: dict[str, None] = {}
        _walk(node["lhs"], frozenset(), parameters, {}, text)
        bound = bound.union(parameters)
    elif kind == "FUNCTION":
        functions[node["function_name"]] = None
    for child in node.values():
        _walk(child, bound, names, functions, text)


def _check_function(connection: "duckdb.DuckDBPyConnection", name: str, text: str) -> None:
    """Raise ConfigError unless the function's value depends on its arguments alone."""
    rows = connection.execute(
        "SELECT DISTINCT function_type, stability FROM duckdb_functions() WHERE function_name = lower(?)", [name]
    ).fetchall()
    if ("scalar", "CONSISTENT") in rows or not rows:  # an unknown one is an error of DuckDB, which names similar ones
        return
    kinds = {kind for kind, _ in rows}
    if "macro" in kinds and _MACROS.fullmatch(name):
        return
    if kinds & {"aggregate", "window"}:
        raise _refused(text, f"{name}() is over several clips: the condition is about the columns of one clip")
    raise _refused(text, f"{name}() is of more than the columns of the clip: it may select others the next time")


def _unused(table: pa.Table) -> str:
    name = "_"
    while name in table.column_names:
        name += "_"
    return name


def _refused(text: str, why: str) -> ConfigError:
    return ConfigError(f"where={_short(text)!r}: {why}")


def _not_sql(text: str, message: str) -> ConfigError:
    """The error for a message of DuckDB, of which the first line is shown."""
    if "expression depth" in message:
        return _too_deep(text)
    line = next((line.strip() for line in message.splitlines() if line.strip()), "it cannot be evaluated")
    why = line.partition(" Error: ")[2] or line
    advice = _QUOTES if "syntax error" in why else _LISTS if "[]" in why else ""
    return _refused(text, f"{_short(why.rstrip('.!'))}. {advice}".rstrip())


def _too_deep(text: str) -> ConfigError:
    return _refused(text, f"it is nested more than {_DEPTH} deep")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
