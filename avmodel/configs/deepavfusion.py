"""DeepAVFusion's settings, and which layers a named fusion is in."""

from dataclasses import dataclass
from typing import Annotated

from avmanifest.settings import POSITIVE, Bounds
from avmodel.configs.choices import DropPath
from avmodel.configs.model import (
    AudioMaskRatio,
    DecodingModelConfig,
    ImageMaskRatio,
    require_fields,
    require_heads,
    require_patches,
)

FUSIONS = ("dense", "factorized", "token")
IMPLS = ("pairs", "separable")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedViTsConfig(DecodingModelConfig):
    """The fields of a masked autoencoder of each modality, which may be fused. Defaults: as DeepAVFusion released them.

    Raises ValueError for a value that no model can be built from.
    """

    audio_size: Annotated[
        tuple[int, int],
        "Size of a spectrogram: mel bins, steps. The uppermost bins that fill no patch are cut off, and up to "
        "patch_size - 1 further steps.",
    ] = (128, 192)
    drop_path: DropPath = 0.0
    attn_drop: Annotated[float, "Dropout of attention weights.", Bounds(0, 0.99)] = 0.0
    # released: AudioMAE weights as DeepAVFusion loaded them, time and frequency exchanged, mels not scaled.
    # aligned: kernels transposed at loading, halves of the positions exchanged, mels scaled as in AudioMAE.
    audio_init: Annotated[
        str,
        "How published AudioMAE weights are read: as released, or with time and frequency aligned.",
        ("aligned", "released"),
    ] = "released"
    image_mask_ratio: ImageMaskRatio = 0.75
    audio_mask_ratio: AudioMaskRatio = 0.8
    decoder_positions: Annotated[
        str,
        "Decoder positions: trainable, as released; fixed, as the paper means it.",
        ("fixed", "trainable"),
    ] = "trainable"

    def __post_init__(self) -> None:
        require_fields(self)
        require_heads("decoder", self.decoder_embed_dim, self.decoder_num_heads)
        require_patches(self, "image", self.image_size, {"image_mask_ratio": self.image_mask_ratio})
        bins, steps = self.audio_size
        whole = (bins - bins % self.patch_size, steps)
        require_patches(self, "audio", whole, {"audio_mask_ratio": self.audio_mask_ratio})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepAVFusionConfig(MaskedViTsConfig):
    """One model. Defaults: the released VGGSound model (its AudioSet sister: attn_ratio 1, mlp_ratio 4).

    Raises ValueError for a value that no model can be built from.
    """

    fusion: Annotated[str, "How fusion tokens gather both modalities.", FUSIONS] = "factorized"
    fusion_impl: Annotated[
        str, "How fusion is computed; pairs writes the same sums out over every pair of tokens.", IMPLS
    ] = "separable"
    fusion_layers: Annotated[
        str | tuple[int, ...], "Layers that fuse: all (= early), mid, late, none, or layers counted from 0."
    ] = "all"
    num_fusion_tokens: Annotated[
        int, "Fusion tokens; with dense and token fusion, the three counts are one pool.", Bounds(0)
    ] = 16
    num_aggr_image_tokens: Annotated[int, "Tokens that aggregate the image.", Bounds(0)] = 8
    num_aggr_audio_tokens: Annotated[int, "Tokens that aggregate the audio.", Bounds(0)] = 8
    fusion_attn_ratio: Annotated[float, "Width of fusion queries and keys over the model's width.", POSITIVE] = 0.25
    fusion_mlp_ratio: Annotated[float, "Width of the fusion MLPs' hidden layer over the model's width.", POSITIVE] = 1.0

    def __post_init__(self) -> None:
        MaskedViTsConfig.__post_init__(self)
        dim, depth, heads = self.vit
        fusion_layer_ids(self.fusion_layers, depth)
        if self.fusion_attn_ratio <= 0 or round(dim * self.fusion_attn_ratio) % heads:
            raise ValueError(
                f"model.fusion_attn_ratio={self.fusion_attn_ratio} of width {dim} doesn't split into {heads} heads"
            )
        tokens = self.num_tokens
        if min(tokens) < 0 or tokens[0] == 0 or (self.fusion == "factorized" and 0 in tokens):
            raise ValueError(
                f"model.num_fusion_tokens, num_aggr_image_tokens and num_aggr_audio_tokens are {tokens}: "
                f"model.fusion={self.fusion} needs more"
            )
        if self.attn_drop > 0 and self.fusion_impl == "separable" and self.fusion != "token":
            raise ValueError(
                "model.attn_drop above 0 with model.fusion_impl=separable: equal to the pairs form only without "
                "attention dropout. Set model.attn_drop=0 or model.fusion_impl=pairs."
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
            raise ValueError(
                f"unknown model.fusion_layers {layers!r}; known: {', '.join(sorted(named))}, or a tuple from 0"
            )
        return tuple(named[layers])
    if len(set(layers)) < len(layers) or any(not 0 <= layer < depth for layer in layers):
        raise ValueError(f"model.fusion_layers={layers} must be different layers in 0..{depth - 1}")
    return tuple(sorted(layers))
