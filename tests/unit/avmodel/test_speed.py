"""What a training says of its speed."""

import pytest
import torch

from avmodel.costs import count_flop
from avmodel.distributed import World
from avmodel.speed import MEASURED_FROM, RECENT_STEPS, Speed
from tests.runs import tiny_run

HERE = World(0, 1, torch.device("cpu"))


def record(step: int, samples_per_s: float) -> dict[str, float]:
    return {"step": step, "samples_per_s": samples_per_s}


def test_the_time_left_is_that_of_the_last_steps() -> None:
    run = tiny_run(batch_size=8)
    speed = Speed(run, HERE, first=0, steps=RECENT_STEPS + 10)
    for step in range(1, RECENT_STEPS + 1):
        speed.of(record(step, 80.0))  # 0.1 s a step
    assert speed.of(record(RECENT_STEPS + 1, 80.0))["eta_s"] == pytest.approx(0.9)
    slower = [speed.of(record(RECENT_STEPS + 2, 8.0))["eta_s"] for _ in range(RECENT_STEPS)]
    assert slower == sorted(slower)
    assert slower[-1] == pytest.approx(8.0)


def test_mfu_is_the_share_of_the_measured_rate() -> None:
    run = tiny_run()
    speed = Speed(run, HERE, first=0, steps=MEASURED_FROM)
    one, two = (speed.of(record(step, rate))["mfu"] for step, rate in ((1, 1e6), (2, 2e6)))
    assert two == pytest.approx(2 * one, rel=1e-3)
    rate = count_flop(run.model) * 1e6 / one  # the matrix rate behind the share
    assert 1e8 < rate < 1e14


def test_a_short_run_measures_no_rate_and_says_no_mfu() -> None:
    assert "mfu" not in Speed(tiny_run(), HERE, first=1, steps=MEASURED_FROM).of(record(2, 5.0))


def test_another_process_than_the_first_measures_nothing() -> None:
    other = World(1, 2, torch.device("cpu"))
    assert "mfu" not in Speed(tiny_run(), other, first=0, steps=MEASURED_FROM).of(record(1, 5.0))
