"""torch.compile of a model block by block, not as a whole.

Blocks of one kind with inputs of one shape share their kernels: of a model of 40 blocks eight are compiled, which takes
a fraction of the minutes of its whole graph.
"""

from typing import Any

import torch
from torch import nn

from avmodel.layers import Block, CrossBlock
from avmodel.models.fusion import FusionBlock

MOST_SHAPES = 64  # per kind of block; AVSiam's mask ratios make more than torch's default of 8


def compile_blocks(model: nn.Module, **options: Any) -> None:
    """Compile each block at its first call; `options` are torch.compile's.

    Shapes are compiled as fixed: a run has few.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    for module in model.modules():
        if isinstance(module, Block | CrossBlock | FusionBlock):
            module.compile(dynamic=False, **options)
