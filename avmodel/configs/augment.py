"""How training log-mels vary."""

from dataclasses import dataclass
from typing import Annotated

from avmanifest.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How training log-mels vary. Defaults: not at all."""

    roll: Annotated[int, "Columns by which the spectrogram is rolled around, at most, either way."] = 0
    noise: Annotated[
        float, "Noise in the log-mel's units: each value gets U(0, 1) * U(0, noise), the second drawn once a sample."
    ] = 0.0
    mask_bins: Annotated[int, "SpecAug: mel bins of the one stripe that is filled, at most."] = 0
    mask_columns: Annotated[int, "SpecAug: columns of the one stripe that is filled, at most."] = 0
    mask_value: Annotated[float, "What stripes are filled with; 0 is the value of padding, as released."] = 0.0

    def __post_init__(self) -> None:
        for name in ("roll", "noise", "mask_bins", "mask_columns"):
            if getattr(self, name) < 0:
                raise ConfigError(f"augment.{name}={getattr(self, name)}: must be 0 or more")
