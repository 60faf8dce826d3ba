"""Random numbers of a batch, computed from the seed, the epoch and the position of each sample in its epoch.

There is no generator state: a resumed run gets the same bits, and so do several processes as one.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from avdata.load import Batch
from avdata.load.order import random_bits
from avmodel.augment import num_augment_draws
from avmodel.configs.augment import AugmentConfig
from avmodel.distributed import World
from avmodel.models.family import Draws, Family

# Streams of random_bits beside those of the loader.
MASKS, DROPOUT, ORDERS, AUGMENT = range(1 << 20, (1 << 20) + 4)
NOISE_BITS = np.uint64(11)  # shifted out; the remaining bits are exact in float64


class Part(NamedTuple):
    """A micro-batch among those whose samples are compared with one another."""

    number: int
    of: int


ALL = Part(0, 1)


def draw_masks(model: Family, seed: int, batch: Batch, world: World | None = None, part: Part = ALL) -> Any:
    """The masks of a batch, from the seed, the epoch and each sample's position in the epoch.

    The parts of all processes have the masks of one batch of all their samples.
    """
    rank, size = (world.rank, world.size) if world else (0, 1)
    own = batch.positions.numpy()
    noise = random_numbers(seed, batch, MASKS, own, model.num_draws)
    everyone = own
    if size * part.of > 1:
        # Which positions there are follows from the first one: a replaced sample keeps that of the damaged one. Parts
        # may be of two epochs: then some are before the first position or behind the last, and all the same unlike.
        first, count = part.number * len(own) * size, part.of * len(own) * size
        everyone = own[0] - rank - first + np.arange(count)
    order = random_numbers(seed, batch, ORDERS, everyone, model.num_orders)
    places = order.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    mine = slice(part.number * len(own) * size + rank, (part.number + 1) * len(own) * size, size)
    return model.choose(Draws(torch.from_numpy(noise), torch.from_numpy(places[mine]), len(everyone)))


def augment_draws(config: AugmentConfig, seed: int, batch: Batch) -> Float[Tensor, "b n"]:
    """The numbers in [0, 1) for the augmentation of a batch; b x 0 without augmentation."""
    count = num_augment_draws(config)
    bits = random_numbers(seed, batch, AUGMENT, batch.positions.numpy(), count)
    return torch.from_numpy(bits.astype(np.float64) * 2.0**-53)


def random_numbers(
    seed: int, batch: Batch, stream: int, positions: Int64[np.ndarray, " b"], count: int
) -> Int64[np.ndarray, "b n"]:
    """`count` integers from 0 to 2^53 - 1 for each of these positions of the batch's epoch."""
    index = positions[:, None] * count + np.arange(count)
    return (random_bits(seed, batch.epoch, stream, index) >> NOISE_BITS).astype(np.int64)
