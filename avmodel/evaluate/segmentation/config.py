"""Settings of segmentation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from avdata.fits import FITS
from avmanifest.errors import ConfigError
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

TARGETS = ("sounding", "classes")
LOSSES = ("bce", "ce")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationConfig(FrameTaskConfig):
    """Defaults: the released recipe for AVSBench's S4, each clip of which has one frame with a mask to train on.

    The released code trains on four devices of 16 samples, whose batch norms share their statistics; the test is on
    the benchmark's test split, where the released code takes val.
    """

    target: Annotated[
        str,
        "Masks to predict: one of everything that sounds, or one of each class and of the background.",
        TARGETS,
    ] = "sounding"
    loss: Annotated[
        str,
        "Loss of a pixel; bce: each class by itself; ce: one class a pixel, as released for AVSS.",
        LOSSES,
    ] = "bce"
    only_labeled: Annotated[
        bool, "Count classes that a clip isn't labeled with as background, in training and for `released` scores."
    ] = False
    fit: Annotated[
        str,
        "How test frames become square: squashed, as in AVSBench's evaluation, or cropped as data.fit says of it.",
        FITS,
    ] = "squash"
    official_batch: Annotated[
        int, "Clips in a batch of the official F score, which depends on this number.", Bounds(1)
    ] = 1
    repeats: Annotated[int, "Times that each frame is drawn in an epoch.", Bounds(1)] = 10
    jitter_s: Annotated[float, "Seconds between the middle of a training window and its frame, at most.", Bounds(0)] = (
        0.99
    )
    min_area: MinArea = 0.5
    flip_probability: FlipProbability = 0.5
    narrowing: Annotated[
        bool,
        "Transposed convolutions of the decoder divide channels by their factor, as released; false: they end at the "
        "width of their scale, as in runs that were begun without this setting.",
    ] = False
    decoder_norm: DecoderNorm = "batch"
    optim: OptimConfig = field(default_factory=lambda: replace(RELEASED_OPTIM, base_lr=2e-4))
    device_batch_size: int = 16
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        FrameTaskConfig.__post_init__(self)
        if self.loss == "ce" and self.target == "sounding":
            raise ConfigError("loss=ce needs several classes. Set target=classes, or loss=bce.")


def s4() -> SegmentationConfig:
    """AVSBench's S4, by the released README's command. Its masks are binary, so classes need not be left out."""
    return SegmentationConfig(narrowing=True)


def ms3() -> SegmentationConfig:
    """AVSBench's MS3: the released code draws one of a clip's 5 frames 100 times an epoch, so each 20 times.

    No command for it is published: rates, batch and epochs are S4's.
    """
    return replace(s4(), only_labeled=True, repeats=20)


def avss() -> SegmentationConfig:
    """AVSBench's AVSS: 71 classes, background included, one a pixel; of a clip's frames 5 are drawn in an epoch.

    Here each labeled frame is drawn once: 5 of most clips, 10 of the longer ones. No command for it is published:
    rates, batch and epochs are S4's.
    """
    return replace(s4(), target="classes", loss="ce", only_labeled=True, repeats=1)


def supplement() -> SegmentationConfig:
    """The paper's supplement: Adam at 1e-4, 128 samples a step, 20 epochs, BCE for all."""
    return replace(s4(), optim=SUPPLEMENT_OPTIM, batch_size=128, epochs=20, repeats=1)


PRESETS: Mapping[str, Callable[[], SegmentationConfig]] = {
    "s4": s4,
    "ms3": ms3,
    "avss": avss,
    "supplement": supplement,
}
