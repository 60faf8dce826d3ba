"""Training in float16 with a scaled loss: near float32, steps that overflow left out and counted, exact resumes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avmanifest.errors import CheckpointError, DivergedError
from avmodel.checkpoint import load_model, load_trainer_state, save_checkpoint
from avmodel.configs.optim import OptimConfig
from avmodel.distributed import World
from avmodel.fit import take_step
from avmodel.metrics import SKIPPED, read_lines
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.precision import LEAST_SCALE, LossScale
from avmodel.resuming import LOSS_SCALE
from avmodel.rundir import CHECKPOINTS
from avmodel.train import Listener, pretraining, train
from tests.runs import FAMILY_RUNS, TINY, DrawnBatches, assert_same_run, curve, tiny_run, weights

HERE = World(0, 1, torch.device("cpu"))
RUN = tiny_run(precision="float16")
FIRST_SCALE = 65536.0


class Notes(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("half") / "run"
    train(RUN, DrawnBatches(), out, HERE)
    return out


def with_scale(out: Path, scale: float) -> None:
    """Save the last checkpoint of the run again, with another scale of the loss."""
    model, config = load_model(out / CHECKPOINTS)
    state = load_trainer_state(out / CHECKPOINTS)
    state[LOSS_SCALE]["scale"] = scale
    save_checkpoint(out / CHECKPOINTS, state["step"], model, config, state)


def test_losses_and_norms_are_near_those_of_float32(straight: Path, tmp_path: Path) -> None:
    train(replace(RUN, precision="float32"), DrawnBatches(), tmp_path / "run", HERE)
    exact, found = curve(tmp_path / "run"), curve(straight)
    assert {(line["loss_scale"], line["overflows"]) for line in found} == {(FIRST_SCALE, 0)}
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in exact], rel=0.01)
        assert [line[name] for line in found] != [line[name] for line in exact]
    assert {tensor.dtype for tensor in weights(straight).values()} == {torch.float32}


@pytest.mark.slow
def test_stopped_and_resumed_the_run_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """From a scale at which the first steps overflow."""
    outs = [tmp_path / "straight", tmp_path / "stopped"]
    long = replace(RUN, steps=12)
    for out in outs:
        batches = DrawnBatches()
        train(long, batches, out, HERE, stop=lambda batches=batches: batches.done >= 4)
        with_scale(out, 2.0**24)
    train(long, DrawnBatches(), outs[0], HERE, resume=True)
    batches = DrawnBatches()
    train(long, batches, outs[1], HERE, resume=True, stop=lambda: batches.done >= 24)
    assert len(curve(outs[1])) < len(curve(outs[0]))
    train(long, DrawnBatches(), outs[1], HERE, resume=True)
    assert_same_run(outs[1], outs[0])
    last = curve(outs[0])[-1]
    assert last["overflows"] > 0
    assert last["loss_scale"] == 2.0 ** (24 - last["overflows"])
    skipped = [list(read_lines(out / SKIPPED)) for out in outs]
    assert skipped[0] == skipped[1]
    assert len(skipped[0]) == last["overflows"]
    assert load_trainer_state(outs[0] / CHECKPOINTS)[LOSS_SCALE]["overflows"] == last["overflows"]


def test_a_step_that_overflows_is_left_out_and_said(tmp_path: Path) -> None:
    out, notes = tmp_path / "run", Notes()
    train(replace(RUN, steps=2), DrawnBatches(), out, HERE)
    with_scale(out, 2.0**60)
    before = weights(out)
    (out / "config.json").write_text(json.dumps(json.loads((out / "config.json").read_text()) | {"steps": 3}))
    train(replace(RUN, steps=3), DrawnBatches(), out, HERE, resume=True, listener=notes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(out).items())
    (line,) = read_lines(out / SKIPPED)
    assert (line["step"], line["loss_scale"]) == (3, 2.0**60)
    assert line["grad_norm"] in ("inf", "nan")
    assert line["loss"] == pytest.approx(curve(out)[-1]["loss"], rel=0.1)
    said = f"step 3: left out: gradients overflow float16 at loss scale {2.0**60:g}; now {2.0**59:g}"
    assert said in notes.said
    assert [line["step"] for line in curve(out)] == [1, 2]


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_sample(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 2: loss nan.*Samples: clip-5\."):
        train(RUN, DrawnBatches(spoiled=[5]), tmp_path / "run", HERE)


def test_steps_with_such_a_loss_may_be_left_out_as_in_float32(tmp_path: Path) -> None:
    run = replace(RUN, optim=OptimConfig(lr=1e-3, max_skipped_steps=1))
    train(run, DrawnBatches(spoiled=[5]), tmp_path / "run", HERE)
    (line,) = read_lines(tmp_path / "run" / SKIPPED)
    assert (line["step"], line["samples"]) == (2, ["clip-5"])
    assert curve(tmp_path / "run")[-1]["overflows"] == 0


@pytest.mark.parametrize(("scale", "overflowed"), [(2 * LEAST_SCALE, True), (LEAST_SCALE, False)])
def test_gradients_that_overflow_at_the_least_scale_are_not_the_scales_fault(scale: float, overflowed: bool) -> None:
    """Then the step counts as one that is not finite, which ends the run or is left out as in float32."""
    model = DeepAVFusion(TINY)

    def losses(*_: Any) -> dict[str, torch.Tensor]:
        return {"total": (0 * model.encoder.fusion_tokens).sum().sqrt()}  # 0, with an infinite slope

    objective = replace(pretraining(RUN, model, HERE), losses=losses)
    assert objective.scale is not None
    objective.scale.load_state_dict({**objective.scale.state_dict(), "scale": scale})
    taken = take_step(objective, [next(iter(DrawnBatches()))], HERE)
    assert (taken.applied, taken.loss_scale, taken.overflowed) == (False, scale, overflowed)
    assert objective.scale.scale == scale / 2


def test_the_scale_is_halved_on_overflow_and_counts_from_there() -> None:
    scale = LossScale(torch.device("cpu"))
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for _ in range(3):
        scale.scaler.scale(parameter.sum()).backward()
        scale.scaler.unscale_(optimizer)
        assert parameter.grad is not None
        assert parameter.grad.tolist() == [1.0, 1.0]
        optimizer.zero_grad()
        scale.scaler.update()
    assert scale.state_dict()["_growth_tracker"] == 3
    scale.scaler.scale(parameter.sum() * torch.inf).backward()
    scale.scaler.unscale_(optimizer)
    scale.back_off()
    assert (scale.scale, scale.state_dict()["_growth_tracker"]) == (FIRST_SCALE / 2, 0)


@pytest.mark.parametrize("name", FAMILY_RUNS)
def test_every_family_trains_in_float16(tmp_path: Path, name: str) -> None:
    """After the steps that overflow at the first scale, with weights as at the start."""
    run: Any = tiny_run(precision="float16", steps=6, optim=OptimConfig(lr=1e-9), **FAMILY_RUNS[name])
    train(run, DrawnBatches(), tmp_path / "half", HERE)
    train(replace(run, precision="float32"), DrawnBatches(), tmp_path / "exact", HERE)
    found, exact = ({line["step"]: line["loss"] for line in curve(tmp_path / out)} for out in ("half", "exact"))
    assert 6 in found
    assert found == pytest.approx({step: exact[step] for step in found}, rel=0.02)


def test_a_state_without_the_scale_is_damaged(straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    batches = DrawnBatches()
    train(RUN, batches, out, HERE, stop=lambda: batches.done >= 4)
    model, config = load_model(out / CHECKPOINTS)
    state = load_trainer_state(out / CHECKPOINTS)
    for path in (out / CHECKPOINTS).glob("step-*"):
        (path / "trainer.pt").unlink()
    del state[LOSS_SCALE]
    save_checkpoint(out / CHECKPOINTS, state["step"], model, config, state)
    with pytest.raises(CheckpointError, match="its trainer state has no loss_scale that fits"):
        train(RUN, DrawnBatches(), out, HERE, resume=True)
