"""Decoders: of two modalities from one sequence, of one modality with a condition, and of features from queries."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avmodel.configs.model import DecodingModelConfig
from avmodel.layers import CrossAttention, CrossBlock, init_linears, make_blocks
from avmodel.masking import restore_order
from avmodel.positions import sincos_positions


def with_hidden(
    visible: Float[Tensor, "b k d"], mask_token: Float[Tensor, "1 1 d"], ids_restore: Int[Tensor, "b n"]
) -> Float[Tensor, "b n d"]:
    """All tokens in grid order: visible tokens at their places, the mask token elsewhere."""
    hidden = mask_token.expand(len(visible), ids_restore.shape[1] - visible.shape[1], -1)
    return restore_order(torch.cat([visible, hidden], dim=1), ids_restore)


class JointDecoder(nn.Module):
    """Decodes patches of audio and image from one sequence of both, audio first.

    With "learned" positions these, the mask token and the two modality vectors start at zero (AVSiam). With "fixed"
    positions these are sine-cosine, and the rest is drawn from a normal distribution (CAV-MAE).
    """

    audio_positions: Tensor
    image_positions: Tensor

    def __init__(
        self,
        config: DecodingModelConfig,
        *,
        audio_grid: tuple[int, int],
        image_grid: tuple[int, int],
        positions: str,
    ) -> None:
        super().__init__()
        dim, patch_size, learned = config.decoder_embed_dim, config.patch_size, positions == "learned"
        self.num_audio = audio_grid[0] * audio_grid[1]
        self.embed = nn.Linear(config.vit.embed_dim, dim)
        for name, grid in (("audio_positions", audio_grid), ("image_positions", image_grid)):
            if learned:
                self.register_parameter(name, nn.Parameter(torch.zeros(1, grid[0] * grid[1], dim)))
            else:
                self.register_buffer(name, sincos_positions(dim, grid))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.audio_vector = nn.Parameter(torch.zeros(1, 1, dim))
        self.image_vector = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = make_blocks(dim, config.decoder_depth, config.decoder_num_heads, eps=1e-5)
        self.norm = nn.LayerNorm(dim)
        self.audio_pred = nn.Linear(dim, patch_size**2)
        self.image_pred = nn.Linear(dim, 3 * patch_size**2)
        self.apply(init_linears)
        if not learned:
            for token in (self.mask_token, self.audio_vector, self.image_vector):
                nn.init.normal_(token, std=0.02)

    def forward(
        self,
        tokens: Float[Tensor, "b k d"],
        audio_restore: Int[Tensor, "b m"],
        image_restore: Int[Tensor, "b n"],
        num_visible_audio: int,
    ) -> tuple[Float[Tensor, "b n image"], Float[Tensor, "b m audio"]]:
        """Image and audio patches from the visible tokens, audio first."""
        audio, image = self.embed(tokens).tensor_split([num_visible_audio], dim=1)
        audio = with_hidden(audio, self.mask_token, audio_restore) + self.audio_positions + self.audio_vector
        image = with_hidden(image, self.mask_token, image_restore) + self.image_positions + self.image_vector
        x = torch.cat([audio, image], dim=1)
        for block in self.blocks:
            x = block(x)
        audio, image = self.norm(x).tensor_split([self.num_audio], dim=1)
        return self.image_pred(image), self.audio_pred(audio)


class PixelDecoder(nn.Module):
    """Decodes patches of one modality from its visible tokens and, with a condition, tokens of the other modality.

    The condition enters by cross-attention: once at the input, from the visible tokens or from all, or before every
    block from all. Without a condition it is MAE's decoder without class token.
    """

    positions: Tensor

    def __init__(
        self,
        in_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        *,
        grid: tuple[int, int],
        out_dim: int,
        conditioned: bool = False,
        cross_at: str = "input",
        cross_queries: str = "visible",
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("positions", sincos_positions(dim, grid))
        self.cross_visible = cross_queries == "visible"
        self.blocks = make_blocks(dim, depth, num_heads, eps=1e-5)
        count = 0 if not conditioned else depth if cross_at == "every_block" else 1
        self.context_embed = nn.Linear(in_dim, dim) if conditioned else None
        self.crosses = nn.ModuleList(CrossAttention(dim, num_heads) for _ in range(count))
        self.cross_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(count))
        self.norm = nn.LayerNorm(dim)
        self.pred = nn.Linear(dim, out_dim)
        self.apply(init_linears)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        visible: Float[Tensor, "b k d"],
        ids_restore: Int[Tensor, "b n"],
        context: Float[Tensor, "b m d"] | None = None,
        context_positions: Float[Tensor, "b m w"] | None = None,
    ) -> Float[Tensor, "b n patch"]:
        """Decode. `context_positions` are the positions of the context's tokens, of the decoder's width."""
        x = self.embed(visible)
        if context is not None and self.context_embed is not None:
            context = self.context_embed(context)
            if context_positions is not None:
                context = context + context_positions
            if self.cross_visible:
                x = self.cross(0, x, context)
        x = with_hidden(x, self.mask_token, ids_restore) + self.positions
        for layer, block in enumerate(self.blocks):
            if context is not None and not self.cross_visible and layer < len(self.crosses):
                x = self.cross(layer, x, context)
            x = block(x)
        patches: Tensor = self.pred(self.norm(x))
        return patches

    def cross(self, layer: int, x: Float[Tensor, "b n w"], context: Float[Tensor, "b m w"]) -> Float[Tensor, "b n w"]:
        """Tokens plus their attention to the context, normalized."""
        out: Tensor = self.cross_norms[layer](x + self.crosses[layer](x, context))
        return out


class EmbeddingDecoder(nn.Module):
    """Decodes features of one modality from queries and the visible tokens of the other modality.

    "learnable" queries are a table with one query for each place; "empty" queries are fixed sine-cosine positions;
    "attentive" queries are an argument.
    """

    queries: Tensor

    def __init__(
        self, feature_dim: int, dim: int, depth: int, num_heads: int, *, grid: tuple[int, int], queries: str
    ) -> None:
        super().__init__()
        self.context_embed = nn.Linear(feature_dim, dim) if dim != feature_dim else nn.Identity()
        self.query_embed = nn.Linear(feature_dim, dim) if dim != feature_dim else nn.Identity()
        if queries == "learnable":
            self.queries = nn.Parameter(0.02 * torch.randn(1, grid[0] * grid[1], feature_dim))
        elif queries == "empty":
            self.register_buffer("queries", sincos_positions(feature_dim, grid))
        self.blocks = nn.ModuleList(CrossBlock(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.out = nn.Linear(dim, feature_dim)
        self.apply(init_linears)

    def forward(
        self, context: Float[Tensor, "b m d"], queries: Float[Tensor, "b n d"] | None = None
    ) -> Float[Tensor, "b q d"]:
        asked = self.queries.expand(len(context), -1, -1) if queries is None else queries
        x, context = self.query_embed(asked), self.context_embed(context)
        for block in self.blocks:
            x = block(x, context)
        features: Tensor = self.out(self.norm(x))
        return features

    def context_attention(self, context: Float[Tensor, "b m d"]) -> Float[Tensor, "b m"] | None:
        """How much attention the queries pay to each token of the context in the last block.

        None without queries of the decoder's own, or without blocks.
        """
        if not hasattr(self, "queries") or len(self.blocks) == 0:
            return None
        x, context = self.query_embed(self.queries.expand(len(context), -1, -1)), self.context_embed(context)
        for block in self.blocks[:-1]:
            x = block(x, context)
        found: Tensor = self.blocks[-1].context_attention(x, context)  # type: ignore[operator]  # a CrossBlock
        return found
