"""Which tokens a masked autoencoder hides, and how they come back in order."""

from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Float, Int, Shaped
from torch import Tensor


class Masking(NamedTuple):
    """One hiding of tokens: `shuffled = [kept tokens, hidden tokens]`, `tokens = shuffled[ids_restore]`."""

    ids_keep: Int[Tensor, "b k"]
    ids_restore: Int[Tensor, "b n"]
    mask: Float[Tensor, "b n"]  # 1 where removed


def num_kept(num_tokens: int, mask_ratio: float) -> int:
    """Tokens left visible, rounded down as released: 49 of 196 at 0.75, 19 of 96 at 0.8."""
    return int(num_tokens * (1 - mask_ratio))


def random_masking(
    batch_size: int, num_tokens: int, mask_ratio: float, generator: torch.Generator
) -> Int[Tensor, "b k"]:
    """Ids of the tokens to keep: uniform, without replacement, independent for each sample.

    The ids live on the generator's device, so that a CPU generator gives the same masks to any accelerator.
    """
    noise = torch.rand(batch_size, num_tokens, generator=generator, device=generator.device)
    return ids_from_noise(noise, mask_ratio)


def ids_from_noise(noise: Shaped[Tensor, "b n"], mask_ratio: float) -> Int[Tensor, "b k"]:
    """Ids of the tokens to keep: those of each sample's smallest numbers."""
    return noise.argsort(dim=1, stable=True)[:, : num_kept(noise.shape[1], mask_ratio)]


def masking_from_ids(ids_keep: Int[Tensor, "b k"], num_tokens: int) -> Masking:
    """The masking that keeps `ids_keep`, in that order; hidden tokens follow in their own order."""
    batch_size, kept = ids_keep.shape
    mask = torch.ones(batch_size, num_tokens, device=ids_keep.device).scatter(1, ids_keep, 0.0)
    hidden_rank = mask.long().cumsum(dim=1) + kept - 1
    kept_rank = repeat(torch.arange(kept, device=ids_keep.device), "k -> b k", b=batch_size)
    return Masking(ids_keep, hidden_rank.scatter(1, ids_keep, kept_rank), mask)


def gather_visible(x: Float[Tensor, "b n d"], ids_keep: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The tokens that `ids_keep` lists, in that order."""
    return x.gather(1, repeat(ids_keep, "b k -> b k d", d=x.shape[-1]))


def restore_order(x: Float[Tensor, "b n d"], ids_restore: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """Shuffled tokens (kept ones first) back in the order of the grid."""
    return x.gather(1, repeat(ids_restore, "b n -> b n d", d=x.shape[-1]))
