"""Settings of retrieval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from avmanifest.errors import ConfigError
from avmodel.evaluate.config import EvalConfig

ALIGNMENTS = ("none", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig(EvalConfig):
    """Each sense encoded without the other, compared by cosine. Default: zero-shot, over the whole test split."""

    gallery: str = "all"  # or N-per-class (the first by key), or a list of clips (CAV-MAE's JSON, or a name a line)
    align: str = "none"  # or linear: projections learned on the training split, for models without a shared space
    align_dim: int = 128
    align_epochs: int = 40
    align_batch_size: int = 256
    align_lr: float = 1e-3
    align_temperature: float = 0.07

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
