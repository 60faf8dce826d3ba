"""Five steps of DeepAVFusion's training against its independent version in this folder."""

import ast

import pytest
import torch
from torch import Tensor

from avmodel.configs.optim import OptimConfig
from avmodel.masking import KeptIds
from avmodel.optim import make_optimizer, set_lr
from avmodel.weights.deepavfusion import model_from_released
from tests.golden.deepavfusion import FILES, Golden, load, released_state, settings_of
from tests.golden.released_deepavfusion import Released, Trained, rates

EPOCHS, WARMUP, STEPS_OF_EPOCH, PEAK = 10, 2, 1, 1e-3


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


def batch_of(golden: Golden) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs of both modalities, and the tokens kept of them."""
    names = ("image", "audio")
    return {name: golden.tensors[name] for name in names}, {
        name: golden.tensors[f"mask.{name}.ids_keep"] for name in names
    }


def released(golden: Golden) -> Released:
    return Released(released_state(golden.tensors), ast.literal_eval(golden.metadata["fusion_tokens"]))


def test_the_independent_version_has_the_golden_losses(golden: Golden) -> None:
    found = released(golden).losses(*batch_of(golden))
    for name, loss in found.items():
        torch.testing.assert_close(loss, golden.tensors[f"loss.{name}"][0], atol=1e-6, rtol=0)


def test_gradients_are_the_same(golden: Golden) -> None:
    (inputs, kept), other = batch_of(golden), released(golden)
    model = golden.model.train()
    model(inputs["image"], inputs["audio"], KeptIds(kept["image"], kept["audio"])).losses["total"].backward()
    loss = sum(other.losses(inputs, kept).values())
    gradients = torch.autograd.grad(
        loss, [other.state[name] for name in other.trained], allow_unused=True, materialize_grads=True
    )
    # Read as a state dict, the gradients get our names.
    named = {**other.state, **dict(zip(other.trained, gradients, strict=True))}
    expected = model_from_released(
        {name: t.detach() for name, t in named.items()}, FILES[0], **settings_of(golden.metadata)
    ).state_dict()
    compared = [name for name, p in model.named_parameters() if p.grad is not None]
    assert len(compared) > 100
    for name in compared:
        torch.testing.assert_close(model.get_parameter(name).grad, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_five_steps_have_the_losses_and_rates_of_the_released_recipe(golden: Golden) -> None:
    (inputs, kept), other = batch_of(golden), released(golden)
    model = golden.model.train()
    config = OptimConfig(lr=PEAK, warmup=WARMUP / EPOCHS)
    optimizer = make_optimizer(model, config, ["image", "audio"])
    trained = Trained(other)
    steps = EPOCHS * STEPS_OF_EPOCH
    masks = KeptIds(kept["image"], kept["audio"])
    totals = []
    for done in range(5):
        losses, expected = model(inputs["image"], inputs["audio"], masks).losses, other.losses(inputs, kept)
        for name in inputs:
            assert abs(float(losses[name].detach() - expected[name].detach())) < 5e-6, (name, done)
        lr, encoder_lr = rates(done / STEPS_OF_EPOCH, epochs=EPOCHS, warmup=WARMUP, peak=PEAK)
        assert set_lr(optimizer, config, peak_lr=PEAK, done=done / steps) == pytest.approx(lr)
        (ramped,) = {group["lr"] for group in optimizer.param_groups if group["ramped"]}
        assert ramped == pytest.approx(encoder_lr)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        trained.step(expected["image"] + expected["audio"], lr, encoder_lr)
        totals.append(float(losses["total"].detach()))
    assert totals[-1] < totals[1]  # the rate of the first step is 0
