"""Settings of the linear probe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from avmanifest.errors import ConfigError
from avmodel.configs.optim import REFERENCE_BATCH
from avmodel.evaluate.config import EvalConfig

OPTIMIZERS = ("lars", "adamw")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbeConfig(EvalConfig):
    """Heads on frozen features. Defaults: the released recipe for VGGSound."""

    optimizer: str = "lars"  # momentum 0.9, trust 1e-3; or adamw
    base_lr: float = 0.3  # per 256 samples of a step
    batch_size: int = 1024  # at most the number of training samples
    epochs: int = 60
    warmup: float = 1 / 6  # share of the run: 10 of 60 epochs
    weight_decay: float = 0.0
    train_views: int = 4  # random views of each clip that epochs take turns with; 0: the one of the test
    max_gain_db: float = 6.0  # of the random views
    min_area: float = 0.5  # likewise

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
