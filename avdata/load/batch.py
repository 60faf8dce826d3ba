"""A batch of numpy arrays, and the pool of memory that its arrays come from."""

import math
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8

from avdata.melspec import apply_gain_db
from avdata.profiles import profile
from avmanifest.wording import counted

_MOST_FREE: Final = 16  # unused arrays of one size that the pool keeps


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ArrayBatch:
    """One rank's batch as numpy arrays. `avdata.load.Batch` has the same fields as torch tensors.

    Axes: b samples; u windows and v frames per sample, only in views that have several. Images are 0 to 255 in
    channels-last memory. The log-mel is as stored, without gain; in memory its columns follow each other. A view that
    has no images or no log-mel gives some of 0 pixels or 0 columns.
    """

    images: UInt8[np.ndarray, "b *v 3 h w"]
    log_mel: Float[np.ndarray, "b *u mel t"]  # float16
    waveform: Float32[np.ndarray, "b *u n"] | None  # of the windows, 16 kHz, in [-1, 1), without gain
    labels: Bool[np.ndarray, "b c"]  # one column per class of the dataset
    valid: Bool[np.ndarray, " b"]  # False: a repeated sample that pads the last batch (tail="pad")
    gain_db: Float32[np.ndarray, " b"] | None  # None: the view has no random gain
    window_start_s: Float32[np.ndarray, "b *u"]  # in the clip
    frame_time_s: Float32[np.ndarray, "b *v"]  # in the clip; NaN: unknown
    masks: UInt8[np.ndarray, "b *v h w"] | None = None  # of the images; None: the view has none
    masked: Bool[np.ndarray, "b *v"] | None = None  # False: the image has no mask, and its mask is 0
    frames: Int64[np.ndarray, "b *v"] | None = None  # numbers of the images among the stored frames of their samples
    positions: Int64[np.ndarray, " b"]  # in the epoch's order
    sample_ids: Int64[np.ndarray, " b"]  # rows of the dataset
    keys: tuple[str, ...]
    classes: tuple[str, ...]
    epoch: int
    profile: str  # of the log-mel
    skipped: int = 0  # damaged samples that were replaced in this batch or left out of it
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)  # further arrays of the view, by name

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return shown_batch(self)

    def label_ids(self) -> Int64[np.ndarray, " b"]:
        """The first class of each sample; -1: no class."""
        if not self.classes:
            return np.full(len(self), -1)
        return np.where(self.labels.any(axis=1), self.labels.argmax(axis=1), -1)

    def label_names(self) -> list[list[str]]:
        """The names of the classes of each sample."""
        return [[self.classes[column] for column in np.flatnonzero(row).tolist()] for row in self.labels]

    def gained_log_mel(self) -> Float32[np.ndarray, "b *u mel t"]:
        """The log-mel with gain_db applied, float32."""
        if self.gain_db is None:
            return self.log_mel.astype(np.float32)
        gain = np.broadcast_to(self.gain_db.reshape(-1, *[1] * (self.log_mel.ndim - 3)), self.log_mel.shape[:-2])
        return apply_gain_db(self.log_mel, gain, profile(self.profile))

    def gained_waveform(self) -> Float32[np.ndarray, "b *u n"] | None:
        """The waveform with gain_db applied, not clipped; None if the view has no waveform."""
        if self.waveform is None or self.gain_db is None:
            return self.waveform
        return self.waveform * 10 ** (self.gain_db.reshape(-1, *[1] * (self.waveform.ndim - 1)) / 20)


def shown_batch(batch: Any) -> str:
    """A batch of arrays or tensors without their values: samples, epoch, and the shape of each array after b."""
    values = {one.name: getattr(batch, one.name) for one in fields(batch)} | dict(batch.arrays)
    shapes = {name: value.shape[1:] for name, value in values.items() if hasattr(value, "shape")}
    shown = [f"{name} {' x '.join(map(str, shape))}" for name, shape in shapes.items() if len(shape)]
    single = [name for name, shape in shapes.items() if not len(shape)]
    parts = [f"epoch {batch.epoch}", *shown, f"one value each: {' '.join(single)}"]
    return f"{type(batch).__name__}({counted(len(batch), 'sample')}: {', '.join(parts)})"


class BufferPool:
    """Reuses the memory of arrays that are no longer referenced.

    New memory costs a page fault per 4 kB: a tenth of the time of decoding a batch.
    """

    def __init__(self, allocate: Callable[[int], UInt8[np.ndarray, " n"]] | None = None) -> None:
        """`allocate`: gives so many bytes from a pool of its own, such as torch's of pinned memory."""
        self._allocate = allocate
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """An uninitialized array. Its memory is reused when no array or tensor refers to it any more."""
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if self._allocate is not None:
            return self._allocate(num_bytes).view(dtype).reshape(shape)
        with self._lock:
            free = self._free[num_bytes]
            memory = free.pop() if free else np.empty(num_bytes, np.uint8)
        owner = _MemoryOwner(memory.view(dtype).reshape(shape))
        weakref.finalize(owner, self._give_back, memory).atexit = False
        return np.asarray(owner)

    def _give_back(self, memory: np.ndarray) -> None:
        with self._lock:
            free = self._free[memory.nbytes]
            if len(free) < _MOST_FREE:
                free.append(memory)


class _MemoryOwner:
    """The base object of a pooled array: it lives as long as any view of the array's memory."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @property
    def __array_interface__(self) -> dict[str, object]:
        return dict(self._array.__array_interface__)
