"""Matplotlib figures: spectrograms with axes, frames above a log-mel, grids of images and log-mels, curves."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.ticker import AutoLocator

from avdata.boxes import Box
from avdata.draw.images import COLORS, color_range, decode_rgb, mask_overlay
from avdata.draw.mel_axis import TICKS_HZ, band_of, hertz_label, seconds_of
from avdata.draw.output import write_drawing
from avdata.profiles import MelProfile

DPI: Final = 110
_GRID_DPI: Final = 90
_ROW_INCHES: Final = 2.3  # of a grid
_MARGIN_INCHES: Final = 0.45  # above and below a grid
_GAP: Final = 0.06  # of a row of a grid, below its pictures
_SMALL_DPI: Final = 80  # of log-mels on a page of many examples
_FRAMES_PER_ROW: Final = 5
_CURVES_PER_ROW: Final = 3
MAX_NAME_LENGTH: Final = 36  # characters
_MEL_COLORS: Final = colormaps["magma"].with_extremes(bad="0.35")  # gray where a log-mel is NaN


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameDrawing:
    """A frame (the bytes of an image file) and the mask and boxes to draw over it."""

    content: bytes
    name: str
    time_s: float | None = None  # in its clip; None: unknown, the name is shown instead
    mask: bytes | None = None  # a PNG
    boxes: Sequence[Box] = ()


def draw_frames(
    title: str, frames: Sequence[FrameDrawing], log_mel: Float[np.ndarray, "mel t"] | None, profile: MelProfile | None
) -> Figure:
    """Draw frames with their times, boxes and masks; below them the log-mel with a line at the time of each frame.

    Without a log-mel, a note takes its place. Without a profile, its axes are columns and bands.
    """
    rows = -(-len(frames) // _FRAMES_PER_ROW)
    figure, grid = _titled_grid(title, [1.9] * rows + [3.1], 0.9, _FRAMES_PER_ROW)
    for place, frame in enumerate(frames):
        _draw_frame(figure.add_subplot(grid[place // _FRAMES_PER_ROW, place % _FRAMES_PER_ROW]), frame)
    axis = figure.add_subplot(grid[rows, :])
    if log_mel is None:
        axis.set_axis_off()
        axis.text(0, 0.5, "no log-mel in this sample", fontsize=10)
        return figure
    _draw_log_mel(axis, log_mel, profile)
    for frame in frames:
        if frame.time_s is not None and profile is not None:
            axis.axvline(frame.time_s, color="white", alpha=0.35, linewidth=0.8)
    return figure


def _titled_grid(title: str, heights: Sequence[float], more: float, columns: int) -> tuple[Figure, GridSpec]:
    """A figure with a title above rows of these heights in inches and `more`, cut into columns."""
    figure = Figure(figsize=(11, sum(heights) + more), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", parse_math=False)
    return figure, figure.add_gridspec(len(heights), columns, height_ratios=heights)


def draw_spectrogram(log_mel: Float[np.ndarray, "mel t"], profile: MelProfile, title: str) -> Figure:
    """Draw a log-mel with axes in seconds and hertz and a color bar."""
    figure = Figure(figsize=(11, 4.2), dpi=DPI, layout="constrained")
    axis = figure.add_subplot()
    image = _draw_log_mel(axis, log_mel, profile)
    axis.set_title(title, fontsize=11, loc="left", parse_math=False)
    unit = "ln" if profile.kaldi else "log10"
    figure.colorbar(image, ax=axis, label=f"{unit} of mel power", pad=0.01)
    return figure


def draw_log_mels(log_mels: Mapping[str, Float[np.ndarray, "mel t"]], profile: MelProfile) -> Figure:
    """Draw log-mels by caption: the first alone in the first row, then two per row."""
    rows = (len(log_mels) + 1) // 2
    figure = Figure(figsize=(10, 2.3 * rows), dpi=_SMALL_DPI, layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    axes[0, 1].set_axis_off()
    for axis, (caption, log_mel) in zip([axes[0, 0], *axes[1:].flat], log_mels.items(), strict=True):
        _draw_log_mel(axis, log_mel, profile)
        axis.set_title(printable(caption), fontsize=9, loc="left", parse_math=False)
    return figure


def draw_grid(columns: Sequence[tuple[str, np.ndarray]], names: Sequence[str], profile: MelProfile) -> Figure:
    """Draw a grid with one row per sample and one column per (title, pictures).

    Args:
        columns: Pictures are images [rows, h, w, 3] in [0, 1], or log-mels [rows, mel, t], drawn gray where they are
            NaN. The log-mels of a row share the color range of its first.
        names: Labels of the rows.
        profile: The profile of the log-mels.
    """
    rows = len(columns[0][1])
    height = _ROW_INCHES * rows + 2 * _MARGIN_INCHES
    figure = Figure(figsize=(15, height), dpi=_GRID_DPI)
    margin = _MARGIN_INCHES / height
    axes = figure.subplots(1, len(columns), squeeze=False, gridspec_kw={"wspace": 0.13})[0]
    figure.subplots_adjust(left=0.02, right=0.995, bottom=margin, top=1 - margin)
    first_log_mels = next(pictures for _, pictures in columns if pictures.ndim == 3)
    # An axis for each column: matplotlib takes most of its time for axes. Row k lies between y = k and k + 1 - _GAP.
    for axis, (title, pictures) in zip(axes, columns, strict=True):
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=7)
        axis.set_xticks([])
        axis.set_yticks([])
        is_image = pictures.ndim == 4
        width = (
            (1 - _GAP) * pictures.shape[2] / pictures.shape[1] if is_image else seconds_of(pictures.shape[2], profile)
        )
        for row, picture in enumerate(pictures):
            extent = (0, width, row + 1 - _GAP, row)
            if is_image:
                axis.imshow(picture, extent=extent)
                continue
            low, high = np.nanpercentile(first_log_mels[row], (1, 99.5))
            colors = {"vmin": low, "vmax": max(high, low + 1e-3), "cmap": _MEL_COLORS}
            axis.imshow(picture[::-1], extent=extent, interpolation="nearest", **colors)
        axis.set(xlim=(0, width), ylim=(rows - _GAP, 0), aspect="equal" if is_image else "auto")
        axis.spines[:].set_visible(False)
        if not is_image:
            axis.xaxis.set_major_locator(AutoLocator())
            axis.set_xlabel("time (s)", fontsize=8)
        if pictures is first_log_mels:
            bins = range(0, pictures.shape[1], max(pictures.shape[1] // 4, 1))
            places = [row + (1 - _GAP) * (1 - one / pictures.shape[1]) for row in range(rows) for one in bins]
            axis.set_yticks(places, [str(one) for _ in range(rows) for one in bins])
            axis.set_ylabel("mel bin", fontsize=8, labelpad=1)
    axes[0].set_yticks(np.arange(rows) + 0.5, [printable(name) for name in names[:rows]], rotation=90, va="center")
    axes[0].tick_params(length=0)
    for label in axes[0].get_yticklabels():
        label.set_parse_math(False)
    return figure


def draw_curves(
    title: str, curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], picture: Path | None = None
) -> Figure:
    """Draw one panel per curve (name, steps, values); below them the image file `picture`, if one is given."""
    rows = max(1, -(-len(curves) // _CURVES_PER_ROW))
    pixels = None if picture is None else imread(picture)
    below = 0.0 if pixels is None else 11 * pixels.shape[0] / pixels.shape[1]
    heights = [2.1] * rows + ([] if pixels is None else [below])
    figure, grid = _titled_grid(title, heights, 0.6, _CURVES_PER_ROW)
    for place, (name, steps, values) in enumerate(curves):
        axis = figure.add_subplot(grid[place // _CURVES_PER_ROW, place % _CURVES_PER_ROW])
        axis.plot(steps, values, linewidth=1.2, marker="." if len(steps) < 20 else "")
        axis.set_xlabel("step", fontsize=7)
        axis.set_title(name, fontsize=9, loc="left", parse_math=False)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    if picture is not None and pixels is not None:
        axis = figure.add_subplot(grid[rows, :])
        axis.imshow(pixels)
        axis.set_axis_off()
        axis.set_title(f"{picture.parent.name}/{picture.name}", fontsize=9, loc="left", parse_math=False)
    return figure


def figure_png(figure: Figure) -> bytes:
    """Render the figure as PNG bytes."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def save_figure(figure: Figure, path: Path, remedy: str = "Free space, or give another path.") -> Path:
    """Write the figure as a PNG file, whole or not at all.

    Raises:
        StorageError: The file cannot be written. The message ends with `remedy`.
    """
    return write_drawing(path, figure_png(figure), what="picture", remedy=remedy)


