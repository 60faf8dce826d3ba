"""torch.compile of a model block by block, not as a whole.

Blocks of one kind that see inputs of one shape share their kernels: a model of 40 blocks compiles eight of them, in a
fraction of the minutes that its whole graph takes.
"""

from typing import Any

import torch
from torch import nn

from avmodel.layers import Block, CrossBlock
from avmodel.models.fusion import FusionBlock

MOST_SHAPES = 64  # of one kind of block; AVSiam's ratios make more than torch's own limit of 8


def compile_blocks(model: nn.Module, **options: Any) -> None:
    """Compile each block at its first call; `options` are torch.compile's.

    Shapes are taken as fixed: a run has few, each with the best kernels.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    for module in model.modules():
        if isinstance(module, Block | CrossBlock | FusionBlock):
            module.compile(dynamic=False, **options)
