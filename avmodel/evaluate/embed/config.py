"""Settings of embedding a dataset."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import Bounds
from avmodel.evaluate.config import MODES, EvalConfig

EMBEDDINGS, MAP_FILE = "embeddings", "map.png"  # what is written
PROJECTIONS = ("tsne", "pca", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig(EvalConfig):
    """Mean tokens of data.test_split, one row a clip; nothing is masked."""

    random_weights: Annotated[bool, "Not read by this task: embeddings have no baseline."] = False
    picture: Annotated[
        str, "Projection that draws the embeddings, colored by class; none: no picture.", PROJECTIONS
    ] = "tsne"
    picture_samples: Annotated[int, "Samples in the picture, at most, spread over the split.", Bounds(2)] = 3000
    together: Annotated[
        bool,
        "One map of both modalities, each encoded without the other, with a dot for a sound and a cross for an image. "
        "false: a map for each stream.",
    ] = False
    perplexity: Annotated[float, "Perplexity of t-SNE; less where there are few samples.", Bounds(1)] = 30.0

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if self.together and self.data.mode != MODES[0]:
            raise ConfigError(
                f"together=true with data.mode={self.data.mode}: one map of both modalities needs both. Set "
                f"data.mode={MODES[0]}."
            )

    def reads_no_training_data(self) -> str:
        """As `EvalConfig`."""
        return "this task trains nothing: it embeds data.test_split of --data. Leave --train out."


PRESETS: Mapping[str, Callable[[], EmbedConfig]] = {
    "default": EmbedConfig,
    "figure-4": lambda: EmbedConfig(together=True),
}
