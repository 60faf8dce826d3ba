"""metrics.jsonl: each step once, however often the run was killed; the same numbers in TensorBoard and trackers."""

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from avdata.draw.images import decode_rgb, to_png
from avdata.tracking import TrackedRun
from avmanifest.errors import ManifestError, StorageError
from avmodel.metrics import METRICS, PROBES, TENSORBOARD, JsonLines, MetricLog, read_lines
from tests.faults.disks import full_disk
from tests.trackers import FakeImage, fake_tracker


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


DAMAGED = [b'{"step": 4, "lo\xff', b'{"step": 4, "loss": 0.2, "step": 5}', b'{"loss": 1.0}', b"[4]", b"\x00\x00", b""]


@pytest.mark.parametrize("line", DAMAGED)
@pytest.mark.parametrize("place", [1, 3])
def test_damaged_lines_are_left_out_and_said_and_the_file_is_kept(tmp_path: Path, line: bytes, place: int) -> None:
    path = tmp_path / METRICS
    lines = [b'{"step": 1, "loss": 0.5}', b'{"step": 2, "loss": 0.25}', b'{"step": 3, "loss": 0.125}']
    lines.insert(place, line)
    content = b"\n".join(lines) + b"\n"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=rf"metrics\.jsonl: line {place + 1}: .*pretrain --resume leaves damaged"):
        list(read_lines(path))
    notes: list[str] = []
    JsonLines(path, last_step=3, say=notes.append).close()
    assert steps_in(path) == [1, 2, 3]
    said = f"{path}: 1 damaged line left out ({place + 1}); the file as it was is metrics.jsonl.damaged"
    assert notes == [said]
    assert path.with_name("metrics.jsonl.damaged").read_bytes() == content


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
    with MetricLog(tmp_path, last_step=0, config={}) as log:
        log.step({"step": 1, "loss": 2.0})
        log.step({"step": 2, "loss": 1.5})
        log.probe({"step": 2, "fusion": 40.0})
        log.flush()
    with MetricLog(tmp_path, last_step=1, config={}) as log:
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


def test_speed_time_left_losses_and_pictures_are_in_tensorboard_and_in_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = fake_tracker(monkeypatch, "wandb")
    picture = np.full((4, 6, 3), 200, np.uint8)
    (tmp_path / "step.png").write_bytes(to_png(picture))
    settings = {"seed": 1, "optim.lr": 0.1, "data.mix": ["a", "b"], "start": None}
    tracked = TrackedRun(wandb_project="mine")
    with MetricLog(tmp_path, last_step=0, tracked=tracked, config=settings) as log:
        log.step({"step": 1, "loss": 2.0, "samples_per_s": 8.5, "eta_s": 60.0})
        log.validation(1, {"total": 3.0, "contrast": 1.0})
        log.pictures(1, {"reconstruction": tmp_path / "step.png", "attention": tmp_path / "none.png"})
    assert wandb.started[0]["config"] == settings
    assert wandb.logged == [
        (1, {"train/loss": 2.0, "train/samples_per_s": 8.5, "train/eta_s": 60.0}),
        (1, {"val/loss": 3.0, "val/loss_contrast": 1.0}),
        (1, {"pictures/reconstruction": FakeImage(str(tmp_path / "step.png"))}),
    ]
    board = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    names = {"train/loss", "train/samples_per_s", "train/eta_s", "val/loss", "val/loss_contrast"}
    assert set(board.Tags()["scalars"]) == names
    (event,) = board.Images("pictures/reconstruction")
    assert (event.step, event.height, event.width) == (1, 4, 6)
    assert np.array_equal(decode_rgb(event.encoded_image_string), picture)
    content = board.SummaryMetadata("_hparams_/experiment").plugin_data.content
    found = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert {info.name for info in found.hparam_infos} == set(settings)
    assert {info.name.tag for info in found.metric_infos} == {"train/loss", "val/loss"}
    lines = list(read_lines(tmp_path / METRICS))
    assert lines[1] == {"step": 1, "val_loss": 3.0, "val_loss_contrast": 1.0}
