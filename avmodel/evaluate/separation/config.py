"""Settings of source separation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import Choices
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import MODES, TrainingConfig

SOUND_OF_PIXELS = "sop"
TARGETS = ("irm", "dominant", "released", SOUND_OF_PIXELS)  # kinds of masks: `separation.masks` has them
AUTO, DRAWN = "auto", "drawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparationConfig(TrainingConfig):
    """Defaults: the released recipe with the ideal ratio mask, whose ceiling is the highest, as target."""

    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            base_lr=3e-4, warmup=40 / 300, ramp=0.0, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.75
        )
    )
    device_batch_size: Annotated[int, "Samples that one device takes at once, at most; more become micro-steps."] = 16
    epochs: Annotated[int, "Passes over the training data."] = 300
    drop_path: Annotated[float, "Probability of dropping each residual branch of a block in training."] = 0.0
    target: Annotated[
        str, "Kind of mask that is learned; irm: ideal ratio mask, sop: Sound of Pixels.", Choices(names=TARGETS)
    ] = "irm"
    weighted: Annotated[bool, "Weight the loss by the loudness of the mixture."] = True
    sources: Annotated[int, "Sounds of a mixture, in training and in mixtures drawn for the test."] = 2
    max_gain_db: Annotated[
        float, "dB by which the loudness of each source varies in training, at most, either way."
    ] = 0.0
    min_area: Annotated[float, "Share of the frame that a random crop takes in training, at least."] = 0.5
    mixtures: Annotated[
        str, "Test mixtures: a list's path, drawn, or auto: those of the dataset's recipe, else drawn."
    ] = AUTO
    num_mixtures: Annotated[int, "Test mixtures to draw."] = 500
    mixture_seed: Annotated[int, "Seed of drawing test mixtures."] = 0
    oracles: Annotated[bool, "Score the true masks of every kind as baselines."] = True
    nmf: Annotated[bool, "Score non-negative matrix factorization as a baseline."] = True
    rpca: Annotated[bool, "Score robust principal component analysis as a baseline, of mixtures of two."] = True
    examples: Annotated[int, "Best mixtures, and as many of the worst, that are written as pictures and sound."] = 4

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        if self.target not in TARGETS:
            raise ConfigError(f"unknown target {self.target!r}; known: {', '.join(TARGETS)}")
        if self.sources < 2:
            raise ConfigError(f"sources={self.sources}: a mixture has 2 or more")
        for name, least in (("num_mixtures", 1), ("mixture_seed", 0), ("examples", 0), ("max_gain_db", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: must be {least} or more")
        if self.data.mode != MODES[0]:
            raise ConfigError(f"data.mode={self.data.mode}: the picture says what is taken out of the sound")
        if self.data.windows != 1 or self.data.frames is not None:
            raise ConfigError("data.windows, data.frames: a mixture is of one window of each clip, with its own frame")


def released() -> SeparationConfig:
    """The released code's mask as target."""
    return SeparationConfig(target="released")


def sound_of_pixels() -> SeparationConfig:
    """Sound of Pixels' masks; gains of 0.67 to 1.5, evenly in dB, where it has 0.5 to 1.5."""
    return SeparationConfig(target=SOUND_OF_PIXELS, max_gain_db=3.5)


def supplement() -> SeparationConfig:
    """The paper's supplement: a binary mask; Adam at 1e-4, 128 samples a step, 20 epochs."""
    optim = OptimConfig(optimizer="adam", lr=1e-4, warmup=0.0, drops=(), ramp=0.0, weight_decay=0.0, betas=(0.9, 0.999))
    return SeparationConfig(target="dominant", optim=optim, batch_size=128, epochs=20)


PRESETS: Mapping[str, Callable[[], SeparationConfig]] = {
    "irm": SeparationConfig,
    "released": released,
    "supplement": supplement,
    "sound-of-pixels": sound_of_pixels,
}
