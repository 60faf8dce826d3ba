"""The training of any task, on a task that is one number: steps that are left out, checkpoints that are damaged."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from avdata.load import Batch
from avmanifest.errors import CheckpointError, ConfigError, DivergedError
from avmodel.checkpoint import read_weights, save_checkpoint
from avmodel.checkpoint_folder import LATEST_FILE, MODEL_FILE, latest_checkpoint
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.data import open_splits, train_view
from avmodel.evaluate.finetune.config import FinetuneConfig
from avmodel.evaluate.training import Training, train
from avmodel.fit import Moment
from avmodel.metrics import METRICS, SKIPPED, read_lines
from avmodel.optim import make_optimizer
from avmodel.rundir import CHECKPOINTS
from tests.evaluating import DATA, evaluation_of
from tests.runs import TINY

CONFIG = FinetuneConfig(data=DATA, batch_size=8, device_batch_size=4, epochs=2, device="cpu")  # six steps


class Level(nn.Module):
    """A share of the log-mel's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.ones(1))

    def forward(self, log_mel: Float[Tensor, "b mel t"]) -> Float[Tensor, " b"]:
        return self.share * log_mel.float().mean(dim=(1, 2))


class Place:
    """Trains in a folder; the samples of some keys give a loss that is not a number."""

    def __init__(self, run: Path, data: Path, out: Path) -> None:
        self.out = out
        self.run = evaluation_of(run, data, out)
        self.train, _ = open_splits(CONFIG.data, data, None)
        self.seen: dict[int, list[str]] = {}  # keys by step

    def __call__(self, name: str, spoiled: str = "", most: int = 0) -> Level:
        config = replace(CONFIG, optim=OptimConfig(base_lr=0.1, max_skipped_steps=most))
        folder = self.out / name

        def loss(forward: nn.Module, batch: Batch, moment: Moment) -> Float[Tensor, ""]:
            self.seen.setdefault(moment.step, []).extend(batch.keys)
            bad = torch.tensor([key == spoiled for key in batch.keys]) & batch.log_mel.any(dim=2).any(dim=1)
            return (forward(batch.log_mel) * torch.where(bad, torch.nan, 1.0)).square().mean()

        def save(module: Level, done: int, state: Mapping[str, Any]) -> None:
            save_checkpoint(folder / CHECKPOINTS, done, module, TINY, state, keep=2)

        training = Training(
            name="level",
            view=train_view(config.data, self.run.loaded, max_gain_db=0.0, min_area=1.0),
            build=Level,
            optimizer=lambda module: make_optimizer(module, config.optim),
            loss=loss,
            save=save,
            load=lambda module, path: module.load_state_dict(read_weights(path / MODEL_FILE)[0]),
            test_only=(),
            splits={"train": self.train},
        )
        return train(config, self.run, training, 0, folder)


@pytest.fixture
def place(tiny_run: Path, splits: Path, tmp_path: Path) -> Place:
    return Place(tiny_run, splits, tmp_path)


@pytest.mark.slow
def test_a_sample_that_gives_no_number_is_named_and_its_steps_are_left_out(place: Place) -> None:
    place("straight")
    key = place.seen[1][0]
    steps = [step + 1 for step, keys in sorted(place.seen.items()) if key in keys]
    assert len(steps) == 2
    with pytest.raises(DivergedError, match=rf"step 2: loss nan, .*Samples: {key}\."):
        place("ended", key)
    with pytest.raises(DivergedError, match=rf"step {steps[1]}: .*Samples: {key}\..* 1 step was left out before"):
        place("bounded", key, most=1)
    # After its first epoch the run has a checkpoint: it goes on from there, with the count, under another bound.
    place("bounded", key, most=2)
    place("skipped", key, most=2)
    for name in ("bounded", "skipped"):
        skipped = [(line["step"], line["samples"]) for line in read_lines(place.out / name / SKIPPED)]
        assert skipped == [(step, [key]) for step in steps]
        kept = [line["step"] for line in read_lines(place.out / name / METRICS)]
        assert kept == [step for step in range(1, 7) if step not in steps]


def test_a_training_on_other_content_under_the_same_keys_is_another_one(place: Place) -> None:
    expected = place("straight").state_dict()
    config_file = place.out / "straight" / "config.json"
    stored = json.loads(config_file.read_text())
    dataset = place.train.dataset
    frames = replace(dataset.frames, xxh3=dataset.frames.xxh3 + np.uint64(1))
    other = place.train._replace(dataset=replace(dataset, frames=frames))
    assert other.subset_id == place.train.subset_id
    same, place.train = place.train, other
    with pytest.raises(ConfigError, match=r"holds a run with other settings: run\.train_content"):
        place("straight")
    place.train = same
    # One that an earlier version began is gone on with.
    config_file.write_text(json.dumps({name: stored[name] for name in stored if name != "run.train_content"}))
    assert torch.equal(place("straight").state_dict()["share"], expected["share"])


def test_a_damaged_checkpoint_of_an_epoch_is_passed_over(place: Place) -> None:
    expected = place("straight").state_dict()
    checkpoints = place.out / "straight" / CHECKPOINTS
    latest = latest_checkpoint(checkpoints)
    assert latest is not None
    (latest / MODEL_FILE).write_bytes((latest / MODEL_FILE).read_bytes()[:-1])
    (checkpoints / LATEST_FILE).unlink()
    assert torch.equal(place("straight").state_dict()["share"], expected["share"])
    for checkpoint in checkpoints.glob("step-*"):
        (checkpoint / MODEL_FILE).write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of 2 checkpoints is whole"):
        place("straight")
