"""CrossMAE's settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from avmanifest.settings import POSITIVE, SHARE, Bounds
from avmodel.configs.model import AudioKernel, DecodingModelConfig, num_kept, require_fields, require_patches

LOSS_SUPPORTS = ("masked", "visible", "all")
TARGET_NORMS = ("layernorm", "l2")
DIRECTIONS = ("sum", "mean")
ATTENTIVE_SOURCES = ("complete", "visible")
CROSS_AT = ("input", "every_block")
CROSS_QUERIES = ("visible", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossMAEConfig(DecodingModelConfig):
    """One model. Defaults: the full method; the paper's six variants switch its three losses.

    The paper's k attentive tokens are a quarter of the patches: 49 of 196 of the image, 128 of 512 of the audio. At a
    mask ratio of 0.75 a visible pass has no more patches than that, so choosing among them would choose nothing. Here
    they come from the pass without masks, which carries no gradient, in every row of the paper's tables; figure 3
    shows them over whole frames, too. `attentive_source=visible` takes a quarter of the visible tokens instead (12
    and 32), with gradient: runs `crossmae-visible` and `cl-cross-cdt-visible`.

    Raises ValueError for a value that no model can be built from.
    """

    size: Annotated[str, "Of both towers: tiny, small, base, large, huge, or WIDTHxDEPTHxHEADS."] = "base"
    mask_ratio: Annotated[float, "Share of the patches of both modalities that are hidden, uniformly."] = 0.75
    contrast_weight: Annotated[
        float, "Weight of the contrastive loss, lambda of the paper; 0: none. For any batch size.", Bounds(0)
    ] = 0.1
    temperature: Annotated[float, "Temperature of the contrastive loss; the paper has none.", POSITIVE] = 0.05
    directions: Annotated[
        str, "How the two directions' contrastive losses, each a mean over pairs, combine; sum: equation 1.", DIRECTIONS
    ] = "sum"
    pool: Annotated[str, "Vector that is contrasted: the mean of the patches, or the class token.", ("mean", "cls")] = (
        "mean"
    )
    contrast_features: Annotated[
        str,
        "Pass whose features are contrasted: the masked one, or the complete one.",
        ("visible", "complete"),
    ] = "visible"
    reconstruct: Annotated[bool, "Reconstruct the pixels of each modality."] = True
    condition: Annotated[
        str,
        "Tokens of the other modality that a pixel decoder gets (table 6), in equal number; none: SelfMAE.",
        ("none", "zero", "random", "attentive"),
    ] = "attentive"
    attentive_source: Annotated[
        str,
        "Pass whose tokens condition: complete, without masks and gradient; or visible, the masked one, with gradient.",
        ATTENTIVE_SOURCES,
    ] = "complete"
    attentive_ratio: Annotated[
        float, "Share of that pass's tokens that condition: those with most attention of the class token.", SHARE
    ] = 0.25
    cross_at: Annotated[
        str,
        "Where a pixel decoder attends to the other modality: at its input, or in every block.",
        CROSS_AT,
    ] = "input"
    cross_queries: Annotated[str, "Tokens of a pixel decoder that attend to the other modality.", CROSS_QUERIES] = (
        "visible"
    )
    loss_on: Annotated[
        str,
        "Patches of the reconstruction loss; masked, as the text; equation 9 sums over visible ones.",
        LOSS_SUPPORTS,
    ] = "masked"
    predict_features: Annotated[bool, "Predict the features of each modality from the other's visible tokens."] = True
    queries: Annotated[
        str,
        "Queries of the feature decoders (table 7); attentive: loss on those tokens alone.",
        ("learnable", "empty", "attentive"),
    ] = "learnable"
    target_norm: Annotated[str, "Normalization of predicted features; the paper says normalized.", TARGET_NORMS] = (
        "layernorm"
    )
    teacher: Annotated[
        str,
        "Towers whose complete pass is the target: the trained ones, detached, or their average.",
        ("online", "ema"),
    ] = "online"
    teacher_momentum: Annotated[float, "Momentum of the teacher's average, for each step.", SHARE] = 0.996
    feature_decoder_dim: Annotated[
        int | None, "Width of the feature decoders. none: that of the towers.", Bounds(1)
    ] = None
    feature_decoder_depth: Annotated[int, "Blocks of each feature decoder; the paper says several.", Bounds(0)] = 4
    feature_decoder_num_heads: Annotated[
        int | None, "Attention heads of the feature decoders. none: those of the towers.", Bounds(1)
    ] = None
    audio_kernel: AudioKernel = "mean"
    mel_mean: Annotated[
        float,
        "Mean of log-mels that inputs are normalized with; default: AudioSet's in AudioMAE, of natural-log Kaldi mels.",
    ] = -4.2677393
    mel_std: Annotated[
        float, "Deviation of log-mels that inputs are normalized with; default: twice AudioMAE's.", POSITIVE
    ] = 9.1379948

    published_contrast: ClassVar[str] = "the paper: 512; its table 4 has 256, too"

    def __post_init__(self) -> None:
        require_fields(self)
        if not (self.contrast_weight > 0 or self.reconstruct or self.predict_features):
            raise ValueError(
                "model.contrast_weight=0, model.reconstruct=false, model.predict_features=false: nothing to learn"
            )
        if self.teacher == "ema" and (not self.needs_complete or self.contrast_features == "complete"):
            raise ValueError(
                "model.teacher=ema answers for the complete pass without gradients: it takes "
                "model.predict_features=true or conditioning tokens of that pass, and model.contrast_features=visible"
            )
        if self.cross_at == "every_block" and self.cross_queries == "visible":
            raise ValueError("model.cross_at=every_block is over all tokens: set model.cross_queries=all")
        for name, dim, heads in (
            ("decoder", self.decoder_embed_dim, self.decoder_num_heads),
            ("feature_decoder", self.feature_dim, self.feature_heads),
        ):
            if dim % heads or dim % 4:
                raise ValueError(f"model.{name}: the width {dim} must be a multiple of 4 and of its {heads} heads")
        for name, size in (("image", self.image_size), ("audio", self.audio_size)):
            require_patches(self, name, size, {"mask_ratio": self.mask_ratio})
            patches = size[0] * size[1] // self.patch_size**2
            asked, visible = num_attentive(patches, self.attentive_ratio), num_kept(patches, self.mask_ratio)
            placed = self.condition in ("random", "zero") and self.attentive_source == "complete"
            if placed and asked > visible:
                raise ValueError(
                    f"model.condition={self.condition} takes tokens at visible places: model.attentive_ratio="
                    f"{self.attentive_ratio} asks for {asked} {name} patches, model.mask_ratio={self.mask_ratio} "
                    f"leaves {visible}. Lower one of them."
                )

    @property
    def feature_dim(self) -> int:
        """Width of the feature decoders."""
        return self.feature_decoder_dim or self.vit.embed_dim

    @property
    def feature_heads(self) -> int:
        """Heads of the feature decoders."""
        return self.feature_decoder_num_heads or self.vit.num_heads

    @property
    def needs_complete(self) -> bool:
        """Whether a step needs the pass without masks."""
        contrast = self.contrast_weight > 0 and self.contrast_features == "complete"
        conditioned = self.reconstruct and self.condition in ("random", "attentive")
        return self.predict_features or contrast or (conditioned and self.attentive_source == "complete")

    @classmethod
    def of_earlier(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of an earlier version under today's names.

        Its `reduction` summed over pairs as well, or averaged both; attentive tokens were those of the visible pass
        without the loss of features, random and zero ones always.
        """
        now = dict(values)
        if "reduction" in now:
            now["directions"] = now.pop("reduction")
        if now.get("attentive_source") == "auto":
            complete = now.get("predict_features", True) and now.get("condition", "attentive") == "attentive"
            now["attentive_source"] = "complete" if complete else "visible"
        return now


def num_attentive(num_tokens: int, ratio: float) -> int:
    """The share `ratio` of tokens, one at least: 49 of 196 and 128 of 512 at 0.25."""
    return max(1, int(ratio * num_tokens))
