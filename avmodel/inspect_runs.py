"""Training runs side by side: losses over each other, settings that differ, scores. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from avdata.draw.charts import Line, lines_chart
from avdata.draw.page import card, escape, sections_page, table, write_page
from avmanifest.errors import ConfigError
from avmodel.inspect_run import Curve, Run, read_run, run_json, thinned
from avmodel.run_scores import RunScore, read_scores
from avmodel.rundir import read_parts

MOST_RUNS: Final = 8
"""Runs beside each other, at most: there are so many colors."""

ABSENT: Final = "(absent)"

TRAINED_ON: Final = "training data"
"""Beside the settings, what data.json of a run says of its datasets."""

OTHER_TESTS: Final = "not comparable, tested on"
"""The row of a task whose runs were tested on different clips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs, with what differs between them."""

    runs: tuple[Run, ...]
    names: tuple[str, ...]  # of the runs, each another
    settings: dict[str, list[Any]]  # those that differ, each with the value of every run; ABSENT: it has none
    curves: dict[str, list[Curve | None]]  # by name, of every run; None: it has none
    probes: dict[str, list[Curve | None]]
    scores: dict[tuple[str, str, str], list[RunScore | None]]  # by task, row and metric

    @property
    def tests(self) -> dict[str, list[str]]:
        """What each run was tested on, of the tasks whose runs were tested on different clips; empty: not known."""
        by_task: dict[str, list[str]] = {}
        for (task, _, _), ours in self.scores.items():
            known = by_task.setdefault(task, [""] * len(ours))
            by_task[task] = [one.test if one else before for one, before in zip(ours, known, strict=True)]
        return {task: tests for task, tests in by_task.items() if len(set(filter(None, tests))) > 1}

    def score_rows(self) -> list[tuple[str, str, str, list[str]]]:
        """Task, row, metric and the score of each run; where runs were tested on different clips, first on which."""
        rows: list[tuple[str, str, str, list[str]]] = []
        tests = self.tests
        for (task, row, metric), ours in self.scores.items():
            if task in tests:
                rows.append((task, OTHER_TESTS, "", tests.pop(task)))
            rows.append((task, row, metric, list(map(score_cell, ours))))
        return rows


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Read runs and compare them.

    Raises:
        ConfigError: One is not a run, a run is named twice, or there are more than MOST_RUNS.
        ManifestError: The metrics or results of a run are damaged.
    """
    if len(folders) > MOST_RUNS:
        raise ConfigError(f"{len(folders)} runs: at most {MOST_RUNS} are compared. Leave some out.")
    places = [folder.resolve() for folder in folders]
    if repeated := [folder for place, folder in zip(places, folders, strict=True) if places.count(place) > 1]:
        raise ConfigError(f"{repeated[0]}: named twice. Name each run once.")
    runs = tuple(map(read_run, folders))
    scores = [{one.name: one for one in read_scores(run.folder)} for run in runs]
    configs = [{TRAINED_ON: _parts(run.folder), **run.config} for run in runs]
    settings = {name: [config.get(name, ABSENT) for config in configs] for name in _joined_names(configs)}
    return Comparison(
        runs=runs,
        names=_names([run.name for run in runs], folders),
        settings={name: values for name, values in settings.items() if any(one != values[0] for one in values)},
        curves=_by_name([run.curves for run in runs]),
        probes=_by_name([run.probes for run in runs]),
        scores={name: [one.get(name) for one in scores] for name in _joined_names(scores)},
    )


def _parts(folder: Path) -> list[str]:
    """The datasets of a run with their samples and subset ids."""
    parts = [part for part in read_parts(folder) if isinstance(part, dict)]
    return [f"{part.get('name')}: {part.get('samples')} samples, subset {part.get('subset_id')}" for part in parts]


def _names(names: Sequence[str], folders: Sequence[Path]) -> tuple[str, ...]:
    """The folders' names if they differ, else the folders as given."""
    return tuple(names) if len(set(names)) == len(names) else tuple(map(str, folders))


def _joined_names(parts: Sequence[dict[Any, Any]]) -> list[Any]:
    return list(dict.fromkeys(name for part in parts for name in part))


def _by_name(runs: Sequence[Sequence[Curve]]) -> dict[str, list[Curve | None]]:
    named = [{curve.name: curve for curve in curves} for curves in runs]
    return {name: [one.get(name) for one in named] for name in _joined_names(named)}


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data."""
    return {
        "runs": [run_json(run) for run in comparison.runs],
        "differ": comparison.settings,
        "other_tests": comparison.tests,
        "scores": [
            {
                "task": task,
                "row": row,
                "metric": metric,
                "runs": [None if one is None else one.as_dict() for one in ours],
            }
            for (task, row, metric), ours in comparison.scores.items()
        ],
    }


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the comparison as one self-contained page. Raises StorageError if it cannot be written."""
    write_page(path, comparison_page(comparison))


def comparison_page(comparison: Comparison) -> str:
    """The page as text."""
    names = comparison.names
    losses = {name: ours for name, ours in comparison.curves.items() if "loss" in name}
    others = {name: ours for name, ours in comparison.curves.items() if name not in losses}
    settings = [(name, *map(_shown, values)) for name, values in comparison.settings.items()]
    scores = [(task, row, metric, *ours) for task, row, metric, ours in comparison.score_rows()]
    parts = [
        ("losses", "Losses", _charts(losses, names)),
        ("scores", "Scores", _wide(("task", "row", "metric", *names), scores)),
        ("probe", "Nearest-neighbor probe (%)", _charts(comparison.probes, names)),
        (
            "settings",
            "Settings that differ",
            _wide(("setting", *names), settings) or "<p>The runs have the same settings.</p>",
        ),
        ("curves", "Other curves", _charts(others, names)),
    ]
    parts = [part for part in parts if part[2]]
    title = " and ".join(names) if len(names) == 2 else ", ".join(names)
    lead = "".join(
        f'<li><i class="s{place}"></i>{escape(name)} <span>{escape(run.summary)}</span></li>'
        for place, (name, run) in enumerate(zip(names, comparison.runs, strict=True))
    )
    return sections_page(title, f'<ul class="legend">{lead}</ul>', parts)


def score_cell(one: RunScore | None) -> str:
    """A score of one run, with its interval and number of samples; empty if the run has none."""
    return "" if one is None else str(one.number)


def _wide(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return f'<div class="card wide">{table(header, rows)}</div>' if rows else ""


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _charts(curves: dict[str, list[Curve | None]], names: Sequence[str]) -> str:
    """A chart of each curve; every run keeps its color, also where another one has no such curve."""
    cards = []
    for name, ours in curves.items():
        thin = [Curve(name, (), ()) if one is None else thinned(one) for one in ours]
        lines = [Line(run, one.steps, one.values) for run, one in zip(names, thin, strict=True)]
        cards.append(card(name, lines_chart(lines, f"{name} over steps, a line for each run")))
    return f'<div class="cards pairs">{"".join(cards)}</div>' if cards else ""
