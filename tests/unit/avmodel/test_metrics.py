"""metrics.jsonl: each step once, however often the run was killed."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avmanifest.errors import ConfigError, StorageError
from avmodel.metrics import METRICS, PROBES, TENSORBOARD, JsonLines, MetricLog, read_lines
from tests.faults.disks import full_disk


def steps_in(path: Path) -> list[int]:
    return [line["step"] for line in read_lines(path)]


def test_a_resumed_file_ends_at_its_last_step(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    first = JsonLines(path, last_step=0)
    for step in range(1, 6):
        first.write({"step": step, "loss": 1 / step})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    assert steps_in(path) == [1, 2, 3, 4, 5]
    again = JsonLines(path, last_step=3)
    again.write({"step": 4, "loss": 0.5})
    again.flush()
    again.close()
    lines = list(read_lines(path))
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["loss"] for line in lines] == [1.0, 1 / 2, 1 / 3, 0.5]
    assert path.read_text().count("\n") == 4


def test_losses_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    loss = 0.1 + 0.2
    for last_step in (0, 1, 1):
        log = JsonLines(path, last_step=last_step)
        if last_step == 0:
            log.write({"step": 1, "loss": loss})
        log.close()
    assert next(read_lines(path))["loss"] == loss


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path / METRICS)) == []


def test_steps_and_probes_are_in_json_and_in_tensorboard(tmp_path: Path) -> None:
    with MetricLog(tmp_path, last_step=0, wandb_project=None, config={}) as log:
        log.step({"step": 1, "loss": 2.0})
        log.step({"step": 2, "loss": 1.5})
        log.probe({"step": 2, "fusion": 40.0})
        log.flush()
    with MetricLog(tmp_path, last_step=1, wandb_project=None, config={}) as log:
        log.step({"step": 2, "loss": 1.25})
    assert list(read_lines(tmp_path / METRICS)) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.25}]
    assert list(read_lines(tmp_path / PROBES)) == []
    board = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, 2.0), (2, 1.25)]


def test_a_full_disk_is_a_storage_error_and_what_was_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    log = JsonLines(path, last_step=0)
    log.write({"step": 1, "loss": 2.0})
    with full_disk(path.stat().st_size + 5):
        with pytest.raises(StorageError, match=r"metrics\.jsonl: not written .*resume"):
            log.write({"step": 2, "loss": 2.0})
        log.close()
    assert json.loads(path.read_text().splitlines()[0]) == {"step": 1, "loss": 2.0}
    assert steps_in(path) == [1]


def test_wandb_without_the_package_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wandb_project='mine': the package wandb is not installed"):
        MetricLog(tmp_path, last_step=0, wandb_project="mine", config={})
