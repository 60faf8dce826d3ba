"""What part of a frame a view gives to the model: frames whose pixels say where they are."""

import numpy as np
import pytest

from avdata.fits import FITS
from avdata.load import AllFramesView, ClipView, Dataset, EvalView, Loader, LoaderConfig, TrainView, open_dataset
from avmanifest.errors import ConfigError
from tests.shards import draw_dataset

HEIGHT, WIDTH, SIDE = 128, 228, 32
# Top, left, height and width of the part that becomes the square.
CENTER = (8, 58, 112, 112)
FIELDS = {"short-side-crop": (0, 50, 128, 128), "squash": (0, 0, HEIGHT, WIDTH)}
TOLERANCE = 4.0  # levels: the frames are JPEGs


def placed(_sample: int, _frame: int) -> np.ndarray:
    """Red is twice the row, green the column."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([2 * rows, columns, np.full_like(rows, 128)], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("fits") / "set"
    return open_dataset(draw_dataset(root, 4, 4, seconds=1.5, num_frames=2, picture=placed, flac=False), "train")


def field_seen(image: np.ndarray, *, flipped: bool = False) -> tuple[float, float, float, float]:
    """Top, left, height and width of the part of the frame that the pixels of a square are of."""
    red, green = image[0].astype(float).mean(axis=1) / 2, image[1].astype(float).mean(axis=0)
    if flipped:
        green = green[::-1]
    steps = (red[-2] - red[1]) / (SIDE - 3), (green[-2] - green[1]) / (SIDE - 3)
    middles = red[1:-1].mean() + 0.5, green[1:-1].mean() + 0.5
    (height, width) = (step * SIDE for step in steps)
    return middles[0] - height / 2, middles[1] - width / 2, height, width


def images(dataset: Dataset, view: ClipView) -> np.ndarray:
    batch = next(iter(Loader(dataset, view, LoaderConfig(batch_size=4, num_workers=0))))
    return batch.images.numpy().reshape(-1, 3, SIDE, SIDE)


def view_of(kind: type[ClipView], **settings: object) -> ClipView:
    if kind is AllFramesView:
        settings["num_frames"] = 2
    return kind(window_s=1.0, image_size=SIDE, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [EvalView, AllFramesView])
def test_a_test_with_crop_sees_the_center_of_seven_eighths(dataset: Dataset, kind: type[ClipView]) -> None:
    for image in images(dataset, view_of(kind)):
        assert field_seen(image) == pytest.approx(CENTER, abs=TOLERANCE)


@pytest.mark.parametrize("fit", FIELDS)
@pytest.mark.parametrize("kind", [TrainView, EvalView, AllFramesView])
def test_training_and_tests_see_the_same_field(dataset: Dataset, kind: type[ClipView], fit: str) -> None:
    flips = {"flip_probability": 0.0} if kind is TrainView else {}
    for image in images(dataset, view_of(kind, fit=fit, **flips)):
        assert field_seen(image) == pytest.approx(FIELDS[fit], abs=TOLERANCE)


@pytest.mark.parametrize("fit", FIELDS)
def test_in_training_it_may_be_flipped(dataset: Dataset, fit: str) -> None:
    for image in images(dataset, TrainView(window_s=1.0, image_size=SIDE, fit=fit, flip_probability=1.0)):
        assert field_seen(image, flipped=True) == pytest.approx(FIELDS[fit], abs=TOLERANCE)


def test_a_random_crop_is_inside_of_the_frame_and_differs(dataset: Dataset) -> None:
    view = TrainView(window_s=1.0, image_size=SIDE, flip_probability=0.0, min_area=0.2, max_area=0.4)
    found = np.array([field_seen(image) for image in images(dataset, view)])
    assert (found[:, :2] > -TOLERANCE).all()
    assert (found[:, 0] + found[:, 2] < HEIGHT + TOLERANCE).all()
    assert (found[:, 1] + found[:, 3] < WIDTH + TOLERANCE).all()
    assert found.std(axis=0).min() > 1


@pytest.mark.parametrize(("height", "width"), [(128, 228), (228, 128), (97, 98), (1, 7)])
def test_the_square_of_the_short_side_is_in_the_middle(height: int, width: int) -> None:
    crop = EvalView(window_s=1.0, fit="short-side-crop").choose_crop(height, width, ())
    assert crop.height == crop.width == min(height, width)
    assert (crop.top, crop.left) == ((height - crop.height) // 2, (width - crop.width) // 2)


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown fit 'pad'; known: crop, short-side-crop, squash"):
        EvalView(window_s=1.0, fit="pad")
    assert FITS == ("crop", "short-side-crop", "squash")
