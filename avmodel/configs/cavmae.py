"""CAV-MAE's settings."""

from dataclasses import dataclass

from avmodel.configs.model import SCHEMES, ModelConfig, require_choices, require_heads, require_patches


@dataclass(frozen=True, slots=True, kw_only=True)
class CAVMAEConfig(ModelConfig):
    """One model. Defaults: the released base model.

    Raises ValueError for a value that no model can be built from.
    """

    size: str = "base"  # of tower and joint blocks together; tiny, small, base, large, huge, or WIDTHxDEPTHxHEADS
    image_size: tuple[int, int] = (224, 224)  # pixels: height, width
    audio_size: tuple[int, int] = (128, 1024)  # mel bins, steps
    patch_size: int = 16
    joint_depth: int = 1  # its last blocks, which both senses share
    image_mask_ratio: float = 0.75
    audio_mask_ratio: float = 0.75
    audio_scheme: str = "uniform"  # time, frequency, tf: the paper's ablation
    contrast_weight: float = 0.01
    temperature: float = 0.05
    symmetric: bool = False  # released: image anchors, audio candidates
    gather: bool = True  # negatives of all processes; the released code has those of one GPU
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    normalize_targets: bool = True
    audio_kernel: str = "sum"  # how the spectrogram's patch kernel starts from published image weights
    mel_mean: float = -5.081  # AudioSet's, of natural-log Kaldi mels
    mel_std: float = 4.4849

    def __post_init__(self) -> None:
        if not 0 < self.joint_depth < self.vit.depth:
            raise ValueError(
                f"joint_depth={self.joint_depth}: must leave some of {self.vit.depth} blocks to the towers"
            )
        require_choices(self, {"audio_scheme": SCHEMES})
        require_heads("decoder", self.decoder_embed_dim, self.decoder_num_heads)
        require_patches(self, "image", self.image_size, {"image_mask_ratio": self.image_mask_ratio})
        require_patches(self, "audio", self.audio_size, {"audio_mask_ratio": self.audio_mask_ratio})
