"""Charts as inline SVG: no script, no style of their own; the page's classes color them."""

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
"""Classes `s0` to `s7` of the page are colors."""


def histogram(edges: Sequence[float | int], counts: Sequence[float | int], unit: str, what: str) -> str:
    """Bars over an axis of values."""
    low, high = edges[0], edges[-1]
    width, height = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    most = max(*counts, 1)
    parts = [_count_axis(most, height)]
    for place, count in enumerate(counts):
        if count:
            x = _LEFT + width * place / len(counts)
            bar = max(height * count / most, 1.0)
            title = f"{edges[place]:.4g} to {edges[place + 1]:.4g} {unit}: {count:,.0f}"
            parts.append(
                f'<rect class="bar" x="{x:.1f}" y="{_TOP + height - bar:.1f}" width="{width / len(counts) - 0.6:.2f}" '
                f'height="{bar:.1f}"><title>{html.escape(title)}</title></rect>'
            )
    for tick in value_ticks(low, high):
        x = _LEFT + width * (tick - low) / (high - low)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_TOP + height}" y2="{_TOP + height}"/>')
    return _svg(WIDTH, _HEIGHT, parts, what)


def shares(parts: Mapping[str, float | int], what: str, classes: Mapping[str, str] | None = None) -> str:
    """One bar cut into the parts of a whole."""
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
        f'aria-label="{html.escape(what, quote=True)}">{"".join(drawn)}</svg>'
    )


def ranked(counts: Sequence[tuple[str, int, int]], what: str) -> str:
    """(name, samples, requested) of many classes as thin bars, the largest first."""
    ordered = sorted(counts, key=lambda entry: (-entry[2], -entry[1], entry[0]))
    width, height = _WIDE - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    most = max([requested for _, _, requested in ordered], default=1) or 1
    parts = [_count_axis(most, height, _WIDE - _RIGHT)]
    step = width / max(len(ordered), 1)
    for place, (name, samples, requested) in enumerate(ordered):
        x = _LEFT + step * place
        whole, had = height * requested / most, height * samples / most
        title = f"{name}: {samples:,} of {requested:,}"
        parts.append(
            f"<g><title>{html.escape(title)}</title>"
            f'<rect class="lost" x="{x:.2f}" y="{_TOP + height - whole:.1f}" width="{max(step - 0.4, 0.6):.2f}" '
            f'height="{whole:.1f}"/>'
            f'<rect class="bar" x="{x:.2f}" y="{_TOP + height - had:.1f}" width="{max(step - 0.4, 0.6):.2f}" '
            f'height="{had:.1f}"/></g>'
        )
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDE - _RIGHT:.0f}" y1="{_TOP + height}" y2="{_TOP + height}"/>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 10}">{len(ordered):,} classes, by clips requested</text>'
    )
    return _svg(_WIDE, _HEIGHT, parts, what)


def curve(steps: Sequence[float | int], values: Sequence[float | int], what: str) -> str:
    """Values over steps."""
    pairs = [(x, y) for x, y in zip(steps, values, strict=True) if math.isfinite(y)]
    if not pairs:
        return _svg(WIDTH, _HEIGHT, ['<text x="50%" y="50%" text-anchor="middle">no finite value</text>'], what)
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
    return _svg(WIDTH, _HEIGHT, parts, what)


def value_ticks(low: float | int, high: float | int, about: int = 5) -> list[float]:
    """Round values between two, about so many."""
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


def _svg(width: int, height: int, parts: Sequence[str], what: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{html.escape(what, quote=True)}">{"".join(parts)}</svg>'
    )
