"""Settings of fine-tuning."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from avmanifest.errors import ConfigError
from avmodel.configs.augment import AugmentConfig
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import MODES, EvalDataConfig, TrainingConfig

MIXED_SOUNDS = ("log_mel", "waveform")
AVERAGES = ("logits", "probabilities")
VARIED = AugmentConfig(roll=1024, noise=0.44849, mask_bins=48, mask_columns=192)  # CAV-MAE's: see avmodel.presets.data


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Defaults: the released recipe for VGGSound, with the ten-window test that it meant."""

    data: EvalDataConfig = field(default_factory=lambda: EvalDataConfig(windows=10))
    mixup: float = 1.0  # of Beta(mixup, mixup): one share for both senses and the labels; 0: none
    mixup_probability: float = 1.0  # that a sample is mixed
    mixup_of: str = "log_mel"  # in the logarithm, as released; waveform: before the spectrogram is made
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # of log-mels, after mixup
    smoothing: float = 0.1  # of the labels; not with several labels a sample
    class_balanced: bool = False  # rare classes as often as frequent ones
    max_gain_db: float = 6.0
    min_area: float = 0.5
    flip_probability: float = 0.5
    head_lr: float = 1.0  # times the model's
    averaged_epochs: int = 1  # the last ones, whose weights are averaged: each as it ended
    test_every: int | None = None  # epochs between tests of one window; none: only at the end
    mixed: bool = False  # AVSiam's: of the steps half see and hear, a quarter only hear, a quarter only see
    missing: tuple[str, ...] = ()  # test, too, with only this sense given: audio, image
    average: str = "logits"  # over windows or frames; or probabilities

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        if self.test_every is not None and self.test_every < 1:
            raise ConfigError(f"test_every={self.test_every}: must be 1 or more")
        if self.averaged_epochs < 1:
            raise ConfigError(f"averaged_epochs={self.averaged_epochs}: must be 1 or more (of fewer epochs all count)")
        for name, most in (
            ("smoothing", 0.99),
            ("mixup", math.inf),
            ("mixup_probability", 1.0),
            ("head_lr", math.inf),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name}={getattr(self, name)} is not in 0..{most}")
        if strange := set(self.missing) - set(MODES[1:]):
            raise ConfigError(f"missing={sorted(strange)}: known are {', '.join(MODES[1:])}, the sense still given")
        if self.mixup_of not in MIXED_SOUNDS:
            raise ConfigError(f"unknown mixup_of {self.mixup_of!r}; known: {', '.join(MIXED_SOUNDS)}")
        if self.average not in AVERAGES:
            raise ConfigError(f"unknown average {self.average!r}; known: {', '.join(AVERAGES)}")
        if (self.missing or self.mixed) and self.data.mode != MODES[0]:
            raise ConfigError(
                f"missing={self.missing}, mixed={self.mixed}: of data.mode={self.data.mode} a sense is missing already"
            )


def cav_mae() -> FinetuneConfig:
    """CAV-MAE's recipe for VGGSound: waveforms mixed, SpecAug, roll and noise; all ten frames tested.

    The weights tested are the mean of the last eight epochs'.
    """
    optim = OptimConfig(
        optimizer="adam",
        lr=1e-4,
        betas=(0.95, 0.999),
        weight_decay=5e-7,
        warmup=0.0,
        ramp=0.0,
        drops=epoch_starts(2, 10),
    )
    return FinetuneConfig(
        data=EvalDataConfig(frames=10),
        optim=optim,
        head_lr=10.0,
        batch_size=48,
        epochs=10,
        drop_path=0.0,
        mixup=10.0,
        mixup_probability=0.5,
        mixup_of="waveform",
        augment=VARIED,
        class_balanced=True,
        max_gain_db=0.0,
        min_area=1.0,
        flip_probability=0.0,
        averaged_epochs=8,
        average="probabilities",
    )


def avsiam() -> FinetuneConfig:
    """AVSiam-Base's for VGGSound: CAV-MAE's with steps that see, hear or both, and the paper's rates."""
    recipe = cav_mae()
    optim = replace(recipe.optim, lr=5e-5, drops=epoch_starts(2, 15), drop_factor=0.75)
    return replace(
        recipe, optim=optim, batch_size=128, epochs=15, averaged_epochs=1, mixed=True, missing=("audio", "image")
    )


def epoch_starts(first: int, epochs: int) -> tuple[float, ...]:
    """The beginnings of all epochs from `first` on, as shares of the run."""
    return tuple(epoch / epochs for epoch in range(first, epochs))


PRESETS: Mapping[str, Callable[[], FinetuneConfig]] = {"released": FinetuneConfig, "cav-mae": cav_mae, "avsiam": avsiam}
