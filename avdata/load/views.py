"""Views: which windows, frames and crops of a sample a model gets. Pure functions of the sample's random numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from avdata.profiles import MelProfile, profile, window_columns
from avmanifest.errors import ConfigError

PATCH_COLUMNS: Final = 16
_CROP_ATTEMPTS: Final = 10
FITS: Final = ("crop", "squash")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Options that all views have. Defaults: windows of 3 s and images of 224 pixels, as in DeepAVFusion."""

    profile: str = "paper"
    window_s: float | None = 3.0  # None: the whole clip, for profiles with pad_columns
    columns: int | None = None  # columns of the log-mel; None: the largest multiple of 16 in the window
    image_size: int = 224  # pixels, height and width
    waveform: bool = False  # also return the window's 16 kHz waveform
    fit: str = "crop"  # crop a square, or "squash" the whole frame to a square
    around_frame: bool = False  # choose the frame first, and center the window on its time as far as the clip allows
    masks: bool = False  # also return the frames' masks, cropped and resized like the frames
    waveform_s: float = 10.0  # cut or pad a whole clip's waveform to this length

    def __post_init__(self) -> None:
        mel = profile(self.profile)
        if (self.window_s is None) != bool(mel.pad_columns):
            raise ConfigError(
                f"window_s={self.window_s} with profile {self.profile!r}: "
                + ("it needs whole clips. Set window_s=None." if mel.pad_columns else "give a length in seconds.")
            )
        if self.fit not in FITS:
            raise ConfigError(f"unknown fit {self.fit!r}; known: {', '.join(FITS)}")
        if self.around_frame and (self.num_windows is not None or self.num_images is not None):
            raise ConfigError("around_frame needs a view of one window and one frame; this view has several")
        if self.waveform_s <= 0:
            raise ConfigError(f"waveform_s={self.waveform_s}: must be above 0")
        if self.columns is not None and not 0 < self.columns <= self.window_columns:
            raise ConfigError(f"columns={self.columns}: the window has {self.window_columns}. Ask for fewer.")
        if self.image_size < 1:
            raise ConfigError(f"image_size={self.image_size}: must be 1 or more")

    @property
    def mel(self) -> MelProfile:
        """The log-mel profile."""
        return profile(self.profile)

    @property
    def window_columns(self) -> int:
        """Columns of a whole window's log-mel."""
        return _window_columns(self.profile, self.window_s)

    @property
    def num_columns(self) -> int:
        """Columns of the log-mel that the model gets, such as 192 of the 196 of `paper`."""
        return self.columns or max(1, self.window_columns // PATCH_COLUMNS) * PATCH_COLUMNS

    @property
    def window_samples(self) -> int:
        """Samples of a window's waveform."""
        return round((self.waveform_s if self.window_s is None else self.window_s) * self.mel.sample_rate)

    @property
    def num_draws(self) -> int:
        """Random numbers per sample."""
        return 0

    @property
    def num_windows(self) -> int | None:
        """Size of the axis of windows; None: no such axis."""
        return None

    @property
    def num_images(self) -> int | None:
        """Size of the axis of frames; None: no such axis."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainView(View):
    """For training: a random window, a random stored frame inside it, a random resized crop and flip, and gain.

    The log-mel begins a random 0 to window_columns - num_columns columns after the window (0 to 4 with `paper`).
    """

    min_area: float = 0.5  # of the crop, as a share of the frame
    max_area: float = 1.0
    min_ratio: float = 3 / 4  # width to height
    max_ratio: float = 4 / 3
    flip_probability: float = 0.5
    jitter_s: float = 0.0  # with around_frame: maximum distance of the window's middle from the frame
    max_gain_db: float = 0.0  # gain is uniform in [-max, max]; the released code has 6

    def __post_init__(self) -> None:
        View.__post_init__(self)
        if not 0 < self.min_area <= self.max_area <= 1 or not 0 < self.min_ratio <= self.max_ratio:
            raise ConfigError(
                f"crop of area {self.min_area} to {self.max_area}, ratio {self.min_ratio} to {self.max_ratio}: "
                "both must ascend, above 0, and an area is at most 1"
            )
        if not 0 <= self.flip_probability <= 1 or self.max_gain_db < 0:
            raise ConfigError(f"flip_probability={self.flip_probability}, max_gain_db={self.max_gain_db}: out of range")
        if self.max_gain_db and self.mel.kaldi:
            raise ConfigError(f"max_gain_db={self.max_gain_db}: gain is not defined on {self.profile!r} spectrograms")

    @property
    def num_draws(self) -> int:
        """Random numbers per sample: window, jitter, frame, flip, gain, and four for each attempt at a crop."""
        return 5 + 4 * _CROP_ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalView(View):
    """For evaluation: the center window and the stored frame nearest its middle; or several windows, evenly spaced.

    The crop is a center square of 7/8 of the short side, such as 224 of 256 pixels. Nothing is random.
    """

    windows: int | None = None  # None: the center window, without an axis of windows

    def __post_init__(self) -> None:
        View.__post_init__(self)
        if self.windows is not None and self.windows < 1:
            raise ConfigError(f"windows={self.windows}: must be 1 or more")

    @property
    def num_windows(self) -> int | None:
        """The option `windows`."""
        return self.windows

    @property
    def num_images(self) -> int | None:
        """One frame per window."""
        return self.windows


@dataclass(frozen=True, slots=True, kw_only=True)
class AllFramesView(View):
    """For evaluation: the center window and all stored frames, center-cropped, in the order of their times."""

    num_frames: int = 10  # number of frames of every sample

    @property
    def num_images(self) -> int | None:
        """All stored frames."""
        return self.num_frames


class Crop(NamedTuple):
    """A rectangle of an image in pixels, and whether it is flipped left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def start_around(view: View, time_s: float, num_starts: int, draws: Sequence[float]) -> int:
    """First column of the window around a frame, in [0, num_starts). If time_s is NaN, the middle one."""
    if math.isnan(time_s) or view.window_s is None:
        return (num_starts - 1) // 2
    jitter_s = (2 * draws[0] - 1) * view.jitter_s if isinstance(view, TrainView) else 0.0
    start = round((time_s + jitter_s - view.window_s / 2) * view.mel.sample_rate / view.mel.hop_length)
    return min(max(start, 0), num_starts - 1)


def window_starts(view: View, num_starts: int, draws: Sequence[float], around_s: float | None = None) -> list[int]:
    """First columns of the sample's windows.

    Args:
        view: The view.
        num_starts: Number of possible first columns, counted from 0.
        draws: Random numbers of the sample.
        around_s: Time of the frame to center the window on; None: the view chooses.
    """
    if around_s is not None:
        return [start_around(view, around_s, num_starts, draws)]
    if isinstance(view, TrainView):
        return [_choice(draws[0], num_starts)]
    if view.num_windows is None or view.num_windows == 1:
        return [(num_starts - 1) // 2]
    step = (num_starts - 1) / (view.num_windows - 1)
    return [round(number * step) for number in range(view.num_windows)]


def column_jitter(view: View, draws: Sequence[float]) -> int:
    """Columns between the start of the window and the first column that the model gets."""
    return _choice(draws[1], view.window_columns - view.num_columns + 1) if isinstance(view, TrainView) else 0


def choose_frames(
    view: View, starts_s: list[float], times_s: Float32[np.ndarray, " f"], draws: Sequence[float]
) -> list[int]:
    """Numbers of the stored frames to take, one per window; AllFramesView takes all.

    TrainView takes a random frame inside the window, or the one nearest to its middle if none is inside. EvalView takes
    the nearest. If times are unknown, TrainView takes any frame and EvalView the middle one.

    Args:
        view: The view.
        starts_s: Starts of the windows, in seconds of the clip.
        times_s: Times of the stored frames, in seconds of the clip; NaN: unknown.
        draws: Random numbers of the sample.
    """
    if isinstance(view, AllFramesView):
        return list(range(len(times_s)))
    times, chosen = times_s.tolist(), []
    for start in starts_s:
        if view.window_s is None or any(map(math.isnan, times)):
            inside, nearest = list(range(len(times))), len(times) // 2
        else:
            end, middle = start + view.window_s, start + view.window_s / 2
            inside = [frame for frame, time in enumerate(times) if start <= time <= end]
            distances = [abs(time - middle) for time in times]
            nearest = distances.index(min(distances))
        random = isinstance(view, TrainView) and inside
        chosen.append(inside[_choice(draws[2], len(inside))] if random else nearest)
    return chosen


def first_frame(view: View, count: int, draws: Sequence[float]) -> int:
    """The frame of a view with around_frame: random in training, else the middle one."""
    return _choice(draws[2], count) if isinstance(view, TrainView) else count // 2


def gain_db(view: View, draws: Float64[np.ndarray, "b d"]) -> Float32[np.ndarray, " b"] | None:
    """Random gains of a batch in dB; None if the view has none."""
    if not isinstance(view, TrainView) or not view.max_gain_db:
        return None
    return ((draws[:, 4] * 2 - 1) * view.max_gain_db).astype(np.float32)


def choose_crop(view: View, height: int, width: int, draws: Sequence[float]) -> Crop:
    """The crop of a frame of height x width pixels. TrainView follows torchvision's RandomResizedCrop."""
    if view.fit == "squash":
        return Crop(0, 0, height, width, isinstance(view, TrainView) and draws[3] < view.flip_probability)
    if not isinstance(view, TrainView):
        side = max(1, round(min(height, width) * 7 / 8))
        return Crop((height - side) // 2, (width - side) // 2, side, side, False)
    flip = bool(draws[3] < view.flip_probability)
    for first in range(5, 5 + 4 * _CROP_ATTEMPTS, 4):
        area_draw, ratio_draw, top_draw, left_draw = draws[first : first + 4]
        area = height * width * (view.min_area + area_draw * (view.max_area - view.min_area))
        ratio = view.min_ratio * (view.max_ratio / view.min_ratio) ** ratio_draw
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = _choice(top_draw, height - crop_height + 1), _choice(left_draw, width - crop_width + 1)
            return Crop(top, left, crop_height, crop_width, flip)
    crop_width = min(width, max(1, round(height * view.max_ratio)))
    crop_height = min(height, max(1, round(width / view.min_ratio)))
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width, flip)


@lru_cache(maxsize=64)
def _window_columns(profile_name: str, window_s: float | None) -> int:
    mel = profile(profile_name)
    return mel.pad_columns if window_s is None else window_columns(0.0, window_s, mel)[1]


def _choice(draw: float, count: int) -> int:
    return min(int(draw * count), count - 1)
