"""A picture of a batch to look at: what a model is about to see and hear."""

import contextlib
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avdata.load.batch import Batch
from avdata.profiles import MelProfile, profile
from avmanifest.errors import ConfigError, StorageError

MOST_SAMPLES: Final = 8
_MOST_IMAGES: Final = 10
_WIDTH: Final = 10.0  # inches
_ROW: Final = 1.95  # of a frame beside its window
_STRIP: Final = 2.35  # of several frames above windows
_MUTED: Final = "0.45"
_LONGEST: Final = 46  # characters of a key or of labels
_DPI: Final = 130


def save_batch_picture(path: Path, batch: Batch, num_samples: int = MOST_SAMPLES) -> None:
    """Draw the first samples of a batch into a PNG, a row each: key, labels, frames with their times, log-mels.

    Views with several windows or images show all of a sample's in its row. Raises ConfigError for an empty selection,
    StorageError if the file cannot be written.
    """
    if min(num_samples, len(batch)) < 1:
        raise ConfigError(f"num_samples={num_samples} of a batch of {len(batch)}: nothing to draw")
    figure = draw_batch(batch, min(num_samples, len(batch)))
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # of a script that the font lacks: a box is drawn
            figure.savefig(unfinished, format="png", dpi=_DPI)
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise StorageError(f"{path}: picture not written ({error.strerror}). Give another path.") from error


def draw_batch(batch: Batch, num_samples: int) -> Figure:
    """The figure that `save_batch_picture` writes."""
    mel = profile(batch.profile)
    images = batch.images.cpu().numpy()
    images = images.reshape(len(batch), -1, *images.shape[-3:])[:num_samples, :_MOST_IMAGES]
    mels = batch.log_mel.float().cpu().numpy()
    mels = mels.reshape(len(batch), -1, *mels.shape[-2:])[:num_samples, :_MOST_IMAGES]
    times = batch.frame_time_s.cpu().numpy().reshape(len(batch), -1)
    starts = batch.window_start_s.cpu().numpy().reshape(len(batch), -1)
    names = batch.label_names()

    num_images, num_windows = images.shape[1], mels.shape[1]
    single = num_images == num_windows == 1
    row_height = _ROW if single else _STRIP
    height = num_samples * row_height + 0.85
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    title = f"epoch {batch.epoch}    positions {int(batch.positions[0])} to {int(batch.positions[num_samples - 1])}"
    size = f"{images.shape[-1]} × {images.shape[-2]}"
    shape = f"frames {size}    log-mel {batch.profile}, {mels.shape[-2]} × {mels.shape[-1]}"
    _text(figure, 0.02, 1 - 0.30 / height, title, size=10.0, weight="bold")
    _text(figure, 0.98, 1 - 0.30 / height, shape, size=8.0, color=_MUTED, align="right")
    low, high = np.percentile(mels, (1, 99.7))
    scale = float(low), float(max(high, low + 1e-3))
    for row in range(num_samples):
        top = 1 - (0.72 + row * row_height) / height
        bottom = top - (row_height - 0.62) / height
        _text(figure, 0.02, top + 0.07 / height, _shortened(batch.keys[row]), size=8.5, weight="bold")
        _text(figure, 0.98, top + 0.07 / height, _facts(batch, row, names[row]), size=8.0, align="right")
        last = row == num_samples - 1
        if single:
            side = (top - bottom) * height / _WIDTH
            _image(figure, (0.02, bottom, side, top - bottom), images[row, 0], float(times[row, 0]))
            axis = _mel(figure, (0.215, bottom, 0.765, top - bottom), mels[row, 0], float(starts[row, 0]), mel, scale)
            axis.axvline(float(times[row, 0]), color="white", linewidth=1.0, alpha=0.8, linestyle=(0, (4, 3)))
            if last:
                _name_time(axis)
        else:
            _strip(figure, (bottom, top, height), images[row], times[row], mels[row], starts[row], mel, scale, last)
    return figure


