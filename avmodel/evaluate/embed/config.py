"""Settings of embedding a dataset."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import Choices
from avmodel.evaluate.config import EvalConfig

EMBEDDINGS, MAP_FILE = "embeddings", "map.png"  # what is written
PROJECTIONS = ("tsne", "pca", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig(EvalConfig):
    """Mean tokens of data.test_split, one row a clip; nothing is masked."""

    random_weights: Annotated[bool, "Not read by this task: embeddings have no baseline."] = False
    picture: Annotated[
        str, "Projection that draws the embeddings, colored by class; none: no picture.", Choices(names=PROJECTIONS)
    ] = "tsne"
    picture_samples: Annotated[int, "Samples in the picture, at most, spread over the split."] = 3000
    perplexity: Annotated[float, "Perplexity of t-SNE; less where there are few samples."] = 30.0

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if self.picture not in PROJECTIONS:
            raise ConfigError(f"unknown picture {self.picture!r}; known: {', '.join(PROJECTIONS)}")
        if self.picture_samples < 2 or self.perplexity < 1:
            raise ConfigError(f"picture_samples={self.picture_samples}, perplexity={self.perplexity}: too few")


PRESETS: Mapping[str, Callable[[], EmbedConfig]] = {"default": EmbedConfig}
