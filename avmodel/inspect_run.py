"""A training run read from its folder: curves, probe and pictures, as plain data or as a page. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from avdata.draw.charts import line_chart
from avdata.draw.page import card, data_uri, escape, key_numbers, section, sections_page, table, write_page
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import read_file
from avmanifest.wording import counted
from avmodel.bootstrap import shown_interval
from avmodel.metrics import METRICS, PROBES, read_lines
from avmodel.reproduce.report import Number
from avmodel.run_scores import RunScore, read_scores
from avmodel.rundir import CHECKPOINTS, PICTURES, read_config

MOST_POINTS: Final = 1000  # points of a drawn curve, each a mean of equally many
MOST_PICTURES: Final = 6  # pictures on a page: the first, the last, and evenly spaced ones
_FALLING: Final = ("loss", "data_wait", "memory")
CHANCE: Final = "chance"  # the probe's line of what a neighbor at random gives
_NO_CURVES: Final = ("step", "epoch", "eta_s", "n")


@dataclass(frozen=True, slots=True)
class Curve:
    """A logged value over the run's steps."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def lower_is_better(self) -> bool:
        """Whether the smallest value is the best."""
        return any(word in self.name for word in _FALLING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The logged state of a run."""

    folder: Path
    config: dict[str, Any]
    curves: tuple[Curve, ...]
    probes: tuple[Curve, ...]
    pictures: tuple[Path, ...]
    checkpoints: tuple[str, ...]
    probed: Mapping[str, Any] = field(default_factory=dict)  # the last line of the probe: scores, n, intervals

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def last_step(self) -> int:
        """The last step that was logged; 0 before the first."""
        return int(max((one.steps[-1] for one in self.curves), default=0))

    @property
    def progress(self) -> str:
        """The named run and the last step."""
        steps = self.config.get("steps")
        of = f" of {steps:,}" if isinstance(steps, int) else ""
        return f"{self.config.get('name', 'run')}, step {self.last_step:,}{of}"

    @property
    def summary(self) -> str:
        """Name, progress and number of checkpoints, in one line."""
        return f"{self.progress}, {counted(len(self.checkpoints), 'checkpoint')}"


def read_run(folder: Path) -> Run:
    """Read the run in a folder. Raises ConfigError for a folder without a run, ManifestError for damaged metrics."""
    config = read_config(folder)
    if config is None:
        raise ConfigError(f"{folder}: no config.json, so it is not a run. Give the folder of an avkit pretrain run.")
    pictures = sorted((folder / PICTURES).glob("*.png"), key=lambda path: (len(path.name), path.name))
    checkpoints = folder / CHECKPOINTS
    found = (
        sorted(path.name for path in checkpoints.iterdir() if path.name.startswith("step-"))
        if checkpoints.is_dir()
        else []
    )
    return Run(
        folder=folder,
        config=config,
        curves=_curves(folder / METRICS),
        probes=_curves(folder / PROBES),
        pictures=tuple(pictures),
        checkpoints=tuple(found),
        probed=_last_line(folder / PROBES),
    )


def _last_line(path: Path) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for last in read_lines(path):  # noqa: B007  # the last one
        pass
    return last


def probe_score(run: Run, name: str) -> Number:
    """The last score of the probe by one stream, with its interval and number of samples where the run logged them.

    Raises ManifestError for an interval that is not two numbers.
    """
    interval, samples = run.probed.get("intervals", {}), run.probed.get("n")
    try:
        low, high = interval.get(name) or (None, None)
        return Number(
            value=float(run.probed[name]),
            interval=None if low is None or high is None else (float(low), float(high)),
            samples=None if samples is None else int(samples),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(
            f"{run.folder / PROBES}: its last line has no score of {name!r} with an interval "
            f"({type(error).__name__}: {error}). Remove the line."
        ) from error


def _curves(path: Path) -> tuple[Curve, ...]:
    """A curve of each numeric field in a file of JSON lines."""
    points: dict[str, list[tuple[float, float]]] = {}
    try:
        for line in read_lines(path):
            for name, value in line.items():
                if name not in _NO_CURVES and isinstance(value, int | float) and not isinstance(value, bool):
                    points.setdefault(name, []).append((float(line["step"]), float(value)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: not a file of metrics ({type(error).__name__}: {error})") from error
    return tuple(
        Curve(name, tuple(step for step, _ in found), tuple(value for _, value in found))
        for name, found in points.items()
    )


def thinned(one: Curve, most: int = MOST_POINTS) -> Curve:
    """The curve with at most `most` points, each a mean over equally many."""
    size = -(-len(one.steps) // most)
    if size <= 1:
        return one
    spans = [slice(start, start + size) for start in range(0, len(one.steps), size)]
    return Curve(
        one.name,
        tuple(math.fsum(one.steps[span]) / len(one.steps[span]) for span in spans),
        tuple(math.fsum(one.values[span]) / len(one.values[span]) for span in spans),
    )


def run_json(run: Run) -> dict[str, Any]:
    """The run as plain data, with the first, best and last value of each curve."""
    return {
        "folder": str(run.folder),
        "name": run.name,
        "step": run.last_step,
        "config": run.config,
        "checkpoints": list(run.checkpoints),
        "pictures": [str(path) for path in run.pictures],
        "curves": {one.name: _ends(one) for one in run.curves},
        "probe": {one.name: _ends(one) for one in run.probes},
        "probed": dict(run.probed),
        "scores": [one.as_dict() for one in read_scores(run.folder)],
    }


def _ends(one: Curve) -> dict[str, float]:
    best = min(one.values) if one.lower_is_better else max(one.values)
    return {"first": one.values[0], "best": best, "last": one.values[-1], "points": len(one.values)}


def write_run_report(path: Path, run: Run) -> None:
    """Write the run as one self-contained page. Raises StorageError if it cannot be written."""
    write_page(path, run_report(run))


def run_report(run: Run) -> str:
    """The page as text."""
    parts = [
        ("curves", "Curves", _cards(run.curves)),
        ("probe", "Nearest-neighbor probe (%)", _cards(run.probes)),
        ("scores", "Scores", _score_table(read_scores(run.folder))),
        ("reconstructions", "Reconstructions", _pictures(run.pictures)),
        ("config", "Config", _config(run.config)),
    ]
    parts = [part for part in parts if part[2]]
    numbers = [(f"{run.last_step:,}", "steps done", "")]
    numbers += [
        (f"{one.values[-1]:.4g}", f"{one.name}, last", f"first {one.values[0]:.4g}")
        for one in run.curves
        if "loss" in one.name
    ]
    numbers += [
        (f"{one.values[-1]:.1f} %", f"probe, {one.name}", _probe_note(probe_score(run, one.name), one))
        for one in run.probes
        if one.name in run.probed
    ]
    overview = section("overview", "Overview", key_numbers(numbers))
    return sections_page(run.name, f'<p class="lead">{escape(run.summary)}</p>', parts, first=overview)


def _probe_note(number: Number, one: Curve) -> str:
    """The interval, the number of clips and the best score of the probe by a stream."""
    interval = shown_interval(number.interval).strip()
    count = "" if number.samples is None else f"n = {number.samples:,}"
    best = "" if one.name == CHANCE else f"best {max(one.values):.1f} %"
    return ", ".join(filter(None, (interval, count, best)))


def _cards(curves: Sequence[Curve]) -> str:
    if not curves:
        return ""
    drawn = (
        card(one.name, line_chart(thin.steps, thin.values, f"{one.name} over steps"))
        for one, thin in ((one, thinned(one)) for one in curves)
    )
    return f'<div class="cards pairs">{"".join(drawn)}</div>'


def _score_table(scores: Sequence[RunScore]) -> str:
    if not scores:
        return ""
    rows = [(one.task, one.row, one.metric, one.number) for one in scores]
    return f'<div class="card wide">{table(("task", "row", "metric", "score [95 % interval]"), rows)}</div>'


def _pictures(pictures: Sequence[Path]) -> str:
    if not pictures:
        return ""
    count = min(MOST_PICTURES, len(pictures))
    places = {round(place * (len(pictures) - 1) / max(count - 1, 1)) for place in range(count)}
    shown = (pictures[place] for place in sorted(places, reverse=True))
    return (
        '<div class="cards">'
        + "".join(
            card(
                path.name,
                f'<img class="picture" alt="{escape(path.name)}" src="{data_uri(read_file(path), "image/png")}">',
                wide=True,
            )
            for path in shown
        )
        + "</div>"
    )


def _config(config: dict[str, Any]) -> str:
    rows = [(name, value) for name, value in config.items() if value is not None]
    half = -(-len(rows) // 2)
    return (
        '<div class="cards pairs">'
        + "".join(card("", table(("setting", "value"), part)) for part in (rows[:half], rows[half:]) if part)
        + "</div>"
    )
