"""Windows around chosen frames: which columns of a clip's log-mel belong to which frame."""

from typing import Any

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
)
from avdata.melspec import log_mel
from avdata.profiles import profile
from avdata.waveform import decode_flac, encode_flac
from avmanifest.errors import ConfigError
from tests.shards import draw_dataset, waveform_of

SECONDS = 10.0
FRAMES = 8
TIMES = (np.arange(FRAMES) + 0.5) * SECONDS / FRAMES
CONFIG = LoaderConfig(batch_size=2, num_workers=0)
SYNC: dict[str, Any] = {"profile": "kaldi", "window_s": 4.16, "image_size": 8, "around_frame": True}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("stored") / "set"
    return open_dataset(draw_dataset(root, 2, mel=("kaldi",), seconds=SECONDS, num_frames=FRAMES))


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same clips, whose Kaldi log-mels are not stored."""
    root = tmp_path_factory.mktemp("computed") / "set"
    return open_dataset(draw_dataset(root, 2, mel=("paper",), seconds=SECONDS, num_frames=FRAMES))


def whole_mel(sample: int) -> np.ndarray:
    """The clip's 1,024 columns as a shard has them."""
    return log_mel(waveform_of(sample, SECONDS), profile("kaldi")).astype(np.float16)


def first_column(time_s: float) -> int:
    """The released law, by a frame's time in place of its number: centered on it, inside of the 1,024 columns."""
    return int(np.clip(round(time_s * 100 - 208), 0, 1024 - 416))


def first_batch(dataset: Dataset, view: View) -> Batch:
    return next(iter(Loader(dataset, view, evaluation_config(CONFIG))))


def test_each_frame_has_the_416_columns_around_its_time(stored: Dataset) -> None:
    batch = first_batch(stored, AllFramesView(**SYNC, num_frames=FRAMES))
    assert (batch.log_mel.shape, batch.images.shape[:2]) == ((2, FRAMES, 128, 416), (2, FRAMES))
    assert batch.frame_time_s[0].tolist() == pytest.approx(TIMES)
    starts = [first_column(time) for time in TIMES]
    assert (starts[0], starts[-1]) == (0, 608)
    for row in range(2):
        mel = whole_mel(row)
        for frame, start in enumerate(starts):
            assert np.array_equal(batch.log_mel[row, frame], mel[:, start : start + 416])
            assert float(batch.window_start_s[row, frame]) == pytest.approx(start / 100, abs=1e-4)
            assert abs(float(batch.images[row, frame, 1].float().mean()) - 20 * frame) < 4


def test_the_middle_frame_is_evaluated_and_a_random_one_trained_on(stored: Dataset) -> None:
    batch = first_batch(stored, EvalView(**SYNC))
    assert batch.frames is not None and batch.frames.tolist() == [FRAMES // 2] * 2
    start = first_column(TIMES[FRAMES // 2])
    assert np.array_equal(batch.log_mel[0], whole_mel(0)[:, start : start + 416])
    seen = set()
    loader = Loader(stored, TrainView(**SYNC), CONFIG)
    for _ in range(12):
        for batch in loader:
            for row, key in enumerate(batch.keys):
                start = first_column(float(batch.frame_time_s[row]))
                expected = whole_mel(int(key[-5:]))[:, start : start + 416]
                assert np.array_equal(batch.log_mel[row], expected)
                seen.add(round(float(batch.frame_time_s[row]), 3))
    assert len(seen) > FRAMES // 2


def test_windows_that_are_not_stored_are_those_of_the_whole_clip(stored: Dataset, computed: Dataset) -> None:
    every = first_batch(computed, AllFramesView(**SYNC, num_frames=FRAMES))
    assert torch.equal(
        every.window_start_s, first_batch(stored, AllFramesView(**SYNC, num_frames=FRAMES)).window_start_s
    )
    mel = log_mel(decode_flac(encode_flac(waveform_of(0, SECONDS))), profile("kaldi"))
    for frame, time in enumerate(TIMES):
        start = first_column(time)
        assert np.abs(every.log_mel[0, frame].float().numpy() - mel[:, start : start + 416]).max() < 0.02
    assert torch.equal(first_batch(computed, EvalView(**SYNC)).log_mel, every.log_mel[:, FRAMES // 2])


def test_the_waveform_of_a_window_has_the_samples_of_its_columns(stored: Dataset) -> None:
    batch = first_batch(stored, AllFramesView(**SYNC, num_frames=FRAMES, waveform=True))
    assert batch.waveform is not None and batch.waveform.shape == (2, FRAMES, 415 * 160 + 400)
    middle = FRAMES // 2
    begin = first_column(TIMES[middle]) * 160
    clip = decode_flac(encode_flac(waveform_of(0, SECONDS)))
    assert np.array_equal(batch.waveform[0, middle], clip[begin : begin + 66_800])
    assert not batch.waveform[0, -1, -1000:].any()  # filled-up columns have no samples


def test_other_profiles_have_a_window_for_each_frame_too(computed: Dataset) -> None:
    view = AllFramesView(window_s=2.0, image_size=8, around_frame=True, num_frames=FRAMES)
    batch = first_batch(computed, view)
    middles = batch.window_start_s[0].double().numpy() + 1.0
    inside = (TIMES > 1) & (TIMES < 9)
    assert np.abs(middles - TIMES)[inside].max() < 0.02
    assert batch.log_mel.shape[:2] == (2, FRAMES)


def test_another_number_of_frames_names_the_sample(stored: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"data\.frames=16: no sample has so many frames; the first has 8"):
        first_batch(stored, AllFramesView(**SYNC, num_frames=16))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (EvalView, {"around_frame": False}, "needs whole clips. Set data.window_s=none, or data.around_frame=true"),
        (
            EvalView,
            {"window_s": 12.0},
            r"1200 columns of 'kaldi' spectrograms, which have 1024. Set data.window_s from",
        ),
        (EvalView, {"window_s": 0.004}, "0 columns of 'kaldi' spectrograms"),
        (EvalView, {"columns": 432}, "the window has 416"),
        (EvalView, {"windows": 3}, "data.windows=3 with data.around_frame: the windows are evenly spaced"),
    ],
)
def test_impossible_views(kind: type[EvalView], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(**SYNC | changes)
