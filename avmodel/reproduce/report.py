"""A table of ours beside the paper's, as Markdown and LaTeX."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avmanifest.errors import ConfigError
from avmanifest.files import read_text, replace_text, write_errors
from avmanifest.parsing import parse_object, read_json
from avmanifest.settings import value_of
from avmodel.evaluate.tasks import task_config
from avmodel.metrics import METRICS, read_lines
from avmodel.presets import run_config
from avmodel.reproduce.paper import Row, Source, Table, printed
from avmodel.reproduce.plan import Places, Plan
from avmodel.rundir import read_config

_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number of ours."""

    value: float
    spread: float | None = None  # over seeds; None: there is one
    interval: tuple[float, float] | None = None  # of 95 %, where the result has one
    samples: int | None = None  # test samples
    line: str = ""  # the result's line for a paper
    noise: tuple[str, ...] = ()  # baselines from which the test does not tell it

    def __str__(self) -> str:
        """The number with what says how sure it is."""
        text = f"{self.value:.4g}" if abs(self.value) >= 1000 else f"{self.value:.2f}".rstrip("0").rstrip(".")
        if self.spread is not None:
            text += f" ± {self.spread:.2f}"
        if self.interval is not None:
            text += f" [{self.interval[0]:.2f}, {self.interval[1]:.2f}]"
        text += f" (n = {self.samples:,})" if self.samples is not None else ""
        return text + (f", within noise of {'; '.join(self.noise)}" if self.noise else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A number of the paper and ours."""

    paper: float
    ours: Number | None
    reason: str = ""  # why there is none of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A table of which the cells were looked up."""

    table: Table
    rows: tuple[tuple[Row, tuple[Cell, ...]], ...]
    title: str  # of the paper
    scale: str

    def markdown(self) -> str:
        """As Markdown: for each column the paper's number and ours, then the reasons and the lines of the results."""
        heads = [head for column in self.table.columns for head in (f"{column.head}, paper", "here")]
        lines = [
            f"# {self.title}, table {self.table.number}: {self.table.title}",
            "",
            *([f"Scale {self.scale}: small models on drawn videos. Its numbers say only that the commands run.", ""])
            * (self.scale == "tiny"),
            "| | " + " | ".join(map(escape_markdown, heads)) + " |",
            "|---|" + "---:|" * len(heads),
        ]
        for row, cells in self.rows:
            texts = [text for cell in cells for text in (printed(cell.paper), _shown(cell))]
            lines.append("| " + " | ".join(map(escape_markdown, (row.name, *texts))) + " |")
        notes = [*([self.table.note] if self.table.note else []), *self._reasons(), *self._lines()]
        return "\n".join([*lines, "", *(f"- {escape_markdown(note)}" for note in notes)]) + "\n"

    def latex(self) -> str:
        r"""As a LaTeX tabular, which needs no package; names and reasons are escaped."""
        columns = self.table.columns
        heads = " & ".join(rf"\multicolumn{{2}}{{c}}{{{escape_latex(column.head)}}}" for column in columns)
        lines = [
            rf"% {escape_latex(self.title)}, table {escape_latex(self.table.number)}, scale {self.scale}",
            rf"\begin{{tabular}}{{l{'rr' * len(columns)}}}",
            r"\hline",
            rf" & {heads} \\",
            " & " + " & ".join(["paper & here"] * len(columns)) + r" \\",
            r"\hline",
        ]
        for row, cells in self.rows:
            texts = [text for cell in cells for text in (printed(cell.paper), _shown(cell))]
            lines.append(" & ".join(map(escape_latex, (row.name, *texts))) + r" \\")
        return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"

    def _reasons(self) -> list[str]:
        found: dict[str, list[str]] = {}
        for row, cells in self.rows:
            for column, cell in zip(self.table.columns, cells, strict=True):
                if cell.reason:
                    name = (
                        row.name
                        if all(other.reason == cell.reason for other in cells)
                        else f"{row.name}, {column.name}"
                    )
                    found.setdefault(cell.reason, []).append(name)
        return [f"{'; '.join(dict.fromkeys(names))}: {reason}" for reason, names in found.items()]

    def _lines(self) -> list[str]:
        cells = [(row, cell) for row, cells in self.rows for cell in cells]
        return list(
            dict.fromkeys(f"{row.name}: {cell.ours.line}" for row, cell in cells if cell.ours and cell.ours.line)
        )


def make_reports(plan: Plan) -> list[Report]:
    """The plan's tables with the numbers that are there."""
    look = Lookup(Places(plan.folder))
    return [
        Report(
            table=table,
            title=plan.paper.title,
            scale=plan.scale,
            rows=tuple(
                (
                    row,
                    tuple(
                        look.cell(_preset(plan, row), row, source, number)
                        for source, number in zip(row.sources, row.paper, strict=True)
                    ),
                )
                for row in table.rows
            ),
        )
        for table in plan.tables
    ]


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write table-NUMBER.md and .tex. Raises StorageError if they can't be written."""
    stem = f"table-{report.table.number.replace(' ', '-')}"
    paths = folder / f"{stem}.md", folder / f"{stem}.tex"
    with write_errors(folder, said="cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, (report.markdown(), report.latex()), strict=True):
            replace_text(path, text)
    return paths


class Lookup:
    """Reads the numbers of a paper's results."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def cell(self, preset: str, row: Row, source: Source, paper: float) -> Cell:
        """The cell of a number; `preset` is that of the row's model."""
        if source.cannot:
            return Cell(paper=paper, ours=None, reason=source.cannot)
        if source.setting:
            return Cell(paper=paper, ours=Number(value=setting_of(source)))
        if source.measure == "parameters_m":
            return Cell(paper=paper, ours=Number(value=parameters_m(preset)))
        found = self._evaluated(row, source) or self._measured(row, source) or self._benched(source)
        return Cell(paper=paper, ours=found, reason="" if found is not None else "not run yet")

    def _evaluated(self, row: Row, source: Source) -> Number | None:
        if not source.evaluate:
            return None
        path = self.places.results(row.model, source.evaluate)
        return number_of(read_json(path), source, path) if path.exists() else None

    def _measured(self, row: Row, source: Source) -> Number | None:
        path = self.places.run(row.model) / METRICS
        lines = list(read_lines(path)) if source.measure and path.exists() else []
        return Number(value=MEASURED[source.measure](lines, self.places.run(row.model))) if lines else None

    def _benched(self, source: Source) -> Number | None:
        path = self.places.bench(source.bench)
        if not source.bench or not path.exists():
            return None
        key, _, value = source.line.partition("=")
        lines = (parse_object(text, path, ConfigError) for text in read_text(path).splitlines())
        found = [line[source.field] for line in lines if line.get(key) == value and line.get(source.field) is not None]
        return Number(value=source.factor * float(found[-1])) if found else None  # the largest batch that fits


def number_of(result: Mapping[str, Any], source: Source, where: Path) -> Number:
    """The number of a results.json that a cell asks for. Raises ConfigError if it has none."""
    headline = result["headline"]
    row, metric = source.score or headline["row"], source.metric or headline["metric"]
    score = result[source.of].get(row, {}).get(metric)
    if score is None:
        known = ", ".join(f"{name}: {'/'.join(values)}" for name, values in result[source.of].items())
        raise ConfigError(f"{where}: no {metric!r} of {row!r} in its {source.of}; known: {known}")
    return replace(
        number_in(score, samples=result["data"]["test"]["samples"]),
        line=result["line"] if not (source.score or source.metric) else "",
    )


def number_in(score: Mapping[str, Any], *, samples: int | None) -> Number:
    """The number that an entry of a results.json is. `samples`: of results of earlier versions, which have no `n`."""
    low, high = score.get("interval") or (None, None)
    samples = score.get("n", samples)
    return Number(
        value=float("nan") if score["mean"] is None else float(score["mean"]),
        spread=float(score["spread"]) if len(score.get("values", ())) > 1 else None,
        interval=None if low is None or high is None else (float(low), float(high)),
        samples=None if samples is None else int(samples),
        noise=tuple(row for row, found in score.get("differences", {}).items() if found["within_noise"]),
    )


def setting_of(source: Source) -> float:
    """The setting's value as a number; of a tuple the first. Raises ConfigError for a name that doesn't exist."""
    command, _, name = source.preset.partition(" ")
    config: Any = run_config(name) if command == "pretrain" else task_config(command, name or None)
    value = value_of(config, source.setting)
    factor = value_of(config, source.times) if source.times else 1
    return float(value[0] if isinstance(value, tuple) else value) * factor


def parameters_m(preset: str) -> float:
    """Trained parameters of a preset's model, in millions."""
    from avmodel.costs import count_parameters  # noqa: PLC0415  # torch, which the plan doesn't need

    return count_parameters(run_config(preset).model) / 1e6


def _hours(lines: Sequence[Mapping[str, Any]], run: Path) -> float:
    batch_size = int((read_config(run) or {})["batch_size"])
    return float(sum(batch_size / line["samples_per_s"] for line in lines)) / 3600


MEASURED: Mapping[str, Callable[[Sequence[Mapping[str, Any]], Path], float]] = {
    "hours": _hours,
    "samples_per_s": lambda lines, _: sorted(line["samples_per_s"] for line in lines)[len(lines) // 2],
    "memory_gb": lambda lines, _: max(line["peak_memory_mb"] for line in lines) / 1000,
}


def escape_markdown(text: str) -> str:
    """The text as a cell of a Markdown table or an item of a list."""
    for letter in "\\`*_|<>[]":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())


def escape_latex(text: str) -> str:
    """The text as LaTeX prints it."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _shown(cell: Cell) -> str:
    return "-" if cell.ours is None else str(cell.ours)


def _preset(plan: Plan, row: Row) -> str:
    model = plan.paper.models.get(row.model)
    return row.model if model is None else model.preset or row.model
