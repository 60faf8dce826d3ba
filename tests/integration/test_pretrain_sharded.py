"""Two processes that divide the model among them (parallel=fsdp) train what one does and write the same files."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avmanifest.errors import ConfigError
from avmanifest.files import is_unfinished
from avmodel.checkpoint import load_average, load_model, load_trainer_state, save_checkpoint
from avmodel.checkpoint_folder import checkpoints_in
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import RESIDUAL
from avmodel.metrics import PROBES, SKIPPED, read_lines
from avmodel.resuming import LOSS_SCALE
from avmodel.rundir import CHECKPOINTS, PICTURES
from tests.forks import call, call_together
from tests.pretraining import shares_drawn, train_drawn, train_until_killed
from tests.runs import FAMILY_RUNS, assert_same_run, curve, tiny_run, weights

OPTIM = OptimConfig(lr=1e-3, warmup=0.1, clip_grad=0.05)  # below the norms of tiny models: every step is clipped
RUN = tiny_run(steps=6, optim=OPTIM, ema_decay=0.5, ema_start=2)
SHARDED = replace(RUN, parallel="fsdp")


def said(log: Path) -> str:
    return "".join(path.read_text() for path in sorted(log.parent.glob(f"{log.name}*")))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of four samples in one process; the setting changes nothing there."""
    folder = tmp_path_factory.mktemp("alone")
    assert call(train_drawn, folder / "run", SHARDED, log=folder / "log") == 0, said(folder / "log")
    return folder / "run"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in two processes, two samples and half of the model each."""
    folder = tmp_path_factory.mktemp("sharded")
    assert call_together(train_drawn, folder / "run", SHARDED, log=folder / "log") == [0, 0], said(folder / "log")
    return folder / "run"


def assert_close(out: Path, expected: Path) -> None:
    """Losses and norms within 1e-6: what is left is the order of float32 sums."""
    found, wanted = curve(out), curve(expected)
    assert [line.keys() for line in found] == [line.keys() for line in wanted]
    for name in wanted[0]:
        assert [line[name] for line in found] == pytest.approx([line[name] for line in wanted], rel=1e-6, abs=1e-6), (
            name
        )


def test_two_processes_with_half_of_the_model_each_have_the_losses_of_one(alone: Path, sharded: Path) -> None:
    assert_close(sharded, alone)
    losses = [line["loss"] for line in curve(alone)]
    assert max(losses) - min(losses) > 0.005
    assert min(line["grad_norm"] for line in curve(alone)) > OPTIM.clip_grad


def test_the_checkpoint_is_the_one_that_one_process_writes(alone: Path, sharded: Path) -> None:
    found, wanted = weights(sharded), weights(alone)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert type(found[name]) is torch.Tensor
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=2e-5)
    averages = [load_average(checkpoints_in(out / CHECKPOINTS)[-1]) for out in (sharded, alone)]
    for name, tensor in averages[1].items():
        torch.testing.assert_close(averages[0][name], tensor, rtol=1e-5, atol=2e-5)
    assert any(not torch.equal(tensor, wanted[name]) for name, tensor in averages[1].items())
    ours, theirs = (load_trainer_state(out / CHECKPOINTS) for out in (sharded, alone))
    assert structure(ours) == structure(theirs)


def structure(value: Any) -> Any:
    """What a trainer's state is made of, without its numbers."""
    if isinstance(value, dict):
        return {key: structure(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [structure(item) for item in value]
    return (tuple(value.shape), value.dtype) if type(value) is torch.Tensor else type(value)


@pytest.mark.parametrize(("first", "then"), [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.slow
def test_a_run_goes_on_in_one_process_and_in_two(
    alone: Path, sharded: Path, tmp_path: Path, first: int, then: int
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    straight = {1: alone, 2: sharded}
    assert call_together(train_drawn, out, SHARDED, 12, log=log, size=first) == [0] * first, said(log)
    before = curve(out)
    assert 3 <= len(before) < 6
    assert before == curve(straight[first])[: len(before)]
    # How a run lies on its processes may change, and what it computes again.
    run = replace(SHARDED if first == 1 else RUN, checkpoint_activations=first != then)
    assert call_together(train_drawn, out, run, None, True, log=log, size=then) == [0] * then, said(log)
    assert_close(out, alone)
    if first == then == 1:
        assert_same_run(out, alone)


@pytest.mark.slow
def test_two_sharded_processes_resumed_are_the_same_to_the_last_bit(sharded: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    assert call_together(train_drawn, out, SHARDED, 12, log=log) == [0, 0], said(log)
    assert 3 <= len(curve(out)) < 6
    assert call_together(train_drawn, out, SHARDED, None, True, log=log) == [0, 0], said(log)
    assert_same_run(out, sharded)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", *FAMILY_RUNS])
def test_every_family_is_sharded(tmp_path: Path, name: str) -> None:
    """With micro-steps, recomputed activations, pictures and probes, whose passes are without gradients."""
    run = tiny_run(steps=4, optim=OPTIM, batch_size=8, pictures_every=4, probe_every=1, **FAMILY_RUNS.get(name, {}))
    assert call(train_drawn, tmp_path / "one", run, log=tmp_path / "log") == 0, said(tmp_path / "log")
    # Two micro-steps of four samples over all processes, as one process takes them.
    both = replace(run, parallel="fsdp", checkpoint_activations=True, device_batch_size=2)
    assert call_together(train_drawn, tmp_path / "two", both, log=tmp_path / "log") == [0, 0], said(tmp_path / "log")
    assert_close(tmp_path / "two", tmp_path / "one")
    one, two = (list(read_lines(tmp_path / out / PROBES)) for out in ("one", "two"))
    assert len(two) == len(one) > 0
    pictures = [sorted(path.name for path in (tmp_path / out / PICTURES).glob("*")) for out in ("one", "two")]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_float16_in_two_sharded_processes(tmp_path: Path) -> None:
    """From a scale at which gradients overflow, which is half as large where each process has half of the samples."""
    run, log = replace(RUN, steps=12, precision="float16", optim=replace(OPTIM, lr=1e-9)), tmp_path / "log"
    for name, sharded, size in (("one", run, 1), ("two", replace(run, parallel="fsdp"), 2)):
        out = tmp_path / name
        assert call_together(train_drawn, out, sharded, 1, log=log, size=size) == [0] * size, said(log)
        model, config = load_model(out / CHECKPOINTS)
        state = load_trainer_state(out / CHECKPOINTS)
        state[LOSS_SCALE]["scale"] = 2.0**26
        average = load_average(checkpoints_in(out / CHECKPOINTS)[-1])
        save_checkpoint(out / CHECKPOINTS, state["step"], model, config, state, average=average)
        assert call_together(train_drawn, out, sharded, None, True, log=log, size=size) == [0] * size, said(log)
        assert (skipped := [line["step"] for line in read_lines(out / SKIPPED)])
        last = curve(out)[-1]
        assert (last["overflows"], last["loss_scale"]) == (len(skipped), 2.0 ** (26 - len(skipped)))
    one, two = ({line["step"]: line["loss"] for line in curve(tmp_path / name)} for name in ("one", "two"))
    common = one.keys() & two.keys()
    assert 12 in common
    assert [two[step] for step in common] == pytest.approx([one[step] for step in common], rel=0.01)


@pytest.mark.slow
def test_micro_steps_are_one_big_step(alone: Path, tmp_path: Path) -> None:
    run, log = replace(SHARDED, device_batch_size=1), tmp_path / "log"
    assert call_together(train_drawn, tmp_path / "run", run, log=log) == [0, 0], said(log)
    assert_close(tmp_path / "run", alone)


@pytest.mark.slow
def test_steps_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    run = replace(SHARDED, optim=replace(OPTIM, max_skipped_steps=1))
    out, log = tmp_path / "run", tmp_path / "log"
    assert call_together(train_drawn, out, run, None, False, [5], log=log) == [0, 0], said(log)
    assert [line["step"] for line in curve(out)] == [1, 3, 4, 5, 6]
    assert [line["samples"] for line in read_lines(out / SKIPPED)] == [["clip-5"]]
    again = replace(SHARDED, optim=replace(OPTIM, max_skipped_steps=0))
    assert call_together(train_drawn, tmp_path / "two", again, None, False, [9], log=log) == [1, 1]
    for rank in range(2):
        assert "step 3: loss nan" in log.with_suffix(f".{rank}").read_text()
        assert "Samples: clip-9." in log.with_suffix(f".{rank}").read_text()


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written_the_run_goes_on(tmp_path: Path) -> None:
    """Process 0 writes for both; when it is killed, the other one ends with an error."""
    run = replace(SHARDED, save_every=2, keep_checkpoints=1, steps=4)
    out, log = tmp_path / "run", tmp_path / "log"
    assert call_together(train_drawn, tmp_path / "straight", run, log=log) == [0, 0], said(log)
    left = set()
    for moment in (24, 27, 30):
        codes = call_together(train_until_killed, out, run, moment, log=log)
        assert codes[0] == -signal.SIGKILL, said(log)
        assert codes[1] != 0
        left |= {path.name for path in out.rglob("*") if is_unfinished(path.name)}
    assert left
    assert call_together(train_drawn, out, run, None, True, log=log) == [0, 0], said(log)
    assert_same_run(out, tmp_path / "straight")
    assert [path.name for path in out.rglob("*") if is_unfinished(path.name)] == []


def test_each_of_two_processes_has_half_of_the_numbers(tmp_path: Path) -> None:
    """Weights, gradients and moments; what is not divided by two, such as mask tokens, lies on the first."""
    log = tmp_path / "log"
    assert call_together(shares_drawn, tmp_path / "answer", SHARDED, log=log) == [0, 0], said(log)
    found = [json.loads(tmp_path.joinpath(f"answer.{rank}").read_text()) for rank in range(2)]
    for name in ("weights", "gradients", "moments"):
        total = sum(share[name] for share in found)
        assert total == found[0]["whole"] * (2 if name == "moments" else 1)
        assert max(share[name] for share in found) < 0.56 * total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": RESIDUAL}, r"parallel=fsdp with precision=bfloat16-residual: .* Set precision=bfloat16, or"),
        ({"compile": "whole"}, r"parallel=fsdp with compile=whole: .* Set compile=blocks or none"),
        ({"parallel": "zero"}, r"unknown parallel 'zero'; known: ddp, fsdp"),
    ],
)
def test_what_sharding_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SHARDED, **changes)
