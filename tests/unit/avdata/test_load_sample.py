"""One sample as a plain object: `open_dataset(...)[i]`."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avdata.load import Dataset, Loader, Sample, TrainView, mix, open_dataset, select
from avmanifest.errors import ConfigError, ManifestError, ShardError
from tests.bare import bare_dataset
from tests.serving import serving
from tests.shards import CLASSES, draw_dataset, flat_frame


@pytest.fixture(scope="module")
def dataset(drawn: Path) -> Dataset:
    return open_dataset(drawn)


def test_a_sample_has_all_that_is_stored_of_it(dataset: Dataset) -> None:
    sample = dataset[7]
    assert isinstance(sample, Sample)
    assert (sample.key, sample.labels) == ("clip-00007", (CLASSES[1],))
    assert sample.frame_times_s == tuple(dataset.frame_time_s[35:40].tolist())
    for number, frame in enumerate(sample.frames):
        assert frame.shape == (48, 64, 3)
        assert np.abs(frame.astype(int) - flat_frame(7, number)).max() < 5
    assert sample.masks == (None,) * 5
    assert list(sample.log_mels) == ["paper"]
    assert sample.log_mel is sample.log_mels["paper"]
    assert sample.log_mel.shape[0] == 128
    assert sample.log_mel.dtype == np.float16
    assert len(sample.waveform) == 5 * 16_000
    assert (sample.row["key"], sample.row["video_id"], sample.row["status"]) == ("clip-00007", "video7", "ok")
    assert repr(sample).startswith(
        f"Sample('clip-00007', labels=['{CLASSES[1]}'], 5 frames 48 x 64, log-mel paper 128 x "
    )
    assert "waveform 5.00 s" in repr(sample)
    assert len(repr(sample)) < 200


def test_the_first_profile_comes_first(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "two", 2, mel=("paper", "kaldi"), flac=False, num_frames=1)
    for _ in range(2):  # by an index that is made, then by one that is there
        opened = open_dataset(root)
        assert list(opened.log_mel) == ["paper", "kaldi"]
        sample = opened[0]
        assert sample.log_mel is sample.log_mels["paper"]


def test_samples_are_counted_from_either_end_and_iterated(dataset: Dataset) -> None:
    assert dataset[-1].key == dataset[np.int64(19)].key == "clip-00019"
    assert [sample.key for sample in dataset] == dataset.keys.to_pylist()
    for number in (20, -21):
        with pytest.raises(IndexError, match=f"sample {number} of 20"):
            dataset[number]
    with pytest.raises(TypeError):
        dataset["clip-00001"]  # type: ignore[index]
    chosen = select(dataset, np.arange(20) % 7 == 3)
    assert [sample.key for sample in chosen] == ["clip-00003", "clip-00010", "clip-00017"]


def test_a_dataset_says_what_it_is_in_a_line(dataset: Dataset, tmp_path: Path) -> None:
    assert repr(dataset) == "Dataset(20 samples; 4 shards; 3 classes; log-mels: paper)"
    other = open_dataset(draw_dataset(tmp_path / "other", 2, first=50, num_frames=1, flac=False))
    mixed = mix([(dataset, "1x"), (other, "3x")], names=["a", "b"])
    assert repr(mixed).endswith("an epoch: 20 of a, 6 of b)")
    assert mixed[20].key == "clip-00050"
    assert mixed[20].waveform is None


def test_a_sample_is_read_anew_by_another_process(dataset: Dataset) -> None:
    dataset[0]
    again = pickle.loads(pickle.dumps(dataset))
    assert again[3].row == dataset[3].row
    assert pickle.loads(pickle.dumps(dataset[3])).frames[0].tobytes() == dataset[3].frames[0].tobytes()


def test_a_sample_of_a_server_is_the_same(dataset: Dataset, drawn: Path) -> None:
    with serving(drawn) as server:
        remote = open_dataset(f"{server.url}/train/{{00000..00003}}.tar")
        found, expected = remote[9], dataset[9]
    assert found.row == expected.row
    assert found.log_mel.tobytes() == expected.log_mel.tobytes()


def test_damage_is_refused_by_name(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "set", 2, num_frames=1, flac=False)
    dataset = open_dataset(root)
    content = bytearray((root / "train/00000.tar").read_bytes())
    content[content.index(b"clip-00001.frame00.jpg") + 512 + 100] ^= 1
    (root / "train/00000.tar").write_bytes(content)
    assert dataset[0].key == "clip-00000"
    with pytest.raises(ShardError, match=r"clip-00001\.frame00\.jpg"):
        dataset[1]
    (root / "train/00000.parquet").unlink()
    with pytest.raises(ManifestError, match=r"00000\.parquet"):
        open_dataset(root)[0]


def test_a_dataset_that_was_not_opened_has_no_samples() -> None:
    with pytest.raises(ConfigError, match=r"Open it with open_dataset\(\)"):
        bare_dataset([["x"]])[0]


def test_a_loader_is_made_in_one_call(dataset: Dataset) -> None:
    loader = dataset.loader(TrainView(image_size=8), batch_size=5, seed=3, num_workers=0)
    assert isinstance(loader, Loader)
    assert [len(batch) for batch in loader] == [5] * 4
    ordered = dataset.loader(TrainView(image_size=8), train=False, batch_size=7, num_workers=0, world_size=2, rank=1)
    keys = [key for batch in ordered for key, valid in zip(batch.keys, batch.valid, strict=True) if valid]
    assert keys == dataset.keys.to_pylist()[1::2]
    assert dataset.loader().view == TrainView()
    assert replace(dataset, weights=np.ones(20)).loader(batch_size=2).config.batch_size == 2
