"""A paper's tables, read from its TOML file: rows, printed numbers, and where our number of each cell comes from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from avmanifest.errors import ConfigError
from avmanifest.files import read_text
from avmanifest.names import did_you_mean, unknown_name
from avmanifest.parsing import field_values, parse_toml
from avmanifest.wording import counted

PAPERS: Final = ("deepavfusion", "avsiam", "crossmae", "cav-mae")
FOLDER: Final = Path(__file__).parent
MEASURES: Final = ("parameters_m", "hours", "samples_per_s", "memory_gb")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a number of ours comes from: an evaluation, a measure of the model, a setting, a benchmark, or nowhere.

    Fields that are given for a column hold for each of its cells; those of a row, then those of one cell of a row,
    take their place.
    """

    evaluate: str = ""  # name of an evaluation of the row's model
    of: str = "scores"  # scores or baselines of its results.json
    score: str = ""  # row of these scores; empty: that of the headline
    metric: str = ""  # empty: that of the headline
    measure: str = ""  # of the row's model: one of MEASURES
    preset: str = ""  # "finetune avsiam", or "pretrain avsiam-b": the number is one of its settings
    setting: str = ""  # its dotted name; a tuple gives its first number
    times: str = ""  # another setting of the preset, by which the number is multiplied
    bench: str = ""  # name of a benchmark
    line: str = ""  # the line of its output: KEY=VALUE
    field: str = ""  # the number in that line
    factor: float = 1.0  # of the benchmark's number to the column's unit
    cannot: str = ""  # why there is no number of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A dataset of a paper."""

    recipe: str  # of `avkit prepare`
    options: tuple[str, ...] = ()  # of `avkit prepare`
    samples: int = 0  # clips that are trained on, for the estimate of hours


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A run of `avkit pretrain`."""

    data: tuple[str, ...]
    preset: str = ""  # empty: of the model's name
    set: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A run of `avkit evaluate`."""

    task: str
    data: str
    preset: str = ""  # empty: the task's first
    train: str = ""  # dataset of the training split; empty: `data`
    set: tuple[str, ...] = ()
    samples: int = 0  # training clips, where they are not all of the dataset's; for the estimate of hours


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A run of `avkit bench NAME --json`."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of numbers."""

    name: str
    unit: str = ""
    source: Mapping[str, Any]

    @property
    def head(self) -> str:
        """Its name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table."""

    name: str
    paper: tuple[float, ...]  # the printed numbers, one a column; NaN where the paper has none
    sources: tuple[Source, ...]  # one a column
    model: str = ""
    also: tuple[str, ...] = ()  # evaluations that are run for what they draw

    @property
    def cannot(self) -> str:
        """Why no number of the row can be ours; empty if one can be."""
        reasons = [source.cannot for source in self.sources]
        return reasons[0] if reasons and all(reasons) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a paper."""

    number: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def reasons(self, row: Row) -> dict[str, list[str]]:
        """Why numbers of a row cannot be ours, each reason with the names of its columns."""
        found: dict[str, list[str]] = {}
        for column, source in zip(self.columns, row.sources, strict=True):
            if source.cannot:
                found.setdefault(source.cannot, []).append(column.name)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A paper's tables and what they are made from."""

    name: str
    title: str
    citation: str
    data: Mapping[str, Data]
    models: Mapping[str, Model]
    evaluations: Mapping[str, Evaluation]
    benches: Mapping[str, Bench]
    tables: tuple[Table, ...]

    def chosen(self, numbers: Sequence[str], rows: Sequence[str]) -> tuple[Table, ...]:
        """The tables of these numbers with only these rows; nothing given: all.

        Raises ConfigError for a table that the paper hasn't, or a row that none of the tables has.
        """
        known = [table.number for table in self.tables]
        if unknown := [number for number in numbers if number not in known]:
            raise ConfigError(f"{self.name} has no table {unknown[0]!r}; known: {', '.join(known)}")
        tables = [table for table in self.tables if not numbers or table.number in numbers]
        names = [row.name for table in tables for row in table.rows]
        if unknown := [row for row in rows if row not in names]:
            raise ConfigError(
                f"no row {unknown[0]!r} in the chosen tables{did_you_mean(unknown[0], names) or ';'} known: "
                f"{', '.join(dict.fromkeys(names))}"
            )
        kept = [
            replace(table, rows=tuple(row for row in table.rows if not rows or row.name in rows)) for table in tables
        ]
        return tuple(table for table in kept if table.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """What is changed so that all commands run on drawn videos in minutes."""

    prepare: tuple[str, ...]  # words of `avkit prepare`, for the one dataset that stands for all
    pretrain: Mapping[str, tuple[str, ...]]  # settings of all families under `all`, and of each under its name
    evaluate: Mapping[str, tuple[str, ...]]  # settings of all tasks under `all`, and of each under its name
    bench: Mapping[str, tuple[str, ...]]  # further words of each benchmark's command


@cache
def read_paper(name: str) -> Paper:
    """A paper by its name. Raises ConfigError for an unknown name, or a file with a wrong entry."""
    if name not in PAPERS:
        raise ConfigError(unknown_name("paper", name, PAPERS))
    path = FOLDER / f"{name}.toml"
    return paper_of(name, parse_toml(read_text(path), path, ConfigError), path.name)


@cache
def read_tiny() -> Tiny:
    """The changes of the scale `tiny`. Raises ConfigError for a file with a wrong entry."""
    path = FOLDER / "tiny.toml"
    return _made(Tiny, parse_toml(read_text(path), path, ConfigError), path.name)


def paper_of(name: str, content: Mapping[str, Any], where: str) -> Paper:
    """The paper of a TOML file's content. Raises ConfigError for a wrong entry; the message names its place."""
    values = dict(content)
    kinds: Mapping[str, type[Any]] = {"data": Data, "models": Model, "evaluations": Evaluation, "benches": Bench}
    for section, kind in kinds.items():
        entries = _table(values.get(section, {}), f"{where}: {section}")
        values[section] = {key: _made(kind, entry, f"{where}: {section}.{key}") for key, entry in entries.items()}
    tables = values.get("tables", [])
    if not isinstance(tables, list):
        raise ConfigError(f"{where}: tables must each be opened by [[tables]]")
    values["tables"] = tuple(_table_of(entry, f"{where}: table {place}") for place, entry in enumerate(tables, 1))
    paper = _made(Paper, {"name": name, **values}, where)
    _check(paper, where)
    return paper


def _table_of(content: Any, where: str) -> Table:
    values = dict(_table(content, where))
    where = f"{where} ({values.get('number', 'without a number')})"
    names = {field.name for field in fields(Source)}
    columns = []
    for entry in _list(values.get("columns", []), where):
        source = {key: value for key, value in entry.items() if key in names}
        _made(Source, source, f"{where}, a column")
        rest = {key: value for key, value in entry.items() if key not in names}
        columns.append(_made(Column, {**rest, "source": source}, f"{where}, a column"))
    rows = [_row_of(entry, columns, where) for entry in _list(values.get("rows", []), where)]
    return _made(Table, {**values, "columns": tuple(columns), "rows": tuple(rows)}, where)


def _row_of(content: Mapping[str, Any], columns: Sequence[Column], where: str) -> Row:
    where = f"{where}, row {content.get('name', 'without a name')}"
    names = {field.name for field in fields(Source)}
    cells = _table(content.get("cells", {}), where)
    if unknown := [name for name in cells if name not in {column.name for column in columns}]:
        raise ConfigError(f"{where}: no column {unknown[0]!r}; known: {', '.join(column.name for column in columns)}")
    own = {key: value for key, value in content.items() if key in names}
    sources = []
    for column in columns:
        cell = _table(cells.get(column.name, {}), f"{where}, {column.name}")
        sources.append(_made(Source, {**column.source, **own, **cell}, f"{where}, {column.name}"))
    rest = {key: value for key, value in content.items() if key not in names | {"cells"}}
    row = _made(Row, {**rest, "sources": tuple(sources)}, where)
    if len(row.paper) != len(columns):
        raise ConfigError(
            f"{where}: paper has {counted(len(row.paper), 'number')} for {counted(len(columns), 'column')}. Write "
            "nan for none."
        )
    return row


def _check(paper: Paper, where: str) -> None:
    """Raise ConfigError for a name that nothing has, or a cell without a source of its number."""
    for kind, entries, known in (
        ("models", [(key, name) for key, model in paper.models.items() for name in model.data], paper.data),
        ("evaluations", [(key, one.data) for key, one in paper.evaluations.items()], paper.data),
        ("evaluations", [(key, one.train) for key, one in paper.evaluations.items() if one.train], paper.data),
    ):
        for key, name in entries:
            if name not in known:
                raise ConfigError(f"{where}: {kind}.{key}: no data {name!r}; known: {', '.join(known)}")
    for table in paper.tables:
        for row in table.rows:
            place = f"{where}: table {table.number}, row {row.name}"
            if unknown := [name for name in row.also if name not in paper.evaluations]:
                raise ConfigError(f"{place}: no evaluation {unknown[0]!r}; known: {', '.join(paper.evaluations)}")
            if (row.also or not table.columns) and row.model not in paper.models:
                raise ConfigError(f"{place}: no model {row.model!r}; known: {', '.join(paper.models)}")
            for column, source in zip(table.columns, row.sources, strict=True):
                _check_source(paper, row, source, f"{place}, {column.name}")


def _check_source(paper: Paper, row: Row, source: Source, where: str) -> None:
    if source.cannot:
        return
    kinds = [name for name in ("evaluate", "measure", "setting", "bench") if getattr(source, name)]
    if len(kinds) != 1:
        raise ConfigError(f"{where}: needs one of evaluate, measure, setting, bench and cannot, not {kinds or 'none'}")
    for name, known in (("evaluate", paper.evaluations), ("bench", paper.benches)):
        value = getattr(source, name)
        if value and value not in known:
            raise ConfigError(f"{where}: no {name} {value!r}; known: {', '.join(known)}")
    if source.measure and source.measure not in MEASURES:
        raise ConfigError(f"{where}: unknown measure {source.measure!r}; known: {', '.join(MEASURES)}")
    if source.of not in ("scores", "baselines"):
        raise ConfigError(f"{where}: of={source.of!r}: give scores or baselines")
    if (source.evaluate or source.measure) and row.model not in paper.models:
        raise ConfigError(f"{where}: no model {row.model!r}; known: {', '.join(paper.models)}")
    if source.setting and not source.preset:
        raise ConfigError(f"{where}: setting={source.setting} needs the preset that has it")
    if source.bench and not (source.field and source.line):
        raise ConfigError(f"{where}: bench={source.bench} needs line and field")


def _made(kind: type[T], content: Any, where: str) -> T:
    """An object of this dataclass from a table, lists as tuples. Raises ConfigError for keys or types it hasn't."""
    return kind(**field_values(kind, _table(content, where), where))


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: must be a table, not {value!r}")
    return value


def _list(value: Any, where: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: rows and columns must be lists of tables")
    return [_table(entry, where) for entry in value]


def printed(value: float) -> str:
    """A number as the paper prints it, without needless zeros; - for none."""
    return "-" if math.isnan(value) else f"{value:.10g}"
