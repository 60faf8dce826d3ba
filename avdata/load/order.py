"""The order of the samples in an epoch, each rank's part of it, and the loader's state. All functions are pure.

All random numbers of the order and the views are hashes of (seed, epoch, stream, index). There is no generator with a
state, so any position of any epoch can be reached directly, with any number of ranks and workers.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt64

from avdata.dataset import Part
from avmanifest.errors import CheckpointError, ConfigError
from avmanifest.wording import counted

Tail = Literal["drop", "pad"]
"""How to treat the last samples of an epoch, which do not fill a batch on every rank.

`drop` leaves them out of the epoch. `pad` fills the last batch with samples from the start of the epoch and marks
these as not valid.
"""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WINDOW_BITS = 24
_KEPT_WINDOWS = 8  # a batch is in one or two; replacements of damaged samples are in the same
_COMPARED_AT_ONCE = 1 << 22

REPLACEMENTS = 16
"""Samples that are tried in place of a damaged one."""


class Stream(IntEnum):
    """Independent streams of random numbers."""

    BLOCKS = 0
    SHUFFLE = 1
    SELECT = 2
    OFFSET = 3
    REPLACE = 4
    PARTS = 5
    MERGE = 6
    DRAWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderConfig:
    """How samples are shuffled. The defaults read each shard once per epoch, from about 16 shards at a time."""

    shuffle: bool = True
    block_samples: int = 1024  # consecutive samples of a shard form blocks of this size, which stay near each other
    window_samples: int = 16_384  # samples of neighboring blocks are shuffled within windows of this size

    def __post_init__(self) -> None:
        if self.block_samples < 1 or self.window_samples < 1:
            raise ConfigError(
                f"block_samples={self.block_samples}, window_samples={self.window_samples}: both must be 1 or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderState:
    """The position of a run in its data: `position` samples of the epoch were yielded, over all ranks."""

    epoch: int
    position: int
    seed: int
    plan_hash: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoaderState":
        """Restore the state from `as_dict`. Raises CheckpointError for anything else."""
        types = {"epoch": int, "position": int, "seed": int, "plan_hash": str}
        if values.keys() != types.keys() or any(type(values[name]) is not kind for name, kind in types.items()):
            raise CheckpointError(f"not a loader state: {dict(values)!r}; a state has exactly {', '.join(types)}")
        if values["epoch"] < 0 or values["position"] < 0:
            raise CheckpointError(f"loader state with epoch={values['epoch']}, position={values['position']}: below 0")
        return cls(**values)

    def as_dict(self) -> dict[str, int | str]:
        """The four values, for a checkpoint."""
        return asdict(self)


def random_bits(seed: int, epoch: int, stream: int, index: Int64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """64 random bits for each index: SplitMix64 over a key made of seed, epoch and stream.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    """
    key = 0
    for value in (seed, epoch, stream):
        key = _mix_int((key + value + 1) * _GOLDEN & _MASK)
    bits = index.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_MIX[0])
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_MIX[1])
    mixed: UInt64[np.ndarray, "*n"] = bits ^ (bits >> np.uint64(31))
    return mixed


def uniform(seed: int, epoch: int, stream: int, index: Int64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """A random number in [0, 1) for each index."""
    return (random_bits(seed, epoch, stream, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_draws(seed: int, epoch: int, positions: Int64[np.ndarray, " b"], count: int) -> Float64[np.ndarray, "b d"]:
    """`count` random numbers in [0, 1) for the sample at each of these positions of the epoch."""
    index = positions[:, None] * count + np.arange(count)
    return uniform(seed, epoch, Stream.DRAWS, index)


class EpochOrder:
    """The sample at each position of an epoch: `order[positions]`, as of an array.

    A block shuffle: the blocks of the dataset are permuted, then samples are permuted within windows of blocks. The
    order of a window is computed when one of its positions is first asked for. So the order of any number of samples
    takes the memory of its blocks and of a few windows. Weights take memory for all samples. Safe for threads.
    """

    def __init__(
        self,
        shard_of: Integer[np.ndarray, " n"],
        seed: int,
        epoch: int,
        config: OrderConfig,
        weights: Float64[np.ndarray, " n"] | None = None,
        counts: Int64[np.ndarray, " n"] | None = None,
    ) -> None:
        """Create the order.

        Args:
            shard_of: Shard of each sample, ascending.
            seed: Seed of the run.
            epoch: Number of the epoch, from 0.
            config: Sizes of blocks and windows.
            weights: Relative frequency of each sample; None: each once. A sample occurs n * weight / sum(weights)
                times, randomly rounded up or down; its copies are in different blocks.
            counts: How often each sample occurs; None: as the weights say.
        """
        self._length = len(shard_of)
        self._seed, self._epoch, self._shuffle = seed, epoch, config.shuffle
        self._samples: Int64[np.ndarray, " n"] | None = None
        starts = _block_starts(shard_of, config.block_samples)
        if weights is not None and counts is None:
            counts = sample_counts(weights, seed, epoch)
        if counts is not None:
            self._samples, groups = _repeated(
                np.repeat(np.arange(len(starts)), np.diff(starts, append=self._length)), counts
            )
            starts = np.flatnonzero(np.diff(groups, prepend=-1))
            self._length = len(self._samples)
        if not config.shuffle:
            return
        lengths = np.diff(starts, append=self._length)
        shuffled = np.argsort(random_bits(seed, epoch, Stream.BLOCKS, np.arange(len(starts))), kind="stable")
        self._starts, self._lengths = starts[shuffled], lengths[shuffled]
        self._begins = np.cumsum(self._lengths) - self._lengths  # position of each block's first sample
        self._first_blocks = np.flatnonzero(np.diff(self._begins // config.window_samples, prepend=-1))
        self._first_positions = self._begins[self._first_blocks]
        self._windows: OrderedDict[int, Int64[np.ndarray, " w"]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, positions: Integer[np.ndarray, "*k"] | slice) -> Int64[np.ndarray, "*k"]:
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(self._length))
        if not self._shuffle:
            return positions.astype(np.int64) if self._samples is None else self._samples[positions]
        samples = np.empty(positions.shape, np.int64)
        windows = np.searchsorted(self._first_positions, positions, side="right") - 1
        for window in np.unique(windows).tolist():
            inside = windows == window
            samples[inside] = self._window(window)[positions[inside] - self._first_positions[window]]
        return samples

    def _window(self, number: int) -> Int64[np.ndarray, " w"]:
        """The samples of a window, in their order."""
        with self._lock:
            if number in self._windows:
                self._windows.move_to_end(number)
                return self._windows[number]
        first, last = self._first_blocks[number], np.append(self._first_blocks, len(self._starts))[number + 1]
        lengths, begins = self._lengths[first:last], self._begins[first:last]
        places = np.arange(begins[0], begins[-1] + lengths[-1])
        samples = np.repeat(self._starts[first:last] - begins, lengths) + places
        if self._samples is not None:
            samples = self._samples[samples]
        keys = random_bits(self._seed, self._epoch, Stream.SHUFFLE, places) >> np.uint64(_WINDOW_BITS)
        if len(keys) < 1 << _WINDOW_BITS:  # a plain sort of (key, place) is many times faster than a stable argsort
            keys = keys << np.uint64(_WINDOW_BITS) | np.arange(len(keys), dtype=np.uint64)
            keys.sort()
            ranks = (keys & np.uint64((1 << _WINDOW_BITS) - 1)).astype(np.int64)
        else:
            ranks = np.argsort(keys, kind="stable")
        samples = samples[ranks]
        with self._lock:
            self._windows[number] = samples
            if len(self._windows) > _KEPT_WINDOWS:
                self._windows.popitem(last=False)
        return samples


Order = EpochOrder | Int64[np.ndarray, " n"]
"""The sample at each position of an epoch."""


def epoch_order(
    shard_of: Integer[np.ndarray, " n"],
    seed: int,
    epoch: int,
    config: OrderConfig,
    weights: Float64[np.ndarray, " n"] | None = None,
) -> Int64[np.ndarray, " n"]:
    """All of an `EpochOrder`, whose arguments it has."""
    return EpochOrder(shard_of, seed, epoch, config, weights)[:]


def mixed_order(
    shard_of: Integer[np.ndarray, " n"],
    parts: Sequence[Part],
    seed: int,
    epoch: int,
    config: OrderConfig,
    weights: Float64[np.ndarray, " n"] | None = None,
) -> Int64[np.ndarray, " m"]:
    """The sample at each position of an epoch of a mixture.

    Every part has an order of its own, shuffled by blocks. They are merged evenly: of any k positions in a row, a part
    has its share of k, give or take less than two and twice the number of parts. Without shuffle, one part follows the
    other.

    Args:
        shard_of: Shard of each sample, ascending within each part.
        parts: The parts, in the order of their samples.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        config: Sizes of blocks and windows.
        weights: Relative frequency of each sample within its part; None: all alike.
    """
    orders, places = [], []
    first = 0
    for number, (_, samples, drawn) in enumerate(parts):
        own_seed = int(random_bits(seed, number, Stream.PARTS, np.zeros(1, np.int64))[0])
        own = None if weights is None else weights[first : first + samples]
        if own is None or bool((own == own[0]).all()):
            counts = even_counts(samples, drawn, own_seed, epoch)
        else:
            counts = sample_counts(own, own_seed, epoch, drawn)
        order = EpochOrder(shard_of[first : first + samples], own_seed, epoch, config, counts=counts)
        orders.append(first + order[:])
        index = np.arange(drawn)
        places.append((index + uniform(own_seed, epoch, Stream.MERGE, index)) / drawn)
        first += samples
    merged = np.concatenate(orders)
    return merged[np.argsort(np.concatenate(places), kind="stable")] if config.shuffle else merged


def even_counts(samples: int, drawn: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    """How often each of `samples` samples occurs in an epoch to which they give `drawn`. The sum is exactly `drawn`.

    The seed puts the samples into one random order, and each epoch takes the next `drawn` of it, round and round. So in
    any e consecutive epochs each sample occurs e * drawn / samples times, rounded up or down.
    """
    rounds, rest = divmod(drawn, samples)
    counts = np.full(samples, rounds, np.int64)
    if rest:
        order = np.argsort(random_bits(seed, 0, Stream.SELECT, np.arange(samples)), kind="stable")
        counts[order[(epoch * drawn % samples + np.arange(rest)) % samples]] += 1
    return counts


def sample_counts(
    weights: Float64[np.ndarray, " n"], seed: int, epoch: int, total: int | None = None
) -> Int64[np.ndarray, " n"]:
    """How often each sample occurs in an epoch of `total` samples; None: of as many as there are. The sum is exact.

    Systematic sampling in a random order: each count is its expectation, rounded up or down.
    """
    total = len(weights) if total is None else total
    expected = weights * (total / weights.sum())
    order = np.argsort(random_bits(seed, epoch, Stream.SELECT, np.arange(len(weights))), kind="stable")
    edges = np.cumsum(expected[order])
    edges[-1] = total
    offset = uniform(seed, epoch, Stream.OFFSET, np.zeros(1, np.int64))
    counts = np.empty(len(weights), np.int64)
    counts[order] = np.diff(np.minimum(np.floor(edges + offset), total).astype(np.int64), prepend=0)
    return counts


def replacement_positions(
    position: int, total: int, seed: int, epoch: int, config: OrderConfig
) -> Int64[np.ndarray, " k"]:
    """Positions of the epoch whose samples may take the place of the one at `position`, in the order they are tried.

    A function of (seed, epoch, position): it does not depend on the rank, the batch or on what else was damaged. The
    positions are random ones of the window in which `position` is, so their shards are being read anyway.

    Args:
        position: The position whose sample is damaged or excluded.
        total: Samples of the epoch, over all ranks.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        config: Size of the windows.
    """
    length = min(config.window_samples, total)
    first = min(position // config.window_samples * config.window_samples, total - length)
    bits = random_bits(seed, epoch, Stream.REPLACE, position * REPLACEMENTS + np.arange(REPLACEMENTS))
    return first + (bits % np.uint64(length)).astype(np.int64)


def without_excluded(
    order: Int64[np.ndarray, " n"], excluded: Bool[np.ndarray, " n"], seed: int, epoch: int, config: OrderConfig
) -> Int64[np.ndarray, " n"]:
    """The order with other samples in the places of excluded ones; the places of all other samples stay the same.

    Args:
        order: The sample at each position of the epoch.
        excluded: Whether each sample is excluded.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        config: Size of the windows.

    Raises:
        ConfigError: No sample was found for a place, as nearly all are excluded.
    """
    kept = order.copy()
    for position in np.flatnonzero(excluded[order]).tolist():
        tried = order[replacement_positions(position, len(order), seed, epoch, config)]
        allowed = tried[~excluded[tried]]
        if not len(allowed):
            raise ConfigError(
                f"{int(excluded.sum())} of {counted(len(excluded), 'sample')} are excluded: too many to fill their "
                "places with others. Exclude fewer keys, or begin a new run on a dataset without them."
            )
        kept[position] = allowed[0]
    return kept


def num_batches(remaining: int, batch_size: int, world_size: int, tail: Tail) -> int:
    """Batches per rank for the remaining samples of an epoch (over all ranks)."""
    step = batch_size * world_size
    return remaining // step if tail == "drop" else -(-remaining // step)


def batch_positions(
    first: int, total: int, batch_size: int, rank: int, world_size: int
) -> tuple[Int64[np.ndarray, " b"], Bool[np.ndarray, " b"]]:
    """Positions of one rank's samples in a batch, and which of them are valid.

    Rank r of R takes the positions first + r, first + r + R, ... Positions beyond `total` wrap around to the start of
    the epoch and are not valid.
    """
    positions = first + rank + world_size * np.arange(batch_size, dtype=np.int64)
    return positions % total, positions < total


def check_ranks(rank: int, world_size: int, tail: str) -> None:
    """Raise ConfigError for a rank outside the world, or an unknown tail policy."""
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank={rank} of world_size={world_size}: ranks count from 0 to world_size - 1")
    if tail not in get_args(Tail):
        raise ConfigError(f"unknown tail {tail!r}; known: {', '.join(get_args(Tail))}")


def _mix_int(value: int) -> int:
    value = (value ^ (value >> 30)) * _MIX[0] & _MASK
    value = (value ^ (value >> 27)) * _MIX[1] & _MASK
    return value ^ (value >> 31)


def _block_starts(shard_of: Integer[np.ndarray, " n"], block_samples: int) -> Int64[np.ndarray, " b"]:
    """First sample of each block. A block has up to block_samples consecutive samples of one shard."""
    runs = [np.zeros(min(len(shard_of), 1), np.int64)]
    for first in range(0, len(shard_of), _COMPARED_AT_ONCE):
        piece = shard_of[first : first + _COMPARED_AT_ONCE + 1]
        runs.append(first + 1 + np.flatnonzero(piece[1:] != piece[:-1]))
    starts = np.concatenate(runs)
    counts = -(-np.diff(starts, append=len(shard_of)) // block_samples)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    firsts: Int64[np.ndarray, " b"] = np.repeat(starts, counts) + within * block_samples
    return firsts


def _repeated(
    groups: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Repeat samples by their counts, and assign groups so that copies of a sample are in different groups."""
    samples = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    copy = np.arange(len(samples), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    spread = copy * (groups[-1] + 1) + groups[samples]
    sorter = np.argsort(spread, kind="stable")
    return samples[sorter], spread[sorter]
