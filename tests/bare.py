"""Datasets without shards: keys, labels and places in shards are enough for an order."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from avdata.dataset import Dataset, Shard, no_ranges


def bare_dataset(labels: Sequence[Sequence[str]], *, name: str = "bare", shard_size: int = 1000) -> Dataset:
    """A dataset of so many samples with these labels, whose members have no bytes."""
    count = len(labels)
    classes = tuple(dict.fromkeys(label for own in labels for label in own))
    number = {label: place for place, label in enumerate(classes)}
    nothing = no_ranges(count)
    return Dataset(
        shards=tuple(Shard(f"{name}-{shard}.tar", None, None, True) for shard in range(-(-count // shard_size))),
        keys=pa.array([f"{name}-{sample:07d}" for sample in range(count)], pa.large_string()),
        shard_of=np.arange(count) // shard_size,
        log_mel={},
        log_mel_member={},
        waveform=nothing,
        frames=nothing,
        masks=nothing,
        mask_names=("mask.png",),
        frame_start=np.arange(count + 1),
        frame_time_s=np.zeros(count, np.float32),
        frame_member=np.zeros(count, np.int64),
        frame_names=("jpg",),
        label_ids=np.array([number[label] for own in labels for label in own], np.int64),
        label_start=np.concatenate([[0], np.cumsum([len(own) for own in labels])]).astype(np.int64),
        classes=classes,
    )
