"""Sizes of a model, from the names and shapes of its state dict."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.configs.model import ViTSize, size_name
from avmodel.positions import sincos_positions


@contextmanager
def said_of(path: Path, model: str) -> Iterator[None]:
    """Errors of a state dict that is not of that model become a ConfigError that names the file."""
    try:
        yield
    except KeyError as error:
        raise ConfigError(f"{path}: not {model} state dict: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def numbers_in(names: Mapping[str, Tensor], pattern: str) -> tuple[int, ...]:
    """The distinct numbers that `pattern` matches at the start of names, ascending."""
    return tuple(sorted({int(match[1]) for name in names if (match := re.match(pattern, name))}))


def size_of(dim: int, depth: int) -> str:
    """The size of a ViT with a head for each 64 channels."""
    return size_name(ViTSize(dim, depth, max(dim // 64, 1)))


def grid_of(positions: Tensor) -> tuple[int, int]:
    """Rows and columns of the grid whose fixed positions these are, in their precision. ValueError if there is none."""
    _, num_patches, dim = positions.shape
    tolerance = max(1e-4, torch.finfo(positions.dtype).eps) if positions.is_floating_point() else 1e-4
    for rows in range(1, num_patches + 1):
        if num_patches % rows == 0:
            grid = (rows, num_patches // rows)
            if torch.allclose(sincos_positions(dim, grid), positions.float(), atol=tolerance):
                return grid
    raise ValueError(f"encoder positions of {num_patches} patches are not the sine-cosine of any grid")


def square(num_patches: int, patch_size: int) -> tuple[int, int]:
    """Height and width in pixels of a square image of that many patches. Raises ValueError if there is none."""
    side = isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(f"{num_patches} image positions are not a square")
    return side * patch_size, side * patch_size


def eight_rows(num_patches: int, patch_size: int) -> tuple[int, int]:
    """Mel bins and steps of a spectrogram of that many patches in eight rows. Raises ValueError if there is none."""
    if num_patches % 8:
        raise ValueError(f"{num_patches} audio positions are not eight rows")
    return 8 * patch_size, num_patches // 8 * patch_size
