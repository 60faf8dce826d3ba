"""CrossMAE's settings."""

from dataclasses import dataclass

from avmodel.configs.model import ModelConfig, require_choices, require_patches

LOSS_SUPPORTS = ("masked", "visible", "all")
TARGET_NORMS = ("layernorm", "l2")
CROSS_AT = ("input", "every_block")
CROSS_QUERIES = ("visible", "all")
CHOICES = {
    "condition": ("none", "zero", "random", "attentive"),
    "attentive_source": ("auto", "visible", "complete"),
    "queries": ("learnable", "empty", "attentive"),
    "loss_on": LOSS_SUPPORTS,
    "target_norm": TARGET_NORMS,
    "cross_at": CROSS_AT,
    "cross_queries": CROSS_QUERIES,
    "teacher": ("online", "ema"),
    "pool": ("mean", "cls"),
    "contrast_features": ("visible", "complete"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossMAEConfig(ModelConfig):
    """One model. Defaults: the full method; the paper's six variants switch its three losses.

    Raises ValueError for a value that no model can be built from.
    """

    size: str = "base"  # of both towers; tiny, small, base, large, huge, or WIDTHxDEPTHxHEADS
    image_size: tuple[int, int] = (224, 224)  # pixels: height, width
    audio_size: tuple[int, int] = (128, 1024)  # mel bins, steps
    patch_size: int = 16
    mask_ratio: float = 0.75  # of both modalities, uniform
    contrast_weight: float = 0.1  # 0: none
    temperature: float = 0.05  # the paper has none
    reduction: str = "sum"  # over pairs and directions, as equation 1
    pool: str = "mean"  # which vector is contrasted: the patches' mean keeps patches in the shared space
    contrast_features: str = "visible"  # of the masked pass, or of the complete one
    reconstruct: bool = True  # pixels of each modality
    condition: str = "attentive"  # what a pixel decoder is told of the other modality (table 6); none: SelfMAE's
    attentive_source: str = (
        "auto"  # the pass tokens are from: complete (detached) where features are predicted, else visible
    )
    attentive_ratio: float = 0.25  # of that pass's tokens, the most attended to by the class token
    cross_at: str = "input"
    cross_queries: str = "visible"
    loss_on: str = "masked"  # the text's; its equation 9 sums over the visible patches
    normalize_targets: bool = True
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    predict_features: bool = True  # of each modality from the other's visible tokens
    queries: str = "learnable"  # table 7; "attentive": the restored modality's, and only there is the loss
    target_norm: str = "layernorm"  # the paper says "normalized"
    teacher: str = "online"  # whose complete pass is the target: the towers themselves, detached; ema: their average
    teacher_momentum: float = 0.996  # of the average, a step
    feature_decoder_dim: int | None = None  # none: the towers' width
    feature_decoder_depth: int = 4  # the paper says "several"
    feature_decoder_num_heads: int | None = None  # none: the towers'
    audio_kernel: str = "mean"  # how the spectrogram's patch kernel starts from published image weights
    mel_mean: float = -4.2677393  # AudioSet's in AudioMAE, of natural-log Kaldi mels
    mel_std: float = 9.1379948  # twice AudioMAE's deviation

    def __post_init__(self) -> None:
        require_choices(self, CHOICES)
        if not (self.contrast_weight > 0 or self.reconstruct or self.predict_features):
            raise ValueError("contrast_weight=0, reconstruct=false, predict_features=false: nothing to learn")
        if self.teacher == "ema" and (not self.needs_complete or self.contrast_features == "complete"):
            raise ValueError(
                "teacher='ema' answers for the complete pass without gradients: it takes predict_features=true or "
                "attentive tokens of that pass, and contrast_features='visible'"
            )
        if not 0 <= self.teacher_momentum <= 1:
            raise ValueError(f"teacher_momentum={self.teacher_momentum} is not in 0..1")
        if self.cross_at == "every_block" and self.cross_queries == "visible":
            raise ValueError("cross_at='every_block' is over all tokens: set cross_queries='all'")
        for name, dim, heads in (
            ("decoder", self.decoder_embed_dim, self.decoder_num_heads),
            ("feature_decoder", self.feature_dim, self.feature_heads),
        ):
            if dim % heads or dim % 4:
                raise ValueError(f"{name} width {dim} must be a multiple of 4 and of its {heads} heads")
        require_patches(self, "image", self.image_size, {"mask_ratio": self.mask_ratio})
        require_patches(self, "audio", self.audio_size, {"mask_ratio": self.mask_ratio})

    @property
    def feature_dim(self) -> int:
        """Width of the feature decoders."""
        return self.feature_decoder_dim or self.vit.embed_dim

    @property
    def feature_heads(self) -> int:
        """Heads of the feature decoders."""
        return self.feature_decoder_num_heads or self.vit.num_heads

    @property
    def attends_complete(self) -> bool:
        """Whether attentive tokens are those of the complete pass, without gradient."""
        return self.attentive_source == "complete" or (self.attentive_source == "auto" and self.predict_features)

    @property
    def needs_complete(self) -> bool:
        """Whether a step needs the pass without masks."""
        attentive = self.reconstruct and self.condition == "attentive"
        contrast = self.contrast_weight > 0 and self.contrast_features == "complete"
        return self.predict_features or contrast or (attentive and self.attends_complete)
