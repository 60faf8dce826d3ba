"""CAV-MAE Sync's settings."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from avmanifest.settings import Bounds
from avmodel.configs.cavmae import CAVMAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CAVMAESyncConfig(CAVMAEConfig):
    """One model. Defaults: the released model, which hears 4.16 s of Kaldi log-mels around a frame.

    Raises ValueError for a value that no model can be built from.
    """

    audio_size: Annotated[tuple[int, int], "Size of a frame's part of the spectrogram: mel bins, steps.", Bounds(1)] = (
        128,
        416,
    )
    num_registers: Annotated[
        int, "Register tokens of each tower; they leave the sequence before the joint blocks.", Bounds(0)
    ] = 8
    contrast_weight: float = 0.1

    published_contrast: ClassVar[str] = "the authors' script: those of one GPU, of 512 in a step"
