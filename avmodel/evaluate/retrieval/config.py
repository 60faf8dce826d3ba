"""Settings of retrieval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import Choices
from avmodel.evaluate.config import EvalConfig

ALIGNMENTS = ("none", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig(EvalConfig):
    """Each modality encoded without the other, compared by cosine. Default: zero-shot, over the whole test split."""

    gallery: Annotated[
        str, "Clips to rank: all, N-per-class (the first by key), or a list's path (CAV-MAE's JSON, or a name a line)."
    ] = "all"
    align: Annotated[
        str, "Projections learned on the training split, for models without a shared space.", Choices(names=ALIGNMENTS)
    ] = "none"
    align_dim: Annotated[int, "Width of the projections."] = 128
    align_epochs: Annotated[int, "Epochs in which the projections are trained."] = 40
    align_batch_size: Annotated[int, "Samples of a training step of the projections."] = 256
    align_lr: Annotated[float, "Learning rate of the projections."] = 1e-3
    align_temperature: Annotated[float, "Temperature of the contrastive loss of the projections."] = 0.07

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if self.align not in ALIGNMENTS:
            raise ConfigError(f"unknown align {self.align!r}; known: {', '.join(ALIGNMENTS)}")
        for name in ("align_dim", "align_epochs", "align_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 1 or more")


PRESETS: Mapping[str, Callable[[], RetrievalConfig]] = {
    "zero-shot": RetrievalConfig,
    "aligned": lambda: RetrievalConfig(align="linear"),
}
