"""Settings of source separation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from avmanifest.settings import Bounds
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import (
    RELEASED_OPTIM,
    SUPPLEMENT_OPTIM,
    DecoderNorm,
    FlipProbability,
    FrameTaskConfig,
    MinArea,
)

SOUND_OF_PIXELS = "sop"
TARGETS = ("irm", "dominant", "released", SOUND_OF_PIXELS)  # kinds of masks: `separation.masks` has them
AUTO, DRAWN = "auto", "drawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparationConfig(FrameTaskConfig):
    """Defaults: the released recipe, with the ideal ratio mask as target: its oracle has the highest score."""

    optim: OptimConfig = field(default_factory=lambda: replace(RELEASED_OPTIM, warmup=40 / 300))
    device_batch_size: int = 16
    epochs: int = 300
    drop_path: float = 0.0
    target: Annotated[str, "Kind of mask that is learned; irm: ideal ratio mask, sop: Sound of Pixels.", TARGETS] = (
        "irm"
    )
    weighted: Annotated[bool, "Weight the loss by the loudness of the mixture."] = True
    sources: Annotated[int, "Sounds of a mixture, in training and in mixtures drawn for the test.", Bounds(2)] = 2
    max_gain_db: float = 0.0
    min_area: MinArea = 0.5
    flip_probability: FlipProbability = 0.5
    decoder_norm: DecoderNorm = "batch"
    mixtures: Annotated[
        str, "Test mixtures: a list's path, drawn, or auto: those of the dataset's recipe, else drawn."
    ] = AUTO
    num_mixtures: Annotated[int, "Test mixtures to draw.", Bounds(1)] = 500
    mixture_seed: Annotated[int, "Seed of drawing test mixtures.", Bounds(0)] = 0
    oracles: Annotated[bool, "Score the true masks of every kind as baselines."] = True
    nmf: Annotated[bool, "Score non-negative matrix factorization as a baseline."] = True
    rpca: Annotated[bool, "Score robust principal component analysis as a baseline, of mixtures of two."] = True
    examples: int = 4


def released() -> SeparationConfig:
    """The released code's mask as target."""
    return SeparationConfig(target="released")


def sound_of_pixels() -> SeparationConfig:
    """Sound of Pixels' masks; gains are drawn from 0.67 to 1.5, uniform in dB; the original draws from 0.5 to 1.5."""
    return SeparationConfig(target=SOUND_OF_PIXELS, max_gain_db=3.5)


def supplement() -> SeparationConfig:
    """The paper's supplement: a binary mask; Adam at 1e-4, 128 samples a step, 20 epochs."""
    return SeparationConfig(target="dominant", optim=SUPPLEMENT_OPTIM, batch_size=128, epochs=20)


PRESETS: Mapping[str, Callable[[], SeparationConfig]] = {
    "irm": SeparationConfig,
    "released": released,
    "supplement": supplement,
    "sound-of-pixels": sound_of_pixels,
}
