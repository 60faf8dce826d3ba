"""Steps that are not finite: the samples are named, and a bounded number of such steps is left out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avmanifest.errors import ConfigError, DivergedError, ExitCode
from avmodel.checkpoint import load_model, load_trainer_state
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import RunConfig
from avmodel.distributed import World
from avmodel.metrics import SKIPPED, read_lines
from avmodel.nonfinite import bisect, blanked
from avmodel.rundir import CHECKPOINTS
from avmodel.train import Listener, train
from tests.runs import FAMILY_RUNS, DrawnBatches, assert_same_run, curve, tiny_run

HERE = World(0, 1, torch.device("cpu"))


def skipping(most: int, **changes: Any) -> RunConfig:
    run = tiny_run(save_every=1, keep_checkpoints=None, **changes)
    return replace(run, optim=replace(run.optim, max_skipped_steps=most))


class Notes(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@given(st.integers(1, 70), st.sets(st.integers(0, 69), max_size=6))
def test_bisecting_finds_exactly_what_is_bad(count: int, drawn: set[int]) -> None:
    bad = sorted(number for number in drawn if number < count)
    asked = 0

    def is_bad(items: range) -> bool:
        nonlocal asked
        asked += 1
        return any(number in items for number in bad)

    assert bisect(is_bad, count, 8) == bad
    assert asked <= (len(bad) + 1) * (count.bit_length() + 3)
    assert bisect(is_bad, count, 2) == bad[:2]


def test_what_is_bad_only_together_is_not_blamed_on_one() -> None:
    assert bisect(lambda items: len(items) > 1, 9, 8) == []


def test_blanked_samples_are_zeros_and_the_rest_is_untouched() -> None:
    batch = DrawnBatches(spoiled=[2]).draw(range(4))
    kept = blanked(batch, torch.tensor([False, True, False, True]))
    assert torch.equal(kept.images[1::2], batch.images[1::2])
    assert torch.equal(kept.log_mel[1::2], batch.log_mel[1::2])
    assert not kept.images[::2].any()
    assert not kept.log_mel[::2].any()
    assert kept.keys == batch.keys
    assert batch.log_mel[2].isnan().all()


@pytest.mark.parametrize("micro", [4, 2, 1])
@pytest.mark.parametrize("most", [0, 1])
def test_all_samples_to_blame_are_named_and_no_other(tmp_path: Path, most: int, micro: int) -> None:
    run = replace(skipping(most), device_batch_size=micro)
    batches = DrawnBatches(micro, spoiled=[4, 12, 15])
    with pytest.raises(DivergedError, match=r"Samples: clip-4\." if most == 0 else r"Samples: clip-12, clip-15\."):
        train(run, batches, tmp_path / "run", HERE)


@pytest.mark.parametrize("name", sorted(FAMILY_RUNS))
@pytest.mark.parametrize("most", [0, 1])
def test_every_family_names_the_sample(tmp_path: Path, name: str, most: int) -> None:
    run = skipping(most, **FAMILY_RUNS[name])
    with pytest.raises(DivergedError, match=rf"Samples: clip-{'13' if most else '6'}\.") as raised:
        train(run, DrawnBatches(spoiled=[6, 13]), tmp_path / "run", HERE)
    assert raised.value.exit_code is ExitCode.DIVERGED


def state(out: Path, step: int) -> tuple[Mapping[str, torch.Tensor], list[Any]]:
    checkpoint = out / CHECKPOINTS / f"step-{step:08d}"
    optimizer = load_trainer_state(checkpoint)["optimizer"]
    return load_model(checkpoint)[0].state_dict(), [
        value for values in optimizer["state"].values() for value in values.values()
    ]


def test_a_step_that_is_left_out_changes_nothing_and_the_rest_is_as_without_it(tmp_path: Path) -> None:
    out, heard = tmp_path / "run", Notes()
    report = train(skipping(2), DrawnBatches(spoiled=[13]), out, HERE, listener=heard)
    assert report.step == 6
    (weights, moments), (later, later_moments) = state(out, 3), state(out, 4)
    assert all(torch.equal(value, later[name]) for name, value in weights.items())
    assert all(torch.equal(a, b) for a, b in zip(moments, later_moments, strict=True))
    assert [line["step"] for line in curve(out)] == [1, 2, 3, 5, 6]
    assert [line["skipped_steps"] for line in curve(out)] == [0, 0, 0, 1, 1]
    expected = {"step": 4, "epoch": 1.0, "loss": "nan", "grad_norm": "nan", "samples": ["clip-13"]}
    assert list(read_lines(out / SKIPPED)) == [expected]
    assert heard.notes == [
        "step 4: left out, 1 of at most 2: loss nan, gradient norm nan. Caused by: clip-13",
    ]


def test_a_run_that_may_skip_and_need_not_is_the_same_run(tmp_path: Path) -> None:
    train(tiny_run(), DrawnBatches(), tmp_path / "straight", HERE)
    train(skipping(3), DrawnBatches(), tmp_path / "run", HERE)
    for line, plain in zip(curve(tmp_path / "run"), curve(tmp_path / "straight"), strict=True):
        assert line == {**plain, "skipped_steps": 0}
    assert not (tmp_path / "run" / SKIPPED).exists()


@pytest.mark.slow
def test_no_more_steps_are_left_out_than_the_bound_over_resumes_too(tmp_path: Path) -> None:
    out, batches = tmp_path / "run", DrawnBatches(spoiled=[5, 13, 21])
    train(skipping(2), batches, out, HERE, stop=lambda: batches.done >= 16)
    with pytest.raises(DivergedError, match=r"step 6: .*Samples: clip-21\..* 2 steps were left out before, optim\.max"):
        train(skipping(2), DrawnBatches(spoiled=[5, 13, 21]), out, HERE, resume=True)
    assert [line["step"] for line in read_lines(out / SKIPPED)] == [2, 4]
    train(skipping(3), DrawnBatches(spoiled=[5, 13, 21]), out, HERE, resume=True)
    assert [line["step"] for line in read_lines(out / SKIPPED)] == [2, 4, 6]
    straight = tmp_path / "straight"
    train(skipping(3), DrawnBatches(spoiled=[5, 13, 21]), straight, HERE)
    assert_same_run(out, straight)


def test_a_run_that_ended_is_told_to_skip_at_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"resume with --set optim\.max_skipped_steps=10"):
        train(tiny_run(save_every=1), DrawnBatches(spoiled=[13]), out, HERE)
    train(skipping(1), DrawnBatches(spoiled=[13]), out, HERE, resume=True)
    assert [line["step"] for line in curve(out)] == [1, 2, 3, 5, 6]


@pytest.mark.parametrize("most", [0, 2])
def test_a_diverged_training_is_not_blamed_on_a_sample(tmp_path: Path, most: int) -> None:
    run = skipping(most)
    run = replace(run, optim=OptimConfig(lr=1e36, warmup=0.0, max_skipped_steps=most))
    with pytest.raises(DivergedError, match=r"No sample alone is the cause|weights are not finite"):
        train(run, DrawnBatches(), tmp_path / "run", HERE)


def test_a_bound_below_0_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.max_skipped_steps=-1: must be 0 or more"):
        OptimConfig(max_skipped_steps=-1)
