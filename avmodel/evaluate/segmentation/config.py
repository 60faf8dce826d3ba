"""Settings of segmentation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from avdata.load.views import FITS
from avmanifest.errors import ConfigError
from avmanifest.settings import Choices
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import MODES, TrainingConfig

TARGETS = ("sounding", "classes")
LOSSES = ("bce", "ce")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationConfig(TrainingConfig):
    """Defaults: the released recipe for AVSBench's S4, each clip of which has one frame with a mask to train on."""

    target: Annotated[
        str,
        "What is segmented: one mask of all that sounds, or one of each class and of the background.",
        Choices(names=TARGETS),
    ] = "sounding"
    loss: Annotated[
        str,
        "Loss of a pixel: bce of each class apart; ce of one class a pixel, as released for AVSS.",
        Choices(names=LOSSES),
    ] = "bce"
    only_labeled: Annotated[
        bool, "Count classes that a clip isn't labeled with as background: in training, for `released` scores."
    ] = False
    fit: Annotated[
        str,
        "How test frames become square: squashed, as AVSBench's evaluation, or cropped to the middle.",
        Choices(names=tuple(FITS)),
    ] = "squash"
    official_batch: Annotated[int, "Clips of a batch of the official F, which depends on their number."] = 1
    repeats: Annotated[int, "Times that each frame is drawn in an epoch."] = 10
    jitter_s: Annotated[float, "Seconds between the middle of a training window and its frame, at most."] = 0.99
    max_gain_db: Annotated[float, "dB by which loudness varies in training, at most, either way; 0: not at all."] = 6.0
    min_area: Annotated[float, "Share of the frame that a random crop takes in training, at least."] = 0.5
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            base_lr=2e-4, warmup=0.2, ramp=0.0, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.75
        )
    )
    examples: Annotated[int, "Best frames, and as many of the worst, that are written as pictures and sound."] = 6

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
