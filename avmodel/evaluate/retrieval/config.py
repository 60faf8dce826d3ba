"""Settings of retrieval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import POSITIVE, SHARE, Bounds
from avmodel.configs.augment import AugmentConfig
from avmodel.configs.dense import DensePairConfig
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import AREA, EvalDataConfig, TrainingConfig

ALIGNMENTS = ("none", "linear")
COMPARISONS = ("mean", "paired", "dense")
TUNING_OPTIM = OptimConfig(  # AVSiam's, at a constant rate
    optimizer="adam", lr=5e-5, betas=(0.95, 0.999), weight_decay=5e-7, warmup=0.0, drops=(), ramp=0.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig(TrainingConfig):
    """Each modality encoded without the other, compared by cosine. Default: zero-shot, over the whole test split.

    The settings of training are of tuned=true. No paper that avkit follows prints a recipe for it: optimizer and
    augmentation are those of AVSiam's pretraining, the rest is chosen here.
    """

    tuned: Annotated[
        bool,
        "Train the model on the training split first, by contrast of each clip's vectors with those of the others that "
        "all devices take at once.",
    ] = False
    temperature: Annotated[float, "With tuned: temperature of the contrastive loss.", POSITIVE] = 0.05
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    max_gain_db: Annotated[
        float, "With tuned: dB by which loudness varies in training, at most, either way; 0: not at all.", Bounds(0)
    ] = 0.0
    min_area: Annotated[float, "With tuned: share of the frame that a random crop takes, at least.", AREA] = 0.5
    flip_probability: Annotated[float, "With tuned: probability of a left-right flip.", SHARE] = 0.0
    optim: OptimConfig = TUNING_OPTIM
    batch_size: int = 128
    device_batch_size: int = 128
    epochs: int = 15
    drop_path: float = 0.0
    gallery: Annotated[
        str,
        "Clips to rank: all, N-clips or N-per-class (the first by key), or a list's path (CAV-MAE's JSON, or a name a "
        "line).",
    ] = "all"
    compare: Annotated[
        str,
        "How clips of several windows or frames are compared. mean: by the cosine of their mean vectors; paired: by "
        "the mean cosine of those of the same number. dense: of one window and frame, by each token of the sound with "
        "each patch, as the settings dense.* say.",
        COMPARISONS,
    ] = "mean"
    dense: DensePairConfig = field(default_factory=DensePairConfig)
    align: Annotated[
        str, "Projections learned on the training split, for models without a shared space.", ALIGNMENTS
    ] = "none"
    align_dim: Annotated[int, "Width of the projections.", Bounds(1)] = 128
    align_epochs: Annotated[int, "Epochs in which the projections are trained.", Bounds(1)] = 40
    align_batch_size: Annotated[int, "Samples of a training step of the projections.", Bounds(1)] = 256
    align_lr: Annotated[float, "Learning rate of the projections.", POSITIVE] = 1e-3
    align_temperature: Annotated[float, "Temperature of the contrastive loss of the projections.", POSITIVE] = 0.07

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        if self.compare != "mean" and self.align != "none":
            raise ConfigError(
                f"compare={self.compare} with align={self.align}: projections are learned on mean vectors. Set "
                "compare=mean or align=none."
            )
        if self.compare == "dense" and (self.data.windows > 1 or self.data.frames is not None):
            raise ConfigError(
                f"compare=dense with data.windows={self.data.windows}, data.frames={self.data.frames}: it takes one "
                "window and frame of a clip. Set data.windows=1 and data.frames=none."
            )
        if self.tuned and self.align != "none":
            raise ConfigError(f"tuned with align={self.align}: the model itself is trained. Set align=none.")

    def reads_no_training_data(self) -> str:
        """As `EvalConfig`."""
        if self.tuned or self.align != "none":
            return ""
        return "retrieval is zero-shot. Set tuned=true or align=linear, or leave --train out."


def crossmae() -> RetrievalConfig:
    """CrossMAE's tables 4 to 7: zero-shot, among 500 clips.

    The paper gives no number of clips and no list. Of its 102 printed recalls 98 are multiples of 0.2 %: a gallery of
    about 500.
    """
    return RetrievalConfig(gallery="500-clips")


def msr_vtt(*, tuned: bool) -> RetrievalConfig:
    """AVSiam's retrieval in MSR-VTT: zero-shot in its whole test split (table 2), or fine-tuned (table 3a).

    avkit evaluate retrieval runs/avsiam-b --data data/msr-vtt --preset msr-vtt-tuned

    The paper names no split for fine-tuning. The whole test split has clips of the list of 9,000 to train on, so that
    it is tested on the 1,000 clips that go with that list.
    """
    if not tuned:
        return RetrievalConfig(data=EvalDataConfig(test_split="test_full"))
    augment = AugmentConfig(roll=1024, noise=0.44849)  # see avmodel.presets.data
    return RetrievalConfig(tuned=True, augment=augment)


def denseav() -> RetrievalConfig:
    """DenseAV's retrieval with any model whose two modalities share a space: zero-shot, among 1,000 clips.

    avkit evaluate retrieval runs/cavmae --data data/audioset --preset denseav

    Each token of the sound meets each patch, by inner product: the maximum over heads and places, the mean over time.
    """
    return RetrievalConfig(gallery="1000-clips", compare="dense")


PRESETS: Mapping[str, Callable[[], RetrievalConfig]] = {
    "zero-shot": RetrievalConfig,
    "aligned": lambda: RetrievalConfig(align="linear"),
    "tuned": lambda: RetrievalConfig(tuned=True),
    "msr-vtt": partial(msr_vtt, tuned=False),
    "msr-vtt-tuned": partial(msr_vtt, tuned=True),
    "crossmae": crossmae,
    "denseav": denseav,
    "cav-mae-sync": lambda: RetrievalConfig(data=EvalDataConfig(frames=16), compare="paired"),
}
