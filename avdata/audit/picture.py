"""A sample, or a spectrogram, as a PNG."""

from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from avdata.audit.mel_axis import TICKS_HZ, band_of, color_range, seconds_of
from avdata.audit.sample import StoredFrame, StoredSample
from avdata.audit.truth import COLORS, boxes_in, mask_overlay
from avdata.profiles import MelProfile
from avmanifest.errors import StorageError

MOST_FRAMES: Final = 20
_A_ROW: Final = 5
_DPI: Final = 110


def draw_sample(sample: StoredSample) -> Figure:
    """Its frames with their times, boxes and masks, and its log-mel with axes in seconds and hertz below."""
    frames = sample.frames[:MOST_FRAMES]
    rows = -(-len(frames) // _A_ROW)
    heights = [1.9] * rows + [3.1]
    figure = Figure(figsize=(11, sum(heights) + 0.9), layout="constrained")
    figure.suptitle(_title(sample), fontsize=11, x=0.01, ha="left", parse_math=False)
    grid = figure.add_gridspec(len(heights), _A_ROW, height_ratios=heights)
    for place, frame in enumerate(frames):
        axis = figure.add_subplot(grid[place // _A_ROW, place % _A_ROW])
        _draw_frame(axis, frame, boxes_in(str(sample.facts.get("annotations", "")), place, len(sample.frames)))
    axis = figure.add_subplot(grid[rows, :])
    if sample.log_mel is None:
        axis.set_axis_off()
        axis.text(0, 0.5, "no log-mel in this sample", fontsize=10)
    else:
        draw_log_mel(axis, sample.log_mel, sample.profile)
        for frame in frames:
            if frame.time_s is not None and sample.profile is not None:
                axis.axvline(frame.time_s, color="white", alpha=0.35, linewidth=0.8)
    return figure


def draw_spectrogram(log_mel: np.ndarray, profile: MelProfile, title: str) -> Figure:
    """A log-mel with its axes and its scale of colors."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axis = figure.add_subplot()
    image = draw_log_mel(axis, log_mel, profile)
    axis.set_title(title, fontsize=11, loc="left", parse_math=False)
    unit = "ln" if profile.kaldi else "log10"
    figure.colorbar(image, ax=axis, label=f"{unit} of mel power", pad=0.01)
    return figure


def draw_log_mel(axis: Any, log_mel: np.ndarray, profile: MelProfile | None) -> Any:
    """Draw into matplotlib axes: seconds and hertz where the profile is known, else columns and bands."""
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
        axis.set_yticks([min(band_of(f, profile), bands - 0.5) for f in ticks], [_hertz(f) for f in ticks])
        axis.set_ylabel("mel frequency (Hz)", fontsize=9)
    else:
        axis.set_ylabel("band", fontsize=9)
    axis.tick_params(labelsize=8)
    return image


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG. Raises StorageError if it cannot be written."""
    try:
        figure.savefig(path, format="png", dpi=_DPI)
    except OSError as error:
        raise StorageError(f"{path}: picture not written ({error.strerror}). Give --png another path.") from error


def _title(sample: StoredSample) -> str:
    facts = sample.facts
    parts = [f"{sample.key}   {sample.split}"]
    if sample.labels:
        parts.append(", ".join(sample.labels)[:120])
    if isinstance(facts.get("rms_dbfs"), float):
        parts.append(f"{facts['rms_dbfs']:.1f} dBFS")
    return "   ".join([*parts, *sample.flags])


def _draw_frame(axis: Any, frame: StoredFrame, boxes: list[Any]) -> None:
    picture = cv2.imdecode(np.frombuffer(frame.content, np.uint8), cv2.IMREAD_COLOR)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(frame.name if frame.time_s is None else f"{frame.time_s:.2f} s", fontsize=9)
    if picture is None:
        axis.text(0.5, 0.5, "damaged", ha="center", va="center", transform=axis.transAxes)
        return
    height, width = picture.shape[:2]
    axis.imshow(picture[..., ::-1])
    overlay = None if frame.mask is None else mask_overlay(frame.mask)
    if overlay is not None:
        axis.imshow(overlay, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    for box in boxes:
        color = tuple(channel / 255 for channel in COLORS[box.color])
        corner = (box.x0 * width, box.y0 * height)
        size = ((box.x1 - box.x0) * width, (box.y1 - box.y0) * height)
        style = "solid" if box.sounding else "dotted"
        axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=1.4, linestyle=style))
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)


def _hertz(frequency: int) -> str:
    return f"{frequency / 1000:g}k" if frequency >= 1000 else f"{frequency:g}"
