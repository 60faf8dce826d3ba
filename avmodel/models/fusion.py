"""Fusion of two modalities by fusion tokens: dense over all pairs, factorized, or as a bottleneck.

Source: DeepAVFusion (CVPR 2024), section 3, with its released code.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.layers import CrossAttention, DropPath, Mlp, attend


class Affine(NamedTuple):
    """A linear map of a pair [image token, audio token], image half first."""

    weight: Float[Tensor, "out 2*d"]
    bias: Float[Tensor, "out"]


def attend_to_pairs(
    q: Float[Tensor, "b n dk"],
    image: Float[Tensor, "b i d"],
    audio: Float[Tensor, "b a d"],
    key: Affine,
    value: Affine,
    *,
    num_heads: int,
    scale: float,
    dropout: float,
    impl: str,
) -> Float[Tensor, "b n dv"]:
    """Attention of q over every (image, audio) pair of tokens, where a pair is the concatenation of its tokens.

    "pairs" computes all pairs. "separable" doesn't form them: keys, values and logits are sums of an image and an audio
    term, so the softmax over pairs is the product of a softmax over image tokens and one over audio tokens, and the
    result is the sum of two plain attentions.
    """
    if impl == "pairs":
        images = repeat(image, "b i d -> b (i a) d", a=audio.shape[1])
        audios = repeat(audio, "b a d -> b (i a) d", i=image.shape[1])
        pairs = torch.cat([images, audios], dim=-1)
        k, v = F.linear(pairs, *key), F.linear(pairs, *value)
        return attend(q, k, v, num_heads=num_heads, scale=scale, dropout=dropout)
    image_key, audio_key = key.weight.chunk(2, dim=1)
    image_value, audio_value = value.weight.chunk(2, dim=1)
    over = partial(attend, q, num_heads=num_heads, scale=scale)
    # Each bias must be added once. The weights of a softmax sum to 1, so either side will do.
    return over(F.linear(image, image_key, key.bias), F.linear(image, image_value, value.bias)) + over(
        F.linear(audio, audio_key), F.linear(audio, audio_value)
    )


class PairFusion(nn.Module):
    """Fusion by pairs of image and audio tokens.

    Logits are scaled by the full head width, although queries and keys are narrower, as released.
    """

    def __init__(self, config: DeepAVFusionConfig) -> None:
        super().__init__()
        dim, _, self.num_heads = config.vit
        self.scale = (dim // self.num_heads) ** -0.5
        self.attn_drop = config.attn_drop
        self.impl = config.fusion_impl

    def attend(
        self,
        q: Float[Tensor, "b n dk"],
        image: Float[Tensor, "b i d"],
        audio: Float[Tensor, "b a d"],
        key: Affine,
        value: Affine,
    ) -> Float[Tensor, "b n dv"]:
        """As `attend_to_pairs`."""
        dropout = self.attn_drop if self.training else 0.0
        return attend_to_pairs(
            q, image, audio, key, value, num_heads=self.num_heads, scale=self.scale, dropout=dropout, impl=self.impl
        )


class FactorizedFusion(PairFusion):
    """Aggregation tokens summarize their modality; fusion tokens attend to all pairs of summaries."""

    def __init__(self, config: DeepAVFusionConfig) -> None:
        super().__init__(config)
        dim = config.vit.embed_dim
        key_dim = round(dim * config.fusion_attn_ratio)
        self.num_tokens = config.num_tokens
        self.aggregate_image = CrossAttention(dim, self.num_heads, attn_drop=self.attn_drop)
        self.aggregate_audio = CrossAttention(dim, self.num_heads, attn_drop=self.attn_drop)
        self.q = nn.Linear(dim, key_dim)
        self.k = nn.Linear(2 * dim, key_dim)
        self.v = nn.Linear(2 * dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, state: Float[Tensor, "b f d"], image: Float[Tensor, "b n d"], audio: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b f d"]:
        fusion, image_summary, audio_summary = torch.split(state, list(self.num_tokens), dim=1)
        image_summary = self.aggregate_image(image_summary, image)
        audio_summary = self.aggregate_audio(audio_summary, audio)
        key, value = Affine(self.k.weight, self.k.bias), Affine(self.v.weight, self.v.bias)
        fusion = self.attend(self.q(fusion), image_summary, audio_summary, key, value)
        return torch.cat([self.proj(fusion), image_summary, audio_summary], dim=1)


class DenseFusion(PairFusion):
    """All fusion tokens attend to all pairs of image and audio tokens; values are as narrow as keys."""

    def __init__(self, config: DeepAVFusionConfig) -> None:
        super().__init__(config)
        dim = config.vit.embed_dim
        inner = round(dim * config.fusion_attn_ratio)
        self.q = nn.Linear(dim, inner)
        self.kv = nn.Linear(2 * dim, 2 * inner)
        self.proj = nn.Linear(inner, dim)

    def forward(
        self, state: Float[Tensor, "b f d"], image: Float[Tensor, "b n d"], audio: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b f d"]:
        key, value = map(Affine, self.kv.weight.chunk(2), self.kv.bias.chunk(2))
        projected: Tensor = self.proj(self.attend(self.q(state), image, audio, key, value))
        return projected


class TokenFusion(CrossAttention):
    """Bottleneck fusion: all fusion tokens attend to the image and audio tokens as one set.

    Unlike in the two others, logits are scaled by the narrower head width, as released.
    """

    def __init__(self, config: DeepAVFusionConfig) -> None:
        dim, _, num_heads = config.vit
        super().__init__(dim, num_heads, config.fusion_attn_ratio, config.attn_drop)

    def forward(  # type: ignore[override]
        self, state: Float[Tensor, "b f d"], image: Float[Tensor, "b n d"], audio: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b f d"]:
        return super().forward(state, torch.cat([image, audio], dim=1))


FUSION_TYPES = {"dense": DenseFusion, "factorized": FactorizedFusion, "token": TokenFusion}
"""The fusions by name. Only the factorized one distinguishes the three kinds of tokens."""


class FusionBlock(nn.Module):
    """Attention and MLP on the fusion tokens.

    The residual is added to the normalized tokens, as released: with all its linear layers at zero the block returns
    norm_fusion(fusion), not fusion.
    """

    def __init__(self, config: DeepAVFusionConfig) -> None:
        super().__init__()
        dim = config.vit.embed_dim
        self.norm_fusion = nn.LayerNorm(dim)
        self.norm_image = nn.LayerNorm(dim)
        self.norm_audio = nn.LayerNorm(dim)
        self.attn = FUSION_TYPES[config.fusion](config)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, round(dim * config.fusion_mlp_ratio))
        self.drop_path = DropPath(config.drop_path)

    def forward(
        self, fusion: Float[Tensor, "b f d"], image: Float[Tensor, "b n d"], audio: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b f d"]:
        fusion = self.norm_fusion(fusion)
        fusion = fusion + self.drop_path(self.attn(fusion, self.norm_image(image), self.norm_audio(audio)))
        out: Tensor = fusion + self.drop_path(self.mlp(self.norm2(fusion)))
        return out
