"""The precision of a forward pass: float32, bfloat16 or float16 by autocast, or bfloat16 over float32 weights.

In float16 small gradients would be 0. So the loss is multiplied by a scale before the backward pass, the gradients are
divided by it before they are used, and the scale is halved when they overflow.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.func import functional_call

from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name
from avmodel.configs.run import HALF, RESIDUAL, TRAINING_PRECISIONS

LEAST_SCALE: Final = 1.0  # gradients that overflow at this scale are not finite in any precision
_AUTOCAST: Final = {"bfloat16": torch.bfloat16, HALF: torch.float16}


def require_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError if the device cannot compute in that precision."""
    if precision not in TRAINING_PRECISIONS:
        raise ConfigError(unknown_name("precision", precision, TRAINING_PRECISIONS))
    if precision == HALF and device.type != "cuda":
        raise ConfigError(f"precision={HALF} on {device}: it needs a CUDA device. Set precision=float32.")
    if precision not in ("float32", HALF) and (device.type != "cuda" or not torch.cuda.is_bf16_supported(False)):
        raise ConfigError(
            f"precision={precision} on {device}: it needs a CUDA device of compute capability 8.0 (A100) or later. "
            f"Set precision=float32{f', or {HALF}' if device.type == 'cuda' else ''}."
        )


def matmul_dtype(precision: str) -> torch.dtype:
    """The type in which a model's matrix products are computed in that precision."""
    return torch.float32 if precision == "float32" else _AUTOCAST.get(precision, torch.bfloat16)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a model computes in that precision; its weights stay float32."""
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


class LossScale:
    """The scale of a float16 run's losses, and how many steps were left out because gradients overflowed.

    torch's GradScaler at its defaults: 65,536 at the start, halved at each overflow, doubled after 2,000 updates
    without one.
    """

    def __init__(self, device: torch.device) -> None:
        self.scaler = GradScaler(device.type)
        self.overflows = 0

    @property
    def scale(self) -> float:
        """The present scale. Waits for the device."""
        return float(self.scaler.get_scale())

    def back_off(self) -> None:
        """Halve the scale: on every process, whichever of them has the gradients that overflowed."""
        self.scaler.update(self.scale * self.scaler.get_backoff_factor())
        self.scaler.load_state_dict({**self.scaler.state_dict(), "_growth_tracker": 0})

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.scaler.state_dict(), "overflows": self.overflows}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go on with the values of `state_dict`. Raises KeyError or RuntimeError for others."""
        self.overflows = values["overflows"]
        self.scaler.load_state_dict({name: value for name, value in values.items() if name != "overflows"})


def loss_scale(precision: str, device: torch.device) -> LossScale | None:
    """A new scale for a run in that precision, if it needs one."""
    return LossScale(device) if precision == HALF else None


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
