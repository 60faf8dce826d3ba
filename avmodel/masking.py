"""Masks of a masked autoencoder: which tokens stay visible, and how to restore their order."""

from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor

from avmodel.configs.model import SCHEMES, num_kept


class Masking(NamedTuple):
    """One hiding of tokens: `shuffled = [kept tokens, hidden tokens]`, `tokens = shuffled[ids_restore]`."""

    ids_keep: Int[Tensor, "b k"]
    ids_restore: Int[Tensor, "b n"]
    mask: Float[Tensor, "b n"]  # 1 where removed


class KeptIds(NamedTuple):
    """Indices of the patches that stay visible, in the order in which the encoder gets them."""

    image_ids: Int[Tensor, "b i"]
    audio_ids: Int[Tensor, "b a"]


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


FORCED = 1 << 53  # above all noise: these tokens are hidden first
TF_SHARE = 0.7  # of the ratio that scheme "tf" spends on lines of each axis


def structured_noise(
    noise: Int64[Tensor, "b n"],
    lines: Int64[Tensor, "b l"],
    grid: tuple[int, int],
    mask_ratio: float,
    scheme: str,
) -> Int64[Tensor, "b n"]:
    """Noise under which `ids_from_noise` hides whole lines of the grid first.

    `lines` has a number for each row (frequency), then for each column (time); integers below 2^53, as `noise`.
    "time" forces mask_ratio of the columns, "frequency" of the rows, "tf" 0.7 of that of both; "uniform" nothing.
    Forced tokens beyond what the ratio hides stay visible, at random; what lines don't fill is hidden at random.

    Source: CAV-MAE's released code. Raises ValueError for an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown mask scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    rows, columns = grid
    share = mask_ratio * (TF_SHARE if scheme == "tf" else 1.0)
    forced = torch.zeros(len(noise), rows, columns, dtype=torch.bool, device=noise.device)
    if scheme in ("frequency", "tf"):
        forced |= (lines[:, :rows].argsort(dim=1).argsort(dim=1) < int(rows * share)).unsqueeze(2)
    if scheme in ("time", "tf"):
        forced |= (lines[:, rows:].argsort(dim=1).argsort(dim=1) < int(columns * share)).unsqueeze(1)
    return noise + FORCED * forced.flatten(1)


class Group(NamedTuple):
    """Samples of a batch that keep equally many tokens."""

    rows: Int[Tensor, " k"]
    ids_keep: Int[Tensor, "k n"]


def balanced_groups(places: Int64[Tensor, " b"], total: int, count: int) -> Int64[Tensor, " b"]:
    """The group, from 0, of samples at these places of an order of `total`: sizes differ by one at most.

    Raises ValueError for fewer samples than groups: some would be empty.
    """
    if total < count:
        raise ValueError(f"{total} samples don't fill {count} groups. Raise the batch size or give fewer ratios.")
    return places * count // total
