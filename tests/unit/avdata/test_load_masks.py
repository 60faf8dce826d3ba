"""Masks beside their frames: values, geometry, frames as samples of their own, and what is no mask."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from avdata.images import decode_mask
from avdata.load import (
    AllFramesView,
    Dataset,
    EvalView,
    Loader,
    LoaderConfig,
    MemberMap,
    TrainView,
    View,
    each_frame,
    evaluation_config,
    open_dataset,
    unite,
)
from avdata.load.crops import Crop, crop_into, crop_mask_into
from avdata.profiles import column_start_s, profile
from avmanifest.errors import ConfigError, ShardError
from tests.shards import draw_dataset

CONFIG = LoaderConfig(batch_size=4, num_workers=0)
EVAL = evaluation_config(CONFIG)
SIZE = (48, 64)


def square(sample: int, frame: int) -> np.ndarray:
    """A bright square on black, elsewhere in each frame."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[8 + 4 * frame : 32 + 4 * frame, 4 * sample + 8 : 4 * sample + 40] = 255
    return pixels


def square_mask(sample: int, frame: int) -> np.ndarray | None:
    """What is bright has the sample's number + 1; half as wide and half as high; every third frame has none."""
    if frame == 2:
        return None
    return np.where(square(sample, frame)[::2, ::2, 0] > 0, sample + 1, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("masks") / "set"
    return open_dataset(
        draw_dataset(root, 4, 4, seconds=3.0, num_frames=4, picture=square, mask=square_mask, flac=False), "train"
    )


VIEWS = [
    EvalView(window_s=1.0, image_size=32, masks=True),
    EvalView(window_s=1.0, image_size=32, masks=True, fit="squash"),
    TrainView(window_s=1.0, image_size=32, masks=True, min_area=0.4),
    TrainView(window_s=1.0, image_size=32, masks=True, fit="squash"),
    AllFramesView(window_s=1.0, image_size=32, masks=True, num_frames=4),
]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{type(view).__name__}-{view.fit}")
def test_a_mask_goes_where_its_frame_goes(dataset: Dataset, view: View) -> None:
    batch = next(iter(Loader(dataset, view, EVAL)))
    assert batch.masks is not None and batch.masked is not None and batch.frames is not None
    images, masks = batch.images.flatten(0, -4), batch.masks.flatten(0, -3)
    samples = np.repeat(np.arange(4), len(images) // 4)
    for sample, image, mask, there, frame in zip(
        samples, images, masks, batch.masked.flatten(), batch.frames.flatten(), strict=True
    ):
        assert bool(there) == (frame != 2)
        if not there:
            assert not mask.any()
            continue
        assert set(mask.unique().tolist()) == {0, sample + 1}
        wrong = (mask > 0) != (image[0] > 127)
        assert wrong.float().mean() < 0.06  # pixels of the edge, blurred by the JPEG


def test_masks_are_left_alone_unless_asked_for(dataset: Dataset) -> None:
    batch = next(iter(Loader(dataset, EvalView(window_s=1.0, image_size=32), EVAL)))
    assert batch.masks is None and batch.masked is None


def test_a_crop_of_a_mask_is_the_crop_of_its_frame() -> None:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 2, (6, 8), np.uint8)
    rgb = np.repeat(np.kron(coarse, np.full((20, 20), 255, np.uint8))[..., None], 3, axis=2)
    for crop in (Crop(0, 0, 120, 160, False), Crop(13, 41, 77, 60, True), Crop(20, 20, 40, 40, False)):
        image, mask = np.empty((32, 32, 3), np.uint8), np.empty((32, 32), np.uint8)
        crop_into(rgb, crop, image)
        crop_mask_into(coarse, crop, (120, 160), mask)
        clear = (image[..., 0] < 20) | (image[..., 0] > 235)
        assert ((image[..., 0] > 127) == (mask > 0))[clear].all()
        assert clear.mean() > 0.4
    exact = np.empty((40, 40), np.uint8)
    crop_mask_into(coarse.repeat(20, 0).repeat(20, 1), Crop(20, 40, 40, 40, True), (120, 160), exact)
    assert (exact == coarse.repeat(20, 0).repeat(20, 1)[20:60, 40:80][:, ::-1]).all()


def test_each_frame_is_a_sample_with_the_window_around_it(dataset: Dataset) -> None:
    frames = each_frame(dataset, masked=True)
    assert len(frames) == 4 * 3
    assert each_frame(dataset, masked=False).keys.to_pylist()[:5] == ["clip-00000"] * 4 + ["clip-00001"]
    view = EvalView(window_s=1.0, image_size=32, masks=True, around_frame=True)
    batch = next(iter(Loader(frames, view, evaluation_config(LoaderConfig(batch_size=12, num_workers=0)))))
    assert batch.keys[:4] == ("clip-00000",) * 3 + ("clip-00001",)
    assert (
        batch.masks is not None and batch.masks.flatten(1).amax(dim=1).tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    )
    assert batch.frame_time_s[:3].tolist() == pytest.approx([0.375, 1.125, 2.625])
    hop = column_start_s(1, profile("paper"))
    # The first and the last window are at the clip's ends.
    assert batch.window_start_s[:3].tolist() == pytest.approx([0, 0.625, 2], abs=1.1 * hop)
    assert batch.labels.int().argmax(dim=1).tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [0] * 3
    both = unite([dataset, dataset])
    assert len(each_frame(both, masked=True)) == 24


def test_of_a_clip_the_middle_frame_is_the_one_to_look_around(dataset: Dataset) -> None:
    batch = next(iter(Loader(dataset, EvalView(window_s=1.0, image_size=32, around_frame=True), EVAL)))
    assert batch.frames is not None and batch.frames.tolist() == [2] * 4
    assert batch.window_start_s.tolist() == pytest.approx([1.875 - 0.5] * 4, abs=0.02)


def test_in_training_the_window_strays_from_the_frame(dataset: Dataset) -> None:
    view = TrainView(window_s=1.0, image_size=32, around_frame=True, jitter_s=0.4)
    starts = [
        float(start) - (time - 0.5)
        for epoch in range(6)
        for batch in _epoch(each_frame(dataset, masked=True), view, epoch)
        for start, time in zip(batch.window_start_s.tolist(), batch.frame_time_s.tolist(), strict=True)
        if abs(time - 1.125) < 0.01
    ]
    assert max(map(abs, starts)) <= 0.42
    assert max(starts) > 0.2 and min(starts) < -0.2
    with pytest.raises(ConfigError, match="around_frame"):
        EvalView(window_s=1.0, around_frame=True, windows=2)
    with pytest.raises(ConfigError, match="unknown fit 'stretch'; known: crop, short-side-crop, squash"):
        EvalView(window_s=1.0, fit="stretch")


def _epoch(dataset: Dataset, view: View, epoch: int):
    loader = Loader(dataset, view, CONFIG)
    loader.set_epoch(epoch)
    return loader


def test_datasets_without_masks_have_no_frames_with_one(drawn: Path) -> None:
    with pytest.raises(ConfigError, match="no frame has a mask"):
        each_frame(open_dataset(drawn), masked=True)


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_palettes_are_read_by_index_and_colors_by_whether_they_are_black() -> None:
    values = np.array([[0, 3], [70, 1]], np.uint8)
    palette = Image.fromarray(values, mode=None).convert("L")
    palette.putpalette([channel for index in range(256) for channel in (255 - index, index, 7)])
    assert palette.mode == "P"
    assert (decode_mask(png(palette)) == values).all()
    assert (decode_mask(png(Image.fromarray(values))) == values).all()
    assert decode_mask(png(Image.fromarray(values > 2))).tolist() == [[0, 1], [1, 0]]
    colors = np.zeros((2, 2, 3), np.uint8)
    colors[0, 1] = 9, 0, 0
    assert decode_mask(png(Image.fromarray(colors))).tolist() == [[0, 255], [0, 0]]


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\nrest", cv2.imencode(".jpg", np.zeros((8, 8)))[1].tobytes()]
)
def test_what_is_no_mask_is_an_error_that_names_it(content: bytes) -> None:
    with pytest.raises(ShardError, match=r"set/0\.tar: a\.mask00\.png"):
        decode_mask(content, "set/0.tar: a.mask00.png")
    deep = cv2.imencode(".png", np.full((4, 4), 700, np.uint16))[1].tobytes()
    with pytest.raises(ShardError, match="8-bit"):
        decode_mask(deep)


def test_masks_are_named_after_their_frames() -> None:
    assert MemberMap().mask_name("frame07.jpg") == "mask07.png"
    assert MemberMap(image="*.left.jpg", mask="*.seg.png").mask_name("3.left.jpg") == "3.seg.png"
    assert MemberMap(image="jpg").mask_name("jpg") == ""
