"""The precision of a forward pass: float32, bfloat16 by autocast, or bfloat16 throughout over float32 weights."""

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from avmanifest.errors import ConfigError
from avmodel.configs.run import RESIDUAL, TRAINING_PRECISIONS


def require_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError if the device cannot compute in that precision."""
    if precision not in TRAINING_PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}; known: {', '.join(TRAINING_PRECISIONS)}")
    if precision != "float32" and (device.type != "cuda" or not torch.cuda.is_bf16_supported(False)):
        raise ConfigError(
            f"precision={precision} on {device}: it needs a CUDA device of compute capability 8.0 (A100) or later. "
            "Set precision=float32."
        )


def matmul_dtype(precision: str) -> torch.dtype:
    """The type in which a model's matrix products are computed in that precision."""
    return torch.float32 if precision == "float32" else torch.bfloat16


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a model computes in that precision; its weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def call_in(precision: str, forward: nn.Module, device: torch.device, *inputs: Any, **options: Any) -> Any:
    """`forward(*inputs, **options)` in that precision.

    With `bfloat16-residual` every weight and buffer of a floating type is cast once, within the graph, so its gradient
    is float32; tokens are bfloat16 between the blocks. Autocast casts at each operation, and its tokens stay float32.
    """
    if precision != RESIDUAL:
        with autocast(precision, device):
            return forward(*inputs, **options)
    tensors = dict(forward.named_parameters()) | dict(forward.named_buffers())
    cast = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items() if tensor.is_floating_point()}
    return functional_call(forward, cast, inputs, options)
