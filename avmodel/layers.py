"""Parts that several families share: attention, the transformer block and its norm banks, the ViT of one modality.

Parameter names inside a block and a ViT are timm's, so that published ViT weights load as they are; a test compares
the blocks with timm's, bit by bit. They are written out here because importing any layer of timm also imports
torchvision and torch's compiler.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from avmodel.configs.model import ViTSize
from avmodel.masking import gather_visible
from avmodel.positions import sincos_positions


def attend(
    q: Float[Tensor, "b n dk"],
    k: Float[Tensor, "b m dk"],
    v: Float[Tensor, "b m dv"],
    *,
    num_heads: int,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "b n dv"]:
    """Multi-head attention of q over k and v. `scale` multiplies the logits of every head."""
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=num_heads) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    return rearrange(out, "b h n d -> b n (h d)")


class CrossAttention(nn.Module):
    """Queries attend to other tokens only, never to themselves.

    `attn_ratio` narrows queries, keys and values; the logits are scaled by their narrowed head width^-0.5.
    """

    def __init__(self, dim: int, num_heads: int, attn_ratio: float = 1.0, attn_drop: float = 0.0) -> None:
        super().__init__()
        inner = round(dim * attn_ratio)
        self.num_heads = num_heads
        self.scale = (inner // num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.q = nn.Linear(dim, inner)
        self.kv = nn.Linear(dim, 2 * inner)
        self.proj = nn.Linear(inner, dim)

    def forward(self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        k, v = self.kv(context).chunk(2, dim=-1)
        dropout = self.attn_drop if self.training else 0.0
        out = attend(self.q(x), k, v, num_heads=self.num_heads, scale=self.scale, dropout=dropout)
        projected: Tensor = self.proj(out)
        return projected

    def received(self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d"]) -> Float[Tensor, "b m"]:
        """How much attention each token of the context gets: softmax weights, mean over heads and queries."""
        keys, _ = self.kv(context).chunk(2, dim=-1)
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.num_heads)
        k = rearrange(keys, "b m (h d) -> b h d m", h=self.num_heads)
        weights: Tensor = (q @ k * self.scale).float().softmax(dim=-1).mean(dim=(1, 2))
        return weights


class PatchEmbed(nn.Module):
    """Patches as tokens: a convolution whose stride is its kernel."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        tokens: Tensor = rearrange(self.proj(x.to(self.proj.weight.dtype)), "b d h w -> b (h w) d")
        return tokens


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values are one linear layer."""

    def __init__(self, dim: int, num_heads: int, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop if self.training else 0.0)
        projected: Tensor = self.proj(rearrange(out, "b h n d -> b n (h d)"))
        return projected


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class DropPath(nn.Module):
    """Stochastic depth: in training, each sample's residual branch is dropped with this probability, else scaled up.

    Source: "Deep Networks with Stochastic Depth" (arXiv:1603.09382).
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        return x * x.new_empty(len(x), 1, 1).bernoulli_(keep_prob).div_(keep_prob)


