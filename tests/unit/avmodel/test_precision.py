"""bfloat16 between the blocks over float32 weights."""

from collections.abc import Callable

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.bench import StepBench
from avmodel.configs.model import ModelConfig
from avmodel.configs.run import RESIDUAL, TRAINING_PRECISIONS
from avmodel.costs import draw_batch
from avmodel.inputs import to_inputs
from avmodel.layers import Block
from avmodel.models import build_model
from avmodel.models.family import Family
from avmodel.precision import call_in, matmul_dtype
from avmodel.rng import draw_masks
from tests.runs import TINY, TINY_MODELS

CPU = torch.device("cpu")
CONFIGS = list(TINY_MODELS.values())


def step_of(config: ModelConfig) -> tuple[Family, Callable[[str], torch.Tensor]]:
    """A model, and a function that computes its loss in a precision and leaves the gradients."""
    torch.manual_seed(0)
    model = build_model(config)
    batch = draw_batch(config, 6)
    inputs, masks = to_inputs(batch, CPU), draw_masks(model, 0, batch)

    def step(precision: str) -> torch.Tensor:
        model.zero_grad()
        loss: torch.Tensor = call_in(precision, model, CPU, *inputs, masks).losses["total"]
        loss.backward()
        return loss.detach()

    return model, step


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_gradients_are_float32_and_near_those_of_float32(config: ModelConfig) -> None:
    model, step = step_of(config)
    exact = step("float32")
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    loss = step(RESIDUAL)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert float(loss) == pytest.approx(float(exact), rel=0.01)
    ours, theirs = (torch.cat([tensors[name].flatten() for name in wanted]) for tensors in (found, wanted))
    assert float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0)) > 0.99


def test_tokens_are_bfloat16_between_blocks_and_losses_float32() -> None:
    model, step = step_of(TINY)
    seen: set[torch.dtype] = set()
    for block in (module for module in model.modules() if isinstance(module, Block)):
        block.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    assert step(RESIDUAL).dtype == torch.float32
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    seen.clear()
    step("bfloat16")
    assert seen == {torch.float32}  # autocast


@pytest.mark.parametrize("precision", TRAINING_PRECISIONS)
def test_the_type_of_matrix_products_is_the_one_that_a_rate_is_measured_in(precision: str) -> None:
    """By which the share of the device's matrix rate is computed."""

    model, step = step_of(TINY)
    seen: set[torch.dtype] = set()
    for linear in (module for module in model.modules() if isinstance(module, torch.nn.Linear)):
        linear.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    step(precision)
    assert seen == {matmul_dtype(precision)}


@pytest.mark.slow
def test_a_loss_curve_stays_near_that_of_float32() -> None:
    def curve(precision: str) -> torch.Tensor:
        model, step = step_of(TINY)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(30):
            losses.append(step(precision))
            optimizer.step()
        return torch.stack(losses)

    exact, found = curve("float32"), curve(RESIDUAL)
    assert exact[-10:].mean() < 0.9 * exact[0]
    assert float(found[-10:].mean()) == pytest.approx(float(exact[-10:].mean()), rel=0.03)


def test_an_encoding_benchmark_in_a_trainings_precision_is_refused() -> None:
    said = "--precision bfloat16-residual and --compile whole are of training steps alone"
    with pytest.raises(ConfigError, match=said):
        StepBench(encode=True, precision=RESIDUAL)
    with pytest.raises(ConfigError, match=r"unknown --compile 'all'; known: none, blocks, whole"):
        StepBench(compile="all")
