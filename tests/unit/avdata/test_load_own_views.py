"""Views that users write: their arrays, their draws, and that damage and resuming are treated as in avkit's own."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from avdata.load import (
    BatchArray,
    Dataset,
    FunctionView,
    Loader,
    LoaderConfig,
    StoredSample,
    TrainView,
    View,
    evaluation_config,
    open_dataset,
)
from avdata.load.crops import CROP_DRAWS, Crop, choice, crop_into, random_crop
from avdata.waveform import decode_flac, encode_flac
from avmanifest.errors import ConfigError
from tests.shards import draw_dataset, waveform_of

CONFIG = LoaderConfig(batch_size=5, num_workers=2, chunk_samples=2)


@pytest.fixture(scope="module")
def dataset(drawn: Path) -> Dataset:
    return open_dataset(drawn)


class TwoCrops(View):
    """Two random crops of one random frame."""

    arrays = (
        BatchArray("crops", (2, 16, 16, 3), np.uint8),
        BatchArray("frame_time_s", (), np.float32),
    )
    num_draws = 1 + 2 * CROP_DRAWS

    def fill(self, sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
        frame = choice(draws[0], len(sample.frame_times_s))
        rgb = sample.frame(frame)
        for number, out in enumerate(row["crops"]):
            part = draws[1 + number * CROP_DRAWS :]
            crop_into(rgb, random_crop(*rgb.shape[:2], area=(0.1, 0.5), ratio=(3 / 4, 4 / 3), draws=part), out)
        row["frame_time_s"][...] = sample.frame_times_s[frame]


def loudest(sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
    """The last second of sound, and a mel spectrogram of two windows in memory by time."""
    row["waveform"][:] = sample.waveform(sample.num_samples() - 16_000)
    columns = sample.mel_columns("paper")
    assert columns is not None
    rgb = sample.frame(0)  # what was read before stays as it was
    for number in range(2):
        sample.copy_mel("paper", number * (columns - 32), row["ends"][number])
    row["peak"][...] = np.abs(row["waveform"]).max() + 0 * int(rgb[0, 0, 0])


LOUDEST = FunctionView(
    function=loudest,
    arrays=(
        BatchArray("waveform", (16_000,), np.float32),
        BatchArray("ends", (2, 128, 32), np.float16, memory=(0, 2, 1)),
        BatchArray("peak", (), np.float32),
    ),
)


def test_two_crops_of_a_frame_reach_the_batch_under_their_name(dataset: Dataset) -> None:
    batch = next(iter(Loader(dataset, TwoCrops(), CONFIG)))
    crops = batch.arrays["crops"]
    assert (crops.shape, crops.dtype) == ((5, 2, 16, 16, 3), torch.uint8)
    red, green = crops.float().mean(dim=(2, 3))[..., 0], crops.float().mean(dim=(2, 3))[..., 1]
    samples = torch.tensor([int(key[-5:]) for key in batch.keys])
    assert (red - 8 * samples[:, None]).abs().max() < 4
    assert (green - 20 * (batch.frame_time_s[:, None] - 0.5)).abs().max() < 4
    assert batch.labels.sum() == 5


def test_a_batch_has_no_pixels_and_no_columns_if_the_view_gives_none(dataset: Dataset) -> None:
    batch = next(Loader(dataset, TwoCrops(), CONFIG).arrays())
    assert (batch.images.shape, batch.log_mel.shape) == ((5, 3, 0, 0), (5, 0, 0))
    assert np.isnan(batch.window_start_s).all()
    assert (batch.waveform, batch.masks, batch.gain_db, batch.profile) == (None, None, None, "")


def test_raw_waveforms_by_a_function(dataset: Dataset) -> None:
    batch = next(iter(Loader(dataset, LOUDEST, evaluation_config(CONFIG))))
    assert batch.waveform is not None
    for row in range(5):
        heard = decode_flac(encode_flac(waveform_of(row, 5.0)))
        assert np.array_equal(batch.waveform[row], heard[-16_000:])
        assert batch.arrays["peak"][row] == np.abs(heard[-16_000:]).max()


def test_an_array_lies_in_memory_as_the_view_says(dataset: Dataset) -> None:
    ends = next(Loader(dataset, LOUDEST, evaluation_config(CONFIG)).arrays()).arrays["ends"]
    assert ends.shape == (5, 2, 128, 32)
    assert ends.transpose(0, 1, 3, 2).flags.c_contiguous
    view = TrainView(image_size=8, window_s=1.0, columns=32)
    assert not np.array_equal(ends[:, 0], ends[:, 1])
    images = next(Loader(dataset, view, CONFIG).arrays()).images
    assert images.transpose(0, 2, 3, 1).flags.c_contiguous


def test_an_epoch_of_a_users_view_does_not_depend_on_workers_and_resumes(dataset: Dataset) -> None:
    whole = [batch.arrays["crops"] for batch in Loader(dataset, TwoCrops(), CONFIG).arrays()]
    alone = Loader(dataset, TwoCrops(), replace(CONFIG, num_workers=0))
    first = [batch.arrays["crops"] for batch in islice(alone.arrays(), 2)]
    resumed = Loader(dataset, TwoCrops(), CONFIG)
    resumed.load_state_dict(alone.state_dict())
    rest = [batch.arrays["crops"] for batch in resumed.arrays()]
    assert np.array_equal(np.concatenate(whole), np.concatenate(first + rest))


def test_a_damaged_sample_is_replaced_in_a_users_view(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "set", 12, num_frames=1)
    path = root / "train/00001.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"clip-00007.frame00.jpg") + 1000] ^= 1
    path.write_bytes(content)
    config = replace(CONFIG, batch_size=12, skip_bad=True)
    (batch,) = Loader(open_dataset(root), TwoCrops(), config).arrays()
    assert (len(batch), batch.skipped) == (12, 1)
    assert "clip-00007" not in batch.keys


def test_an_error_in_a_view_is_raised(dataset: Dataset) -> None:
    def wrong(sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
        row["x"][:] = np.zeros(4)

    view = FunctionView(function=wrong, arrays=(BatchArray("x", (3,), np.float32),))
    with pytest.raises(ValueError, match="could not broadcast"):
        next(iter(Loader(dataset, view, CONFIG)))


@pytest.mark.parametrize(("shape", "dtype"), [((8, 12, 3), np.uint8), ((8, 8, 3), np.float32), ((8, 8), np.uint8)])
def test_a_crop_into_an_array_that_it_does_not_fill_is_refused(shape: tuple[int, ...], dtype: type) -> None:
    unchecked = inspect.unwrap(crop_into)  # without the tests' checks of shapes
    with pytest.raises(ConfigError, match=r"give one \[size, size, 3\] of uint8"):
        unchecked(np.zeros((16, 16, 3), np.uint8), Crop(0, 0, 8, 8), np.zeros(shape, dtype))


@pytest.mark.parametrize("names", [("a", "a"), ("labels",), ("keys",), ("arrays",)])
def test_a_name_that_is_taken_is_refused(dataset: Dataset, names: tuple[str, ...]) -> None:
    arrays = tuple(BatchArray(name, (1,), np.float32) for name in names)
    with pytest.raises(ConfigError, match="Give the array another name"):
        Loader(dataset, FunctionView(function=loudest, arrays=arrays), CONFIG)


def test_columns_that_are_not_there_are_refused(dataset: Dataset) -> None:
    def beyond(sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
        sample.copy_mel("paper", 10_000, row["x"])

    view = FunctionView(function=beyond, arrays=(BatchArray("x", (128, 8), np.float16),))
    with pytest.raises(ConfigError, match=r"clip-\d+: columns 10000 to 10008 of the 'paper' log-mel"):
        next(iter(Loader(dataset, view, replace(CONFIG, skip_bad=True))))


@pytest.mark.parametrize("number", [-1, 5])
@pytest.mark.parametrize("method", ["frame", "jpeg", "mask"])
def test_a_frame_that_the_sample_lacks_is_none_of_its_neighbours(dataset: Dataset, method: str, number: int) -> None:
    def beyond(sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
        getattr(sample, method)(number)

    view = FunctionView(function=beyond, arrays=(BatchArray("x", (1,), np.float32),))
    with pytest.raises(ConfigError, match=rf"clip-\d+: no frame {number}; it has 5, counted from 0"):
        next(iter(Loader(dataset, view, replace(CONFIG, skip_bad=True))))


def test_no_columns_of_a_log_mel_are_copied_into_none(dataset: Dataset) -> None:
    def empty(sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
        sample.copy_mel("paper", 3, row["x"])

    view = FunctionView(function=empty, arrays=(BatchArray("x", (128, 0), np.float16),))
    assert next(Loader(dataset, view, CONFIG).arrays()).arrays["x"].shape == (5, 128, 0)
