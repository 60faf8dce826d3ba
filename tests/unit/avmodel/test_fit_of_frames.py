"""How frames become square goes with a checkpoint, from training to its evaluations."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.checkpoint import save_checkpoint
from avmodel.configs.data import DataConfig
from avmodel.distributed import World
from avmodel.evaluate.config import EvalDataConfig
from avmodel.evaluate.data import one_view, scoring_view, train_view
from avmodel.evaluate.evaluation import describe_view
from avmodel.evaluate.finetune.config import PRESETS
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.loading import load_pretrained
from avmodel.evaluate.localization.config import LocalizationConfig
from avmodel.inputs import probe_loader, train_loader
from avmodel.presets import run_config
from avmodel.rundir import CHECKPOINTS
from tests.evaluating import DATA, tiny_model
from tests.runs import TINY
from tests.shards import draw_dataset

HERE = World(0, 1, torch.device("cpu"))


def checkpoint(folder: Path, **notes: str) -> LoadedModel:
    """A run whose checkpoint notes this."""
    noted = {"profile": "paper", "window_s": "1.0", **notes}
    save_checkpoint(folder / CHECKPOINTS, 1, tiny_model(), TINY, {"step": 1}, notes=noted)
    return load_pretrained(folder, HERE.device)


@pytest.mark.parametrize("fit", ["short-side-crop", "squash"])
def test_evaluations_take_the_field_of_the_training(tmp_path: Path, fit: str) -> None:
    loaded = checkpoint(tmp_path, fit=fit)
    trained = train_view(DATA, loaded, max_gain_db=0.0, flip_probability=0.0)
    for view in (one_view(DATA, loaded), scoring_view(replace(DATA, frames=2), loaded)):
        assert view.choose_crop(90, 160, ()) == trained.choose_crop(90, 160, [0.5] * trained.num_draws)
    assert describe_view(one_view(DATA, loaded))["fit"] == fit


def test_an_area_of_crops_that_are_not_made_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = checkpoint(tmp_path, fit="squash")
    for min_area in (0.5, 1.0):
        train_view(DATA, loaded, max_gain_db=0.0, min_area=min_area)
    train_view(replace(DATA, fit="crop"), loaded, max_gain_db=0.0, min_area=0.2)
    assert caplog.messages == []
    train_view(DATA, loaded, max_gain_db=0.0, min_area=0.2)
    assert caplog.messages == ["min_area=0.2 has no effect with data.fit=squash: it is of random crops"]
    squashed = DataConfig(fit="squash", min_area=0.2)
    assert squashed.unread_note == (
        "data.min_area=0.2 has no effect with data.fit=squash: it is of random crops (fit=crop)"
    )
    assert [replace(squashed, **given).unread_note for given in ({"fit": "crop"}, {"min_area": 1.0})] == [None, None]


def test_a_setting_overrides_what_the_checkpoint_notes(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path, fit="squash")
    assert one_view(replace(DATA, fit="crop"), loaded).fit == "crop"


def test_a_checkpoint_of_an_earlier_version_was_trained_on_crops(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path)
    assert loaded.fit is None
    assert one_view(DATA, loaded).fit == "crop"


def test_a_checkpoint_that_notes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fit='letterbox'; known: crop, short-side-crop, squash"):
        checkpoint(tmp_path, fit="letterbox")


def test_pretraining_and_its_probe_see_the_same_field(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "set", 4, seconds=1.5, num_frames=2, flac=False)
    draw_dataset(root, 3, split="val", first=4, seconds=1.5, num_frames=2, flac=False)
    data = DataConfig(window_s=1.0, num_workers=0, fit="squash")
    trained = train_loader(data, TINY, root, HERE, batch_size=4, seed=0).view
    probed = probe_loader(data, TINY, root, HERE, batch_size=2)
    assert probed is not None
    assert trained.fit == probed.view.fit == "squash"  # type: ignore[attr-defined]


def test_the_named_runs_have_the_fit_of_their_source() -> None:
    """AVSiam's loaders resize whole frames; CAV-MAE's frames are center squares; MAE and DeepAVFusion crop."""
    fits = {name: run_config(name).data.fit for name in ("avsiam-b", "avsep-l", "cavmae", "crossmae", "deepavfusion")}
    assert fits == {
        "avsiam-b": "squash",
        "avsep-l": "squash",
        "cavmae": "short-side-crop",
        "crossmae": "crop",
        "deepavfusion": "crop",
    }
    tuned = {name: PRESETS[name]().data.fit for name in ("cav-mae", "crossmae-vggsound", "avsiam-b-as20k", "released")}
    assert tuned == {
        "cav-mae": "short-side-crop",
        "crossmae-vggsound": "short-side-crop",
        "avsiam-b-as20k": "squash",
        "released": None,
    }


def test_localization_is_of_whole_frames() -> None:
    for fit in (None, "squash"):
        assert LocalizationConfig(data=EvalDataConfig(fit=fit)).data.fit == fit
    with pytest.raises(ConfigError, match=r"data\.fit=crop: boxes and masks are of whole frames"):
        LocalizationConfig(data=EvalDataConfig(fit="crop"))


def test_an_unknown_fit_names_the_setting() -> None:
    for config in (DataConfig, EvalDataConfig):
        with pytest.raises(ConfigError, match=r"data\.fit 'pad'|data\.fit='pad'"):
            config(fit="pad")
