"""Settings of embedding a dataset."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from avmanifest.errors import ConfigError
from avmodel.evaluate.config import EvalConfig

EMBEDDINGS, MAP_FILE = "embeddings", "map.png"  # what is written
PROJECTIONS = ("tsne", "pca", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig(EvalConfig):
    """Mean tokens of data.test_split, one row a clip; nothing is masked."""

    random_weights: bool = False
    picture: str = "tsne"  # of each stream, colored by class; or pca, or none
    picture_samples: int = 3000  # at most that many, spread over the split
    perplexity: float = 30.0  # of t-SNE; less where there are few samples

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if self.picture not in PROJECTIONS:
            raise ConfigError(f"unknown picture {self.picture!r}; known: {', '.join(PROJECTIONS)}")
        if self.picture_samples < 2 or self.perplexity < 1:
            raise ConfigError(f"picture_samples={self.picture_samples}, perplexity={self.perplexity}: too few")


PRESETS: Mapping[str, Callable[[], EmbedConfig]] = {"default": EmbedConfig}