class Block(nn.Module):
    """A pre-norm transformer block, whose tokens may also attend to a context.

    `block(x, context)` equals the last tokens of `block([context, x])`, without the queries, projection and
    MLP of the context, whose own outputs are not used.
    """

    def __init__(self, dim: int, num_heads: int, *, eps: float, drop_path: float = 0.0, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, attn_drop)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path2 = DropPath(drop_path)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d"] | None = None
    ) -> Float[Tensor, "b n d"]:
        if context is None:
            x = x + self.drop_path1(self.attn(self.norm1(x)))
        else:
            x = x + self.drop_path1(self._attend(self.norm1(torch.cat([context, x], dim=1)), x.shape[1]))
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out

    def _attend(self, tokens: Float[Tensor, "b m d"], num_queries: int) -> Float[Tensor, "b n d"]:
        attn = self.attn
        dim = tokens.shape[-1]
        q_weight, kv_weight = torch.split(attn.qkv.weight, [dim, 2 * dim])
        q_bias, kv_bias = torch.split(attn.qkv.bias, [dim, 2 * dim])
        k, v = F.linear(tokens, kv_weight, kv_bias).chunk(2, dim=-1)
        q = F.linear(tokens[:, -num_queries:], q_weight, q_bias)
        dropout = attn.attn_drop if self.training else 0.0
        out = attend(q, k, v, num_heads=attn.num_heads, scale=attn.scale, dropout=dropout)
        projected: Tensor = attn.proj(out)
        return projected

    def cls_attention(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m"]:
        """How much the first token that enters attends to each other one: softmax weights, mean over heads."""
        attn = self.attn
        tokens = self.norm1(x)
        q_weight, k_weight, _ = attn.qkv.weight.chunk(3)
        q_bias, k_bias, _ = attn.qkv.bias.chunk(3)
        q = rearrange(F.linear(tokens[:, 0], q_weight, q_bias), "b (h d) -> b h 1 d", h=attn.num_heads)
        k = rearrange(F.linear(tokens, k_weight, k_bias), "b n (h d) -> b h d n", h=attn.num_heads)
        weights = (q @ k * attn.scale).float().softmax(dim=-1)
        received: Tensor = weights.mean(dim=1)[:, 0, 1:]
        return received


def make_blocks(
    dim: int,
    depth: int,
    num_heads: int,
    *,
    eps: float,
    drop_path: float = 0.0,
    attn_drop: float = 0.0,
) -> nn.ModuleList:
    """`depth` blocks, MLPs four times as wide; all have the same stochastic depth rate, as released."""
    return nn.ModuleList(Block(dim, num_heads, eps=eps, drop_path=drop_path, attn_drop=attn_drop) for _ in range(depth))


class ModalBlock(Block):
    """A block with further norms, its banks: attention and MLP are shared, the two norms are the bank's.

    Banks begin as the plain norms begin; `copy_banks` gives them the plain ones' values.
    """

    def __init__(self, dim: int, num_heads: int, banks: Sequence[str], *, eps: float) -> None:
        norm = partial(nn.LayerNorm, eps=eps)
        super().__init__(dim, num_heads, eps=eps)
        self.norm1_banks = nn.ModuleDict({bank: norm(dim) for bank in banks})
        self.norm2_banks = nn.ModuleDict({bank: norm(dim) for bank in banks})

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "b n d"], bank: str | None = None
    ) -> Float[Tensor, "b n d"]:
        if bank is None:
            return super().forward(x)
        x = x + self.attn(self.norm1_banks[bank](x))
        out: Tensor = x + self.mlp(self.norm2_banks[bank](x))
        return out

    def copy_banks(self) -> None:
        """Give every bank the plain norms' values."""
        for plain, banks in ((self.norm1, self.norm1_banks), (self.norm2, self.norm2_banks)):
            for bank in banks.values():
                bank.load_state_dict(plain.state_dict())


def modal_blocks(size: ViTSize, banks: Sequence[str] = (), *, eps: float) -> nn.ModuleList:
    """The blocks of a ViT of that size, with these norm banks."""
    return nn.ModuleList(ModalBlock(size.embed_dim, size.num_heads, banks, eps=eps) for _ in range(size.depth))


def after_each(
    blocks: Iterable[nn.Module], x: Float[Tensor, "b n d"], *given: str | None
) -> Iterator[Float[Tensor, "b n d"]]:
    """The tokens after each of the blocks, which get `given` too."""
    for block in blocks:
        x = block(x, *given)
        yield x


class CrossBlock(nn.Module):
    """Self-attention, attention to a context, MLP: each behind a norm, each added to its input (DETR's order)."""

    def __init__(self, dim: int, num_heads: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads)
        self.norm_cross = nn.LayerNorm(dim, eps=eps)
        self.cross = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        x = x + self.attn(self.norm1(x))
        x = x + self.cross(self.norm_cross(x), context)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def context_attention(self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d"]) -> Float[Tensor, "b m"]:
        """How much attention this block's tokens pay to each token of the context; see `CrossAttention.received`."""
        x = x + self.attn(self.norm1(x))
        return self.cross.received(self.norm_cross(x), context)


class ViT(nn.Module):
    """Patch embedding, fixed positions, blocks and final norm of one modality: no class token, no head."""

    positions: Tensor

    def __init__(
        self,
        size: ViTSize,
        *,
        input_size: tuple[int, int],
        patch_size: int,
        in_chans: int,
        drop_path: float = 0.0,
        attn_drop: float = 0.0,
        second_axis_first: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.grid = (input_size[0] // patch_size, input_size[1] // patch_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.patch_embed = PatchEmbed(patch_size, in_chans, size.embed_dim)
        positions = sincos_positions(size.embed_dim, self.grid, second_axis_first=second_axis_first)
        self.register_buffer("positions", positions)
        self.blocks = make_blocks(*size, eps=eps, drop_path=drop_path, attn_drop=attn_drop)
        self.norm = nn.LayerNorm(size.embed_dim, eps=eps)

    def embed(self, x: Float[Tensor, "b c h w"], ids_keep: Int[Tensor, "b k"] | None = None) -> Float[Tensor, "b n d"]:
        """Patch tokens with their positions; only those of `ids_keep`, if given."""
        tokens = self.patch_embed(x) + self.positions
        return tokens if ids_keep is None else gather_visible(tokens, ids_keep)


def init_linears(module: nn.Module) -> None:
    """Give `module` MAE's initial weights; use with `nn.Module.apply`.

    Linear layers: Xavier uniform over the whole matrix, zero bias. Patch embeddings: the same, seen as a
    linear layer. LayerNorms start as 1 and 0 by themselves.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, PatchEmbed):
        nn.init.xavier_uniform_(module.proj.weight.view(module.proj.out_channels, -1))
