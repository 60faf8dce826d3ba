"""The benchmark's rows are settings that exist, and its table has the right numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avdata.load import open_dataset
from avmanifest.settings import override
from avmodel.evaluate.finetune.config import FinetuneConfig, small
from avmodel.presets import run_config
from benchmarks.learning_on_little import (
    CONTRASTS,
    FINETUNINGS,
    IMAGES,
    PRETRAININGS,
    SYNTH_24,
    bands,
    contrast_run,
    draw_synth,
    run_folder,
    table,
)


def test_the_last_finetuning_is_the_released_recipe_but_for_what_the_set_needs() -> None:
    *_, last = FINETUNINGS.values()
    found, released = override(small(), last), FinetuneConfig()
    for name in ("drop_path", "mixup", "smoothing", "flip_probability", "min_area"):
        assert getattr(found, name) == getattr(released, name), name
    for name in ("layer_decay", "warmup", "betas", "weight_decay", "optimizer"):
        assert getattr(found.optim, name) == getattr(released.optim, name), name
    assert found.optim.peak_lr(64) == pytest.approx(released.optim.peak_lr(64))


def test_every_row_can_be_run() -> None:
    assert all(override(small(), [*IMAGES, *settings]).data.mode == "image" for settings in FINETUNINGS.values())
    targets = [override(run_config("demo"), settings).model for settings in PRETRAININGS.values()]
    assert len(set(targets)) == len(PRETRAININGS)
    contrasts = [replace(contrast_run(name, seed=0), name="") for name in CONTRASTS]
    assert len(set(contrasts)) == len(CONTRASTS)
    assert {run.steps for run in contrasts} == {2400}
    assert len({run_folder("contrast", "digits", name, 0) for name in CONTRASTS}) == len(CONTRASTS)


def test_the_contrast_is_that_of_the_named_run_on_the_inputs_of_the_demo() -> None:
    run, small, demo = contrast_run("AVSiam", seed=2), run_config("avsiam-small"), run_config("demo")
    assert (run.name, run.model, run.optim, run.seed) == ("avsiam-small", small.model, small.optim, 2)
    assert (small.optim, small.data, small.batch_size) == (demo.optim, demo.data, demo.batch_size)
    assert (small.model.size, small.model.audio_size) == (demo.model.size, demo.model.audio_size)


def test_four_of_five_drawn_clips_are_to_train_on(tmp_path: Path) -> None:
    draw_synth(tmp_path, replace(SYNTH_24, num_clips=10, seconds=1.0))
    train, test = (open_dataset(tmp_path, split=split) for split in ("train", "test"))
    assert (len(train), len(test), len(train.classes)) == (8, 2, 24)
    assert set(train.keys.to_pylist()).isdisjoint(test.keys.to_pylist())


def test_bands_are_mean_deviation_and_largest_value_of_each_bin() -> None:
    mels = np.array([[[1.0, 3.0], [5.0, 5.0]]])
    assert bands(mels).tolist() == [[2.0, 5.0, 1.0, 0.0, 3.0, 5.0]]


def test_the_table_has_means_and_standard_errors() -> None:
    lines = [{"run": "a", "scores": {"all": score}} for score in (50.0, 53.0, 56.0)] + [
        {"run": "b", "scores": {"all": 10.0}}
    ]
    assert table(lines).splitlines()[2:] == ["| a | all | 53.0 | 1.7 | 3 |", "| b | all | 10.0 |  | 1 |"]
