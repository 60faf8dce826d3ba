"""Settings of segmentation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from avdata.load.views import FITS
from avmanifest.errors import ConfigError
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import MODES, TrainingConfig

TARGETS = ("sounding", "classes")
LOSSES = ("bce", "ce")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationConfig(TrainingConfig):
    """Defaults: the released recipe for AVSBench's S4, each clip of which has one frame with a mask to train on."""

    target: str = "sounding"  # one mask of what sounds; or classes, a mask of each, and of the background
    loss: str = "bce"  # a pixel's classes apart; or ce, of which it has one, as released for AVSS
    only_labeled: bool = False  # what the clip isn't labeled with is background: in training and for `released` scores
    fit: str = "squash"  # of test frames, as AVSBench's evaluation; or crop, their middle
    official_batch: int = 1  # clips, on whose number the official F depends
    repeats: int = 10  # of each frame in an epoch
    jitter_s: float = 0.99  # how far the window's middle may be from the frame in training
    max_gain_db: float = 6.0
    min_area: float = 0.5
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            base_lr=2e-4, warmup=0.2, ramp=0.0, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.75
        )
    )
    examples: int = 6  # of the best frames, and as many of the worst, to look at and to listen to

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        for name, known in (("target", TARGETS), ("loss", LOSSES), ("fit", FITS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        for name, least in (("official_batch", 1), ("repeats", 1), ("jitter_s", 0), ("examples", 0)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name}={value}: must be {least} or more")
        if self.loss == "ce" and self.target == "sounding":
            raise ConfigError("loss=ce is of several classes. Set target=classes, or loss=bce.")
        if self.data.mode != MODES[0]:
            raise ConfigError(f"data.mode={self.data.mode}: the decoder is told of the sound; both senses are needed")
        if self.data.windows > 1 or self.data.frames is not None:
            raise ConfigError(
                f"data.windows={self.data.windows}, data.frames={self.data.frames}: every frame has one window, its own"
            )


def ms3() -> SegmentationConfig:
    """AVSBench's MS3: the released code draws one of a clip's 5 frames 100 times an epoch, so each 20 times."""
    return SegmentationConfig(only_labeled=True, repeats=20)


def avss() -> SegmentationConfig:
    """AVSBench's AVSS: 71 classes, background included, one a pixel; of a clip's frames 5 are drawn in an epoch."""
    return SegmentationConfig(target="classes", loss="ce", only_labeled=True, repeats=1)


def supplement() -> SegmentationConfig:
    """The paper's supplement: Adam at 1e-4, 128 samples a step, 20 epochs, BCE for all."""
    optim = OptimConfig(optimizer="adam", lr=1e-4, warmup=0.0, drops=(), ramp=0.0, weight_decay=0.0, betas=(0.9, 0.999))
    return SegmentationConfig(optim=optim, batch_size=128, epochs=20, drop_path=0.0, repeats=1)


PRESETS: Mapping[str, Callable[[], SegmentationConfig]] = {
    "s4": SegmentationConfig,
    "ms3": ms3,
    "avss": avss,
    "supplement": supplement,
}
