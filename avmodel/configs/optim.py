"""An optimizer and its schedule."""

import math
from dataclasses import dataclass
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import Choices

OPTIMIZERS = ("adamw", "adam")
REFERENCE_BATCH = 256  # samples for which a base learning rate is meant


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """An optimizer and its schedule. Defaults: DeepAVFusion's released pretraining recipe."""

    optimizer: Annotated[
        str, "The optimizer; adam adds weight decay to the gradient instead.", Choices(names=OPTIMIZERS)
    ] = "adamw"
    base_lr: Annotated[float, "Peak learning rate for 256 samples of a step."] = 1.5e-4
    lr: Annotated[float | None, "Peak learning rate. none: base_lr * batch_size / 256."] = None
    warmup: Annotated[float, "Share of the run, 0 to 1, in which the rate rises from 0."] = 0.2
    drops: Annotated[
        tuple[float, ...] | None, "Shares of the run at which the rate drops. none: it falls as a cosine."
    ] = None
    drop_factor: Annotated[float, "Factor of the rate at each drop."] = 0.5
    ramp: Annotated[float, "Share of the run in which branches with published weights come in; 0: at once."] = 0.5
    weight_decay: Annotated[float, "Weight decay."] = 0.05
    betas: Annotated[tuple[float, float], "Adam's betas."] = (0.9, 0.95)
    eps: Annotated[float, "Adam's epsilon."] = 1e-8
    layer_decay: Annotated[float, "Factor of the rate from each layer to the one below; fine-tuning takes 0.75."] = 1.0
    clip_grad: Annotated[
        float | None, "Largest norm of all gradients together. none: not clipped, as the released code."
    ] = None

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
