"""The benchmark's rows are settings that exist, and its table has the right numbers."""

import pytest

from avmanifest.settings import override
from avmodel.evaluate.finetune.config import FinetuneConfig, small
from avmodel.presets import run_config
from benchmarks.learning_on_little import FINETUNINGS, IMAGES, PRETRAININGS, table


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


def test_the_table_has_means_and_standard_errors() -> None:
    lines = [{"run": "a", "scores": {"all": score}} for score in (50.0, 53.0, 56.0)] + [
        {"run": "b", "scores": {"all": 10.0}}
    ]
    assert table(lines).splitlines()[2:] == ["| a | all | 53.0 | 1.7 | 3 |", "| b | all | 10.0 |  | 1 |"]
