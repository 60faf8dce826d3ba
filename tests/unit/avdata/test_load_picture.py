"""The picture of a batch: what is in it, and that no name can spoil it."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from avdata.load import AllFramesView, Batch, EvalView, Loader, LoaderConfig, TrainView, View, open_dataset
from avdata.load.picture import draw_batch, save_batch_picture
from avmanifest.errors import ConfigError, StorageError


def batch_of(drawn: Path, view: View) -> Batch:
    return next(iter(Loader(open_dataset(drawn), view, LoaderConfig(batch_size=4, num_workers=0))))


def words(batch: Batch, rows: int) -> list[str]:
    """Everything that is written in the picture."""
    figure = draw_batch(batch, rows)
    return [text.get_text() for part in (figure, *figure.axes) for text in part.texts] + [
        axis.get_xlabel() for axis in figure.axes
    ]


def test_a_training_batch_is_told_in_full(drawn: Path, tmp_path: Path) -> None:
    batch = batch_of(drawn, TrainView(image_size=32, max_gain_db=6.0))
    told = words(batch, 3)
    assert "time in the clip (s)" in told
    for row in range(3):
        assert batch.keys[row] in told
        assert f"{float(batch.frame_time_s[row]):.2f} s" in told
        assert batch.gain_db is not None
        facts = next(text for text in told if text.startswith(batch.label_names()[row][0]) and "dB" in text)
        assert facts.endswith("dB")
    assert batch.keys[3] not in told
    save_batch_picture(tmp_path / "deep/picture.png", batch)
    picture = cv2.imread(str(tmp_path / "deep/picture.png"))
    assert picture is not None
    assert picture.shape[1] == 1300
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["picture.png"]


@pytest.mark.parametrize("view", [EvalView(image_size=16, windows=10), AllFramesView(image_size=16, num_frames=5)])
def test_several_windows_or_frames_stand_in_one_row(drawn: Path, view: View) -> None:
    batch = batch_of(drawn, view)
    figure = draw_batch(batch, 2)
    assert len(figure.axes) == 2 * ((view.num_images or 1) + (view.num_windows or 1))
    boxes = [axis.get_position() for axis in figure.axes]
    assert all(box.x0 >= 0 and box.x1 <= 1 and box.y0 > 0 and box.y1 < 1 for box in boxes)
    apart = [a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0 for a in boxes for b in boxes if a is not b]
    assert all(apart)


def test_names_from_outside_are_written_as_they_stand(drawn: Path, tmp_path: Path) -> None:
    batch = batch_of(drawn, TrainView(image_size=16))
    keys = ("$\\frac{1}{$", "a\nb\x1b[31m\u202e", "鳥" * 500, "\ud800")
    hostile = replace(batch, keys=keys, classes=("$x^{", "_$", "\x00"))
    save_batch_picture(tmp_path / "picture.png", hostile)
    told = words(hostile, 4)
    assert {"$\\frac{1}{$", "a·b·[31m·", "鳥" * 45 + "…", "·"} <= set(told)
    plain = tmp_path / "plain.png"
    save_batch_picture(plain, batch)
    sizes = [cv2.imread(str(path)).shape for path in (plain, tmp_path / "picture.png")]
    assert sizes[0] == sizes[1]


def test_repeated_and_unlabeled_samples_say_so(drawn: Path) -> None:
    batch = batch_of(drawn, EvalView(image_size=16))
    batch = replace(batch, valid=batch.valid & False, labels=batch.labels & False)
    assert "no label   repeated" in words(batch, 1)
    unknown = replace(batch, frame_time_s=batch.frame_time_s * float("nan"))
    assert "nan" not in " ".join(words(unknown, 1))


def test_what_cannot_be_drawn_or_written_is_said(drawn: Path, tmp_path: Path) -> None:
    batch = batch_of(drawn, EvalView(image_size=16))
    with pytest.raises(ConfigError, match="num_samples=0 of a batch of 4"):
        save_batch_picture(tmp_path / "a.png", batch, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="picture not written"):
        save_batch_picture(tmp_path / "file/a.png", batch)
