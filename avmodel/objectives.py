"""Losses: masked reconstruction, feature regression and contrast; and patches to images and back.

An objective is a list of weighted terms.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from avmodel.configs.crossmae import DIRECTIONS, LOSS_SUPPORTS, TARGET_NORMS
from avmodel.distributed import all_gather_with_grad

VARIANCE_EPS = 1e-6


class Term(NamedTuple):
    """One part of an objective."""

    name: str
    weight: float
    value: Float[Tensor, ""]


def weighted(terms: Sequence[Term]) -> dict[str, Float[Tensor, ""]]:
    """`total`, the weighted sum, then each term without its weight; nothing of no terms."""
    if not terms:
        return {}
    total = reduce(add, (term.value if term.weight == 1 else term.weight * term.value for term in terms))
    return {"total": total, **{term.name: term.value for term in terms}}


def patchify(x: Float[Tensor, "b c h w"], patch_size: int) -> Float[Tensor, "b n d"]:
    """Patches row by row; inside a patch: row, column, channel."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(patches: Float[Tensor, "b n d"], patch_size: int, grid: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """The array whose patches these are; `grid` counts patches down and across."""
    rows, columns = grid
    return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, w=columns, p=patch_size, q=patch_size)


def patch_statistics(
    patches: Float[Tensor, "b n d"],
) -> tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
    """Mean and standard deviation of each patch: unbiased variance, 1e-6 inside the root, as released."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + VARIANCE_EPS).sqrt()


def normalize_patches(patches: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Patches with zero mean and unit variance each.

    Source: MAE (arXiv:2111.06377), section 3, "Reconstruction target".
    """
    mean, std = patch_statistics(patches)
    return (patches - mean) / std


def masked_mse(
    prediction: Float[Tensor, "b n d"],
    target: Float[Tensor, "b n d"],
    mask: Float[Tensor, "b n"],
    on: str = "masked",
) -> Float[Tensor, ""]:
    """Squared error averaged in each patch, then over the batch's masked, visible or all patches; in float32."""
    if on not in LOSS_SUPPORTS:
        raise ValueError(f"unknown loss support {on!r}; known: {', '.join(LOSS_SUPPORTS)}")
    error = (prediction.float() - target.float()).square().mean(dim=-1)
    weight = {"masked": mask, "visible": 1 - mask, "all": torch.ones_like(mask)}[on]
    return (error * weight).sum() / weight.sum()


def feature_mse(
    prediction: Float[Tensor, "b n d"], target: Float[Tensor, "b n d"], norm: str = "layernorm"
) -> Float[Tensor, ""]:
    """Mean squared distance to detached features, each normalized without parameters; in float32.

    "layernorm": zero mean and unit variance of each token. "l2": unit length.
    """
    target = target.detach().float()
    match norm:
        case "layernorm":
            target = F.layer_norm(target, target.shape[-1:])
        case "l2":
            target = F.normalize(target, dim=-1)
        case _:
            raise ValueError(f"unknown target norm {norm!r}; known: {', '.join(TARGET_NORMS)}")
    return (prediction.float() - target).square().mean()


def info_nce(
    anchors: Float[Tensor, "b d"],
    candidates: Float[Tensor, "b d"],
    *,
    temperature: float,
    symmetric: bool = True,
    gather: bool = True,
    directions: str = "mean",
) -> Float[Tensor, ""]:
    """InfoNCE: cross entropy over cosine similarities, row i of `anchors` matching row i of `candidates`; in float32.

    The mean over the pairs. `gather` takes the rows of all processes, which must give equally many, as one batch.
    `symmetric`: both modalities are anchors; `directions` says whether the two losses are averaged ("mean") or added
    ("sum", CrossMAE's equation 1).
    """
    if directions not in DIRECTIONS:
        raise ValueError(f"unknown directions {directions!r}; known: {', '.join(DIRECTIONS)}")
    # Tensors without memory, whose operations are only counted, have no autocast to switch off.
    with nullcontext() if anchors.is_meta else torch.autocast(anchors.device.type, enabled=False):
        rows, columns = (F.normalize(x.float(), dim=-1) for x in (anchors, candidates))
        if gather:
            rows, columns = all_gather_with_grad(rows), all_gather_with_grad(columns)
        logits = rows @ columns.T / temperature
        own = torch.arange(len(logits), device=logits.device)
        asked = [logits, logits.T] if symmetric else [logits]
        losses = torch.stack([F.cross_entropy(similarities, own) for similarities in asked])
        return losses.mean() if directions == "mean" else losses.sum()


def reconstruct(
    x: Float[Tensor, "b c h w"],
    prediction: Float[Tensor, "b n d"],
    mask: Float[Tensor, "b n"],
    *,
    patch_size: int,
    normalized: bool,
) -> Float[Tensor, "b c h w"]:
    """`x` with its removed patches replaced by the prediction, visible patches left as they are.

    `normalized` says that the prediction is of normalized patches; the true mean and deviation of each patch
    bring it back to the scale of `x`, so a picture shows the predicted structure, not the predicted level.
    """
    patches = patchify(x.float(), patch_size)
    predicted = prediction.float()
    if normalized:
        mean, std = patch_statistics(patches)
        predicted = predicted * std + mean
    pasted = torch.where(mask.unsqueeze(-1) > 0, predicted, patches)
    return unpatchify(pasted, patch_size, (x.shape[-2] // patch_size, x.shape[-1] // patch_size))
