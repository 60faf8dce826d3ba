"""What each view makes of a sample: windows, frames, crops, sound."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from avdata.load import (
    AllFramesView,
    Batch,
    Dataset,
    EvalView,
    Loader,
    LoaderConfig,
    TrainView,
    View,
    evaluation_config,
    open_dataset,
    unite,
)
from avdata.load.crops import Crop, crop_into
from avdata.melspec import log_mel
from avdata.profiles import PROFILES, profile
from avdata.waveform import decode_flac
from avmanifest.errors import ConfigError, ShardError
from tests.shards import draw_dataset, flac_of, mel_of, waveform_of

SECONDS = 5.0
FRAME_TIMES = np.arange(0.5, 5.0)
CONFIG = LoaderConfig(batch_size=5, num_workers=0)
EVAL = evaluation_config(CONFIG)
PAPER = profile("paper")


@pytest.fixture(scope="module")
def dataset(drawn: Path) -> Dataset:
    return open_dataset(drawn)


def first_samples(dataset: Dataset, view: View, config: LoaderConfig = EVAL) -> Batch:
    return next(iter(Loader(dataset, view, config)))


def stored_mel(sample: int, name: str = "paper") -> np.ndarray:
    """The log-mel of the whole clip as a shard has it."""
    return mel_of(waveform_of, sample, SECONDS, name)


@lru_cache
def heard(sample: int) -> np.ndarray:
    return decode_flac(flac_of(waveform_of, sample, SECONDS))


def numbers(batch: Batch) -> list[int]:
    return [int(key[-5:]) for key in batch.keys]


def colors(images: torch.Tensor) -> torch.Tensor:
    """Mean color of each image: red tells the sample, green the frame."""
    return images.float().mean(dim=(-2, -1))


def test_a_training_window_is_columns_of_the_stored_log_mel_and_jitters_by_up_to_four(dataset: Dataset) -> None:
    jitters, starts = set(), set()
    loader = Loader(dataset, TrainView(image_size=8), replace(CONFIG, batch_size=20))
    for _ in range(6):
        for batch in loader:
            assert (batch.log_mel.shape, batch.log_mel.dtype) == ((20, 128, 192), torch.float16)
            for row, sample in enumerate(numbers(batch)):
                mel = stored_mel(sample)
                start = round(float(batch.window_start_s[row]) * 16_000 / PAPER.hop_length)
                found = [j for j in range(5) if np.array_equal(batch.log_mel[row], mel[:, start + j : start + j + 192])]
                assert len(found) == 1
                jitters.add(found[0])
                starts.add(start)
                assert 0 <= start <= mel.shape[1] - 196
    assert jitters == {0, 1, 2, 3, 4}
    assert min(starts) < 12 < 121 < max(starts)  # of 0 to 133
    assert len(starts) > 60


def test_a_training_frame_lies_inside_its_window_and_every_such_frame_comes_up(dataset: Dataset) -> None:
    loader = Loader(dataset, TrainView(image_size=8, max_gain_db=3.0), replace(CONFIG, batch_size=20))
    places = []
    for _ in range(4):
        for batch in loader:
            within = batch.frame_time_s - batch.window_start_s
            assert ((within >= 0) & (within <= 3)).all()
            red, green, _ = colors(batch.images).T
            frames = (batch.frame_time_s - 0.5).round()
            assert (green - 20 * frames).abs().max() < 4
            assert (red - 8 * torch.tensor(numbers(batch))).abs().max() < 4
            places += frames.tolist()
    assert set(places) == {0, 1, 2, 3, 4}


def test_gain_is_drawn_in_decibels_and_left_to_the_device(dataset: Dataset) -> None:
    view, config = TrainView(image_size=8, max_gain_db=6.0), replace(CONFIG, batch_size=20)
    loader = Loader(dataset, view, config)
    gains = torch.cat([batch.gain_db for _ in range(10) for batch in loader])  # type: ignore[misc]
    assert gains.abs().max() <= 6
    assert np.histogram(gains, 4, (-6, 6))[0].min() > 25  # 50 of 200 each
    batch = first_samples(dataset, replace(view, waveform=True), config)
    assert batch.gain_db is not None
    assert batch.waveform is not None
    louder = batch.gained_waveform()
    assert louder is not None
    assert torch.allclose(louder, batch.waveform * 10 ** (batch.gain_db[:, None] / 20))
    expected = torch.from_numpy(log_mel(louder.numpy(), PAPER)[..., 4:192])
    jitters = [batch.gained_log_mel()[..., 4 - j : 192 - j] for j in range(5)]
    error = torch.stack([(one - expected).abs().mean(dim=(1, 2)) for one in jitters]).min(dim=0).values
    assert error.max() < 0.01  # float16 and FLAC's 16 bits; another jitter is 0.1 off
    assert first_samples(dataset, TrainView(image_size=8), CONFIG).gain_db is None
    assert torch.equal(
        first_samples(dataset, EvalView(image_size=8)).gained_log_mel(),
        first_samples(dataset, EvalView(image_size=8)).log_mel.float(),
    )


def test_crops_have_the_area_the_ratio_and_the_place_they_are_asked_for() -> None:
    view = TrainView()
    draws = np.random.default_rng(0).random((4000, view.num_draws)).tolist()
    crops = [view.choose_crop(256, 340, one) for one in draws]
    areas = np.array([crop.height * crop.width for crop in crops]) / (256 * 340)
    ratios = np.array([crop.width / crop.height for crop in crops])
    assert 0.49 < areas.min() < 0.52
    assert 0.97 < areas.max() <= 1.0
    assert ratios.min() > 0.74
    assert ratios.max() < 1.35
    assert all(0 <= c.top <= 256 - c.height and 0 <= c.left <= 340 - c.width for c in crops)
    assert any(c.top == 256 - c.height for c in crops)
    assert np.mean([c.flip for c in crops]) == pytest.approx(0.5, abs=0.04)
    lefts = [c.left / (340 - c.width) for c in crops if c.width < 300]
    assert np.histogram(lefts, 4, (0, 1))[0].min() > 0.2 * len(lefts)


def test_a_frame_too_long_for_any_ratio_is_cut_in_its_middle() -> None:
    view = TrainView(min_area=1.0)
    for height, width in ((10, 400), (400, 10)):
        crop = view.choose_crop(height, width, [0.99] * view.num_draws)
        assert (crop.top, crop.left) == ((height - crop.height) // 2, (width - crop.width) // 2)
        assert crop.width / crop.height == pytest.approx(4 / 3 if width > height else 3 / 4, rel=0.1)


def test_a_crop_is_resized_and_mirrored() -> None:
    across = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3))
    out = np.zeros((50, 50, 3), np.uint8)
    crop_into(across, Crop(0, 40, 100, 100, False), out)
    assert (out[:, 0].mean(), out[:, -1].mean()) == (pytest.approx(40.5, abs=1), pytest.approx(138.5, abs=1))
    mirrored = np.zeros_like(out)
    crop_into(across, Crop(0, 40, 100, 100, True), mirrored)
    assert np.array_equal(mirrored, out[:, ::-1])


def test_shrinking_a_lot_does_not_pass_over_pixels() -> None:
    fine = np.indices((512, 512)).sum(0) % 2 * 255
    out = np.zeros((64, 64, 3), np.uint8)
    crop_into(np.repeat(fine[..., None], 3, 2).astype(np.uint8), Crop(0, 0, 512, 512, False), out)
    assert np.abs(out.astype(int) - 127).max() <= 1


@pytest.mark.parametrize("height", [40, 64, 80])
@pytest.mark.parametrize("is_high", [False, True])
def test_a_side_that_shrinks_a_lot_alone_is_averaged(height: int, is_high: bool) -> None:
    """As whole frames of films are, squashed into a square; the other side grows, stays or shrinks a little."""
    stripes = np.tile(np.arange(512) % 2 * 255, (height, 1)).astype(np.uint8)
    picture = np.repeat((stripes.T if is_high else stripes)[..., None], 3, 2)
    out = np.zeros((64, 64, 3), np.uint8)
    crop_into(picture, Crop(0, 0, *picture.shape[:2], False), out)
    assert np.abs(out.astype(int) - 127).max() <= 1


def test_a_batch_is_shown_by_its_shapes(dataset: Dataset) -> None:
    loader = Loader(dataset, TrainView(image_size=24), LoaderConfig(batch_size=2, num_workers=0))
    shown = {repr(batch) for batch in (next(iter(loader)), next(loader.arrays()))}
    shapes = "2 samples: epoch 0, images 3 x 24 x 24, log_mel 128 x 192, "
    assert {one.partition(shapes)[0] for one in shown} == {"Batch(", "ArrayBatch("}
    assert all(len(one) < 300 and "window_start_s" in one for one in shown)


def test_evaluation_takes_the_middle_and_is_the_same_every_time(dataset: Dataset) -> None:
    batch, again = (first_samples(dataset, EvalView(image_size=24, waveform=True)) for _ in range(2))
    for name in ("images", "log_mel", "waveform", "window_start_s", "frame_time_s"):
        assert torch.equal(getattr(batch, name), getattr(again, name))
    for row, sample in enumerate(numbers(batch)):
        mel = stored_mel(sample)
        start = (mel.shape[1] - 196) // 2
        assert np.array_equal(batch.log_mel[row], mel[:, start : start + 192])
        begin = start * PAPER.hop_length
        assert batch.waveform is not None
        assert np.array_equal(batch.waveform[row], heard(sample)[begin : begin + 48_000])
    assert (batch.window_start_s + 1.5 - 2.5).abs().max() < 0.02
    assert batch.frame_time_s.tolist() == [2.5] * 5
    assert (colors(batch.images)[:, 1] - 40).abs().max() < 4
    assert batch.gain_db is None


def test_ten_windows_span_the_clip_each_with_its_nearest_frame(dataset: Dataset) -> None:
    batch = first_samples(dataset, EvalView(image_size=8, windows=10, waveform=True))
    assert batch.log_mel.shape == (5, 10, 128, 192)
    assert batch.images.shape == (5, 10, 3, 8, 8)
    assert batch.waveform is not None
    assert batch.waveform.shape == (5, 10, 48_000)
    for row, sample in enumerate(numbers(batch)):
        mel = stored_mel(sample)
        starts = (batch.window_start_s[row] * 16_000 / PAPER.hop_length).round().int().tolist()
        assert (starts[0], starts[-1]) == (0, mel.shape[1] - 196)
        assert set(np.diff(starts)) <= {14, 15}
        for window, start in enumerate(starts):
            assert np.array_equal(batch.log_mel[row, window], mel[:, start : start + 192])
            nearest = np.abs(FRAME_TIMES - (float(batch.window_start_s[row, window]) + 1.5)).min()
            assert abs(batch.frame_time_s[row, window] - batch.window_start_s[row, window] - 1.5) <= nearest + 1e-5
    green = colors(batch.images)[..., 1]
    assert (green - 20 * (batch.frame_time_s - 0.5)).abs().max() < 4


def test_one_window_of_several_is_the_centre_one(dataset: Dataset) -> None:
    batch = first_samples(dataset, EvalView(image_size=8, windows=1))
    assert torch.equal(batch.log_mel[:, 0], first_samples(dataset, EvalView(image_size=8)).log_mel)


def test_all_frames_come_in_the_order_of_their_times(dataset: Dataset) -> None:
    batch = first_samples(dataset, AllFramesView(image_size=8, num_frames=5))
    assert batch.frame_time_s.tolist() == [FRAME_TIMES.tolist()] * 5
    assert (colors(batch.images)[..., 1] - 20 * torch.arange(5)).abs().max() < 4
    assert batch.log_mel.shape == (5, 128, 192)
    with pytest.raises(ConfigError, match=r"data\.frames=10: no sample has so many frames; the first has 5"):
        first_samples(dataset, AllFramesView(image_size=8))


def test_a_sample_with_another_number_of_frames_is_named(dataset: Dataset, tmp_path: Path) -> None:
    few = open_dataset(draw_dataset(tmp_path / "few", 1, first=90, num_frames=3))
    with pytest.raises(ShardError, match=r"clip-00090: 3 frames are stored, the view needs num_frames=5"):
        first_samples(unite([few, dataset]), AllFramesView(image_size=8, num_frames=5))


@pytest.mark.parametrize("name", ["released", "kaldi"])
def test_another_profile_is_made_from_the_flac(dataset: Dataset, name: str) -> None:
    whole = name == "kaldi"
    view = EvalView(profile=name, window_s=None if whole else 3.0, image_size=8)
    batch = first_samples(dataset, view)
    assert batch.profile == name
    assert batch.log_mel.shape == (5, 128, 1024 if whole else 192)
    for row, sample in enumerate(numbers(batch)):
        begin = round(float(batch.window_start_s[row]) * 16_000)
        waveform = heard(sample)
        expected = log_mel(waveform if whole else waveform[begin : begin + 48_000], profile(name))
        assert np.abs(batch.log_mel[row].float().numpy() - expected).max() < 0.02  # float16 of values down to -16
    train = TrainView(profile=name, window_s=view.window_s, image_size=8)
    computed = next(iter(Loader(dataset, train, replace(CONFIG, num_workers=2, chunk_samples=2))))
    alone = next(iter(Loader(dataset, train, CONFIG)))
    assert torch.equal(computed.log_mel, alone.log_mel)
    assert computed.log_mel.shape[1:] == batch.log_mel.shape[1:]


@pytest.mark.parametrize("seconds", [4.0, 10.0])
def test_waveforms_of_whole_clips_are_cut_or_filled_to_one_length(dataset: Dataset, seconds: float) -> None:
    view = EvalView(profile="kaldi", window_s=None, image_size=8, waveform=True, waveform_s=seconds)
    batch = first_samples(dataset, view)
    assert batch.waveform is not None
    assert batch.waveform.shape == (5, round(16_000 * seconds))
    for row, sample in enumerate(numbers(batch)):
        clip = heard(sample)[: batch.waveform.shape[1]]
        assert np.array_equal(batch.waveform[row, : len(clip)], clip)
        assert not batch.waveform[row, len(clip) :].any()
    # The log-mel is the whole clip's all the same.
    assert torch.equal(batch.log_mel, first_samples(dataset, replace(view, waveform=False)).log_mel)


def test_of_ten_frames_of_a_whole_clip_number_five_is_evaluated_and_each_is_trained_on(tmp_path: Path) -> None:
    dataset = open_dataset(draw_dataset(tmp_path / "set", 5, mel=("kaldi",), flac=False, num_frames=10))
    whole = {"profile": "kaldi", "window_s": None, "image_size": 8}
    batch = first_samples(dataset, EvalView(**whole))
    assert (colors(batch.images)[:, 1] / 20).round().tolist() == [5.0] * 5
    every = first_samples(dataset, AllFramesView(**whole, num_frames=10))
    assert (every.images.shape[:2], every.log_mel.shape) == ((5, 10), (5, 128, 1024))
    assert torch.equal(every.images[:, 5], batch.images)
    loader = Loader(dataset, TrainView(**whole), CONFIG)
    seen = torch.cat([colors(batch.images)[:, 1] for _ in range(24) for batch in loader])
    assert set((seen / 20).round().int().tolist()) == set(range(10))


def test_a_stored_further_profile_is_read_not_made(tmp_path: Path) -> None:
    dataset = open_dataset(draw_dataset(tmp_path / "set", 5, mel=("released", "paper"), flac=False, num_frames=1))
    for name in ("released", "paper"):
        batch = first_samples(dataset, EvalView(profile=name, image_size=8))
        start = round(float(batch.window_start_s[0]) * 16_000 / PROFILES[name].hop_length)
        assert np.array_equal(batch.log_mel[0], stored_mel(0, name)[:, start : start + 192])


def test_a_profile_that_cannot_be_had_is_refused_before_the_first_batch(tmp_path: Path) -> None:
    dataset = open_dataset(draw_dataset(tmp_path / "set", 5, flac=False, num_frames=1))
    with pytest.raises(ConfigError, match=r"'released' spectrograms; the shards have paper.*--mel released"):
        Loader(dataset, EvalView(profile="released"), CONFIG)
    with pytest.raises(ConfigError, match="waveforms and the shards have no audio"):
        Loader(dataset, EvalView(waveform=True), CONFIG)


def test_a_clip_shorter_than_the_window_says_so(tmp_path: Path) -> None:
    dataset = open_dataset(draw_dataset(tmp_path / "set", 5, seconds=2.0, num_frames=1))
    for view in (EvalView(image_size=8), EvalView(profile="released", image_size=8)):
        with pytest.raises(ShardError, match=r"00000\.tar: clip-00000.*a window of 3\.0 s has.*data\.exclude=short"):
            first_samples(dataset, view)
    assert first_samples(dataset, EvalView(image_size=8, window_s=2.0)).log_mel.shape == (5, 128, 128)


def test_a_clip_of_exactly_a_window_has_one_start() -> None:
    view = TrainView()
    assert {
        view.window_starts(1, draw)[0] for draw in np.random.default_rng(0).random((20, view.num_draws)).tolist()
    } == {0}
    assert EvalView().column_jitter([]) == 0


def test_frames_without_times_or_outside_the_window_are_still_chosen() -> None:
    unknown = [np.nan] * 5
    draws = np.random.default_rng(0).random((100, TrainView().num_draws)).tolist()
    assert {TrainView().choose_frames([1.0], unknown, one)[0] for one in draws} == set(range(5))
    assert EvalView().choose_frames([1.0], unknown, []) == [2]
    outside = [8.0, 9.0]
    assert {TrainView().choose_frames([1.0], outside, one)[0] for one in draws} == {0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"profile": "mfcc"}, "unknown spectrogram profile 'mfcc'"),
        ({"profile": "kaldi"}, "needs whole clips. Set data.window_s=none"),
        ({"window_s": None}, "give a length in seconds"),
        ({"profile": "kaldi", "window_s": None, "waveform": True, "waveform_s": 0.0}, "waveform_s=0.0"),
        ({"profile": "kaldi", "window_s": None, "max_gain_db": 6.0}, "gain is not defined on 'kaldi'"),
        ({"columns": 197}, "columns=197: the window has 196"),
        ({"image_size": 0}, "image_size=0"),
        ({"min_area": 0.0}, "an area is at most 1"),
        ({"min_area": 0.9, "max_area": 0.5}, "must ascend"),
        ({"flip_probability": 1.5}, "out of range"),
    ],
)
def test_views_that_cannot_be_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainView(**options)
    with pytest.raises(ConfigError, match="windows=0"):
        EvalView(windows=0)
