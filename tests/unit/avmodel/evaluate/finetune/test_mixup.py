from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avdata.load import Batch, TrainView
from avdata.profiles import profile
from avdata.torch_melspec import log_mel
from avmanifest.errors import ShardError
from avmodel.evaluate.data import open_split, ordered_loader
from avmodel.evaluate.finetune.config import PRESETS
from avmodel.evaluate.finetune.mixup import Pairing, mixed_batch, mixed_log_mels, mixed_waveforms, paired
from avmodel.evaluate.finetune.training import trained
from avmodel.inputs import Inputs
from avmodel.metrics import METRICS, read_lines
from tests.evaluating import DATA, draw_splits, evaluation_of

SWAPPED = torch.tensor([1, 0, 3, 2])
HERE = torch.device("cpu")


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_splits(tmp_path_factory.mktemp("heard"), flac=True)


@pytest.fixture
def batch(heard: Path, tiny_run: Path, tmp_path: Path) -> Batch:
    run = evaluation_of(tiny_run, heard, tmp_path)
    view = TrainView(window_s=1.0, image_size=32, waveform=True, max_gain_db=6.0)
    loader = ordered_loader(DATA, open_split(DATA, heard, "train"), view, run.world, batch_size=4, seed=0)
    return next(iter(loader))


def test_one_share_mixes_both_senses_and_the_labels() -> None:
    inputs = Inputs(
        torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 2, 2),
        torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 2, 5),
    )
    targets = torch.eye(4)
    pairing = paired(4, 1.0, 1.0, np.random.default_rng(0))
    found, labels = mixed_log_mels(inputs, targets, pairing)
    again, _ = mixed_log_mels(inputs, targets, paired(4, 1.0, 1.0, np.random.default_rng(0)))
    assert torch.equal(found.image, again.image)
    seen = (labels * torch.arange(4.0)).sum(dim=1)
    torch.testing.assert_close(found.image[:, 0, 0, 0], seen)
    torch.testing.assert_close(found.log_mel[:, 0, 0, 0], seen)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(4))
    assert not torch.equal(labels, targets)


def test_as_many_are_mixed_as_asked_for() -> None:
    pairing = paired(4000, 10.0, 0.5, np.random.default_rng(0))
    assert pairing is not None
    assert float((pairing.share == 1).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert sorted(pairing.partner.tolist()) == list(range(4000))
    for alpha, probability, size in ((0.0, 1.0, 8), (1.0, 0.0, 8), (1.0, 1.0, 1)):
        assert paired(size, alpha, probability, np.random.default_rng(0)) is None


def test_waveforms_are_mixed_before_their_spectrogram_is_made(batch: Batch) -> None:
    share = torch.tensor([0.3, 0.7, 1.0, 1.0])
    targets = batch.labels.float()
    found, labels = mixed_waveforms(batch, targets, Pairing(SWAPPED, share))
    sound = batch.gained_waveform()
    assert sound is not None
    sound = sound - sound.mean(dim=1, keepdim=True)
    mixture = 0.3 * sound[0] + 0.7 * sound[1]
    expected = log_mel(mixture - mixture.mean(), profile("paper"))[:, : batch.log_mel.shape[-1]]
    torch.testing.assert_close(found.log_mel[0, 0], expected)
    torch.testing.assert_close(labels[0], 0.3 * targets[0] + 0.7 * targets[1])
    torch.testing.assert_close(found.log_mel[0], found.log_mel[1])  # the same two, in the same shares
    torch.testing.assert_close(found.image[0], found.image[1])
    assert torch.equal(labels[2:], targets[2:])


def test_unmixed_waveforms_give_the_stored_log_mel_to_its_precision(batch: Batch) -> None:
    """The stored one is of the whole clip, in float16; of 63 columns it has 48, from the 16th at the latest."""
    one = replace(batch, gain_db=None)
    made, _ = mixed_batch(one, HERE, None, "waveform")
    stored, _ = mixed_batch(one, HERE, None, "log_mel")
    columns = stored.log_mel.shape[-1] - 15
    nearest = [
        min(
            float((stored.log_mel[row, 0, :, :columns] - made.log_mel[row, 0, :, late : late + columns]).abs().mean())
            for late in range(16)
        )
        for row in range(len(batch))
    ]
    assert max(nearest) < 0.02, nearest


def test_without_waveforms_it_says_so(batch: Batch) -> None:
    with pytest.raises(ShardError, match="have no waveform"):
        mixed_batch(replace(batch, waveform=None), HERE, None, "waveform")


@pytest.mark.parametrize("preset", ["cav-mae", "avsiam-b-vggsound"])
def test_the_recipes_train(preset: str, heard: Path, tiny_run: Path, tmp_path: Path) -> None:
    asked = PRESETS[preset]()
    assert (asked.mixup_of, asked.augment.mask_bins, asked.head_lr) == ("waveform", 48, 10.0)
    config = replace(asked, data=DATA, batch_size=8, device_batch_size=8, epochs=2, device="cpu", random_weights=False)
    config = replace(config, heads="concat")  # DeepAVFusion has no joint tokens
    run = evaluation_of(tiny_run, heard, tmp_path)
    train, test = open_split(DATA, heard, "train"), open_split(DATA, heard, "test")
    trained(config, run, train, test, 0, tmp_path / "tuned")
    lines = list(read_lines(tmp_path / "tuned" / METRICS))
    assert len(lines) == 6
    assert all(np.isfinite(line["loss"]) for line in lines)
