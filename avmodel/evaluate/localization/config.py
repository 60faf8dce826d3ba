"""Settings of localization."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from avmanifest.errors import ConfigError
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import MODES, TrainingConfig

ENCODINGS = ("together", "alone")
TRUTHS = ("auto", "masks", "boxes")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizationConfig(TrainingConfig):
    """Maps of the pretrained model as it is. The settings of training are those of DeepAVFusion's supplement."""

    supervised: bool = False  # train on the frames' boxes or masks first
    encoding: str = "together"  # or alone: the senses, for a model of early fusion
    truth: str = "auto"  # masks, boxes, or masks where there are any
    boxes: str | None = None  # Flickr-SoundNet's folder of annotations, ID.xml
    temperature: float = 0.1  # of the cosine, as a logit; the supplement names none
    max_gain_db: float = 6.0
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            optimizer="adam", lr=1e-4, warmup=0.0, drops=(), ramp=0.0, weight_decay=0.0, betas=(0.9, 0.999)
        )
    )
    batch_size: int = 128
    epochs: int = 30
    drop_path: float = 0.0
    examples: int = 6  # of the best samples, and as many of the worst, to look at and to listen to

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
