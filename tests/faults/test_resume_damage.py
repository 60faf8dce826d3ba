"""Runs whose checkpoints are damaged: the newest whole one is taken, it is said, and the run ends as it would have."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avmanifest.errors import CheckpointError, ConfigError, ExitCode
from avmodel.checkpoint import load_model, load_trainer_state, read_weights, save_checkpoint, save_weights
from avmodel.checkpoint_folder import LATEST_FILE, MODEL_FILE, TRAINER_FILE, checkpoints_in, latest_checkpoint
from avmodel.distributed import World
from avmodel.metrics import METRICS
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.rundir import CHECKPOINTS
from avmodel.train import Listener, train
from tests.runs import TINY, DrawnBatches, assert_same_run, curve, tiny_run

HERE = World(0, 1, torch.device("cpu"))
RUN = tiny_run(save_every=2, keep_checkpoints=None)  # six steps: checkpoints 2, 4 and 6


class Heard(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begun_at: int | None = None

    def started(self, *, step: int, steps: int, epochs: float) -> None:
        self.begun_at = step

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    train(RUN, DrawnBatches(), out, HERE)
    return out


@pytest.fixture
def out(straight: Path, tmp_path: Path) -> Path:
    shutil.copytree(straight, tmp_path / "run")
    return tmp_path / "run"


def resumed(out: Path, run: Any = RUN, **how: Any) -> Heard:
    heard = Heard()
    train(run, DrawnBatches(), out, HERE, listener=heard, **(how or {"resume": True}))
    return heard


def flip(file: Path, place: float = 0.7) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)


def cut(file: Path, length: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(length * len(content))])


def saved_again(checkpoint: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """The checkpoint with another content and true hashes: damage from before it was written."""
    state, weights = load_trainer_state(checkpoint), read_weights(checkpoint / MODEL_FILE)[0]
    change(state, weights)
    step = int(checkpoint.name[5:])
    shutil.rmtree(checkpoint)
    try:
        save_checkpoint(checkpoint.parent, step, weights, TINY, state)
    except Exception:  # weights that are not finite are not saved by us; another program may have
        checkpoint.mkdir()
        shutil.copy(checkpoint.parent / "step-00000004" / TRAINER_FILE, checkpoint)
        save_weights(checkpoint / MODEL_FILE, weights, TINY, step=step)


def moments(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = next(iter(state["optimizer"]["state"].values()))
    return values


def ints(state: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    weights.update({name: tensor.int() for name, tensor in weights.items()})


def not_numbers(state: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    weights["encoder.fusion_tokens"] = torch.full_like(weights["encoder.fusion_tokens"], torch.nan)


def another_model(checkpoint: Path) -> None:
    other = replace(TINY, decoder_depth=2)
    shutil.rmtree(checkpoint)
    save_checkpoint(checkpoint.parent, 6, DeepAVFusion(other), other, {"step": 6, "optimizer": {}, "loader": {}})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the weights": lambda c: flip(c / MODEL_FILE),
    "a flipped bit in the header": lambda c: flip(c / MODEL_FILE, 0.01),
    "a flipped bit in the trainer's state": lambda c: flip(c / TRAINER_FILE),
    "cut weights": lambda c: cut(c / MODEL_FILE, 0.9),
    "cut trainer's state": lambda c: cut(c / TRAINER_FILE, 0.5),
    "empty weights": lambda c: cut(c / MODEL_FILE, 0),
    "empty trainer's state": lambda c: cut(c / TRAINER_FILE, 0),
    "no trainer's state": lambda c: (c / TRAINER_FILE).unlink(),
    "another step's trainer's state": lambda c: shutil.copy(c.with_name("step-00000004") / TRAINER_FILE, c),
    "another step's files": lambda c: shutil.copytree(c.with_name("step-00000004"), c, dirs_exist_ok=True),
    "a folder in place of weights": lambda c: ((c / MODEL_FILE).unlink(), (c / MODEL_FILE).mkdir()),
    "text in place of weights": lambda c: (c / MODEL_FILE).write_text("id,label\n"),
    "whole numbers as weights": lambda c: saved_again(c, ints),
    "weights that are not finite": lambda c: saved_again(c, not_numbers),
    "no optimizer": lambda c: saved_again(c, lambda state, _: state.pop("optimizer")),
    "an optimizer without groups": lambda c: saved_again(c, lambda state, _: state.update(optimizer={})),
    "moments of another shape": lambda c: saved_again(
        c, lambda state, _: moments(state).update(exp_avg=torch.zeros(3))
    ),
    "moments that are not finite": lambda c: saved_again(
        c, lambda state, _: moments(state)["exp_avg"].fill_(torch.inf)
    ),
    "no position of the loader": lambda c: saved_again(c, lambda state, _: state.pop("loader")),
    "another form of the loader's position": lambda c: saved_again(c, lambda state, _: state.update(loader={"at": 1})),
    "a step that is a text": lambda c: saved_again(c, lambda state, _: state.update(step="6")),
    "another model": another_model,
}


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
    assert latest_checkpoint(out / CHECKPOINTS) == out / CHECKPOINTS / "step-00000006"
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
    with pytest.raises(CheckpointError, match="none of 1 checkpoints is whole"):
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
