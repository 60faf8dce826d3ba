"""Parameter groups and their rates: decay, layers, warm-up, cosine or drops, and the ramp of pretrained branches.

A schedule is a function of the share of the run that is done, so it does not know of steps or epochs.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from avmanifest.errors import ConfigError

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
REFERENCE_BATCH = 256  # samples for which a base learning rate is meant


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """An optimizer and its schedule. Defaults: DeepAVFusion's released pretraining recipe."""

    optimizer: str = "adamw"  # adam adds weight decay to the gradient instead
    base_lr: float = 1.5e-4  # per 256 samples of a step
    lr: float | None = None  # peak; None: base_lr * batch_size / 256
    warmup: float = 0.2  # share of the run in which the rate rises from 0: 40 of 200 epochs
    drops: tuple[float, ...] | None = None  # shares of the run at which the rate drops, in place of the cosine
    drop_factor: float = 0.5  # what it is multiplied by each time
    ramp: float = 0.5  # share of the run in which branches with published weights come in; 0: at once
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    layer_decay: float = 1.0  # factor from each layer to the one below; fine-tuning takes 0.75
    clip_grad: float | None = None  # largest norm of all gradients together; the released code never clips

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"unknown optim.optimizer {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")
        for name, value, least, most in (
            ("base_lr", self.base_lr, 0, math.inf),
            ("lr", self.lr, 0, math.inf),
            ("warmup", self.warmup, 0, 1),
            ("ramp", self.ramp, 0, 1),
            ("drop_factor", self.drop_factor, 0, 1),
            *(("drops", share, 0, 1) for share in self.drops or ()),
            ("weight_decay", self.weight_decay, 0, math.inf),
            ("layer_decay", self.layer_decay, 0, 1),
            ("clip_grad", self.clip_grad, 0, math.inf),
        ):
            if value is not None and not least <= value <= most:
                raise ConfigError(f"optim.{name}={value} is not in {least}..{most}")

    def peak_lr(self, batch_size: int) -> float:
        """The highest learning rate, for steps of `batch_size` samples over all devices."""
        return self.base_lr * batch_size / REFERENCE_BATCH if self.lr is None else self.lr


def schedule(done: float, warmup: float, drops: Sequence[float] | None = None, drop_factor: float = 0.5) -> float:
    """Share of the peak learning rate after the share `done` of the run: a line up, then half a cosine to 0.

    With `drops` the rate stays after the line, but for a factor at each of them.
    """
    if done < warmup:
        return done / warmup
    if drops is not None:
        # A step that begins at a drop is after it, whatever the division left.
        return math.prod((drop_factor for drop in drops if done >= drop - 1e-9), start=1.0)
    if warmup == 1:
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * min((done - warmup) / (1 - warmup), 1.0))


def ramp_factor(done: float, ramp: float) -> float:
    """Further factor for branches that start from published weights: half a cosine from 0 to 1, then 1.

    Source: the released code; the paper doesn't mention it.
    """
    return 1.0 if done >= ramp else 0.5 - 0.5 * math.cos(math.pi * done / ramp)


def parameter_groups(model: nn.Module, config: OptimConfig, pretrained: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All trainable parameters, grouped by decay, layer and ramp; for torch.optim.

    Parameters of one axis (biases, norms) are not decayed; tokens and trainable positions, having three, are.
    `pretrained` names the branches (image, audio) that come in along the ramp. Each group has, besides what torch
    reads: `name`, `lr_scale` (layer decay) and `ramped`.
    """
    depth = 1 + max((layer_id(name, -2) for name, _ in model.named_parameters()), default=0)
    ramped = tuple(f"encoder.{branch}." for branch in pretrained)
    groups: defaultdict[tuple[int, bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layer = layer_id(name, depth) if config.layer_decay != 1 else depth
            groups[layer, name.startswith(ramped), parameter.ndim > 1].append(parameter)
    return [
        {
            "params": parameters,
            "name": f"layer {layer}{', ramped' * ramp}{'' if decayed else ', no decay'}",
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr_scale": config.layer_decay ** (depth - layer),
            "ramped": ramp,
        }
        for (layer, ramp, decayed), parameters in sorted(groups.items())
    ]


# What enters a first block: patch embeddings, trained positions, tokens of its own.
FIRST_PARTS = {"patch_embed", "positions", "modality", "cls_token", "fusion_tokens"}


def layer_id(name: str, last: int) -> int:
    """0 for what enters the first block, i + 1 for block i of any branch, `last` for all that follows."""
    parts = name.split(".")
    if parts[0] == "encoder":
        if FIRST_PARTS.intersection(parts):
            return 0
        for kind in ("blocks", "audio_blocks", "fusion_blocks"):
            if kind in parts:
                return 1 + int(parts[parts.index(kind) + 1])
    return last


def make_optimizer(model: nn.Module, config: OptimConfig, pretrained: Sequence[str] = ()) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups`; `set_lr` gives it its rates, before each step. Fused on CPU and CUDA."""
    groups = parameter_groups(model, config, pretrained)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for group in groups for p in group["params"])
    kind: type[torch.optim.Adam] = OPTIMIZERS[config.optimizer]
    return kind(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, config: OptimConfig, *, peak_lr: float, done: float) -> float:
    """Give every group its learning rate after the share `done` of the run; the rate without scale and ramp."""
    lr = peak_lr * schedule(done, config.warmup, config.drops, config.drop_factor)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"] * (ramp_factor(done, config.ramp) if group["ramped"] else 1.0)
    return lr
