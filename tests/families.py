"""What tests of all families share: inputs, draws, counts."""

from typing import Any

import torch
from torch import Tensor, nn

from avmodel.costs import on_meta
from avmodel.models.family import Draws, Family

__all__ = ["SIZES", "batch", "count", "draws_for", "masks_for", "on_meta"]

SIZES: dict[str, Any] = {
    "size": "32x3x4",
    "image_size": (32, 32),
    "audio_size": (16, 64),
    "patch_size": 8,
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 4,
}


def batch(config: Any, size: int = 10) -> tuple[Tensor, Tensor]:
    """Normalized images and natural-log mels, drawn."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 3, *config.image_size, generator=generator)
    return image, 4.5 * torch.randn(size, 1, *config.audio_size, generator=generator) - 5


def draws_for(model: Family, size: int = 10, seed: int = 0) -> Draws:
    """The draws of a batch that is all processes'."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 1 << 53, (size, model.num_draws), generator=generator)
    orders = [torch.randperm(size, generator=generator) for _ in range(model.num_orders)]
    return Draws(noise, torch.stack(orders, dim=1) if orders else torch.empty(size, 0, dtype=torch.long), size)


def masks_for(model: Family, size: int = 10, seed: int = 0) -> Any:
    """What the model hides of a batch, drawn from the seed: the third argument of a call."""
    return model.choose(draws_for(model, size, seed))


def count(module: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in module.parameters())
