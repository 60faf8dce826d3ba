"""Settings of the nearest neighbors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from avmanifest.settings import Bounds
from avmodel.evaluate.config import EvalConfig

GALLERIES = ("leave-one-out", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnConfig(EvalConfig):
    """Neighbors by cosine. Defaults: the paper's figure 3, the nearest other test clip.

    The released probe draws a key frame of each clip at random and leaves out the clips that do not fill a last batch;
    here every clip counts, by its middle window.
    """

    gallery: Annotated[
        str,
        "Clips among which neighbors are sought: the other test clips, or the training clips.",
        GALLERIES,
    ] = "leave-one-out"
    k: Annotated[int, "Neighbors of a clip; several are weighted by exp(cosine / 0.07).", Bounds(1)] = 1

    def reads_no_training_data(self) -> str:
        """As `EvalConfig`."""
        if self.gallery == "train":
            return ""
        return f"with gallery={self.gallery} neighbors are test clips. Set gallery=train, or leave --train out."


PRESETS: Mapping[str, Callable[[], KnnConfig]] = {
    "figure-3": KnnConfig,
    "train-gallery": lambda: KnnConfig(gallery="train", k=20),
}
