"""An optimizer and its schedule."""

from dataclasses import dataclass
from typing import Annotated

from avmanifest.settings import SHARE, Bounds, check

OPTIMIZERS = ("adamw", "adam")
REFERENCE_BATCH = 256  # samples for which a base learning rate is meant


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """An optimizer and its schedule. Defaults: DeepAVFusion's released pretraining recipe."""

    optimizer: Annotated[str, "The optimizer; adam adds weight decay to the gradient instead.", OPTIMIZERS] = "adamw"
    base_lr: Annotated[float, "Peak learning rate for 256 samples of a step.", Bounds(0)] = 1.5e-4
    lr: Annotated[float | None, "Peak learning rate. none: base_lr * batch_size / 256.", Bounds(0)] = None
    warmup: Annotated[float, "Share of the run in which the rate rises from 0.", SHARE] = 0.2
    drops: Annotated[
        tuple[float, ...] | None, "Shares of the run at which the rate drops. none: it falls as a cosine.", SHARE
    ] = None
    floor: Annotated[float, "Share of the peak rate at which the cosine ends.", SHARE] = 0.0
    drop_factor: Annotated[float, "Factor of the rate at each drop.", SHARE] = 0.5
    ramp: Annotated[float, "Share of the run in which branches with published weights come in; 0: at once.", SHARE] = (
        0.5
    )
    weight_decay: Annotated[float, "Weight decay.", Bounds(0)] = 0.05
    betas: Annotated[tuple[float, float], "Adam's betas."] = (0.9, 0.95)
    eps: Annotated[float, "Adam's epsilon."] = 1e-8
    layer_decay: Annotated[
        float, "Factor of the rate from each layer to the one below; fine-tuning takes 0.75.", SHARE
    ] = 1.0
    clip_grad: Annotated[
        float | None, "Largest norm of all gradients together. none: not clipped, as the released code.", Bounds(0)
    ] = None
    max_skipped_steps: Annotated[
        int,
        "Steps of a run that are left out, at most, because their loss or gradients are not finite: no update, and "
        "the samples are named. 0: the first one ends the run. Above 0 each step waits for the device.",
        Bounds(0),
    ] = 0

    def __post_init__(self) -> None:
        check(self, "optim.")

    def peak_lr(self, batch_size: int) -> float:
        """The highest learning rate, for steps of `batch_size` samples over all devices."""
        return self.base_lr * batch_size / REFERENCE_BATCH if self.lr is None else self.lr
