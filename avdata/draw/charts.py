"""Charts as inline SVG. They contain no script and no style: the classes of page.css color them."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Final

from avdata.draw.mel_axis import time_ticks

WIDTH: Final = 460
_HEIGHT: Final = 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 26
_WIDE: Final = 940
_SERIES: Final = 8
"""Number of series colors: the classes `s0` to `s7` of page.css."""


def histogram(edges: Sequence[float | int], counts: Sequence[float | int], unit: str, label: str) -> str:
    """Draw a histogram.

    Args:
        edges: Edges of the bins, ascending; one more than counts.
        counts: Values in each bin.
        unit: Unit of the edges, for the tooltips.
        label: Description for screen readers (aria-label), as in the other charts.
    """
    low, high = edges[0], edges[-1]
    width, height = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    highest = max(*counts, 1)
    parts = [_count_axis(highest, height)]
    for place, count in enumerate(counts):
        if count:
            x = _LEFT + width * place / len(counts)
            bar = max(height * count / highest, 1.0)
            title = f"{edges[place]:.4g} to {edges[place + 1]:.4g} {unit}: {count:,.0f}"
            parts.append(
                f'<rect class="bar" x="{x:.1f}" y="{_TOP + height - bar:.1f}" width="{width / len(counts) - 0.6:.2f}" '
                f'height="{bar:.1f}"><title>{html.escape(title)}</title></rect>'
            )
    for tick in value_ticks(low, high):
        x = _LEFT + width * (tick - low) / (high - low)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_TOP + height}" y2="{_TOP + height}"/>')
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
        f'<text x="{_LEFT}" y="{_HEIGHT - 10}">{len(ordered):,} classes, by clips requested</text>'
    )
    return _svg(_WIDE, _HEIGHT, parts, label)


def line_chart(steps: Sequence[float | int], values: Sequence[float | int], label: str) -> str:
    """Draw values over steps. Values that are not finite are left out."""
    pairs = [(x, y) for x, y in zip(steps, values, strict=True) if math.isfinite(y)]
    if not pairs:
        return _svg(WIDTH, _HEIGHT, ['<text x="50%" y="50%" text-anchor="middle">no finite value</text>'], label)
    low_x, high_x = pairs[0][0], max(pairs[-1][0], pairs[0][0] + 1)
    low, high = min(y for _, y in pairs), max(y for _, y in pairs)
    if high - low <= 1e-9 * max(abs(high), 1e-9):
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    width, height = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = []
    for tick in value_ticks(low, high, 4):
        level = _TOP + height * (1 - (tick - low) / (high - low))
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>'
            f'<text x="{_LEFT - 5}" y="{level + 3.5:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    places = [
        (_LEFT + width * (x - low_x) / (high_x - low_x), _TOP + height * (1 - (y - low) / (high - low)))
        for x, y in pairs
    ]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline class="line" points="{points}"/>')
    if len(places) == 1:
        parts.append(f'<circle class="bar" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3"/>')
    for tick in value_ticks(low_x, high_x, 5):
        across = _LEFT + width * (tick - low_x) / (high_x - low_x)
        parts.append(f'<text x="{across:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{_number(tick)}</text>')
    return _svg(WIDTH, _HEIGHT, parts, label)


def value_ticks(low: float | int, high: float | int, about: int = 5) -> list[float]:
    """About `about` round values from low to high."""
    span = time_ticks(high - low, about)
    step = span[1] - span[0] if len(span) > 1 else high - low
    first = math.ceil(low / step - 1e-9)
    return [float(round(number * step, 12)) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _count_axis(most: float | int, height: float | int, right: float | int = WIDTH - _RIGHT) -> str:
    parts = []
    for tick in value_ticks(0, most, 3):
        if tick != int(tick):
            continue
        y = _TOP + height * (1 - tick / most)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    return "".join(parts)


def _number(value: float | int) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}"


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{html.escape(label, quote=True)}">{"".join(parts)}</svg>'
    )