def _strip(
    figure: Figure,
    span: tuple[float, float, float],
    images: np.ndarray,
    times: np.ndarray,
    mels: np.ndarray,
    starts: np.ndarray,
    mel: MelProfile,
    scale: tuple[float, float],
    last: bool,
) -> None:
    """Several frames above several windows."""
    bottom, top, height = span
    middle = bottom + (top - bottom) * 0.40
    gap, left, width = 0.008, 0.065, 0.915
    each = (width - gap * (len(images) - 1)) / len(images)
    tall = min(top - middle, each * _WIDTH / height)
    for number, (image, time) in enumerate(zip(images, times.tolist(), strict=False)):
        side = tall * height / _WIDTH
        x = left + number * (each + gap) + (each - side) / 2
        _image(figure, (x, top - tall, side, tall), image, time)
    each = (width - gap * (len(mels) - 1)) / len(mels)
    for number, (content, start) in enumerate(zip(mels, starts.tolist(), strict=False)):
        rect = (left + number * (each + gap), bottom, each, top - tall - bottom - 0.1 / height)
        axis = _mel(figure, rect, content, start, mel, scale, first=number == 0)
        if len(mels) > 3:
            end_s = start + content.shape[1] * mel.hop_length / mel.sample_rate
            axis.set_xticks([start + (end_s - start) / 2], [f"{start:.1f} to {end_s:.1f} s"])
            axis.tick_params(axis="x", length=0, labelsize=6.5)
        elif last:
            _name_time(axis)


def _image(figure: Figure, rect: tuple[float, float, float, float], image: np.ndarray, time: float) -> None:
    axis: Axes = figure.add_axes(rect)
    axis.imshow(np.moveaxis(image, 0, -1), aspect="auto", interpolation="bilinear")
    axis.set_axis_off()
    told = "" if np.isnan(time) else f"{time:.2f} s"
    axis.text(
        0.04, 0.05, told, transform=axis.transAxes, color="white", size=7, parse_math=False,
        bbox={"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.5} if told else None,
    )  # fmt: skip


def _mel(
    figure: Figure,
    rect: tuple[float, float, float, float],
    content: np.ndarray,
    start: float,
    mel: MelProfile,
    scale: tuple[float, float],
    *,
    first: bool = True,
) -> Axes:
    """A spectrogram over the clip's time; the first of a row names its bins."""
    axis: Axes = figure.add_axes(rect)
    bins, columns = content.shape
    end = start + columns * mel.hop_length / mel.sample_rate
    axis.imshow(
        content, origin="lower", aspect="auto", extent=(start, end, 0, bins), vmin=scale[0], vmax=scale[1],
        interpolation="nearest", cmap="magma",
    )  # fmt: skip
    axis.tick_params(labelsize=7, length=2.5, width=0.6, color=_MUTED, labelcolor="0.25", pad=2)
    axis.set_yticks([0, bins // 2, bins] if first else [])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if first:
        axis.set_ylabel("mel bin", size=7, color="0.25", labelpad=3)
    return axis


def _name_time(axis: Axes) -> None:
    axis.set_xlabel("time in the clip (s)", size=7.5, color="0.25", labelpad=2)


def _facts(batch: Batch, row: int, names: list[str]) -> str:
    """Labels, gain, and whether the sample only fills the batch up."""
    facts = [_shortened(", ".join(names) or "no label")]
    if batch.gain_db is not None:
        facts.append(f"{round(float(batch.gain_db[row]), 1) + 0.0:+.1f} dB")
    if not batch.valid[row]:
        facts.append("repeated")
    return "   ".join(facts)


def _shortened(text: str) -> str:
    """A line of printable characters, not too long: names from outside may hold anything."""
    line = "".join(sign if sign.isprintable() else "·" for sign in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _text(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    weight: str = "normal",
    color: str = "0.15",
    align: str = "left",
) -> None:
    """Text as it stands: a name with dollar signs is no formula."""
    figure.text(x, y, text, size=size, weight=weight, color=color, ha=align, va="bottom", parse_math=False)
