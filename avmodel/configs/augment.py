"""How training log-mels vary."""

from dataclasses import dataclass

from avmanifest.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How training log-mels vary. Defaults: not at all."""

    roll: int = 0  # columns that the spectrogram is rolled around by, at most, either way
    noise: float = 0.0  # in the log-mel's units: each value gets U(0, 1) * U(0, noise), the second once a sample
    mask_bins: int = 0  # SpecAug: mel bins of the one stripe that is filled, at most
    mask_columns: int = 0  # likewise columns
    mask_value: float = 0.0  # what stripes are filled with: the value of padding, as released

    def __post_init__(self) -> None:
        for name in ("roll", "noise", "mask_bins", "mask_columns"):
            if getattr(self, name) < 0:
                raise ConfigError(f"augment.{name}={getattr(self, name)}: must be 0 or more")
