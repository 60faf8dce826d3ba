"""Parameter groups and their rates: decay, layers, warm-up, cosine or drops, and the ramp of pretrained weights.

A schedule is a function of the share of the run that is done, so it does not know of steps or epochs.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from avmodel.configs.optim import OptimConfig

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def schedule(
    done: float, warmup: float, drops: Sequence[float] | None = None, drop_factor: float = 0.5, floor: float = 0.0
) -> float:
    """Share of the peak learning rate after the share `done` of the run: a line up, then half a cosine to `floor`.

    With `drops` the rate stays after the line, but for a factor at each of them.
    """
    if done < warmup:
        return done / warmup
    if drops is not None:
        # A step that begins at a drop is after it, whatever the division left.
        return math.prod((drop_factor for drop in drops if done >= drop - 1e-9), start=1.0)
    if warmup == 1:
        return 1.0
    return floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * min((done - warmup) / (1 - warmup), 1.0)))


def ramp_factor(done: float, ramp: float) -> float:
    """Further factor for modalities that start from published weights: half a cosine from 0 to 1, then 1.

    Source: the released code; the paper doesn't mention it.
    """
    return 1.0 if done >= ramp else 0.5 - 0.5 * math.cos(math.pi * done / ramp)


def parameter_groups(
    model: nn.Module,
    config: OptimConfig,
    pretrained: Sequence[str] = (),
    *,
    scaled: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """All trainable parameters, grouped by decay, layer, ramp and factor; for torch.optim.

    Parameters of one axis (biases, norms) are not decayed; tokens and trainable positions, having three, are.
    `pretrained` names the modalities (image, audio) that follow the ramp. `scaled` are further factors of the rate, by
    the beginning of a parameter's name. Each group has, besides what torch reads: `name`, `lr_scale` (layer decay and
    factor) and `ramped`.
    """
    depth = 1 + max((layer_id(name, -2) for name, _ in model.named_parameters()), default=0)
    ramped = tuple(f"encoder.{modality}." for modality in pretrained)
    groups: defaultdict[tuple[int, bool, bool, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layer = layer_id(name, depth) if config.layer_decay != 1 else depth
            factor = next((factor for begin, factor in (scaled or {}).items() if name.startswith(begin)), 1.0)
            groups[layer, name.startswith(ramped), parameter.ndim > 1, factor].append(parameter)
    return [
        {
            "params": parameters,
            "name": f"layer {layer}{', ramped' * ramp}{'' if decayed else ', no decay'}"
            + (f", rate x {factor:g}" if factor != 1 else ""),
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr_scale": config.layer_decay ** (depth - layer) * factor,
            "ramped": ramp,
        }
        for (layer, ramp, decayed, factor), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


# What enters a first block: patch embeddings, trained positions; and tokens of its own, whose names end so.
FIRST_PARTS = {"patch_embed", "positions", "modality"}
OWN_TOKENS = ("_token", "_tokens")


def layer_id(name: str, last: int) -> int:
    """0 for what enters the first block, i + 1 for block i of any ViT, `last` for all that follows."""
    parts = name.split(".")
    if parts[0] == "encoder":
        if FIRST_PARTS.intersection(parts) or parts[-1].endswith(OWN_TOKENS):
            return 0
        for kind in ("blocks", "audio_blocks", "fusion_blocks"):
            if kind in parts:
                return 1 + int(parts[parts.index(kind) + 1])
    return last


def make_optimizer(
    model: nn.Module,
    config: OptimConfig,
    pretrained: Sequence[str] = (),
    *,
    scaled: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups`; `set_lr` gives it its rates, before each step. Fused on CPU and CUDA."""
    groups = parameter_groups(model, config, pretrained, scaled=scaled)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for group in groups for p in group["params"])
    kind: type[torch.optim.Adam] = OPTIMIZERS[config.optimizer]
    return kind(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, config: OptimConfig, *, peak_lr: float, done: float) -> float:
    """Give every group its learning rate after the share `done` of the run; the rate without scale and ramp."""
    lr = peak_lr * schedule(done, config.warmup, config.drops, config.drop_factor, config.floor)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"] * (ramp_factor(done, config.ramp) if group["ramped"] else 1.0)
    return lr
