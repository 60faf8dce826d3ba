"""The held-out loss: the objective on samples that are not trained on, comparable over steps, runs and processes."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from avdata.load import Batch
from avmodel.distributed import World
from avmodel.fit import Batches
from avmodel.inputs import HELD_OUT_SEED, to_inputs
from avmodel.models.family import Contrast, Family, Vectors
from avmodel.precision import autocast
from avmodel.rng import Part, draw_masks
from avmodel.sharding import is_sharded


@torch.no_grad()
def held_out_loss(
    model: Family, batches: Batches, world: World, *, parts: int, most: int | None = None, precision: str
) -> dict[str, float]:
    """`total` and its terms, means over whole batches: as in training, without augmentation and dropout.

    The samples and their masks are functions of a fixed seed. Any number of processes, and of parts of a batch, gives
    the same up to rounding; every process gets all processes' losses.

    Args:
        model: The model, which keeps its mode (training or evaluation).
        batches: This process's, of one part of a batch each, at the start of an epoch. They are afterwards where they
            were.
        world: All processes.
        parts: Parts of a batch, which a process computes one after the other and a contrastive loss compares.
        most: Batches, at most; None: all that are whole.
        precision: As in training; `bfloat16-residual` is float32 here.
    """
    was_training, place = model.training, batches.state_dict()
    model.eval()
    count = len(batches) // parts
    count = count if most is None else min(count, most)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=world.device))
    micro = islice(iter(batches), count * parts)
    for _ in range(count):
        for name, loss in batch_loss(model, list(islice(micro, parts)), world, precision=precision).items():
            sums[name] += loss.float() / count
    batches.load_state_dict(place)
    model.train(was_training)
    means = world.mean(torch.stack(list(sums.values())))
    return dict(zip(sums, means.tolist(), strict=True))


def batch_loss(model: Family, micro: list[Batch], world: World, *, precision: str) -> Mapping[str, Float[Tensor, ""]]:
    """Losses of one batch of all processes, in parts: the terms over samples as this process's means."""
    # As in reconstructions: a call would compile a whole model again; a sharded model gathers its weights in a call.
    forward = model if is_sharded(model) else model.forward
    apart = {"contrast": Contrast.APART} if model.config.compares_samples else {}
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=world.device))
    found: list[Vectors] = []
    for number, batch in enumerate(micro):
        masks = draw_masks(model, HELD_OUT_SEED, batch, world, Part(number, len(micro)))
        with autocast(precision, world.device):
            output = forward(*to_inputs(batch, world.device), masks, **apart)
        for name, loss in output.losses.items():
            sums[name] += loss.float() / len(micro)
        found += [] if output.vectors is None else [output.vectors]
    if not found:
        return sums
    rows = Vectors(*(world.gather(torch.cat(part)) for part in zip(*found, strict=True)))
    contrast = model.contrast(rows, gather=False)
    total = sums.pop("total", torch.zeros_like(contrast)) + model.config.contrast_weight * contrast
    return {"total": total, "contrast": contrast, **sums}
