"""Runs whose checkpoints are damaged: the newest whole one is taken, it is said, and the run ends as it would have."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmanifest.errors import CheckpointError, ConfigError, ExitCode
from avmodel.checkpoint import load_model
from avmodel.checkpoint_folder import LATEST_FILE, MODEL_FILE, TRAINER_FILE, checkpoints_in, latest_checkpoint
from avmodel.metrics import METRICS
from avmodel.rundir import CHECKPOINTS
from avmodel.train import train
from tests.faults.checkpoint_faults import DAMAGE, HERE, RUN, flip, resumed
from tests.runs import DrawnBatches, assert_same_run, curve


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    train(RUN, DrawnBatches(), out, HERE)
    return out


@pytest.fixture
def out(straight: Path, tmp_path: Path) -> Path:
    shutil.copytree(straight, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_said(straight: Path, out: Path, name: str) -> None:
    checkpoint = out / CHECKPOINTS / "step-00000006"
    DAMAGE[name](checkpoint)
    (out / CHECKPOINTS / LATEST_FILE).write_text(checkpoint.name)
    heard = resumed(out)
    assert heard.begun_at == 4
    assert str(checkpoint) in heard.notes[0]
    assert "step-00000004 is taken in place of step-00000006" in heard.notes[0]
    assert latest_checkpoint(out / CHECKPOINTS) == checkpoint.with_name("step-00000006-2")
    assert_same_run(out, straight)


def test_a_step_without_weights_is_passed_over_and_said(straight: Path, out: Path) -> None:
    (out / CHECKPOINTS / "step-00000006" / MODEL_FILE).unlink()
    heard = resumed(out)
    assert heard.begun_at == 4
    assert "names 'step-00000006', which is no checkpoint" in heard.notes[0]
    assert "step-00000004 is taken in place of step-00000006" in heard.notes[1]
    assert_same_run(out, straight)


def point(folder: Path, content: str | None) -> None:
    (folder / LATEST_FILE).unlink()
    if content is not None:
        (folder / LATEST_FILE).write_text(content)


POINTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: point(f, None), "'latest' is missing"),
    "empty": (lambda f: point(f, ""), "names ''"),
    "a step that is not there": (lambda f: point(f, "step-00000008"), "names 'step-00000008'"),
    "a path": (lambda f: point(f, "../../elsewhere"), "names '../../elsewhere'"),
    "a folder": (lambda f: (point(f, None), (f / LATEST_FILE / "mine").mkdir(parents=True)), "cannot be read"),
    "not text": (lambda f: (f / LATEST_FILE).write_bytes(b"\xff\xfe\x00"), "cannot be read"),
}


@pytest.mark.parametrize("name", POINTERS)
def test_without_a_true_latest_the_newest_checkpoint_is_taken_and_said(straight: Path, out: Path, name: str) -> None:
    damage, said = POINTERS[name]
    damage(out / CHECKPOINTS)
    heard = resumed(out)
    assert heard.begun_at == 6
    assert said in heard.notes[0]
    assert "The newest whole checkpoint is taken" in heard.notes[0]
    if name == "a folder":
        assert "was a folder, where a file belongs; it is latest-folder now" in heard.notes[1]
        assert (out / CHECKPOINTS / "latest-folder" / "mine").is_dir()
    assert latest_checkpoint(out / CHECKPOINTS) == out / CHECKPOINTS / "step-00000006"
    assert_same_run(out, straight)


def test_a_damaged_line_of_metrics_does_not_stop_a_run_from_going_on(straight: Path, out: Path) -> None:
    with (out / METRICS).open("ab") as file:
        file.write(b'{"step": 7, "loss": \n')
    heard = resumed(out)
    assert heard.begun_at == 6
    assert "1 damaged line left out (7)" in heard.notes[0]
    assert_same_run(out, straight)


def test_with_no_whole_checkpoint_nothing_begins(out: Path) -> None:
    for checkpoint in checkpoints_in(out / CHECKPOINTS):
        flip(checkpoint / MODEL_FILE)
    before = (out / METRICS).read_bytes()
    with pytest.raises(CheckpointError, match="none of 3 checkpoints is whole") as raised:
        resumed(out)
    assert raised.value.exit_code is ExitCode.BROKEN_CHECKPOINT
    assert (out / METRICS).read_bytes() == before


def test_a_run_goes_on_from_the_step_that_is_asked_for(straight: Path, out: Path) -> None:
    heard = resumed(out, resume_from=2)
    assert heard.begun_at == 2
    assert heard.notes == [
        "going on from step-00000002; later checkpoints stay where they are: step-00000004, step-00000006"
    ]
    assert_same_run(out, straight)
    assert [line["step"] for line in curve(out)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ConfigError, match="no checkpoint of step 3; there are: 2, 4, 6"):
        resumed(out, resume_from=3)
    flip(out / CHECKPOINTS / "step-00000002" / TRAINER_FILE)
    with pytest.raises(CheckpointError, match="none of 1 checkpoint is whole"):
        resumed(out, resume_from=2)


def test_stopped_after_it_went_back_a_run_goes_on_from_there(straight: Path, out: Path) -> None:
    batches = DrawnBatches()
    report = train(RUN, batches, out, HERE, resume_from=2, stop=lambda: batches.done >= 12)
    assert report.step == 4
    heard = resumed(out)
    assert heard.begun_at == 4
    flip(latest_checkpoint(out / CHECKPOINTS) / MODEL_FILE)  # step 6, the second
    assert resumed(out).begun_at == 6  # the first of step 6 is whole
    assert_same_run(out, straight)


def test_without_resume_checkpoints_are_not_gone_on_from(out: Path) -> None:
    (out / METRICS).unlink()
    with pytest.raises(ConfigError, match="holds a run already"):
        train(RUN, DrawnBatches(), out, HERE)


def test_a_run_without_a_checkpoint_says_that_it_begins_at_step_0(straight: Path, out: Path) -> None:
    shutil.rmtree(out / CHECKPOINTS)
    heard = resumed(out)
    assert heard.begun_at == 0
    assert "no checkpoint was saved yet; the run begins at step 0" in heard.notes[0]
    assert_same_run(out, straight)


def test_how_often_is_saved_and_what_is_kept_may_change(straight: Path, out: Path) -> None:
    changed = replace(RUN, save_every=1, keep_checkpoints=1, keep_every=2, pictures_every=3, probe_every=2)
    assert resumed(out, changed, resume_from=2).begun_at == 2
    assert_same_run(out, straight)
    names = [path.name for path in checkpoints_in(out / CHECKPOINTS)]
    assert names == ["step-00000002", "step-00000004", "step-00000004-2", "step-00000006", "step-00000006-2"]


def test_weights_are_read_from_the_newest_whole_checkpoint(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    flip(out / CHECKPOINTS / "step-00000006" / MODEL_FILE)
    model, _ = load_model(out / CHECKPOINTS)
    expected, _ = load_model(out / CHECKPOINTS / "step-00000004")
    assert torch.equal(model.state_dict()["encoder.fusion_tokens"], expected.state_dict()["encoder.fusion_tokens"])
    assert "step-00000004 is taken in place of step-00000006" in caplog.text
    with pytest.raises(CheckpointError, match=r"step-00000006/model\.safetensors"):
        load_model(out / CHECKPOINTS / "step-00000006")
