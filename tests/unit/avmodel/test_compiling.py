"""Compiled and recomputed forward passes: few graphs, and the same numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from avmodel.compiling import checkpoint_blocks
from avmodel.configs.model import ModelConfig
from avmodel.costs import draw_batch
from avmodel.inputs import to_inputs
from avmodel.layers import Mlp
from avmodel.models import build_model
from avmodel.rng import draw_masks
from tests.runs import TINY, TINY_AVSIAM, TINY_CROSSMAE, TINY_MODELS


@pytest.mark.slow
def test_few_graphs_are_compiled_and_the_gradients_stay() -> None:
    command = [sys.executable, "-m", "tests.compiled"]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    ways = [*["blocks"] * 2, *["whole"] * (len(TINY_MODELS) + 1), "cached blocks", "cached whole"]
    assert [row["way"] for row in rows] == ways
    for row in rows:
        assert row["far"] < 1e-5, row
        assert row["further"] == 0, row
        if row["way"] == "whole":
            assert row["graphs"] == 1, row
        elif row["way"] == "cached whole":
            assert row["graphs"] == 2, row  # of the vectors alone, and of the losses apart from the contrast
        else:
            assert 1 < row["graphs"] <= 12, row  # of 18 blocks in five shapes, and 5 blocks in ten
    assert rows[0]["blocks"] == 18


@pytest.mark.parametrize("config", [TINY, TINY_AVSIAM, TINY_CROSSMAE], ids=lambda config: type(config).__name__)
def test_recomputed_activations_change_no_gradient_and_no_name(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = build_model(config).train()
    batch = draw_batch(config, 6)
    inputs, masks = to_inputs(batch, torch.device("cpu")), draw_masks(model, 0, batch)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for mlp in (module for module in model.modules() if isinstance(module, Mlp)):
        mlp.register_forward_pre_hook(count)

    def gradients() -> list[torch.Tensor | None]:
        model.zero_grad()
        torch.manual_seed(1)  # for stochastic depth
        model(*inputs, masks).losses["total"].backward()
        return [None if p.grad is None else p.grad.clone() for p in model.parameters()]

    expected, names, once = gradients(), list(model.state_dict()), calls
    checkpoint_blocks(model)
    found, twice = gradients(), calls - once
    assert list(model.state_dict()) == names
    assert twice > 1.5 * once  # blocks run again in the backward pass
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
