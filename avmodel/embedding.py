"""Embedding of inputs as tokens: learned positions, patch kernels of spectrograms, and checks of input sizes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avmodel.configs.model import KERNEL_REDUCTIONS
from avmodel.layers import PatchEmbed


class LearnedEmbedding(nn.Module):
    """Patch embedding and learned positions of one modality.

    `doubled` adds the tokens to themselves before the first block, as AVSiam's released models do.
    """

    def __init__(
        self, dim: int, *, input_size: tuple[int, int], patch_size: int, in_chans: int, doubled: bool = False
    ) -> None:
        super().__init__()
        self.grid = (input_size[0] // patch_size, input_size[1] // patch_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.doubled = doubled
        self.patch_embed = PatchEmbed(patch_size, in_chans, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.num_patches, dim))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        tokens: Tensor = self.patch_embed(x) + self.positions
        return 2 * tokens if self.doubled else tokens


def kernel_from_rgb(
    kernel: Float[Tensor, "d 3 p p"] | Float[Tensor, "d 1 p p"], reduce: str
) -> Float[Tensor, "d 1 p p"]:
    """A one-channel patch kernel from that of an image: the mean (AVSiam) or sum (CAV-MAE) of the colors."""
    if reduce not in KERNEL_REDUCTIONS:
        raise ValueError(f"unknown kernel reduction {reduce!r}; known: {', '.join(KERNEL_REDUCTIONS)}")
    return kernel.mean(dim=1, keepdim=True) if reduce == "mean" else kernel.sum(dim=1, keepdim=True)


def fit_columns(
    log_mel: Float[Tensor, "b 1 mel t"], size: tuple[int, int], patch_size: int
) -> Float[Tensor, "b 1 mel s"]:
    """The first columns, as many as the model takes (192 of 196). Raises ValueError for another size."""
    mel, steps = size
    if log_mel.shape[2] != mel or not steps <= log_mel.shape[3] < steps + patch_size:
        raise ValueError(
            f"log-mel of {log_mel.shape[2]} x {log_mel.shape[3]}: this model takes {mel} x {steps}, or "
            f"up to {patch_size - 1} further steps. Set model.audio_size, or prepare another log-mel."
        )
    return log_mel[..., :steps]


def fit_image(image: Float[Tensor, "b 3 h w"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """The image unchanged. Raises ValueError for another size."""
    if image.shape[2:] != size:
        raise ValueError(f"image of {tuple(image.shape[2:])}: this model takes {size}")
    return image
