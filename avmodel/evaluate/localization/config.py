"""Settings of localization."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import Choices
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import MODES, TrainingConfig

ENCODINGS = ("together", "alone")
TRUTHS = ("auto", "masks", "boxes")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizationConfig(TrainingConfig):
    """Maps of the pretrained model as it is. The settings of training are those of DeepAVFusion's supplement."""

    supervised: Annotated[bool, "Train on the frames' boxes or masks first."] = False
    encoding: Annotated[
        str, "Encode image and audio together, or each alone, as for a model of early fusion.", Choices(names=ENCODINGS)
    ] = "together"
    truth: Annotated[
        str, "Annotations to score against; auto: masks where there are any, else boxes.", Choices(names=TRUTHS)
    ] = "auto"
    boxes: Annotated[str | None, "Flickr-SoundNet's folder of annotations, ID.xml. none: those of the dataset."] = None
    temperature: Annotated[
        float, "Temperature that the cosine is divided by to give a logit; the supplement names none."
    ] = 0.1
    max_gain_db: Annotated[float, "dB by which loudness varies in training, at most, either way; 0: not at all."] = 6.0
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            optimizer="adam", lr=1e-4, warmup=0.0, drops=(), ramp=0.0, weight_decay=0.0, betas=(0.9, 0.999)
        )
    )
    batch_size: Annotated[int, "Samples of a step, over all devices and micro-steps; at most the training samples."] = (
        128
    )
    epochs: Annotated[int, "Passes over the training data."] = 30
    drop_path: Annotated[float, "Probability of dropping each residual branch of a block in training."] = 0.0
    examples: Annotated[int, "Best samples, and as many of the worst, that are written as pictures and sound."] = 6

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        if self.examples < 0:
            raise ConfigError(f"examples={self.examples}: must be 0 or more")
        for name, known in (("encoding", ENCODINGS), ("truth", TRUTHS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        if self.temperature <= 0:
            raise ConfigError(f"temperature={self.temperature}: must be above 0")
        if self.data.mode != MODES[0]:
            raise ConfigError(f"data.mode={self.data.mode}: a sound is looked for in a picture; both are needed")
        if self.data.windows > 1 or self.data.frames is not None:
            raise ConfigError(
                f"data.windows={self.data.windows}, data.frames={self.data.frames}: a sample has one annotated frame"
            )


PRESETS: Mapping[str, Callable[[], LocalizationConfig]] = {
    "zero-shot": LocalizationConfig,
    "supervised": lambda: LocalizationConfig(supervised=True),
}
