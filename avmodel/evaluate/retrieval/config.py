"""Settings of retrieval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import POSITIVE, Bounds
from avmodel.evaluate.config import EvalConfig, EvalDataConfig

ALIGNMENTS = ("none", "linear")
COMPARISONS = ("mean", "paired")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig(EvalConfig):
    """Each modality encoded without the other, compared by cosine. Default: zero-shot, over the whole test split."""

    gallery: Annotated[
        str,
        "Clips to rank: all, N-clips or N-per-class (the first by key), or a list's path (CAV-MAE's JSON, or a name a "
        "line).",
    ] = "all"
    compare: Annotated[
        str,
        "How clips of several windows or frames are compared. mean: by the cosine of their mean vectors; paired: by "
        "the mean cosine of those of the same number.",
        COMPARISONS,
    ] = "mean"
    align: Annotated[
        str, "Projections learned on the training split, for models without a shared space.", ALIGNMENTS
    ] = "none"
    align_dim: Annotated[int, "Width of the projections.", Bounds(1)] = 128
    align_epochs: Annotated[int, "Epochs in which the projections are trained.", Bounds(1)] = 40
    align_batch_size: Annotated[int, "Samples of a training step of the projections.", Bounds(1)] = 256
    align_lr: Annotated[float, "Learning rate of the projections.", POSITIVE] = 1e-3
    align_temperature: Annotated[float, "Temperature of the contrastive loss of the projections.", POSITIVE] = 0.07

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if self.compare == "paired" and self.align != "none":
            raise ConfigError(
                f"compare=paired with align={self.align}: projections are learned on mean vectors. Set compare=mean "
                "or align=none."
            )


def crossmae() -> RetrievalConfig:
    """CrossMAE's tables 4 to 7: zero-shot, among 500 clips.

    The paper gives no number of clips and no list. Of its 102 printed recalls 98 are multiples of 0.2 %: a gallery of
    about 500.
    """
    return RetrievalConfig(gallery="500-clips")


PRESETS: Mapping[str, Callable[[], RetrievalConfig]] = {
    "zero-shot": RetrievalConfig,
    "aligned": lambda: RetrievalConfig(align="linear"),
    "crossmae": crossmae,
    "cav-mae-sync": lambda: RetrievalConfig(data=EvalDataConfig(frames=16), compare="paired"),
}
