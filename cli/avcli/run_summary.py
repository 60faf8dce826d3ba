"""Terminal output of `avkit inspect RUN...`."""

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console
from rich.text import Text

from avcli.tables import plain_table, shown_value
from avmanifest.wording import counted
from avmodel.inspect_run import Curve, Run, probe_score
from avmodel.inspect_runs import Comparison
from avmodel.run_scores import read_scores

_LONGEST = 120  # characters of a value of a setting
_SPARKLINE_WIDTH = 40
_OTHER_COLUMNS = 55  # characters of the name and the numbers beside a sparkline
_SPARKLINE_MARKS = "▁▂▃▄▅▆▇█"


def print_run(run: Run) -> None:
    """Print the curves and probe of a training run: the first, best and last values."""
    console = Console(highlight=False)
    console.print(Text.assemble((run.name, "bold"), f"  {run.summary}"), soft_wrap=True)
    table = plain_table(("", "<"), ("", "<"), ("first", ">"), ("best", ">"), ("last", ">"))
    for curve in [*run.curves, *run.probes]:
        best = min(curve.values) if curve.lower_is_better else max(curve.values)
        table.add_row(
            f"probe, {curve.name} (%)" if curve in run.probes else curve.name,
            _sparkline(curve.values, max(8, min(_SPARKLINE_WIDTH, console.width - _OTHER_COLUMNS))),
            *(f"{value:.4g}" for value in (curve.values[0], best, curve.values[-1])),
        )
    console.print(table)
    print_scores(console, run)
    if run.pictures:
        pictures = counted(len(run.pictures), "picture")
        console.print(Text(f"\n{pictures} of reconstructions, the last {run.pictures[-1]}"), soft_wrap=True)


def print_scores(console: Console, run: Run) -> None:
    """Print the last scores of the probe and those of the run's evaluations, with n and 95 % intervals."""
    rows = [("nearest neighbors, last probe", one.name, probe_score(run, one.name)) for one in run.probes
            if one.name in run.probed]  # fmt: skip
    rows += [(one.task, f"{one.row}, {one.metric}", one.number) for one in read_scores(run.folder)]
    if not rows:
        return
    table = plain_table(("score", "<"), ("", "<"), ("[95 % interval]", "<"))
    before = ""
    for task, row, number in rows:
        table.add_row(Text("" if task == before else _shown(task)), Text(_shown(row)), Text(_shown(number)))
        before = task
    console.print()
    console.print(table)


def print_comparison(comparison: Comparison) -> None:
    """Print the last losses and probes of runs beside each other, the settings that differ, and the scores."""
    console = Console(highlight=False)
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        console.print(Text.assemble((_shown(name), "bold"), f"  {_shown(run.summary)}"), soft_wrap=True)
    heads = [(_shown(name), ">") for name in comparison.names]
    curves = {name: ours for name, ours in comparison.curves.items() if "loss" in name} | comparison.probes
    table = plain_table(("last values", "<"), *heads)
    for name, ours in curves.items():
        table.add_row(Text(_shown(name)), *map(_last, ours))
    console.print()
    console.print(table)
    if comparison.settings:
        table = plain_table(("settings that differ", "<"), *((name, "<") for name, _ in heads))
        for name, values in comparison.settings.items():
            table.add_row(Text(_shown(name)), *(Text(_shown(value)) for value in values))
        console.print()
        console.print(table)
    else:
        console.print("\nThe runs have the same settings.")
    if comparison.scores:
        table = plain_table(("scores [95 % interval]", "<"), *((name, "<") for name, _ in heads))
        for task, row, metric, scores in comparison.score_rows():
            table.add_row(Text(_shown(f"{task} {row} {metric}".rstrip())), *(Text(_shown(one)) for one in scores))
        console.print()
        console.print(table)


def _shown(value: object) -> str:
    return shown_value(value if isinstance(value, str | int | float) else str(value), _LONGEST)


def _last(one: Curve | None) -> str:
    return "" if one is None else f"{one.values[-1]:.4g} at {one.steps[-1]:,.0f}"


def _sparkline(values: Sequence[float], width: int) -> str:
    """A curve in one line of text, of means over equally many values."""
    spans = min(width, len(values))
    size, longer = divmod(len(values), spans)
    edges = [place * size + min(place, longer) for place in range(spans + 1)]
    parts = [values[start:end] for start, end in pairwise(edges)]
    finite = [[value for value in part if math.isfinite(value)] for part in parts]
    means = [math.fsum(part) / len(part) if part else math.nan for part in finite]
    drawn = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(drawn), max(drawn)) if drawn else (0.0, 0.0)
    step = max(high - low, 1e-12) / len(_SPARKLINE_MARKS)
    last = len(_SPARKLINE_MARKS) - 1
    return "".join(
        _SPARKLINE_MARKS[min(last, int((mean - low) / step))] if math.isfinite(mean) else " " for mean in means
    )
