"""What a masked autoencoder predicts, how far off it is, and its predictions as pictures."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

VARIANCE_EPS = 1e-6


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
    prediction: Float[Tensor, "b n d"], target: Float[Tensor, "b n d"], mask: Float[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Squared error averaged in each patch, then over all removed patches of the batch; in float32."""
    error = (prediction.float() - target.float()).square().mean(dim=-1)
    return (error * mask).sum() / mask.sum()


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
