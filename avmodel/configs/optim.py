"""An optimizer and its schedule."""

import math
from dataclasses import dataclass

from avmanifest.errors import ConfigError

OPTIMIZERS = ("adamw", "adam")
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
