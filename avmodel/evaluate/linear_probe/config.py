"""Settings of the linear probe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import Choices
from avmodel.configs.optim import REFERENCE_BATCH
from avmodel.evaluate.config import EvalConfig

OPTIMIZERS = ("lars", "adamw")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbeConfig(EvalConfig):
    """Heads on frozen features. Defaults: the released recipe for VGGSound."""

    optimizer: Annotated[
        str, "Optimizer of the heads; lars has momentum 0.9 and trust 1e-3.", Choices(names=OPTIMIZERS)
    ] = "lars"
    base_lr: Annotated[float, "Peak learning rate for 256 samples of a step."] = 0.3
    batch_size: Annotated[int, "Samples of a step; at most the training samples."] = 1024
    epochs: Annotated[int, "Passes over the features of the training clips."] = 60
    warmup: Annotated[float, "Share of the run, 0 to 1, in which the rate rises from 0; 1/6: 10 of 60 epochs."] = 1 / 6
    weight_decay: Annotated[float, "Weight decay."] = 0.0
    train_views: Annotated[int, "Random views of each clip that epochs take in turn; 0: the view of the test."] = 4
    max_gain_db: Annotated[float, "dB by which the loudness of random views varies, at most, either way."] = 6.0
    min_area: Annotated[float, "Share of the frame that a random view takes, at least."] = 0.5

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"unknown optimizer {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")
        for name, least in (("epochs", 1), ("batch_size", 2), ("train_views", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: must be {least} or more")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"warmup={self.warmup} is not in 0..1: it is a share of the run")


def supplement() -> LinearProbeConfig:
    """The paper's supplement: Adam at 1e-4, 128 samples a step, 50 epochs; AdamW here, without decay the same."""
    return LinearProbeConfig(
        optimizer="adamw", base_lr=1e-4 * REFERENCE_BATCH / 128, batch_size=128, epochs=50, warmup=0.0
    )


PRESETS: Mapping[str, Callable[[], LinearProbeConfig]] = {"released": LinearProbeConfig, "supplement": supplement}
