"""One step of pretraining: the gradients of all its micro-steps, then an update."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from avdata.load import Batch
from avmodel.augment import augment
from avmodel.compiling import compile_blocks
from avmodel.configs.run import RunConfig
from avmodel.distributed import World, autocast
from avmodel.draws import augment_draws, draw_masks
from avmodel.inputs import to_inputs
from avmodel.models.family import Family


def wrap(model: Family, config: RunConfig, world: World) -> nn.Module:
    """The module to call: blocks compiled if asked for, gradients averaged over processes if there are several."""
    if config.compile:
        compile_blocks(model)
    if world.size == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        find_unused_parameters=len(model.step_terms) > 1,
    )


class Taken(NamedTuple):
    """What a step came to, still on the device."""

    names: tuple[str, ...]  # of the losses: total, then the objective's terms
    values: Float[Tensor, " v"]  # losses, stop (means over processes); own total, norm of the gradients

    def read(self) -> tuple[dict[str, float], bool, float, float]:
        """Losses, whether any process wants to stop, own total, norm; waits for the device."""
        *losses, stop, own, norm = self.values.tolist()
        return dict(zip(self.names, losses, strict=True)), stop > 0, own, norm


def take_step(
    config: RunConfig,
    model: Family,
    forward: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    micro: Sequence[Batch],
    world: World,
    *,
    stop: bool,
) -> Taken:
    """Gradients of all micro-steps, one update; or, one after the other, those of each group of terms.

    Nothing here waits for the device.
    """
    losses: dict[str, Tensor] = {}
    norms = []
    for terms, optimizer in zip(model.step_terms, optimizers, strict=True):
        found, norm = update(config, model, forward, optimizer, micro, world, terms)
        total = found["total"] if not losses else losses["total"] + found["total"]
        losses |= found | {"total": total}
        norms.append(norm)
    model.after_step()
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).square().sum().sqrt()
    means = torch.stack(list(losses.values()))
    own = means[:1].clone()
    shared = world.mean(torch.cat([means, means.new_tensor([float(stop)])]))
    return Taken(tuple(losses), torch.cat([shared, own, norm.reshape(1)]))


def update(
    config: RunConfig,
    model: Family,
    forward: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro: Sequence[Batch],
    world: World,
    terms: tuple[str, ...] | None,
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, ""]]:
    """One optimizer's step on these terms, all if None: the losses' means over micro-steps, the gradients' norm."""
    only = {} if terms is None else {"terms": terms}
    losses: dict[str, Tensor] = {}
    for number, batch in enumerate(micro):
        with no_sync(forward, unless=number == len(micro) - 1):
            image, log_mel = to_inputs(batch, world.device)
            log_mel = augment(log_mel, config.augment, augment_draws(config.augment, config.seed, batch))
            masks = draw_masks(model, config.seed, batch, world)
            with autocast(config.precision, world.device):
                found = forward(image, log_mel, masks, **only).losses
            (found["total"] / len(micro)).backward()
        for name, loss in found.items():
            losses[name] = losses.get(name, 0) + loss.detach() / len(micro)
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if config.optim.clip_grad is not None:
        clip_grads_with_norm_(parameters, config.optim.clip_grad, norm)
    optimizer.step()
    optimizer.zero_grad()
    return losses, norm


def no_sync(forward: nn.Module, *, unless: bool) -> AbstractContextManager[None]:
    """Gradients stay with their process until the last micro-step."""
    return nullcontext() if unless or not isinstance(forward, DistributedDataParallel) else forward.no_sync()
