"""Figures of an evaluation: confusion matrix, scores per class, and scatter plots of features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from avdata.draw.figures import DPI, printable, save_figure
from avmanifest.wording import counted

CONFUSION_FILE, CLASSES_FILE = "confusion.png", "classes.png"
MAX_NAMED_CLASSES = 45  # a confusion matrix of more classes has no names
MAX_SHOWN_CLASSES = 50  # of more classes, only the best and the worst are drawn
MARKS = (("o", 0.0), ("x", 0.6))  # of the streams of one map: marker, and width of its lines
MAX_LEGEND_CLASSES = 24  # a scatter plot of more classes has no legend
_REMEDY = "Free space, or give another --out."


def save_pictures(extra: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the scores per class and the confusion matrix, as far as `extra` contains them. Returns the files."""
    paths = []
    if extra.get("per_class"):
        paths.append(save_figure(draw_classes(extra["per_class"]), folder / CLASSES_FILE, _REMEDY))
    if extra.get("confusion"):
        names = [row["class"] for row in extra["per_class"]]
        figure = draw_confusion(np.array(extra["confusion"]), names)
        paths.append(save_figure(figure, folder / CONFUSION_FILE, _REMEDY))
    return paths


def draw_confusion(counts: Int[np.ndarray, "c c"], names: Sequence[str]) -> Figure:
    """Draw the confusion matrix: rows are true classes and sum to 1. Classes without samples are left out."""
    present = np.flatnonzero(counts.sum(axis=1) + counts.sum(axis=0))
    counts, names = counts[np.ix_(present, present)], [names[row] for row in present.tolist()]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(names) <= MAX_NAMED_CLASSES
    side = max(4.5, 0.24 * len(names) + 3.2) if named else 10.0
    figure = Figure(figsize=(side + 0.8, side), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, vmin=0, vmax=1, cmap="magma_r", interpolation="nearest")
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if named:
        axis.set_xticks(
            range(len(names)), [printable(name) for name in names], rotation=90, fontsize=8, parse_math=False
        )
        axis.set_yticks(range(len(names)), [printable(name) for name in names], fontsize=8, parse_math=False)
    axis.set_title(
        f"{counted(int(counts.sum()), 'sample')}, {counted(len(names), 'class', 'classes')}; "
        f"{np.trace(counts) / max(counts.sum(), 1):.1%} right",
        fontsize=10,
    )
    figure.colorbar(image, ax=axis, shrink=0.7, label="share of the true class")
    return figure


def draw_classes(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw one bar per class, the best first, with its number of samples.

    Of more than MAX_SHOWN_CLASSES classes, only the best and the worst are drawn.
    """
    metric = next(name for name in rows[0] if name not in ("class", "samples"))
    ordered = sorted((row for row in rows if row[metric] is not None), key=lambda row: -row[metric])
    left_out = len(ordered) - MAX_SHOWN_CLASSES
    if left_out > 0:
        ordered = [*ordered[: MAX_SHOWN_CLASSES // 2], *ordered[-(MAX_SHOWN_CLASSES // 2) :]]
    figure = Figure(figsize=(8, 0.22 * len(ordered) + 1.3), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    values = [row[metric] for row in ordered]
    places = np.arange(len(ordered))
    colors = mpl.colormaps["viridis"](np.array(values) / 100 if values else [])
    axis.barh(places, values, color=colors, height=0.78)
    for place, row in enumerate(ordered):
        axis.text(row[metric] + 1, place, f"{row[metric]:.0f} %   n = {row['samples']:,}", va="center", fontsize=7)
    axis.set_yticks(places, [printable(row["class"]) for row in ordered], fontsize=8, parse_math=False)
    axis.set_ylim(len(ordered) - 0.4, -0.6)
    axis.set_xlim(0, 118)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel(f"{metric.replace('_', ' ')} (%)")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if left_out > 0:
        axis.set_title(
            f"the best and the worst; {counted(left_out, 'class', 'classes')} between them not shown", fontsize=9
        )
        axis.axhline(MAX_SHOWN_CLASSES // 2 - 0.5, color="0.6", linewidth=0.8, linestyle=(0, (4, 3)))
    return figure


def save_map(
    path: Path,
    maps: Mapping[str, Float[np.ndarray, "n 2"]],
    labels: Int[np.ndarray, " n"],
    classes: Sequence[str],
    *,
    title: str,
    together: bool = False,
) -> Path:
    """Draw one scatter plot per token stream, one color per class; up to MAX_LEGEND_CLASSES classes get a legend.

    `together`: the coordinates of the (at most two) streams are of one map, drawn as one plot, a mark for each stream.

    Args:
        path: The PNG file to write.
        maps: 2-d coordinates of the samples, by stream.
        labels: Class of each sample; -1: unlabeled, drawn gray.
        classes: Names of the classes.
        title: Shown beside the name of each stream.
    """
    present = sorted(set(labels.tolist()) - {-1})
    colors = mpl.colormaps["gist_rainbow"](np.linspace(0, 1, max(len(present), 1), endpoint=False))
    few = 0 < len(present) <= MAX_LEGEND_CLASSES
    plots = 1 if together else len(maps)
    figure = Figure(figsize=(4.6 * plots + (2.6 if few else 0), 4.8), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, plots, squeeze=False)[0]
    marks = MARKS if together else MARKS[:1] * plots
    drawn_in = [axes[0]] * len(maps) if together else axes
    for axis, (mark, width), (name, places) in zip(drawn_in, marks, maps.items(), strict=True):
        unlabeled = labels == -1
        axis.scatter(*places[unlabeled].T, s=7, color="0.75", marker=mark, linewidths=width)
        for color, label in zip(colors, present, strict=False):
            mine = labels == label
            shown = printable(classes[label]) if (mark, width) == MARKS[0] else None
            axis.scatter(*places[mine].T, s=9, color=color, marker=mark, linewidths=width, alpha=0.8, label=shown)
        axis.set_title(f"{name} ({title})", fontsize=10)
    if together:
        named = ", ".join(f"{name} {mark}" for name, (mark, _) in zip(maps, (("dots", 0), ("crosses", 0)), strict=True))
        axes[0].set_title(f"{named} ({title})", fontsize=10)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color("0.8")
    if few:
        handles, names = axes[-1].get_legend_handles_labels()
        legend = figure.legend(handles, names, loc="outside right center", fontsize=7, frameon=False, markerscale=1.6)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return save_figure(figure, path, _REMEDY)
