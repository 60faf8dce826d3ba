"""Windows around frames go with a checkpoint, from training to its evaluations and to `apply`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avdata.load import AllFramesView, EvalView, TrainView
from avmanifest.errors import ConfigError
from avmodel.apply.inputs import window_inputs
from avmodel.checkpoint import save_checkpoint
from avmodel.configs.data import DataConfig
from avmodel.configs.run import RunConfig
from avmodel.distributed import World
from avmodel.evaluate.data import one_view, scoring_view, train_view
from avmodel.evaluate.evaluation import describe_view
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.loading import load_pretrained
from avmodel.inputs import probe_loader, reading_notes, train_loader
from avmodel.models import build_model
from avmodel.rundir import CHECKPOINTS
from avmodel.train import train
from tests.evaluating import DATA
from tests.runs import TINY_SYNC, tiny_run
from tests.shards import draw_dataset

HERE = World(0, 1, torch.device("cpu"))
SYNC = replace(TINY_SYNC, audio_size=(128, 416))
READ = DataConfig(profile="kaldi", window_s=4.16, around_frame=True, max_gain_db=0.0, num_workers=0)


def checkpoint(folder: Path, **notes: str) -> LoadedModel:
    """A run whose checkpoint notes this beside how READ reads."""
    torch.manual_seed(0)
    noted = reading_notes(READ) | notes
    save_checkpoint(folder / CHECKPOINTS, 1, build_model(SYNC), SYNC, {"step": 1}, notes=noted)
    return load_pretrained(folder, HERE.device)


def test_evaluations_hear_windows_around_frames_as_the_training_did(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path)
    assert (loaded.profile, loaded.window_s, loaded.around_frame) == ("kaldi", 4.16, True)
    views: list[Any] = [
        one_view(DATA, loaded),
        scoring_view(DATA, loaded),
        scoring_view(replace(DATA, frames=16), loaded),
        train_view(DATA, loaded, max_gain_db=6.0),
    ]
    assert [type(view) for view in views] == [EvalView, EvalView, AllFramesView, TrainView]
    for view in views:
        assert (view.profile, view.window_s, view.around_frame, view.num_columns) == ("kaldi", 4.16, True, 416)
    assert (views[1].num_windows, views[2].num_windows, views[2].num_images) == (None, 16, 16)
    described = describe_view(views[2])
    assert (described["window"], described["windows"], described["frames"]) == ("4.16 s", 16, 16)
    assert described["around_frame"]


def test_a_checkpoint_that_notes_nothing_of_it_was_trained_on_windows_first(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path, around_frame="False", window_s="None")
    view = one_view(DATA, loaded)
    assert (loaded.around_frame, view.around_frame, view.window_s) == (False, False, None)
    assert "around_frame" not in describe_view(view)


def test_a_checkpoint_that_notes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="around_frame='perhaps'; known: True, False"):
        checkpoint(tmp_path, around_frame="perhaps")


def test_pretraining_its_probe_and_its_checkpoints_agree(tmp_path: Path) -> None:
    kind: dict[str, Any] = {"mel": ("kaldi",), "seconds": 6.0, "num_frames": 3, "flac": False}
    root = draw_dataset(tmp_path / "set", 4, **kind)
    draw_dataset(root, 3, split="val", first=4, **kind)
    batches = train_loader(READ, SYNC, root, HERE, batch_size=4, seed=0)
    trained = batches.view
    probed = probe_loader(READ, SYNC, root, HERE, batch_size=2)
    assert isinstance(trained, TrainView) and trained.around_frame
    assert probed is not None and isinstance(probed.view, EvalView) and probed.view.around_frame
    run: RunConfig = tiny_run(model=SYNC, data=READ, steps=2)
    train(run, batches, tmp_path / "run", HERE)
    loaded = load_pretrained(tmp_path / "run", HERE.device)
    assert (loaded.window_s, loaded.around_frame) == (4.16, True)


def test_kaldi_windows_that_are_around_nothing_are_refused(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "set", 4, mel=("kaldi",), seconds=6.0, num_frames=3, flac=False)
    with pytest.raises(ConfigError, match=r"window_s=4\.16 with profile 'kaldi': it needs whole clips"):
        train_loader(replace(READ, around_frame=False), SYNC, root, HERE, batch_size=4, seed=0)


def test_apply_takes_windows_with_sound_for_all_columns(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path)
    inputs = window_inputs(loaded, None)
    assert inputs.window_s == pytest.approx(4.175)  # the last of 416 columns ends 25 ms after its start
    assert inputs.view.num_columns == 416
    assert window_inputs(loaded, 2.0).window_s == 2.0
    with pytest.raises(ConfigError, match="--window 10: 998 columns of 'kaldi' spectrograms, and the model takes 416"):
        window_inputs(loaded, 10.0)
