"""When and on what a run computes its held-out loss."""

from dataclasses import dataclass
from typing import Annotated

from avmanifest.settings import Bounds, check


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationConfig:
    """The held-out loss: that of training, on samples and under masks that never change. Default: none."""

    every: Annotated[
        int | None, "Epochs between held-out losses; also at the end. none: never. May change at --resume.", Bounds(1)
    ] = None
    split: Annotated[str, "Split of a prepared dataset's folder whose loss is computed."] = "val"
    batch_size: Annotated[
        int,
        "Samples of a batch, over all devices, which a contrastive loss compares: other batches have other losses.",
        Bounds(2),
    ] = 64
    batches: Annotated[int | None, "Batches, at most. none: as many as the split fills.", Bounds(1)] = None

    def __post_init__(self) -> None:
        check(self, "validation.")
