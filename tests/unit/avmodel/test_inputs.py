"""A dataset that cannot give what the model takes is told so before anything is trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.configs.data import DataConfig
from avmodel.distributed import World
from avmodel.inputs import probe_loader, to_inputs, train_loader
from tests.runs import TINY
from tests.shards import draw_dataset

HERE = World(0, 1, torch.device("cpu"))
DATA = DataConfig(window_s=1.0, num_workers=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of train, without sound but their `paper` log-mels; three of val."""
    root = draw_dataset(tmp_path_factory.mktemp("data") / "out", 6, seconds=1.5, num_frames=2, flac=False)
    return draw_dataset(root, 3, split="val", first=6, seconds=1.5, num_frames=2, flac=False)


def test_batches_are_what_the_model_takes(data: Path) -> None:
    batches = train_loader(DATA, TINY, data, HERE, batch_size=4, seed=0)
    (batch,) = list(batches)
    image, log_mel = to_inputs(batch, HERE.device)
    assert (image.shape, log_mel.shape) == ((4, 3, 32, 32), (4, 1, 128, 48))
    assert batch.gain_db is not None
    assert batch.gain_db.abs().max() <= 6


def test_a_condition_chooses_the_samples_that_are_trained_on(data: Path) -> None:
    batches = train_loader(replace(DATA, where="video_id >= 'video2'"), TINY, data, HERE, batch_size=4, seed=0)
    assert batches.dataset.keys.to_pylist() == [f"clip-0000{number}" for number in (2, 3, 4, 5)]


def test_several_splits_are_trained_on_and_probed_as_one(data: Path) -> None:
    both = replace(DATA, split="val,train", probe_split="train,val")
    batches = train_loader(both, TINY, data, HERE, batch_size=3, seed=0)
    assert batches.dataset.keys.to_pylist() == [f"clip-0000{number}" for number in (6, 7, 8, 0, 1, 2, 3, 4, 5)]
    assert len({key for batch in batches for key in batch.keys}) == 9
    probed = probe_loader(both, TINY, data, HERE, batch_size=3)
    assert probed is not None
    assert sorted(key for batch in probed for key in batch.keys) == [f"clip-0000{number}" for number in range(9)]


def test_the_probe_sees_each_sample_of_its_split_once(data: Path) -> None:
    probed = probe_loader(DATA, TINY, data, HERE, batch_size=2)
    assert probed is not None
    for _ in range(2):
        seen = [key for batch in probed for key, valid in zip(batch.keys, batch.valid, strict=True) if valid]
        assert sorted(seen) == ["clip-00006", "clip-00007", "clip-00008"]


def test_without_a_split_to_probe_there_is_no_probe(data: Path) -> None:
    assert probe_loader(replace(DATA, probe_split=None), TINY, data, HERE, batch_size=2) is None
    assert probe_loader(replace(DATA, probe_split="test"), TINY, data, HERE, batch_size=2) is None
    assert probe_loader(DATA, TINY, str(data / "train" / "00000.tar"), HERE, batch_size=2) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"split": "trian"},
            r"no split 'trian'; did you mean train\? known: train, val\. .* Give --set data\.split=train\.",
        ),
        ({"profile": "released"}, r"needs 'released' spectrograms; the shards have paper, and no audio"),
        ({"exclude": ("loud",)}, "loud"),
        ({"where": "loud"}, "no column 'loud'"),
    ],
)
def test_data_that_is_not_there(data: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train_loader(replace(DATA, **changes), TINY, data, HERE, batch_size=2, seed=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": (32, 48)}, r"model\.image_size=\(32, 48\): the loader crops squares"),
        (
            {"audio_size": (64, 48)},
            r"model\.audio_size=\(64, 48\): .* have 128 mel bins. Set its first number to 128",
        ),
        ({"audio_size": (128, 192)}, "192"),
    ],
)
def test_a_model_that_takes_something_else(data: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train_loader(DATA, replace(TINY, **changes), data, HERE, batch_size=2, seed=0)


def test_too_few_samples_for_a_batch(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"6 samples, fewer than one batch of 8 over all processes.*at most 6"):
        train_loader(DATA, TINY, data, World(0, 2, HERE.device), batch_size=4, seed=0)


def test_an_unknown_profile_lists_the_known() -> None:
    said = r"unknown data\.profile 'papper'; did you mean paper\? known: paper, released, kaldi"
    with pytest.raises(ConfigError, match=said):
        DataConfig(profile="papper")
