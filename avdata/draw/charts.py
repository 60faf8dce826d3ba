"""Charts as inline SVG. They contain no script and no style: the classes of page.css color them."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from avdata.draw.mel_axis import time_ticks
from avmanifest.wording import counted

WIDTH: Final = 460
_HEIGHT: Final = 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 26
_WIDE: Final = 940
_LINES_HEIGHT: Final = _HEIGHT + 10  # with the name of the horizontal axis
_LETTER: Final = 6.6  # width of a letter of a tick's label, at most
_SCALES: Final = ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
_SERIES: Final = 8
"""Number of series colors: the classes `s0` to `s7` of page.css."""


def histogram(edges: Sequence[float | int], counts: Sequence[float | int], unit: str, label: str) -> str:
    """Draw a histogram.

    Args:
        edges: Edges of the bins, ascending; one more than counts. Two equal ones: all values are this one.
        counts: Values in each bin.
        unit: Unit of the edges, for the tooltips.
        label: Description for screen readers (aria-label), as in the other charts.
    """
    low, high = edges[0], edges[-1]
    ticks = [low] if low == high else value_ticks(low, high)
    names = tick_labels(ticks)
    right = _right_of(names)
    width, height = WIDTH - _LEFT - right, _HEIGHT - _TOP - _BOTTOM
    highest = max(*counts, 1)
    parts = [_count_axis(highest, height)]
    for place, count in enumerate(counts):
        if count:
            x = _LEFT + width * place / len(counts)
            bar = max(height * count / highest, 1.0)
            span = f"{edges[place]:.4g}" if low == high else f"{edges[place]:.4g} to {edges[place + 1]:.4g}"
            title = f"{span} {unit}: {count:,.0f}"
            parts.append(
                f'<rect class="bar" x="{x:.1f}" y="{_TOP + height - bar:.1f}" width="{width / len(counts) - 0.6:.2f}" '
                f'height="{bar:.1f}"><title>{html.escape(title)}</title></rect>'
            )
    shares = [0.5 if low == high else (tick - low) / (high - low) for tick in ticks]
    parts += _names_below(names, [_LEFT + width * share for share in shares])
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - right:.1f}" y1="{_TOP + height}" y2="{_TOP + height}"/>'
    )
    return _svg(WIDTH, _HEIGHT, parts, label)


def stacked_bar(parts: Mapping[str, float | int], label: str, classes: Mapping[str, str] | None = None) -> str:
    """Draw one bar that is divided in proportion to the parts.

    Args:
        parts: Size by name. Parts of size 0 are left out.
        label: Description for screen readers.
        classes: CSS class by name; the others get the series colors in turn.
    """
    total = sum(parts.values()) or 1.0
    drawn, x = [], 0.0
    for place, (name, value) in enumerate(parts.items()):
        if not value:
            continue
        width = 1000 * value / total
        color = (classes or {}).get(name, f"s{place % _SERIES}")
        title = f"{name}: {value:,.0f} ({value / total:.1%})"
        drawn.append(
            f'<rect class="{color}" x="{x:.2f}" y="0" width="{max(width, 0.5):.2f}" height="14">'
            f"<title>{html.escape(title)}</title></rect>"
        )
        x += width
    return (
        f'<svg class="shares" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(label, quote=True)}">{"".join(drawn)}</svg>'
    )


def class_chart(counts: Sequence[tuple[str, int, int]], label: str) -> str:
    """Draw (class, samples, requested clips) of many classes as thin bars, sorted by requested clips."""
    ordered = sorted(counts, key=lambda entry: (-entry[2], -entry[1], entry[0]))
    width, height = _WIDE - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    highest = max([requested for _, _, requested in ordered], default=1) or 1
    parts = [_count_axis(highest, height, _WIDE - _RIGHT)]
    step = width / max(len(ordered), 1)
    for place, (name, samples, requested) in enumerate(ordered):
        x = _LEFT + step * place
        tall, filled = height * requested / highest, height * samples / highest
        title = f"{name}: {samples:,} of {requested:,}"
        parts.append(
            f"<g><title>{html.escape(title)}</title>"
            f'<rect class="lost" x="{x:.2f}" y="{_TOP + height - tall:.1f}" width="{max(step - 0.4, 0.6):.2f}" '
            f'height="{tall:.1f}"/>'
            f'<rect class="bar" x="{x:.2f}" y="{_TOP + height - filled:.1f}" width="{max(step - 0.4, 0.6):.2f}" '
            f'height="{filled:.1f}"/></g>'
        )
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDE - _RIGHT:.0f}" y1="{_TOP + height}" y2="{_TOP + height}"/>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 10}">{counted(len(ordered), "class", "classes")}, by clips requested</text>'
    )
    return _svg(_WIDE, _HEIGHT, parts, label)


class Line(NamedTuple):
    """A curve of a chart: its name, and a value at each step."""

    name: str
    steps: Sequence[float | int]
    values: Sequence[float | int]


def line_chart(steps: Sequence[float | int], values: Sequence[float | int], label: str) -> str:
    """Draw values over steps. Values that are not finite are left out."""
    return lines_chart([Line("", steps, values)], label)


def lines_chart(lines: Sequence[Line], label: str, axis: str = "step") -> str:
    """Draw curves over shared axes, one series color each. Values that are not finite are left out.

    Args:
        lines: The curves. One alone has the accent color; the names of several are their tooltips.
        label: Description for screen readers.
        axis: Name of the horizontal axis.
    """
    curves = [[(x, y) for x, y in zip(line.steps, line.values, strict=True) if math.isfinite(y)] for line in lines]
    pairs = [pair for curve in curves for pair in curve]
    if not pairs:
        return _svg(WIDTH, _HEIGHT, ['<text x="50%" y="50%" text-anchor="middle">no finite value</text>'], label)
    low_x, high_x = min(x for x, _ in pairs), max(x for x, _ in pairs)
    high_x = max(high_x, low_x + 1)
    low, high = min(y for _, y in pairs), max(y for _, y in pairs)
    if high - low <= 1e-9 * max(abs(high), 1e-9):
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    levels, across = value_ticks(low, high, 4), value_ticks(low_x, high_x, 5)
    level_names, across_names = tick_labels(levels), tick_labels(across)
    left = max(_LEFT, 12 + _LETTER * max(map(len, level_names), default=0))
    right = _right_of(across_names)
    width, height = WIDTH - left - right, _HEIGHT - _TOP - _BOTTOM
    parts = []
    for tick, name in zip(levels, level_names, strict=True):
        y = _TOP + height * (1 - (tick - low) / (high - low))
        parts.append(
            f'<line class="grid" x1="{left:.1f}" x2="{WIDTH - right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 5:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{name}</text>'
        )
    for place, (line, curve) in enumerate(zip(lines, curves, strict=True)):
        color = f"line l{place % _SERIES}" if len(lines) > 1 else "line"
        places = [
            (left + width * (x - low_x) / (high_x - low_x), _TOP + height * (1 - (y - low) / (high - low)))
            for x, y in curve
        ]
        title = f"<title>{html.escape(line.name)}</title>" if line.name else ""
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{color}" points="{points}">{title}</polyline>')
        if len(places) == 1:
            fill = f"s{place % _SERIES}" if len(lines) > 1 else "bar"
            parts.append(f'<circle class="{fill}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3"/>')
    parts += _names_below(across_names, [left + width * (tick - low_x) / (high_x - low_x) for tick in across])
    parts.append(
        f'<text x="{left + width / 2:.1f}" y="{_LINES_HEIGHT - 4}" text-anchor="middle">{html.escape(axis)}</text>'
    )
    return _svg(WIDTH, _LINES_HEIGHT, parts, label)


def value_ticks(low: float | int, high: float | int, about: int = 5) -> list[float]:
    """About `about` round values from low to high."""
    span = time_ticks(high - low, about)
    step = span[1] - span[0] if len(span) > 1 else high - low
    first = math.ceil(low / step - 1e-9)
    return [float(round(number * step, 12)) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _count_axis(most: float | int, height: float | int, right: float | int = WIDTH - _RIGHT) -> str:
    parts = []
    ticks = [tick for tick in value_ticks(0, most, 3) if tick == int(tick)]
    for tick, name in zip(ticks, tick_labels(ticks), strict=True):
        y = _TOP + height * (1 - tick / most)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{name}</text>'
        )
    return "".join(parts)


def _right_of(names: Sequence[str]) -> float | int:
    """Space right of an axis for half of the label of its last tick."""
    return max(_RIGHT, 2 + _LETTER * max(map(len, names), default=0) / 2)


def _names_below(names: Sequence[str], places: Sequence[float | int]) -> list[str]:
    """The labels of a horizontal axis, each at its place."""
    return [
        f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{name}</text>'
        for name, x in zip(names, places, strict=True)
    ]


def tick_labels(ticks: Sequence[float | int]) -> list[str]:
    """Ticks as text: with k, M, G or T where they are large, and with as many digits as tell them apart."""
    most = max(map(abs, ticks), default=0)
    scale, suffix = next(((scale, name) for least, scale, name in _SCALES if most >= least), (1.0, ""))
    names: list[str] = []
    for digits in range(4, 16):
        names = [f"{tick / scale:.{digits}g}{suffix if tick else ''}" for tick in ticks]
        if len(set(names)) == len(ticks):
            break
    return names


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{html.escape(label, quote=True)}">{"".join(parts)}</svg>'
    )
