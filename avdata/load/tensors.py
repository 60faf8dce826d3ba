"""A batch as torch tensors that share the memory of its arrays. This module needs torch; others import it on use."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from avdata.load.batch import ArrayBatch, shown_batch
from avdata.profiles import profile
from avdata.torch_melspec import apply_gain_db


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Batch:
    """One rank's batch as torch tensors.

    Axes: b samples; u windows and v frames per sample, only in views that have several. Images are 0 to 255 in
    channels-last memory. The log-mel is as stored, without gain; in memory its columns follow each other. A view that
    has no images or no log-mel gives some of 0 pixels or 0 columns.
    """

    images: UInt8[Tensor, "b *v 3 h w"]
    log_mel: Float[Tensor, "b *u mel t"]  # float16
    waveform: Float32[Tensor, "b *u n"] | None  # of the windows, 16 kHz, in [-1, 1), without gain
    labels: Bool[Tensor, "b c"]  # one column per class of the dataset
    valid: Bool[Tensor, " b"]  # False: a repeated sample that pads the last batch (tail="pad")
    gain_db: Float32[Tensor, " b"] | None  # None: the view has no random gain
    window_start_s: Float32[Tensor, "b *u"]  # in the clip
    frame_time_s: Float32[Tensor, "b *v"]  # in the clip; NaN: unknown
    masks: UInt8[Tensor, "b *v h w"] | None = None  # of the images; None: the view has none
    masked: Bool[Tensor, "b *v"] | None = None  # False: the image has no mask, and its mask is 0
    frames: Int64[Tensor, "b *v"] | None = None  # numbers of the images among the stored frames of their samples
    positions: Int64[Tensor, " b"]  # in the epoch's order
    sample_ids: Int64[Tensor, " b"]  # rows of the dataset
    keys: tuple[str, ...]
    classes: tuple[str, ...]
    epoch: int
    profile: str  # of the log-mel
    skipped: int = 0  # damaged samples that were replaced in this batch or left out of it
    arrays: Mapping[str, Tensor] = field(default_factory=dict)  # further arrays of the view, by name

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return shown_batch(self)

    def label_ids(self) -> Int64[Tensor, " b"]:
        """The first class of each sample; -1: no class."""
        if not self.classes:
            return torch.full((len(self),), -1, device=self.labels.device)
        first = self.labels.int().argmax(dim=1)
        return torch.where(self.labels.any(dim=1), first, -1)

    def label_names(self) -> list[list[str]]:
        """The names of the classes of each sample."""
        return [[self.classes[column] for column in row.nonzero().flatten().tolist()] for row in self.labels]

    def gained_log_mel(self) -> Float32[Tensor, "b *u mel t"]:
        """The log-mel with gain_db applied, float32, on the batch's device."""
        if self.gain_db is None:
            return self.log_mel.float()
        gain = self.gain_db.reshape(-1, *[1] * (self.log_mel.ndim - 3)).expand(self.log_mel.shape[:-2])
        return apply_gain_db(self.log_mel, gain, profile(self.profile))

    def gained_waveform(self) -> Float32[Tensor, "b *u n"] | None:
        """The waveform with gain_db applied, not clipped; None if the view has no waveform."""
        if self.waveform is None or self.gain_db is None:
            return self.waveform
        return self.waveform * 10 ** (self.gain_db.reshape(-1, *[1] * (self.waveform.ndim - 1)) / 20)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """A copy of the batch with its tensors on the device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name in self.__slots__
            if isinstance(value := getattr(self, name), Tensor)
        }
        arrays = {name: value.to(device, non_blocking=non_blocking) for name, value in self.arrays.items()}
        return replace(self, **moved, arrays=arrays)


def as_tensors(arrays: ArrayBatch) -> Batch:
    """Convert a batch of arrays to tensors, without copying."""
    values: dict[str, Any] = {field.name: getattr(arrays, field.name) for field in fields(arrays)}
    values |= {name: torch.from_numpy(value) for name, value in values.items() if isinstance(value, np.ndarray)}
    values["arrays"] = {name: torch.from_numpy(value) for name, value in arrays.arrays.items()}
    return Batch(**values)


def pinned_bytes(num_bytes: int) -> UInt8[np.ndarray, " n"]:
    """Page-locked memory, for asynchronous copies to a GPU. torch's pool does not reuse it while a copy is running."""
    memory: UInt8[np.ndarray, " n"] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy()
    return memory


def has_cuda() -> bool:
    """Whether a CUDA device is available."""
    return torch.cuda.is_available()
