"""How training log-mels vary."""

from dataclasses import dataclass
from typing import Annotated

from avmanifest.settings import Bounds, check


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How training log-mels vary. Defaults: not at all."""

    roll: Annotated[int, "Columns by which the spectrogram is rolled around, at most, either way.", Bounds(0)] = 0
    noise: Annotated[
        float,
        "Noise in the log-mel's units: each value gets U(0, 1) * U(0, noise), the second drawn once a sample.",
        Bounds(0),
    ] = 0.0
    mask_bins: Annotated[int, "SpecAug: mel bins of the one stripe that is filled, at most.", Bounds(0)] = 0
    mask_columns: Annotated[int, "SpecAug: columns of the one stripe that is filled, at most.", Bounds(0)] = 0
    mask_value: Annotated[float, "What stripes are filled with; 0 is the value of padding, as released."] = 0.0

    def __post_init__(self) -> None:
        check(self, "augment.")
