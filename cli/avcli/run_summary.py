"""Terminal output of `avkit inspect RUN`."""

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console
from rich.text import Text

from avcli.tables import plain_table
from avmodel.inspect_run import Run

_SPARKLINE_MARKS = "▁▂▃▄▅▆▇█"


def print_run(run: Run) -> None:
    """Print the curves and probe of a training run: the first, best and last values."""
    console = Console(highlight=False)
    console.print(Text.assemble((run.name, "bold"), f"  {run.summary}"), soft_wrap=True)
    table = plain_table(("", "<"), ("", "<"), ("first", ">"), ("best", ">"), ("last", ">"))
    for curve in [*run.curves, *run.probes]:
        best = min(curve.values) if curve.lower_is_better else max(curve.values)
        table.add_row(
            curve.name,
            _sparkline(curve.values),
            *(f"{value:.4g}" for value in (curve.values[0], best, curve.values[-1])),
        )
    console.print(table)
    if run.pictures:
        console.print(
            Text(f"\n{len(run.pictures)} pictures of reconstructions, the last {run.pictures[-1]}"), soft_wrap=True
        )


def _sparkline(values: Sequence[float], width: int = 40) -> str:
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
