"""DeepAVFusion's settings, and which layers a named fusion is in."""

from dataclasses import dataclass

from avmodel.configs.model import ModelConfig, require_choices, require_heads, require_patches

FUSIONS = ("dense", "factorized", "token")
IMPLS = ("pairs", "separable")
CHOICES = {
    "fusion": FUSIONS,
    "fusion_impl": IMPLS,
    "decoder_positions": ("fixed", "trainable"),
    "audio_init": ("aligned", "released"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepAVFusionConfig(ModelConfig):
    """One model. Defaults: the released VGGSound model (its AudioSet sister: attn_ratio 1, mlp_ratio 4).

    Raises ValueError for a value that no model can be built from.
    """

    size: str = "base"  # tiny, small, base, large, or WIDTHxDEPTHxHEADS
    image_size: tuple[int, int] = (224, 224)  # pixels: height, width
    audio_size: tuple[int, int] = (128, 192)  # mel bins, steps; fewer than patch_size further steps are cut off
    patch_size: int = 16
    fusion: str = "factorized"
    fusion_impl: str = "separable"  # "pairs" spells the same sums out over every pair of tokens
    fusion_layers: str | tuple[int, ...] = "all"  # all (= early), mid, late, none, or layers counted from 0
    num_fusion_tokens: int = 16
    num_aggr_image_tokens: int = 8  # with dense and token fusion, the three counts are one pool
    num_aggr_audio_tokens: int = 8
    fusion_attn_ratio: float = 0.25  # width of fusion queries and keys over embed_dim
    fusion_mlp_ratio: float = 1.0
    drop_path: float = 0.0
    attn_drop: float = 0.0
    # "released": AudioMAE weights as DeepAVFusion loaded them, time and frequency exchanged, mels not scaled.
    # "aligned": kernels transposed at loading, halves of the positions exchanged, mels scaled as in AudioMAE.
    audio_init: str = "released"
    image_mask_ratio: float = 0.75
    audio_mask_ratio: float = 0.8
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    decoder_positions: str = "trainable"  # as released; "fixed" as the paper means it
    normalize_targets: bool = True

    def __post_init__(self) -> None:
        require_choices(self, CHOICES)
        dim, depth, heads = self.vit
        fusion_layer_ids(self.fusion_layers, depth)
        if self.fusion_attn_ratio <= 0 or round(dim * self.fusion_attn_ratio) % heads:
            raise ValueError(
                f"fusion_attn_ratio={self.fusion_attn_ratio} of width {dim} doesn't split into {heads} heads"
            )
        require_heads("decoder", self.decoder_embed_dim, self.decoder_num_heads)
        tokens = self.num_tokens
        if min(tokens) < 0 or tokens[0] == 0 or (self.fusion == "factorized" and 0 in tokens):
            raise ValueError(f"{tokens} fusion, image and audio aggregation tokens: {self.fusion} needs more")
        require_patches(self, "image", self.image_size, {"image_mask_ratio": self.image_mask_ratio})
        require_patches(self, "audio", self.audio_size, {"audio_mask_ratio": self.audio_mask_ratio})
        if self.attn_drop > 0 and self.fusion_impl == "separable" and self.fusion != "token":
            raise ValueError(
                "attn_drop > 0 with fusion_impl='separable': equal to the pairs form only without attention "
                "dropout. Set attn_drop=0 or fusion_impl='pairs'."
            )

    @property
    def num_tokens(self) -> tuple[int, int, int]:
        """Fusion, image aggregation, audio aggregation tokens, in the order of the fusion state."""
        return self.num_fusion_tokens, self.num_aggr_image_tokens, self.num_aggr_audio_tokens


def fusion_layer_ids(layers: str | tuple[int, ...], depth: int) -> tuple[int, ...]:
    """The layers, counted from 0, that fuse.

    "late" is the last layer; "mid" the last third (8 to 11 of 12: the paper's "layers 9-12", although the
    score it prints there is that of its last three layers); "early" is the paper's name for fusing from the
    first layer on, hence "all".
    """
    named = {
        "all": range(depth),
        "early": range(depth),
        "mid": range(depth - max(depth // 3, 1), depth),
        "late": range(depth - 1, depth),
        "none": range(0),
    }
    if isinstance(layers, str):
        if layers not in named:
            raise ValueError(f"unknown fusion_layers {layers!r}; known: {', '.join(sorted(named))}, or a tuple from 0")
        return tuple(named[layers])
    if len(set(layers)) < len(layers) or any(not 0 <= layer < depth for layer in layers):
        raise ValueError(f"fusion_layers={layers} must be different layers in 0..{depth - 1}")
    return tuple(sorted(layers))
