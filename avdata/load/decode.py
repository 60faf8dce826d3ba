"""Decodes samples into the preallocated arrays of a batch. The loader's worker threads run this code."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, Int64, UInt8

from avdata.dataset import ByteRange, Dataset
from avdata.images import decode_jpeg, decode_mask
from avdata.load.damage import BadSample
from avdata.load.reader import Scratch, ShardReader
from avdata.load.views import (
    AllFramesView,
    Crop,
    View,
    choose_crop,
    choose_frames,
    column_jitter,
    first_frame,
    window_starts,
)
from avdata.melspec import log_mel
from avdata.profiles import column_start_s
from avdata.shards import parse_npy
from avdata.waveform import decode_flac, flac_num_samples
from avmanifest.errors import DamagedMember, ShardError

Stage = Literal["read", "decode", "resize", "sound"]
STAGES: Final[tuple[Stage, ...]] = ("read", "decode", "resize", "sound")

_AREA_FROM: Final = 1.5  # from this shrink factor on, linear interpolation would skip pixels
_INFINITE: Final = 0x7C00 << 1  # float16's infinity without its sign bit; NaNs are above


@dataclass(slots=True)
class BatchBuffers:
    """The arrays of a batch while workers fill them. The axes u (windows) and v (images) always exist."""

    images: UInt8[np.ndarray, "b v h w 3"]
    log_mel: Float16[np.ndarray, "b u mel t"]
    waveform: Float32[np.ndarray, "b u n"] | None
    window_start_s: Float32[np.ndarray, "b u"]
    frame_time_s: Float32[np.ndarray, "b v"]
    masks: UInt8[np.ndarray, "b v h w"] | None
    masked: Bool[np.ndarray, "b v"]
    frames: Int64[np.ndarray, "b v"]  # numbers among the stored frames of the sample
    draws: Float64[np.ndarray, "b d"]  # random numbers in [0, 1) for the view
    sample_ids: Int64[np.ndarray, " b"]
    keys: list[str]
    errors: list[ShardError | None]  # why a row could not be filled
    bad: list[BadSample] = field(default_factory=list)  # all samples that could not be read, replaced or not


class StageTimes:
    """Seconds spent in each stage, summed over the workers."""

    def __init__(self) -> None:
        self.seconds: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    def add(self, seconds: dict[Stage, float]) -> None:
        """Add the seconds of one worker."""
        with self._lock:
            for stage, spent in seconds.items():
                self.seconds[stage] += spent


@dataclass(slots=True)
class _Clock:
    """Measures the stages of one thread: `lap` adds the time since the last call to a stage."""

    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    since: float = field(default_factory=time.perf_counter)

    def lap(self, stage: Stage) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self.since
        self.since = now


def decode_into(
    dataset: Dataset,
    reader: ShardReader,
    view: View,
    buffers: BatchBuffers,
    rows: range,
    scratch: Scratch,
    times: StageTimes,
) -> None:
    """Read and decode some rows of a batch.

    Args:
        dataset: Where the samples are.
        reader: Reads their bytes.
        view: Which windows, frames and crops to take.
        buffers: The batch. A sample that cannot be read leaves its ShardError in buffers.errors.
        rows: The rows of the batch to fill.
        scratch: Memory of the calling thread.
        times: Receives the seconds spent in each stage.
    """
    clock = _Clock()
    cut: list[tuple[int, int, Float32[np.ndarray, " n"]]] = []
    for row in rows:
        try:
            cut.extend(
                (row, *piece) for piece in _decode_or_refetch(dataset, reader, view, buffers, row, scratch, clock)
            )
        except ShardError as error:
            buffers.errors[row] = error
    if cut:
        _compute_log_mels(view, buffers, cut)
    _refuse_not_finite(dataset, reader, view, buffers, rows)
    clock.lap("sound")
    times.add(clock.seconds)


def _refuse_not_finite(dataset: Dataset, reader: ShardReader, view: View, buffers: BatchBuffers, rows: range) -> None:
    """Leave an error for each row whose log-mel has a value that is not finite."""
    magnitudes = buffers.log_mel[rows.start : rows.stop].view(np.uint16) << 1  # without the sign bit
    for place in np.flatnonzero(magnitudes.max(axis=(1, 2, 3)) >= _INFINITE).tolist():
        row = rows[place]
        if buffers.errors[row] is None:
            shard = reader.shards[int(dataset.shard_of[buffers.sample_ids[row]])]
            member = dataset.log_mel_member.get(view.profile, "flac")
            count = int(np.sum(~np.isfinite(buffers.log_mel[row])))
            problem = f"{count} of the window's {buffers.log_mel[row].size} log-mel values are not finite in float16"
            buffers.errors[row] = DamagedMember(shard.name, buffers.keys[row], member, problem)


def _decode_or_refetch(
    dataset: Dataset, reader: ShardReader, view: View, buffers: BatchBuffers, row: int, scratch: Scratch, clock: _Clock
) -> list[tuple[int, Float32[np.ndarray, " n"]]]:
    """Decode a row. If the cached copy of a remote shard is damaged, fetch it again and retry once."""
    try:
        return _decode_row(dataset, reader, view, buffers, row, scratch, clock)
    except ShardError:
        if not reader.refetched(int(dataset.shard_of[buffers.sample_ids[row]])):
            raise
        return _decode_row(dataset, reader, view, buffers, row, scratch, clock)


def _decode_row(
    dataset: Dataset, reader: ShardReader, view: View, buffers: BatchBuffers, row: int, scratch: Scratch, clock: _Clock
) -> list[tuple[int, Float32[np.ndarray, " n"]]]:
    """Fill one row. Returns (window, waveform) for each window whose log-mel must be computed."""
    sample, key, draws = int(buffers.sample_ids[row]), buffers.keys[row], buffers.draws[row].tolist()
    shard = int(dataset.shard_of[sample])
    to_compute: list[tuple[int, Float32[np.ndarray, " n"]]] = []
    with reader.lease(shard) as descriptor:

        def read(member: str, place: ByteRange) -> memoryview:
            content = reader.read_member(descriptor, shard, key, member, place, scratch)
            clock.lap("read")
            return content

        where = f"{reader.shards[shard].name}: {key}"
        first, last = int(dataset.frame_start[sample]), int(dataset.frame_start[sample + 1])
        times_s = dataset.frame_time_s[first:last]
        around = first_frame(view, len(times_s), draws) if view.around_frame and len(times_s) else None
        around_s = None if around is None else float(times_s[around])
        stored = dataset.log_mel.get(view.profile)
        if stored is not None and stored.size[sample]:
            name = dataset.log_mel_member[view.profile]
            content = read(name, stored.at(sample))
            starts = _copy_windows(content, view, buffers, row, draws, f"{where}.{name}", around_s)
            clock.lap("sound")
            flac = bytes(read("flac", _waveform_place(dataset, sample, where, view))) if view.waveform else None
        else:
            flac = bytes(read("flac", _waveform_place(dataset, sample, where, view)))
            starts = _starts_in(view, flac_num_samples(flac, f"{where}.flac"), draws, f"{where}.flac", around_s)
        if flac is not None:
            waveforms = _cut_waveforms(view, flac, starts, f"{where}.flac")
            if buffers.waveform is not None:
                buffers.waveform[row] = [fitted(waveform, view.window_samples) for waveform in waveforms]
            if stored is None or not stored.size[sample]:
                to_compute = list(enumerate(waveforms))
            clock.lap("sound")
        starts_s = [column_start_s(start, view.mel) for start in starts]
        buffers.window_start_s[row] = starts_s
        frames = [around] if around is not None else _frames_wanted(view, starts_s, times_s, draws, where)
        for place, frame in enumerate(frames):
            number = first + frame
            buffers.frame_time_s[row, place], buffers.frames[row, place] = dataset.frame_time_s[number], frame
            if place and frame == frames[place - 1] and not draws:
                buffers.images[row, place] = buffers.images[row, place - 1]
                if buffers.masks is not None:
                    buffers.masks[row, place], buffers.masked[row, place] = (
                        buffers.masks[row, place - 1],
                        buffers.masked[row, place - 1],
                    )
                continue
            name = dataset.frame_names[dataset.frame_member[number]]
            content = read(name, dataset.frames.at(number))
            rgb = decode_jpeg(bytes(content), f"{where}.{name}")
            clock.lap("decode")
            crop = choose_crop(view, rgb.shape[0], rgb.shape[1], draws)
            crop_into(rgb, crop, buffers.images[row, place])
            clock.lap("resize")
            if buffers.masks is not None:
                buffers.masks[row, place] = 0
                buffers.masked[row, place] = bool(dataset.masks.size[number])
                if buffers.masked[row, place]:
                    name = dataset.mask_names[dataset.frame_member[number]]
                    content = read(name, dataset.masks.at(number))
                    mask = decode_mask(bytes(content), f"{where}.{name}")
                    clock.lap("decode")
                    crop_mask_into(mask, crop, (rgb.shape[0], rgb.shape[1]), buffers.masks[row, place])
                    clock.lap("resize")
    return to_compute


def crop_into(rgb: UInt8[np.ndarray, "h w 3"], crop: Crop, out: UInt8[np.ndarray, "s s 3"]) -> None:
    """Crop an image and resize it into `out`: linear interpolation, or area averages where it shrinks a lot."""
    size = out.shape[0]
    cut = rgb[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    shrinks = min(crop.height, crop.width) > _AREA_FROM * size
    cv2.resize(cut, (size, size), dst=out, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if crop.flip:
        cv2.flip(out, 1, dst=out)


def crop_mask_into(
    mask: UInt8[np.ndarray, "h w"], crop: Crop, frame_size: tuple[int, int], out: UInt8[np.ndarray, "s s"]
) -> None:
    """Crop a frame's mask like the frame and resize it into `out`, by the nearest value.

    Args:
        mask: The mask. Its size may differ from the frame's.
        crop: In pixels of the frame.
        frame_size: Height and width of the frame.
        out: Receives the mask.
    """
    size = out.shape[0]
    middles = (np.arange(size) + 0.5) / size
    rows, columns = (
        np.floor((start + middles * length) * own / whole).astype(np.int64)
        for start, length, own, whole in (
            (crop.top, crop.height, mask.shape[0], frame_size[0]),
            (crop.left, crop.width, mask.shape[1], frame_size[1]),
        )
    )
    out[:] = mask[rows[:, None], columns[::-1] if crop.flip else columns]


def _frames_wanted(
    view: View, starts_s: list[float], times_s: Float32[np.ndarray, " f"], draws: Sequence[float], where: str
) -> list[int]:
    if not len(times_s):
        raise ShardError(f"{where}: no frame is stored. Name the members that hold one (MemberMap(image=...)).")
    if isinstance(view, AllFramesView) and len(times_s) != view.num_frames:
        raise ShardError(f"{where}: {len(times_s)} frames are stored, the view needs num_frames={view.num_frames}")
    return choose_frames(view, starts_s, times_s, draws)


def _copy_windows(
    content: memoryview,
    view: View,
    buffers: BatchBuffers,
    row: int,
    draws: Sequence[float],
    where: str,
    around_s: float | None,
) -> list[int]:
    """Copy the windows of a stored log-mel into the batch. Returns the first column of each window."""
    array = read_npy(content, where)
    if array.ndim != 2 or array.shape[0] != view.mel.n_mels:
        raise ShardError(f"{where}: shape {array.shape}, expected [{view.mel.n_mels}, T]. Prepare it again.")
    num_starts = array.shape[1] - view.window_columns + 1
    if num_starts < 1:
        raise ShardError(
            f"{where}: {array.shape[1]} columns, a window of {view.window_s} s has {view.window_columns}. Leave short "
            "clips out (exclude=['short']), or set a shorter window_s."
        )
    starts, jitter = window_starts(view, num_starts, draws, around_s), column_jitter(view, draws)
    for window, start in enumerate(starts):
        first = start + jitter
        np.copyto(buffers.log_mel[row, window], array[:, first : first + view.num_columns], casting="same_kind")
    return starts


def _waveform_place(dataset: Dataset, sample: int, where: str, view: View) -> ByteRange:
    place = dataset.waveform.at(sample)
    if not place.size:
        raise ShardError(
            f"{where}: neither a {view.profile!r} log-mel nor a FLAC to make it from, or a waveform was asked for. "
            f"Stored profiles: {', '.join(dataset.log_mel) or 'none'}. Prepare with --mel {view.profile}, with audio."
        )
    return place


def _starts_in(view: View, num_samples: int, draws: Sequence[float], where: str, around_s: float | None) -> list[int]:
    """First columns of the windows in the log-mel of a waveform with num_samples samples."""
    if view.window_s is None:
        return [0]
    num_starts = (num_samples - view.window_samples) // view.mel.hop_length + 1
    if num_starts < 1:
        raise ShardError(
            f"{where}: {num_samples} samples, a window of {view.window_s} s has {view.window_samples}. Leave short "
            "clips out (exclude=['short']), or set a shorter window_s."
        )
    return window_starts(view, num_starts, draws, around_s)


def _cut_waveforms(view: View, flac: bytes, starts: list[int], where: str) -> list[Float32[np.ndarray, " n"]]:
    """Decode the windows' samples. A window at the end of the clip may begin up to a hop earlier than its columns."""
    if view.window_s is None:
        return [decode_flac(flac, name=where)]
    last = flac_num_samples(flac, where) - view.window_samples
    begins = [min(start * view.mel.hop_length, last) for start in starts]
    if last < 0:
        raise ShardError(f"{where}: shorter than a window of {view.window_s} s. Leave short clips out.")
    return [decode_flac(flac, begin, begin + view.window_samples, where) for begin in begins]


def fitted(waveform: Float32[np.ndarray, " n"], num_samples: int) -> Float32[np.ndarray, " m"]:
    """The first num_samples samples, padded with zeros if the waveform is shorter."""
    return np.pad(waveform[:num_samples], (0, max(0, num_samples - len(waveform))))


def _compute_log_mels(view: View, buffers: BatchBuffers, cut: list[tuple[int, int, Float32[np.ndarray, " n"]]]) -> None:
    """Compute the log-mels of (row, window, waveform) into the batch."""
    for row, window, waveform in cut:
        jitter = column_jitter(view, buffers.draws[row].tolist())
        buffers.log_mel[row, window] = log_mel(waveform, view.mel)[:, jitter : jitter + view.num_columns]


def read_npy(content: memoryview, where: str) -> np.ndarray:
    """View a .npy file's array without copying. Raises ShardError unless it is 2-d, C-ordered float16 or float32."""
    array = parse_npy(content, where)
    if array.ndim != 2 or array.dtype not in (np.float16, np.float32) or not array.size or not array.flags.c_contiguous:
        raise ShardError(
            f"{where}: not a float .npy file (shape {array.shape}, type {array.dtype}). Prepare the shard again."
        )
    return array
