"""Contrastive fine-tuning for retrieval, on a few drawn clips."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.configs.augment import AugmentConfig
from avmodel.evaluate.data import open_split
from avmodel.evaluate.loading import load_pretrained
from avmodel.evaluate.retrieval.config import PRESETS, RetrievalConfig
from avmodel.evaluate.retrieval.task import alone, directions, retrieval
from avmodel.evaluate.retrieval.tuning import Pairs, tuned
from avmodel.metrics import METRICS, read_lines
from tests.evaluating import DATA, TEST, TRAIN, draw_splits, evaluation_of, tiny_model
from tests.families import batch

CPU = torch.device("cpu")
CONFIG = RetrievalConfig(
    data=DATA, device="cpu", random_weights=False, tuned=True, batch_size=8, device_batch_size=8, epochs=2
)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_lines(folder / METRICS)]


def test_each_modality_is_encoded_without_the_other() -> None:
    model = tiny_model().eval()
    image, log_mel = batch(model.config, 3)
    with torch.no_grad():
        seen, heard = Pairs(model)(image, log_mel)
        torch.testing.assert_close(seen, model.streams(image, None)["image"].mean(dim=1))
        torch.testing.assert_close(heard, model.streams(None, log_mel)["audio"].mean(dim=1))


@pytest.mark.slow
def test_a_result_is_of_the_trained_model(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    result = retrieval(replace(CONFIG, seeds=(0, 1)), run)
    assert (result.task, result.mode) == ("retrieval after contrastive fine-tuning", "finetuned")
    assert len(result.scores["audio to image"]["r@1"].values) == 2
    assert (result.data["train"]["samples"], result.data["test"]["samples"]) == (TRAIN, TEST)
    loaded = load_pretrained(run.out / "seed-1", CPU)  # a checkpoint of the model as any other
    assert (loaded.profile, loaded.window_s, loaded.fit) == ("paper", 1.0, "crop")
    pairs = alone(CONFIG, run.of(loaded), open_split(DATA, splits, "test", labeled=False))
    scores = directions(pairs)["image to audio"]
    assert scores["median_rank"].value == result.scores["image to audio"]["median_rank"].values[1]
    first = load_pretrained(run.out / "seed-0", CPU).model.state_dict()
    moved = [name for name, x in loaded.model.state_dict().items() if not torch.equal(x, first[name])]
    assert moved
    assert not any("decoder" in name for name in moved)


def color(sample: int, _frame: int) -> np.ndarray:
    """A color for each clip, as each has a tone."""
    return np.full((40, 40, 3), [sample * 37 % 256, sample * 91 % 256, sample * 53 % 256], np.uint8)


@pytest.mark.slow
def test_it_learns_which_sound_goes_with_which_picture(tiny_run: Path, tmp_path: Path) -> None:
    """On the clips that it is trained on."""
    data = replace(DATA, test_split="train", leaks="allow", fit="squash")
    config = replace(CONFIG, data=data, epochs=80, batch_size=TRAIN, device_batch_size=TRAIN)
    config = replace(config, optim=replace(config.optim, lr=5e-4, betas=(0.9, 0.999)))
    run = evaluation_of(tiny_run, draw_splits(tmp_path / "colors", picture=color), tmp_path)
    before = retrieval(replace(config, tuned=False), run)
    after = retrieval(config, run)
    curve = losses(run.out / "seed-0")
    assert sum(curve[-5:]) < 0.8 * sum(curve[:5])
    assert np.mean(curve[-5:]) < 0.95 * np.log(TRAIN)  # what equal vectors cost
    ranks = [result.scores["audio to image"]["median_rank"].mean for result in (before, after)]
    assert ranks[1] < 0.6 * ranks[0]


def test_ended_it_is_read_and_with_another_gallery_not_trained_again(
    tiny_run: Path, splits: Path, tmp_path: Path
) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    train = open_split(DATA, splits, "train", labeled=False)
    config = replace(CONFIG, augment=AugmentConfig(roll=48, noise=0.4))
    first = tuned(config, run, train, 0, tmp_path / "seed")
    again = tuned(replace(config, gallery="5-clips"), run, train, 0, tmp_path / "seed")
    assert first.loaded.origin["sha256"] == again.loaded.origin["sha256"]
    assert len(losses(tmp_path / "seed")) == 6
    with pytest.raises(ConfigError, match=r"temperature: 0.05 -> 0.1"):
        tuned(replace(config, temperature=0.1), run, train, 0, tmp_path / "seed")


def test_presets_name_the_splits_that_do_not_overlap() -> None:
    zero_shot, trained = PRESETS["msr-vtt"](), PRESETS["msr-vtt-tuned"]()
    assert (zero_shot.tuned, zero_shot.data.test_split) == (False, "test_full")
    assert (trained.tuned, trained.data.train_split, trained.data.test_split) == (True, "train", "test")


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="tuned with align=linear: the model itself is trained"):
        replace(CONFIG, align="linear")
    with pytest.raises(ConfigError, match="temperature=0"):
        replace(CONFIG, temperature=0.0)
