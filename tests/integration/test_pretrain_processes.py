"""Two processes train what one does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import RESIDUAL, RunConfig
from avmodel.metrics import SKIPPED, read_lines
from tests.forks import call, call_together
from tests.pretraining import fail_before_the_other, held_out_drawn, probe_drawn, train_drawn
from tests.runs import FAMILY_RUNS, assert_same_run, curve, tiny_run, weights

RUN = tiny_run(steps=10)
NUMBERS = ("loss", "loss_image", "loss_audio", "grad_norm", "lr", "epoch")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps of four samples in one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert call(train_drawn, folder / "run", RUN, log=folder / "log") == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in two processes, two samples each."""
    folder = tmp_path_factory.mktemp("together")
    codes = call_together(train_drawn, folder / "run", RUN, log=folder / "log")
    assert codes == [0, 0], (folder / "log.0").read_text() + (folder / "log.1").read_text()
    return folder / "run"


def assert_close(out: Path, expected: Path) -> None:
    found, wanted = curve(out), curve(expected)
    assert [line["step"] for line in found] == [line["step"] for line in wanted]
    for name in NUMBERS:
        # What is left is the order of float32 sums.
        assert [line[name] for line in found] == pytest.approx([line[name] for line in wanted], rel=5e-5)


def test_two_processes_have_the_curve_of_one(alone: Path, together: Path) -> None:
    assert_close(together, alone)
    losses = [line["loss"] for line in curve(alone)]
    assert max(losses) - min(losses) > 0.01


@pytest.mark.slow
def test_micro_steps_in_two_processes_too(alone: Path, tmp_path: Path) -> None:
    codes = call_together(train_drawn, tmp_path / "run", replace(RUN, device_batch_size=1), log=tmp_path / "log")
    assert codes == [0, 0]
    assert_close(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(alone: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    assert call(train_drawn, out, RUN, 12, log=log) == 0
    before = curve(out)
    assert 3 <= len(before) < 10
    assert call_together(train_drawn, out, RUN, None, True, log=log) == [0, 0]
    assert curve(out)[: len(before)] == curve(alone)[: len(before)]
    assert_close(out, alone)


@pytest.mark.slow
def test_two_processes_stopped_by_one_and_resumed_are_the_same_to_the_last_bit(together: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    assert call_together(train_drawn, out, RUN, 12, log=log) == [0, 0]
    assert 3 <= len(curve(out)) < 10
    assert call_together(train_drawn, out, RUN, None, True, log=log) == [0, 0]
    assert_same_run(out, together)


def test_what_one_process_refuses_ends_both(alone: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert call_together(train_drawn, alone, RUN, log=log) == [1, 1]
    assert "holds a run already" in log.with_suffix(".0").read_text()
    assert "refused by another process, which says why" in log.with_suffix(".1").read_text()


def test_a_process_that_fails_before_another_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert call_together(fail_before_the_other, log=log) == [1, 1]
    assert "ValueError: failed" in log.with_suffix(".0").read_text()


def test_a_bad_sample_of_one_process_stops_both(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert call_together(train_drawn, tmp_path / "run", RUN, None, False, [9], log=log) == [1, 1]
    for rank in range(2):
        said = log.with_suffix(f".{rank}").read_text()
        assert "step 3: loss nan, gradient norm nan: not finite. Samples: clip-9." in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "avsiam", "avsiam-alternate", "crossmae"])
def test_two_processes_leave_out_the_same_steps(tmp_path: Path, name: str) -> None:
    run = tiny_run(steps=6, optim=OptimConfig(lr=1e-3, warmup=0.1, max_skipped_steps=2), **FAMILY_RUNS.get(name, {}))
    out, log = tmp_path / "run", tmp_path / "log"
    codes = call_together(train_drawn, out, run, None, False, [5, 16, 17], log=log)
    assert codes == [0, 0], log.with_suffix(".0").read_text() + log.with_suffix(".1").read_text()
    assert [line["step"] for line in curve(out)] == [1, 3, 4, 6]
    skipped = [(line["step"], line["samples"]) for line in read_lines(out / SKIPPED)]
    assert skipped == [(2, ["clip-5"]), (5, ["clip-16", "clip-17"])]
    assert call_together(train_drawn, tmp_path / "two", run, None, False, [5, 16, 17, 21], log=log) == [1, 1]
    for rank in range(2):
        assert "step 6: loss nan" in log.with_suffix(f".{rank}").read_text()


def test_the_probe_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    assert call(probe_drawn, tmp_path / "one", log=tmp_path / "log") == 0
    assert call_together(probe_drawn, tmp_path / "two", log=tmp_path / "log") == [0, 0]
    one = json.loads((tmp_path / "one").read_text())
    assert json.loads((tmp_path / "two").read_text()) == one
    assert set(one) == {"image", "audio", "fusion", "all", "chance", "n", "intervals"}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_held_out_loss_of_two_processes_is_that_of_one(tmp_path: Path, parallel: str) -> None:
    assert call(held_out_drawn, tmp_path / "one", 12, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    codes = call_together(held_out_drawn, tmp_path / "two", 2, parallel, log=tmp_path / "log")
    assert codes == [0, 0], (tmp_path / "log.0").read_text()
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, losses in one.items():
        assert two[name] == pytest.approx(losses, rel=1e-6), name
        assert ("contrast" in losses) == (name != "deepavfusion")


def assert_two_train_as_one(folder: Path, alone: RunConfig, together: RunConfig, *, rel: float) -> None:
    """Two processes have the curve of one, to that relative difference."""
    assert call(train_drawn, folder / "one", alone, log=folder / "log") == 0, (folder / "log").read_text()
    codes = call_together(train_drawn, folder / "two", together, log=folder / "both")
    assert codes == [0, 0], (folder / "both.0").read_text() + (folder / "both.1").read_text()
    one, two = curve(folder / "one"), curve(folder / "two")
    assert one[0].keys() == two[0].keys()
    for key in one[0]:
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], rel=rel), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["avsiam", "avsiam-alternate", "crossmae"])
def test_two_processes_compare_as_many_samples_as_one(tmp_path: Path, name: str) -> None:
    """Contrast is over the samples of both, each hidden as one process would hide it."""
    run = tiny_run(**FAMILY_RUNS[name], steps=4, pictures_every=2)
    assert_two_train_as_one(tmp_path, run, run, rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parallel"), [("avsiam-alternate", "ddp"), ("cavmae", "fsdp")])
def test_micro_steps_of_two_processes_compare_as_many_samples_as_one(tmp_path: Path, name: str, parallel: str) -> None:
    """By gradient_cache, each hidden as one process would hide it, whose step has no micro-steps."""
    run = tiny_run(**FAMILY_RUNS[name], steps=3, gradient_cache=True)
    assert_two_train_as_one(tmp_path, run, replace(run, device_batch_size=1, parallel=parallel), rel=1e-5)


@pytest.mark.slow
def test_bfloat16_between_blocks_and_recomputed_activations_in_two_processes(tmp_path: Path) -> None:
    run = replace(RUN, precision=RESIDUAL, checkpoint_activations=True)
    assert call(train_drawn, tmp_path / "one", run, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    codes = call_together(train_drawn, tmp_path / "two", run, log=tmp_path / "log")
    assert codes == [0, 0], (tmp_path / "log.0").read_text() + (tmp_path / "log.1").read_text()
    found, wanted = curve(tmp_path / "two"), curve(tmp_path / "one")
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in wanted], rel=0.02)
    assert {tensor.dtype for tensor in weights(tmp_path / "two").values()} == {torch.float32}
