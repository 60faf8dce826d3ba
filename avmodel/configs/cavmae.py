"""CAV-MAE's settings."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from avmanifest.settings import Bounds
from avmodel.configs.model import (
    AUDIOSET_MEAN,
    AUDIOSET_STD,
    SCHEMES,
    AudioKernel,
    AudioMaskRatio,
    DecodingModelConfig,
    ImageMaskRatio,
    MelMean,
    MelStd,
    Temperature,
    require_fields,
    require_heads,
    require_patches,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CAVMAEConfig(DecodingModelConfig):
    """One model. Defaults: the released base model.

    Raises ValueError for a value that no model can be built from.
    """

    size: Annotated[
        str, "Of a tower and the joint blocks together: tiny, small, base, large, huge, or WIDTHxDEPTHxHEADS."
    ] = "base"
    joint_depth: Annotated[int, "Last blocks, which both modalities share."] = 1
    image_mask_ratio: ImageMaskRatio = 0.75
    audio_mask_ratio: AudioMaskRatio = 0.75
    audio_scheme: Annotated[
        str, "How audio patches are hidden; time, frequency and tf are the paper's ablation.", SCHEMES
    ] = "uniform"
    reconstruction_weight: Annotated[
        float, "Weight of the reconstruction loss; 0: none, and no decoder.", Bounds(0)
    ] = 1.0
    contrast_weight: Annotated[float, "Weight of the contrastive loss.", Bounds(0)] = 0.01
    temperature: Temperature = 0.05
    symmetric: Annotated[
        bool, "Contrast in both directions; the released code has image anchors and audio candidates alone."
    ] = False
    gather: Annotated[bool, "Take negatives from all processes; the released code has those of one GPU."] = True
    audio_kernel: AudioKernel = "sum"
    mel_mean: MelMean = AUDIOSET_MEAN
    mel_std: MelStd = AUDIOSET_STD

    published_contrast: ClassVar[str] = "the released code: those of one GPU, 30 of 120 in its log"

    def __post_init__(self) -> None:
        if not 0 < self.joint_depth < self.vit.depth:
            raise ValueError(
                f"model.joint_depth={self.joint_depth}: must leave some of {self.vit.depth} blocks to the towers"
            )
        require_fields(self)
        if self.contrast_weight <= 0 and self.reconstruction_weight <= 0:
            raise ValueError("model.contrast_weight and model.reconstruction_weight are both 0: nothing to learn")
        require_heads("decoder", self.decoder_embed_dim, self.decoder_num_heads)
        require_patches(self, "image", self.image_size, {"image_mask_ratio": self.image_mask_ratio})
        require_patches(self, "audio", self.audio_size, {"audio_mask_ratio": self.audio_mask_ratio})

    def num_compared(self, samples: int, world_size: int) -> int:
        """Samples with which each is compared: all, or those of its own process."""
        return samples if self.gather else samples // world_size
