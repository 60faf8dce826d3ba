"""Views: what a model gets of a sample. Those of avkit take windows, frames and crops; others are made the same way.

A view declares the arrays of a batch and fills one row of them from a sample. It is a pure function of the sample and
of its random numbers, so an epoch can be repeated and resumed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from avdata.dataset import Dataset
from avdata.fits import FITS
from avdata.load.crops import CROP_DRAWS, Crop, center_crop, choice, crop_mask_into, random_crop, short_side_crop
from avdata.load.decode import StoredSample
from avdata.profiles import MelProfile, column_start_s, profile, window_columns
from avmanifest.errors import ConfigError, ShardError
from avmanifest.names import unknown_name
from avmanifest.wording import counted

_IF_SHORT: Final = "Leave short clips out (data.exclude=short), or set a shorter data.window_s."
PATCH_COLUMNS: Final = 16


@dataclass(frozen=True, slots=True)
class BatchArray:
    """An array of a batch, without its first axis, that of the samples."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic]
    memory: tuple[int, ...] | None = None  # the axes in the order in which they lie in memory; None: as in shape


class View(ABC):
    """What a model gets of each sample. Derive from it, or use a FunctionView.

    Arrays named as fields of `Batch` (images, log_mel, waveform, ...) become those fields; all others are in
    `Batch.arrays`.

    Example:
        ```python
        class TwoCrops(View):
            arrays = (BatchArray("crops", (2, 96, 96, 3), np.uint8),)
            num_draws = 1 + 2 * CROP_DRAWS

            def fill(self, sample, draws, row):
                rgb = sample.frame(choice(draws[0], len(sample.frame_times_s)))
                for number in range(2):
                    part = draws[1 + number * CROP_DRAWS :]
                    crop = random_crop(*rgb.shape[:2], area=(0.1, 1), ratio=(3 / 4, 4 / 3), draws=part)
                    crop_into(rgb, crop, row["crops"][number])
        ```
    """

    arrays: tuple[BatchArray, ...]  # that `fill` writes a row of
    profile: str = ""  # of log_mel, if the view has such an array
    num_draws: int = 0  # random numbers that a sample needs

    @abstractmethod
    def fill(self, sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
        """Write a row of each array. Threads call it at the same time.

        Args:
            sample: The sample. Its ShardErrors must pass.
            draws: num_draws random numbers in [0, 1), a function of (seed, epoch, position).
            row: By name, the row, of the array's shape. Write all of it: it has the content of an earlier batch.
        """

    def check(self, dataset: Dataset) -> None:  # noqa: B027 - a view may need nothing
        """Raise ConfigError if the dataset lacks what the view needs. A loader calls it when it is made."""


@dataclass(frozen=True, kw_only=True)
class FunctionView(View):
    """A view by a function `fill(sample, draws, row)`; see `View.fill`."""

    function: Callable[[StoredSample, Sequence[float], Mapping[str, np.ndarray]], None]
    arrays: tuple[BatchArray, ...]
    num_draws: int = 0

    def fill(self, sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
        """Call the function."""
        self.function(sample, draws, row)


@dataclass(frozen=True, kw_only=True)
class ClipView(View):
    """Options of the views of windows and frames. Defaults: 3 s and 224 pixels, as in DeepAVFusion."""

    profile: str = "paper"
    window_s: float | None = (
        3.0  # None: the whole clip, for profiles with pad_columns; these have windows around frames
    )
    columns: int | None = None  # columns of the log-mel; None: the largest multiple of 16 in the window
    image_size: int = 224  # pixels, height and width
    waveform: bool = False  # also return the window's 16 kHz waveform
    fit: str = "crop"  # how a frame becomes square: one of FITS
    around_frame: bool = False  # choose frames first, and center a window on the time of each as far as the clip allows
    masks: bool = False  # also return the frames' masks, cropped and resized like the frames
    waveform_s: float = 10.0  # cut or pad a whole clip's waveform to this length

    def __post_init__(self) -> None:
        mel = profile(self.profile)
        if self.window_s is None and not mel.pad_columns:
            raise ConfigError(f"data.window_s=none with profile {self.profile!r}: give a length in seconds.")
        if self.window_s is not None and mel.pad_columns and not self.around_frame:
            raise ConfigError(
                f"data.window_s={self.window_s} with profile {self.profile!r}: it needs whole clips. Set "
                "data.window_s=none, or data.around_frame=true for windows around frames."
            )
        if mel.pad_columns and not 1 <= self.window_columns <= mel.pad_columns:
            raise ConfigError(
                f"data.window_s={self.window_s}: {self.window_columns} columns of {self.profile!r} spectrograms, which "
                f"have {mel.pad_columns}. Set data.window_s from {self.hop_s:g} to {mel.pad_columns * self.hop_s:g}."
            )
        if self.fit not in FITS:
            raise ConfigError(unknown_name("fit", self.fit, FITS))
        if self.around_frame and self.num_windows != self.num_images:
            raise ConfigError("around_frame needs a view with a window for each frame")
        if self.waveform_s <= 0:
            raise ConfigError(f"waveform_s={self.waveform_s}: must be above 0")
        if self.columns is not None and not 0 < self.columns <= self.window_columns:
            raise ConfigError(f"columns={self.columns}: the window has {self.window_columns}. Ask for fewer.")
        if self.image_size < 1:
            raise ConfigError(f"image_size={self.image_size}: must be 1 or more")

    @cached_property
    def mel(self) -> MelProfile:
        """The log-mel profile."""
        return profile(self.profile)

    @cached_property
    def window_columns(self) -> int:
        """Columns of a whole window's log-mel."""
        if self.window_s is None:
            return self.mel.pad_columns
        if self.mel.pad_columns:  # a part of the clip's columns
            return round(self.window_s / self.hop_s)
        return window_columns(0.0, self.window_s, self.mel)[1]

    @property
    def hop_s(self) -> float:
        """Seconds from a column of the log-mel to the next."""
        return self.mel.hop_length / self.mel.sample_rate

    @cached_property
    def num_columns(self) -> int:
        """Columns of the log-mel that the model gets, such as 192 of the 196 of `paper`."""
        return self.columns or max(1, self.window_columns // PATCH_COLUMNS) * PATCH_COLUMNS

    @cached_property
    def window_samples(self) -> int:
        """Samples of a window's waveform; of a part of a whole clip's columns, those that all of them are made of."""
        if self.window_s is None:
            return round(self.waveform_s * self.mel.sample_rate)
        if self.mel.pad_columns:
            return (self.window_columns - 1) * self.mel.hop_length + self.mel.win_length
        return round(self.window_s * self.mel.sample_rate)

    @property
    def num_windows(self) -> int | None:
        """Size of the axis of windows; None: no such axis."""
        return None

    @property
    def num_images(self) -> int | None:
        """Size of the axis of frames; None: no such axis."""
        return None

    @cached_property
    def arrays(self) -> tuple[BatchArray, ...]:  # type: ignore[override]
        """The fields of `Batch` of these names. In memory images are rows of RGB pixels, log-mels columns."""
        u, v = (() if axis is None else (axis,) for axis in (self.num_windows, self.num_images))
        size = self.image_size
        pixels, columns = (len(v) + 1, len(v) + 2, len(v)), (len(u) + 1, len(u))
        arrays = [
            BatchArray("images", (*v, 3, size, size), np.uint8, (*range(len(v)), *pixels)),
            BatchArray("log_mel", (*u, self.mel.n_mels, self.num_columns), np.float16, (*range(len(u)), *columns)),
            BatchArray("window_start_s", u, np.float32),
            BatchArray("frame_time_s", v, np.float32),
            BatchArray("frames", v, np.int64),
        ]
        if self.waveform:
            arrays.append(BatchArray("waveform", (*u, self.window_samples), np.float32))
        if self.masks:
            arrays += [BatchArray("masks", (*v, size, size), np.uint8), BatchArray("masked", v, np.bool_)]
        if self.has_gain:
            arrays.append(BatchArray("gain_db", (), np.float32))
        return tuple(arrays)

    def check(self, dataset: Dataset) -> None:
        """Check that the shards, those of every part, have the log-mel profile or audio to compute it from."""
        for part, rows in dataset.rows_of_parts():
            where = f"{part.name}: " if part.name else ""
            has_waveform = bool(dataset.waveform.size[rows].any())
            stored = [name for name, ranges in dataset.log_mel.items() if ranges.size[rows].any()]
            if self.profile not in stored and not has_waveform:
                raise ConfigError(
                    f"{where}the view needs {self.profile!r} spectrograms; the shards have "
                    f"{', '.join(stored) or 'none'}, and no audio to compute them from. "
                    f"Prepare with --mel {self.profile}, or with audio."
                )
            if self.waveform and not has_waveform:
                raise ConfigError(
                    f"{where}the view needs waveforms and the shards have no audio. Prepare without --no-audio."
                )

    # What a kind of view chooses. As they stand: the middle window, the frame nearest its middle, the center crop.

    @property
    def has_gain(self) -> bool:
        """Whether each sample gets a gain."""
        return False

    def gain_db(self, draws: Sequence[float]) -> float:
        """The gain of a sample in dB."""
        raise NotImplementedError

    def window_starts(self, num_starts: int, draws: Sequence[float]) -> list[int]:
        """First columns of the windows, of num_starts possible ones, counted from 0."""
        return [(num_starts - 1) // 2]

    def frame_jitter_s(self, draws: Sequence[float]) -> float:
        """With around_frame: seconds from the frame to the middle of the window."""
        return 0.0

    def column_jitter(self, draws: Sequence[float]) -> int:
        """Columns between the start of the window and the first column that the model gets."""
        return 0

    def first_frames(self, count: int, draws: Sequence[float]) -> list[int]:
        """With around_frame: the frames, of `count`, that get a window each."""
        return [count // 2]

    def choose_frames(self, starts_s: Sequence[float], times_s: Sequence[float], draws: Sequence[float]) -> list[int]:
        """Numbers of the stored frames to take: for each window the nearest to its middle; if unknown, the middle one.

        Args:
            starts_s: Starts of the windows, in seconds of the clip.
            times_s: Times of the stored frames, in seconds of the clip; NaN: unknown.
            draws: Random numbers of the sample.
        """
        return [self._frame_of(start, times_s, draws) for start in starts_s]

    def choose_crop(self, height: int, width: int, draws: Sequence[float]) -> Crop:
        """The crop of a frame of height x width pixels."""
        return self.fixed_crop(height, width) or center_crop(height, width)

    def fixed_crop(self, height: int, width: int) -> Crop | None:
        """The part of a frame that training and tests alike take; None with fit "crop", where each has its own."""
        if self.fit == "crop":
            return None
        return Crop(0, 0, height, width) if self.fit == "squash" else short_side_crop(height, width)

    def pick_frame(self, inside: Sequence[int], nearest: Callable[[], int], draws: Sequence[float]) -> int:
        """The frame of a window, of those inside it and the nearest to its middle."""
        return nearest()

    # Filling a row, in terms of these choices.

    def fill(self, sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
        """Write a row of each of the arrays."""
        times_s = sample.frame_times_s
        if not times_s:
            raise sample.error("", "no frame is stored. Name the members that hold one (MemberMap(image=...)).")
        around: list[int] | None = None
        if self.around_frame:
            around = named(sample, lambda: self.first_frames(len(times_s), draws))
        starts = self._fill_sound(sample, draws, row, None if around is None else [times_s[frame] for frame in around])
        starts_s = [column_start_s(start, self.mel) for start in starts]
        row["window_start_s"][...] = starts_s if self.num_windows is not None else starts_s[0]
        if self.has_gain:
            row["gain_db"][...] = self.gain_db(draws)
        frames = around or named(sample, lambda: self.choose_frames(starts_s, times_s, draws))
        self._fill_images(sample, frames, draws, row)

    def _fill_sound(
        self,
        sample: StoredSample,
        draws: Sequence[float],
        row: Mapping[str, np.ndarray],
        around_s: Sequence[float] | None,
    ) -> list[int]:
        """Write the log-mels and waveforms of the windows. Returns the first column of each window."""
        mels = row["log_mel"] if self.num_windows is not None else row["log_mel"][None]
        columns, jitter = sample.mel_columns(self.profile), self.column_jitter(draws)
        if columns is not None:
            num_starts = columns - self.window_columns + 1
            if num_starts < 1:
                raise sample.error(
                    "",
                    f"{counted(columns, 'column')}, a window of {self.window_s} s has {self.window_columns}. "
                    f"{_IF_SHORT}",
                )
            starts = self._starts(num_starts, draws, around_s)
            for start, mel in zip(starts, mels, strict=True):
                sample.copy_mel_later(self.profile, start + jitter, mel)
            if not self.waveform:
                return starts
        else:
            starts = self._starts_of(sample, draws, around_s)
        waveforms = self._waveforms(sample, starts)
        if self.waveform:
            row["waveform"][...] = (
                [fitted(waveform, self.window_samples) for waveform in waveforms]
                if self.num_windows is not None
                else fitted(waveforms[0], self.window_samples)
            )
        if columns is None and self.mel.pad_columns and self.window_s is not None:
            whole = np.empty((self.mel.n_mels, self.mel.pad_columns), np.float32)
            sample.compute_mel(sample.waveform(), self.mel, 0, whole)
            for start, mel in zip(starts, mels, strict=True):
                mel[...] = whole[:, start + jitter : start + jitter + self.num_columns]
        elif columns is None:
            for waveform, mel in zip(waveforms, mels, strict=True):
                sample.compute_mel(waveform, self.mel, jitter, mel)
        return starts

    def _fill_images(
        self, sample: StoredSample, frames: Sequence[int], draws: Sequence[float], row: Mapping[str, np.ndarray]
    ) -> None:
        """Write the crops of these frames, their times, numbers and masks."""
        times_s, axes = sample.frame_times_s, self.num_images is not None
        images = row["images"].transpose(0, 2, 3, 1) if axes else row["images"].transpose(1, 2, 0)[None]
        masks = (row["masks"] if axes else row["masks"][None]) if self.masks else None

        def choose(height: int, width: int) -> Crop:
            return self.choose_crop(height, width, draws)

        masked = [False] * len(frames)
        for place, frame in enumerate(frames):
            if place and frame == frames[place - 1] and not draws:
                images[place] = images[place - 1]
                if masks is not None:
                    masks[place], masked[place] = masks[place - 1], masked[place - 1]
                continue
            if masks is None and draws:
                sample.crop_frame_later(frame, choose, images[place])
                continue
            height, width, crop = sample.crop_frame(frame, choose, images[place])
            if masks is not None:
                mask = sample.mask(frame)
                masked[place] = mask is not None
                if mask is None:
                    masks[place] = 0
                else:
                    crop_mask_into(mask, crop, (height, width), masks[place])
        row["frame_time_s"][...] = [times_s[frame] for frame in frames] if axes else times_s[frames[0]]
        row["frames"][...] = frames if axes else frames[0]
        if masks is not None:
            row["masked"][...] = masked if axes else masked[0]

    def _starts(self, num_starts: int, draws: Sequence[float], around_s: Sequence[float] | None) -> list[int]:
        """First columns of the windows; around the frames at these times, if frames were chosen."""
        if around_s is None:
            return self.window_starts(num_starts, draws)
        return [self._start_around(time_s, num_starts, draws) for time_s in around_s]

    def _start_around(self, time_s: float, num_starts: int, draws: Sequence[float]) -> int:
        """First column of the window around a frame at this time; NaN, unknown: of the middle window."""
        if math.isnan(time_s) or self.window_s is None:
            return (num_starts - 1) // 2
        start_s = time_s + self.frame_jitter_s(draws) - self.window_s / 2
        return min(max(round(start_s * self.mel.sample_rate / self.mel.hop_length), 0), num_starts - 1)

    def _starts_of(self, sample: StoredSample, draws: Sequence[float], around_s: Sequence[float] | None) -> list[int]:
        """First columns of the windows in the log-mel of the sample's waveform, which isn't stored."""
        if self.window_s is None:
            return [0]
        if self.mel.pad_columns:
            return self._starts(self.mel.pad_columns - self.window_columns + 1, draws, around_s)
        num_samples = sample.num_samples()
        num_starts = (num_samples - self.window_samples) // self.mel.hop_length + 1
        if num_starts < 1:
            raise sample.error(
                "flac",
                f"{num_samples} samples, a window of {self.window_s} s has {self.window_samples}. {_IF_SHORT}",
            )
        return self._starts(num_starts, draws, around_s)

    def _waveforms(self, sample: StoredSample, starts: Sequence[int]) -> list[np.ndarray]:
        """The windows' samples. A window at the end of the clip may begin up to a hop earlier than its columns.

        Of a part of a whole clip's columns, those of the filled-up ones are missing at the end.
        """
        if self.window_s is None:
            return [sample.waveform()]
        if self.mel.pad_columns:
            total, hop = sample.num_samples(), self.mel.hop_length
            begins = [min(start * hop, total) for start in starts]
            return [sample.waveform(begin, min(begin + self.window_samples, total)) for begin in begins]
        last = sample.num_samples() - self.window_samples
        if last < 0:
            raise sample.error("flac", f"shorter than a window of {self.window_s} s. Leave short clips out.")
        begins = [min(start * self.mel.hop_length, last) for start in starts]
        return [sample.waveform(begin, begin + self.window_samples) for begin in begins]

    def _frame_of(self, start_s: float, times_s: Sequence[float], draws: Sequence[float]) -> int:
        """The frame of the window that begins at start_s."""
        if self.window_s is None or any(map(math.isnan, times_s)):
            return self.pick_frame(range(len(times_s)), lambda: len(times_s) // 2, draws)
        end_s, middle_s = start_s + self.window_s, start_s + self.window_s / 2
        inside = [frame for frame, time in enumerate(times_s) if start_s <= time <= end_s]
        return self.pick_frame(
            inside, lambda: min(range(len(times_s)), key=lambda frame: abs(times_s[frame] - middle_s)), draws
        )


@dataclass(frozen=True, kw_only=True)
class TrainView(ClipView):
    """For training: a random window, a random stored frame inside it, a random resized crop and flip, and gain.

    The log-mel begins a random 0 to window_columns - num_columns columns after the window (0 to 4 with `paper`). If no
    frame is inside the window, the nearest to its middle is taken; if their times are unknown, any.
    """

    min_area: float = 0.5  # of the crop, as a share of the frame
    max_area: float = 1.0
    min_ratio: float = 3 / 4  # width to height
    max_ratio: float = 4 / 3
    flip_probability: float = 0.5
    jitter_s: float = 0.0  # with around_frame: maximum distance of the window's middle from the frame
    max_gain_db: float = 0.0  # gain is uniform in [-max, max]; the released code has 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.min_area <= self.max_area <= 1 or not 0 < self.min_ratio <= self.max_ratio:
            raise ConfigError(
                f"crop of area {self.min_area} to {self.max_area}, ratio {self.min_ratio} to {self.max_ratio}: "
                "both must ascend, above 0, and an area is at most 1"
            )
        if not 0 <= self.flip_probability <= 1 or self.max_gain_db < 0:
            raise ConfigError(f"flip_probability={self.flip_probability}, max_gain_db={self.max_gain_db}: out of range")
        if self.max_gain_db and self.mel.kaldi:
            raise ConfigError(f"max_gain_db={self.max_gain_db}: gain is not defined on {self.profile!r} spectrograms")

    # The random numbers of a sample: window, jitter, frame, flip, gain, and those of the crop.

    @property
    def num_draws(self) -> int:  # type: ignore[override]
        """Random numbers per sample."""
        return 5 + CROP_DRAWS

    @cached_property
    def has_gain(self) -> bool:
        """Whether max_gain_db is above 0."""
        return bool(self.max_gain_db)

    def gain_db(self, draws: Sequence[float]) -> float:
        """Uniform in [-max_gain_db, max_gain_db]."""
        return (draws[4] * 2 - 1) * self.max_gain_db

    def window_starts(self, num_starts: int, draws: Sequence[float]) -> list[int]:
        """A random one."""
        return [choice(draws[0], num_starts)]

    def frame_jitter_s(self, draws: Sequence[float]) -> float:
        """Uniform in [-jitter_s, jitter_s]."""
        return (2 * draws[0] - 1) * self.jitter_s

    def column_jitter(self, draws: Sequence[float]) -> int:
        """Random, such that the columns are inside the window."""
        return choice(draws[1], self.window_columns - self.num_columns + 1)

    def first_frames(self, count: int, draws: Sequence[float]) -> list[int]:
        """A random one."""
        return [choice(draws[2], count)]

    def pick_frame(self, inside: Sequence[int], nearest: Callable[[], int], draws: Sequence[float]) -> int:
        """A random one of those inside the window; if none is, the nearest."""
        return inside[choice(draws[2], len(inside))] if inside else nearest()

    def choose_crop(self, height: int, width: int, draws: Sequence[float]) -> Crop:
        """A random crop and flip; with another fit than "crop", its part of the frame and a random flip."""
        flip = draws[3] < self.flip_probability
        fixed = self.fixed_crop(height, width)
        if fixed is not None:
            return fixed._replace(flip=flip)
        area, ratio = (self.min_area, self.max_area), (self.min_ratio, self.max_ratio)
        return random_crop(height, width, area, ratio, draws[5:], flip=flip)


@dataclass(frozen=True, kw_only=True)
class EvalView(ClipView):
    """For evaluation: the center window and the stored frame nearest its middle; or several windows, evenly spaced.

    With fit "crop" the crop is a center square of 7/8 of the short side, such as 224 of 256 pixels. Nothing is random.
    """

    windows: int | None = None  # None: the center window, without an axis of windows

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.windows is not None and self.windows < 1:
            raise ConfigError(f"data.windows={self.windows}: must be 1 or more")
        if self.around_frame and self.windows is not None:
            raise ConfigError(
                f"data.windows={self.windows} with data.around_frame: the windows are evenly spaced. Leave one out."
            )

    @property
    def num_windows(self) -> int | None:
        """The option `windows`."""
        return self.windows

    @property
    def num_images(self) -> int | None:
        """One frame per window."""
        return self.windows

    def window_starts(self, num_starts: int, draws: Sequence[float]) -> list[int]:
        """The middle one, or several from the first to the last."""
        if self.windows is None or self.windows == 1:
            return [(num_starts - 1) // 2]
        step = (num_starts - 1) / (self.windows - 1)
        return [round(number * step) for number in range(self.windows)]


@dataclass(frozen=True, kw_only=True)
class AllFramesView(ClipView):
    """For evaluation: all stored frames, in the order of their times, with the center window or one around each."""

    num_frames: int = 10  # number of frames of every sample

    def check(self, dataset: Dataset) -> None:
        """Check, too, that samples have so many frames. One that has another number is damaged."""
        super().check(dataset)
        for part, rows in dataset.rows_of_parts():
            counts = np.diff(dataset.frame_start[rows.start : rows.stop + 1])
            if len(counts) and not (counts == self.num_frames).any():
                where = f"{part.name}: " if part.name else ""
                raise ConfigError(
                    f"{where}data.frames={self.num_frames}: no sample has so many frames; the first has "
                    f"{int(counts[0])}. Set data.frames={int(counts[0])}."
                )

    @property
    def num_windows(self) -> int | None:
        """With around_frame one for each frame."""
        return self.num_frames if self.around_frame else None

    @property
    def num_images(self) -> int | None:
        """All stored frames."""
        return self.num_frames

    def choose_frames(self, starts_s: Sequence[float], times_s: Sequence[float], draws: Sequence[float]) -> list[int]:
        """All of them. Raises ShardError for another number than num_frames."""
        return self.first_frames(len(times_s), draws)

    def first_frames(self, count: int, draws: Sequence[float]) -> list[int]:
        """All of them. Raises ShardError for another number than num_frames."""
        if count != self.num_frames:
            raise ShardError(
                f"{counted(count, 'frame is', 'frames are')} stored, the view needs num_frames={self.num_frames}"
            )
        return list(range(count))


def named(sample: StoredSample, choose: Callable[[], list[int]]) -> list[int]:
    """The frames that `choose` gives; its ShardError names the sample."""
    try:
        return choose()
    except ShardError as error:
        raise sample.error("", str(error)) from None


def fitted(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """The first num_samples samples, padded with zeros if the waveform is shorter."""
    return np.pad(waveform[:num_samples], (0, max(0, num_samples - len(waveform))))
