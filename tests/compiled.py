"""`python -m tests.compiled`: models before and after they are compiled, block by block and as a whole.

A process of its own, as torch cannot trace the shape checks of the tests. Prints a line of JSON a model and way.
"""

import json
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from avmodel.compiling import compile_blocks, compile_whole
from avmodel.configs.model import ModelConfig
from avmodel.configs.run import RESIDUAL
from avmodel.costs import draw_batch
from avmodel.distributed import World
from avmodel.fit import gradients
from avmodel.inputs import to_inputs
from avmodel.models import build_model
from avmodel.precision import call_in
from avmodel.rng import draw_masks
from avmodel.train import pretraining
from tests.runs import TINY, TINY_AVSIAM, TINY_CAVMAE, TINY_MODELS, DrawnBatches, tiny_run


def counted(model: nn.Module, way: str, slopes: Callable[[], torch.Tensor]) -> dict[str, float]:
    """Compile the model: graphs for a first and for a second step, and how far gradients are from those without."""
    expected = slopes()
    graphs = CompileCounterWithBackend("aot_eager")
    (compile_blocks if way == "blocks" else compile_whole)(model, backend=graphs)
    found, first = slopes(), graphs.frame_count
    slopes()
    far = float((found - expected).norm() / expected.norm())
    return {"graphs": first, "further": graphs.frame_count - first, "far": far}


def compare(config: ModelConfig, way: str, precision: str = "float32") -> dict[str, float | str]:
    """The blocks of a model, and what `counted` says of it."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = build_model(config)
    batch = draw_batch(config, 6)
    inputs, masks = to_inputs(batch, torch.device("cpu")), draw_masks(model, 0, batch)

    def slopes() -> torch.Tensor:
        model.zero_grad()
        call_in(precision, model, torch.device("cpu"), *inputs, masks).losses["total"].backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    figures = counted(model, way, slopes)
    blocks = sum("blocks" in name and name.rpartition(".")[2].isdigit() for name, _ in model.named_modules())
    return {"way": way, "blocks": blocks, **figures}


def compare_cached(config: ModelConfig, way: str) -> dict[str, float | str]:
    """As `compare`, of a step of three micro-batches whose samples are compared with one another in two passes."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, here = build_model(config), World(0, 1, torch.device("cpu"))
    run = tiny_run(model=config, batch_size=6, device_batch_size=2, gradient_cache=True)
    objective, batches = pretraining(run, model, here), DrawnBatches(2, 6)
    parts = [batches.draw(range(first, first + 2)) for first in range(0, 6, 2)]

    def slopes() -> torch.Tensor:
        model.zero_grad()
        gradients(objective, parts, here, 0, None, objective.optimizers[0])
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    return {"way": f"cached {way}", **counted(model, way, slopes)}


if __name__ == "__main__":
    for tried in (replace(TINY, size="32x4x4", decoder_depth=3), TINY_AVSIAM):
        print(json.dumps(compare(tried, "blocks")), flush=True)
    for tried in TINY_MODELS.values():
        print(json.dumps(compare(tried, "whole")), flush=True)
    print(json.dumps(compare(TINY, "whole", RESIDUAL)), flush=True)
    for tried_way in ("blocks", "whole"):
        print(json.dumps(compare_cached(TINY_CAVMAE, tried_way)), flush=True)
