"""Settings of the nearest neighbors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import Choices
from avmodel.evaluate.config import EvalConfig

GALLERIES = ("leave-one-out", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnConfig(EvalConfig):
    """Neighbors by cosine. Defaults: the paper's figure 3, the nearest other test clip."""

    gallery: Annotated[
        str,
        "Clips among which neighbors are sought: the other test clips, or the training clips.",
        Choices(names=GALLERIES),
    ] = "leave-one-out"
    k: Annotated[int, "Neighbors of a clip; several are weighted by exp(cosine / 0.07)."] = 1

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if self.gallery not in GALLERIES:
            raise ConfigError(f"unknown gallery {self.gallery!r}; known: {', '.join(GALLERIES)}")
        if self.k < 1:
            raise ConfigError(f"k={self.k}: must be 1 or more")


PRESETS: Mapping[str, Callable[[], KnnConfig]] = {
    "figure-3": KnnConfig,
    "train-gallery": lambda: KnnConfig(gallery="train", k=20),
}
