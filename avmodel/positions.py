"""Positions of patches: fixed sine-cosine ones, and learned tables resized from another grid."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from avmodel.configs.model import POSITION_INITS


def sincos_positions(
    embed_dim: int, grid: tuple[int, int], *, second_axis_first: bool = True
) -> Float[Tensor, "1 n d"]:
    """Sine-cosine positions of a grid, row by row.

    The first half of the channels encodes the grid's second axis (x of an image, time of a spectrogram), the
    second half its first axis (y, frequency), as in MAE; `second_axis_first=False` swaps the halves. Each half
    is [sines, cosines] at frequencies 10000^(-k / (embed_dim / 4)).
    """
    quarter = embed_dim // 4
    # On the CPU even while a model is built on the meta device, where meshgrid imports torch's compiler: three seconds.
    frequencies, rows, columns = (
        torch.arange(number, dtype=torch.float64, device="cpu") for number in (quarter, grid[0], grid[1])
    )
    frequencies = 10_000.0 ** -(frequencies / quarter)
    first, second = torch.meshgrid(rows, columns, indexing="ij")
    axes = (second, first) if second_axis_first else (first, second)
    angles = [rearrange(axis, "h w -> 1 (h w) 1") * frequencies for axis in axes]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=-1)
    return table.float().to(torch.get_default_device())


def resize_positions(
    table: Float[Tensor, "1 n d"], grid: tuple[int, int], new_grid: tuple[int, int], how: str
) -> Float[Tensor, "1 m d"]:
    """Resize a learned table of `grid` to `new_grid`, both row by row.

    `how`: copy, unchanged, for the same grid. linear1d, interpolated along the flattened table without regard to rows,
    as AVSiam's paper does from a 14 x 14 image to an 8 x 64 spectrogram. nearest1d, the nearest entry of the flattened
    table, as AVSiam's released code does. bicubic2d, each channel as an image.

    Raises ValueError for a table of another grid, an unknown `how`, or a copy to another grid.
    """
    if table.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"{table.shape[1]} positions are not a grid of {grid[0]} x {grid[1]}")
    match how:
        case "copy":
            if grid != new_grid:
                raise ValueError(f"positions of {grid} cannot be copied to {new_grid}: choose linear1d or bicubic2d")
            return table.clone()
        case "linear1d" | "nearest1d":
            line, size = rearrange(table, "1 n d -> 1 d n"), new_grid[0] * new_grid[1]
            resized = F.interpolate(line, size, mode="linear" if how == "linear1d" else "nearest")
            return rearrange(resized, "1 d m -> 1 m d")
        case "bicubic2d":
            picture = rearrange(table, "1 (h w) d -> 1 d h w", h=grid[0])
            return rearrange(F.interpolate(picture, new_grid, mode="bicubic"), "1 d h w -> 1 (h w) d")
    raise ValueError(f"unknown position start {how!r}; known: {', '.join(POSITION_INITS)}")
