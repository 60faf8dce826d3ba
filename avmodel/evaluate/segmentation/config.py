"""Settings of segmentation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from avdata.load.views import FITS
from avmanifest.errors import ConfigError
from avmanifest.settings import Bounds
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import AREA, RELEASED_OPTIM, SUPPLEMENT_OPTIM, FrameTaskConfig

TARGETS = ("sounding", "classes")
LOSSES = ("bce", "ce")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationConfig(FrameTaskConfig):
    """Defaults: the released recipe for AVSBench's S4, each clip of which has one frame with a mask to train on."""

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
        "How test frames become square: squashed, as AVSBench's evaluation, or cropped to the middle.",
        tuple(FITS),
    ] = "squash"
    official_batch: Annotated[
        int, "Clips in a batch of the official F score, which depends on this number.", Bounds(1)
    ] = 1
    repeats: Annotated[int, "Times that each frame is drawn in an epoch.", Bounds(1)] = 10
    jitter_s: Annotated[float, "Seconds between the middle of a training window and its frame, at most.", Bounds(0)] = (
        0.99
    )
    min_area: Annotated[float, "Share of the frame that a random crop takes in training, at least.", AREA] = 0.5
    optim: OptimConfig = field(default_factory=lambda: replace(RELEASED_OPTIM, base_lr=2e-4))

    def __post_init__(self) -> None:
        FrameTaskConfig.__post_init__(self)
        if self.loss == "ce" and self.target == "sounding":
            raise ConfigError("loss=ce needs several classes. Set target=classes, or loss=bce.")


def ms3() -> SegmentationConfig:
    """AVSBench's MS3: the released code draws one of a clip's 5 frames 100 times an epoch, so each 20 times."""
    return SegmentationConfig(only_labeled=True, repeats=20)


def avss() -> SegmentationConfig:
    """AVSBench's AVSS: 71 classes, background included, one a pixel; of a clip's frames 5 are drawn in an epoch."""
    return SegmentationConfig(target="classes", loss="ce", only_labeled=True, repeats=1)


def supplement() -> SegmentationConfig:
    """The paper's supplement: Adam at 1e-4, 128 samples a step, 20 epochs, BCE for all."""
    return SegmentationConfig(optim=SUPPLEMENT_OPTIM, batch_size=128, epochs=20, drop_path=0.0, repeats=1)


PRESETS: Mapping[str, Callable[[], SegmentationConfig]] = {
    "s4": SegmentationConfig,
    "ms3": ms3,
    "avss": avss,
    "supplement": supplement,
}
