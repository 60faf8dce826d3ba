"""metrics.jsonl: each step once, however often the run was killed."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avmanifest.errors import ConfigError, ManifestError, StorageError
from avmodel.configs.run import RunConfig
from avmodel.metrics import METRICS, PROBES, TENSORBOARD, WANDB_RUN, JsonLines, MetricLog, WandbRun, read_lines
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


def test_wandb_without_the_package_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wandb_project='mine': the package wandb is not installed"):
        MetricLog(tmp_path, last_step=0, wandb=WandbRun(project="mine"), config={})


class Wandb:
    """The part of the package wandb that is used: keeps what it is given."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []

    def init(self, **given: Any) -> SimpleNamespace:
        self.started.append(given)
        Path(given["dir"], "wandb").mkdir(exist_ok=True)
        return SimpleNamespace(log=self._log, finish=lambda exit_code: None)

    def _log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    found = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", found)
    return found


def log_to(folder: Path, *, last_step: int = 0, **how: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with MetricLog(folder, last_step=last_step, wandb=WandbRun(project="mine", **how), config={"seed": 1}) as log:
        log.step({"step": last_step + 1, "loss": 2.0, "samples_per_s": 8.5, "eta_s": 60.0})
        log.validation(last_step + 1, {"total": 3.0, "contrast": 1.0})


def test_runs_of_one_name_are_runs_of_their_own_and_a_resumed_one_goes_on(tmp_path: Path, wandb: Wandb) -> None:
    folders = [tmp_path / "a" / "first", tmp_path / "b" / "first"]
    for folder in folders:
        log_to(folder)
    log_to(folders[0], last_step=1)
    log_to(folders[0])  # begun again
    ids = [given["id"] for given in wandb.started]
    assert ids[2] == ids[0]
    assert len(set(ids)) == 3
    assert {given["name"] for given in wandb.started} == {"first"}
    assert {given["resume"] for given in wandb.started} == {"allow"}
    assert json.loads((folders[0] / WANDB_RUN).read_text()) == {"id": ids[3]}


def test_a_run_of_an_earlier_version_goes_on_under_its_id(tmp_path: Path, wandb: Wandb) -> None:
    (tmp_path / "old" / "wandb").mkdir(parents=True)
    log_to(tmp_path / "old", last_step=7)
    (tmp_path / "plain").mkdir()  # it did not log there before
    log_to(tmp_path / "plain", last_step=7)
    assert wandb.started[0]["id"] == "old"
    assert wandb.started[1]["id"] != "plain"


def test_name_group_and_tags_speed_and_time_left_are_there(tmp_path: Path, wandb: Wandb) -> None:
    log_to(tmp_path / "run", name="base", group="ablation", tags=("small", "vgg"))
    given = wandb.started[0]
    assert (given["project"], given["name"], given["group"]) == ("mine", "base", "ablation")
    assert (given["tags"], given["config"]) == (["small", "vgg"], {"seed": 1})
    assert wandb.logged == [
        (1, {"train/loss": 2.0, "train/samples_per_s": 8.5, "train/eta_s": 60.0}),
        (1, {"val/loss": 3.0, "val/loss_contrast": 1.0}),
    ]
    board = EventAccumulator(str(tmp_path / "run" / TENSORBOARD)).Reload()
    names = {"train/loss", "train/samples_per_s", "train/eta_s", "val/loss", "val/loss_contrast"}
    assert set(board.Tags()["scalars"]) == names
    lines = list(read_lines(tmp_path / "run" / METRICS))
    assert lines[1] == {"step": 1, "val_loss": 3.0, "val_loss_contrast": 1.0}


@pytest.mark.parametrize("content", [b"{}", b'{"id": 5}', b"[1]", b"\xff", b'{"id": ""}'])
def test_a_damaged_id_is_refused_with_its_file(tmp_path: Path, wandb: Wandb, content: bytes) -> None:
    (tmp_path / WANDB_RUN).write_bytes(content)
    with pytest.raises(ConfigError, match=r"wandb-run\.json: .*Remove it to log to a new run"):
        log_to(tmp_path, last_step=3)
    assert not wandb.started


def test_a_group_without_a_project_is_refused() -> None:
    for setting in ({"wandb_group": "a"}, {"wandb_tags": ("a", "b")}, {"wandb_name": "a"}):
        with pytest.raises(ConfigError, match=r"wandb_\w+=a.*: wandb_project is none"):
            RunConfig(name="run", **setting)
    RunConfig(name="run", wandb_project="mine", wandb_group="a")
