"""How a model's forward pass is carried out: compiled block by block or as a whole, and with activations recomputed.

Blocks of one kind with inputs of one shape share their kernels: of a model of 40 blocks eight are compiled, which takes
a fraction of the minutes of its whole graph. The whole graph has no Python between its kernels; on CUDA its kernels are
launched together, as a CUDA graph.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from avmodel.configs.run import RESIDUAL, RunConfig
from avmodel.layers import Block, CrossBlock
from avmodel.models.fusion import FusionBlock

MOST_SHAPES = 64  # per kind of block; AVSiam's mask ratios make more than torch's default of 8


def prepare_forward(model: nn.Module, config: RunConfig, device: torch.device) -> None:
    """Compile the model and recompute activations as the config asks. Weights and their names stay as they are."""
    if config.checkpoint_activations:
        checkpoint_blocks(model, cast_weights=config.precision == RESIDUAL)
    if config.compile == "blocks":
        compile_blocks(model)
    elif config.compile == "whole":
        compile_whole(model, mode="reduce-overhead" if device.type == "cuda" else "default")


def checkpoint_blocks(model: nn.Module, *, cast_weights: bool = False) -> None:
    """Keep only the inputs of blocks for the backward pass, which computes the rest again. Numbers do not change.

    `cast_weights`: during the forward pass the blocks have other weights than afterwards (see `call_in`). The backward
    pass then gives them those of the forward pass.
    """
    for block in blocks_of(model):
        recomputed = recompute_with_weights if cast_weights else checkpoint
        block.forward = partial(recomputed, block.forward, use_reentrant=False)


def recompute_with_weights(forward: Callable[..., Tensor], *inputs: Tensor, use_reentrant: bool) -> Tensor:
    """As torch's `checkpoint` of a block's forward; the recomputation has the weights that the block has now."""
    block: nn.Module = forward.__self__  # type: ignore[attr-defined]
    weights = [(module, dict(module._parameters)) for module in block.modules()]
    out: Tensor = checkpoint(
        forward, *inputs, use_reentrant=use_reentrant, context_fn=lambda: (nullcontext(), holding(weights))
    )
    return out


@contextmanager
def holding(weights: Sequence[tuple[nn.Module, dict[str, Any]]]) -> Iterator[None]:
    """Within this context the modules have these weights."""
    before = [(module, dict(module._parameters)) for module, _ in weights]
    try:
        for module, tensors in weights:
            module._parameters.update(tensors)
        yield
    finally:
        for module, tensors in before:
            module._parameters.update(tensors)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a model: attention, cross-attention, fusion."""
    return [module for module in model.modules() if isinstance(module, Block | CrossBlock | FusionBlock)]


def compile_whole(model: nn.Module, **options: Any) -> None:
    """Compile the model's forward pass with its losses as one graph at its first call, for fixed shapes."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    model.compile(dynamic=False, **options)


def compile_blocks(model: nn.Module, **options: Any) -> None:
    """Compile each block at its first call; `options` are torch.compile's.

    Shapes are compiled as fixed: a run has few.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    for block in blocks_of(model):
        block.compile(dynamic=False, **options)
