"""Settings of DenseAV's comparison of sound and picture; see `avmodel.evaluate.dense`."""

from dataclasses import dataclass
from typing import Annotated

from avmanifest.settings import Bounds, check

MAPS = (POOLED, DENSE) = ("pooled", "dense")  # of a sound and the patches of a picture
POOLS = ("max", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseConfig:
    """How each token of the sound is compared with each patch of the frame. Defaults: DenseAV's."""

    heads: Annotated[int, "Heads, equal parts of a token's channels, each compared by itself.", Bounds(1)] = 1
    head_pool: Annotated[str, "What becomes of the heads' similarities at a place and time.", POOLS] = "max"
    time_pool: Annotated[str, "What becomes of the similarities over time, after their mean over frequency.", POOLS] = (
        "mean"
    )
    unit_length: Annotated[bool, "Compare by cosine, tokens at length 1, in place of the inner product."] = False

    def __post_init__(self) -> None:
        check(self, "dense.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DensePairConfig(DenseConfig):
    """How a sound and a frame get one score from all of their tokens and patches. Defaults: DenseAV's."""

    space_pool: Annotated[str, "What becomes of the similarities over the frame's patches.", POOLS] = "max"