def printable(name: str) -> str:
    """The name in ASCII, shortened to MAX_NAME_LENGTH characters: fonts lack other characters."""
    text = name.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[: MAX_NAME_LENGTH - 3]}..."


def _draw_log_mel(axis: Any, log_mel: Float[np.ndarray, "mel t"], profile: MelProfile | None) -> Any:
    """Draw a log-mel. The axes are seconds and hertz if the profile is known, else columns and bands."""
    low, high = color_range(log_mel)
    bands, columns = log_mel.shape
    width = seconds_of(columns, profile) if profile else float(columns)
    image = axis.imshow(
        log_mel,
        origin="lower",
        aspect="auto",
        extent=(0, width, -0.5, bands - 0.5),
        vmin=low,
        vmax=high,
        cmap="magma",
        interpolation="nearest",
    )
    axis.set_xlabel("time (s)" if profile else "column", fontsize=9)
    if profile:
        ticks = [f for f in TICKS_HZ if -0.5 <= band_of(f, profile) <= bands - 0.5 + 1]
        axis.set_yticks([min(band_of(f, profile), bands - 0.5) for f in ticks], [hertz_label(f) for f in ticks])
        axis.set_ylabel("mel frequency (Hz)", fontsize=9)
    else:
        axis.set_ylabel("band", fontsize=9)
    axis.tick_params(labelsize=8)
    return image


def _draw_frame(axis: Any, frame: FrameDrawing) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(frame.name if frame.time_s is None else f"{frame.time_s:.2f} s", fontsize=9)
    picture = decode_rgb(frame.content)
    if picture is None:
        axis.text(0.5, 0.5, "damaged", ha="center", va="center", transform=axis.transAxes)
        return
    height, width = picture.shape[:2]
    axis.imshow(picture)
    overlay = None if frame.mask is None else mask_overlay(frame.mask)
    if overlay is not None:
        axis.imshow(overlay, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    for box in frame.boxes:
        color = tuple(channel / 255 for channel in COLORS[box.number % len(COLORS)])
        corner = (box.x0 * width, box.y0 * height)
        size = ((box.x1 - box.x0) * width, (box.y1 - box.y0) * height)
        style = "solid" if box.sounding else "dotted"
        axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=1.4, linestyle=style))
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
