"""AVSiam's settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from avmodel.configs.model import (
    KERNEL_REDUCTIONS,
    POSITION_INITS,
    SCHEMES,
    ModelConfig,
    num_kept,
    require_choices,
    require_heads,
    require_patches,
)

JOINT_LAYERS = 2
CONTRAST_ALONE: Mapping[str, Any] = {"reconstruction_weight": 0.0}

CHOICES = {
    "norms": ("per_modality", "shared"),
    "audio_scheme": SCHEMES,
    "audio_kernel": KERNEL_REDUCTIONS,
    "audio_positions": POSITION_INITS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AVSiamConfig(ModelConfig):
    """One model. Defaults: AVSiam-Base as the paper has it; it prints no ratios but their range.

    Raises ValueError for a value that no model can be built from.
    """

    size: str = "base"  # tiny, small, base, large, huge, or WIDTHxDEPTHxHEADS
    image_size: tuple[int, int] = (224, 224)  # pixels: height, width
    audio_size: tuple[int, int] = (128, 1024)  # mel bins, steps
    patch_size: int = 16
    norms: str = "per_modality"  # of the shared blocks; "shared" as the paper's text has it
    separate: bool = False  # AVSep: a backbone for each modality
    mask_ratios: tuple[float, ...] = (0.0, 0.125, 0.25, 0.375, 0.5)  # a part of each batch gets each
    image_mask_ratios: tuple[float, ...] | None = None  # none: as the audio's
    audio_scheme: str = "uniform"  # released: tf
    contrast_weight: float = 1.0  # 0: none
    temperature: float = 0.05
    symmetric: bool = True  # the paper's formula has one direction: audio anchors
    reconstruction_weight: float = 1.0  # 0: none; the joint layers then keep their start
    reconstruction_ratio: float = 0.75  # hidden of both modalities in the second pass
    stop_gradient: bool = True  # reconstruction never reaches the backbone; the released Base has none
    separate_reconstruction: bool = False  # released Base: the second pass takes sound through a further backbone
    decoder_embed_dim: int = 512
    decoder_depth: int = 6  # the paper's text; "MAE's defaults", and the released Base, are 8
    decoder_num_heads: int = 16
    normalize_targets: bool = False
    alternate_steps: bool = False  # released: two optimizers, one for each loss, stepped one after the other
    norm_eps: float = 1e-6  # of the blocks' norms; released Base: 1e-5
    double_embed: bool = False  # released: tokens are added to themselves before the first block
    audio_kernel: str = "mean"  # how the spectrogram's patch kernel starts from the image's three
    audio_positions: str = "linear1d"  # how its positions start from the image's
    mel_mean: float = -5.081  # AudioSet's, of natural-log Kaldi mels
    mel_std: float = 4.4849

    bench_rows: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "avsep": {"separate": True},
        "avsiam-nomask": {"mask_ratios": (0.0,), **CONTRAST_ALONE},
        "avsiam-multi-50": CONTRAST_ALONE,
        "avsiam-multi-80": {"mask_ratios": (0.0, 0.2, 0.4, 0.6, 0.8), **CONTRAST_ALONE},
        **{f"avsiam-fixed-{percent}": {"mask_ratios": (percent / 100,), **CONTRAST_ALONE} for percent in (25, 50, 75)},
    }

    def __post_init__(self) -> None:
        require_choices(self, CHOICES)
        require_heads("decoder", self.decoder_embed_dim, self.decoder_num_heads, multiple=1)
        if self.contrast_weight <= 0 and self.reconstruction_weight <= 0:
            raise ValueError("contrast_weight and reconstruction_weight are both 0: nothing to learn")
        if self.contrast_weight <= 0 and self.stop_gradient:
            raise ValueError("contrast_weight=0 with stop_gradient: nothing would train the backbone")
        if self.alternate_steps and min(self.contrast_weight, self.reconstruction_weight) <= 0:
            raise ValueError("alternate_steps needs both losses: set contrast_weight and reconstruction_weight above 0")
        if self.separate_reconstruction and (self.stop_gradient or self.reconstruction_weight <= 0):
            raise ValueError("separate_reconstruction: nothing would train its backbone. Set stop_gradient=false")
        if self.vit.depth < JOINT_LAYERS:
            raise ValueError(f"size={self.size!r}: the joint layers start from the last two blocks")
        for name, size, ratios in (
            ("audio", self.audio_size, self.mask_ratios),
            ("image", self.image_size, self.ratios[1]),
        ):
            patches = (size[0] // self.patch_size) * (size[1] // self.patch_size)
            if not ratios or any(not 0 <= ratio < 1 or num_kept(patches, ratio) < 1 for ratio in ratios):
                raise ValueError(f"{name} mask ratios {ratios} leave nothing to see of {patches} patches")
            again = {"reconstruction_ratio": self.reconstruction_ratio}
            require_patches(self, name, size, again, whole=False)

    @property
    def ratios(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mask ratios of audio and image."""
        return self.mask_ratios, self.mask_ratios if self.image_mask_ratios is None else self.image_mask_ratios
