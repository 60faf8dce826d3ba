"""The compiled crops: they are those of Python to 1 level, and what is unusual or damaged is left to Python."""

import inspect
import io
import logging
import random
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avdata.images import decode_jpeg, encode_jpeg
from avdata.load import EvalView, Loader, LoaderConfig, TrainView, evaluation_config, open_dataset
from avdata.load.bench_data import natural_picture
from avdata.load.build_native import build
from avdata.load.crops import CROP_DRAWS, Crop, crop_into, random_crop
from avdata.load.native import CropQueue, library_path, native_library, open_library, works
from avmanifest.errors import ConfigError, ShardError
from tests.shards import draw_dataset

CONFIG = LoaderConfig(batch_size=6, num_workers=2, chunk_samples=3)
VIEW = TrainView(image_size=32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the compiled code."""
    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root))
        try:
            build()
        except ConfigError as error:
            pytest.skip(f"no compiler, or no libjpeg-turbo to build with: {error}")
    return root


@pytest.fixture
def queue(cache: Path, monkeypatch: pytest.MonkeyPatch) -> CropQueue:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return CropQueue(open_library(library_path()))


@pytest.fixture
def built(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Loaders find the compiled code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    native_library.cache_clear()
    yield
    native_library.cache_clear()


def made(queue: CropQueue, jpeg: bytes, crop: Crop, size: int) -> np.ndarray | None:
    """A compiled crop; None: it was left to Python."""
    out = np.zeros((size, size, 3), np.uint8)
    return out if queue.add(memoryview(jpeg), crop, out) and queue.run() == [True] else None


def unchecked_add(queue: CropQueue, jpeg: bytes, crop: Crop, out: np.ndarray) -> bool:
    """Without the tests' checks of shapes and types."""
    return inspect.unwrap(CropQueue.add)(queue, memoryview(jpeg), crop, out)


def meant(jpeg: bytes, crop: Crop, size: int) -> np.ndarray:
    out = np.zeros((size, size, 3), np.uint8)
    crop_into(decode_jpeg(jpeg), crop, out)
    return out


@lru_cache
def picture(number: int, size: tuple[int, int] = (256, 340)) -> bytes:
    """A JPEG as in a shard."""
    return encode_jpeg(natural_picture(number, size))


@pytest.mark.parametrize("size", [64, 200, 224, 288])
def test_crops_are_those_of_python_to_one_level(queue: CropQueue, size: int) -> None:
    chance, differences = np.random.default_rng(size), []
    for number in range(30):
        draws = chance.random(CROP_DRAWS).tolist()
        area = (0.5, 1.0) if size > 64 else (0.05, 0.1)
        crop = random_crop(256, 340, area, (3 / 4, 4 / 3), draws, flip=bool(number % 2))
        found = made(queue, picture(number % 5), crop, size)
        assert found is not None
        differences.append(np.abs(found.astype(int) - meant(picture(number % 5), crop, size)))
    assert np.max(differences) <= 1
    assert np.mean(differences) < 0.15


@pytest.mark.parametrize(
    "crop", [Crop(0, 0, 256, 340), Crop(1, 1, 254, 338), Crop(255, 339, 1, 1), Crop(0, 171, 33, 17)]
)
def test_crops_at_the_edges(queue: CropQueue, crop: Crop) -> None:
    size = max(crop.height, crop.width)
    found = made(queue, picture(1), crop, size)
    assert found is not None
    assert np.abs(found.astype(int) - meant(picture(1), crop, size)).max() <= 1


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 20}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_other_kinds_of_jpegs(queue: CropQueue, mode: str, options: dict) -> None:
    with io.BytesIO() as file:
        Image.fromarray(natural_picture(2)).convert(mode).save(file, "JPEG", **({"quality": 90} | options))
        jpeg = file.getvalue()
    crop = Crop(30, 41, 200, 180, flip=True)
    found = made(queue, jpeg, crop, 160)
    assert found is not None
    assert np.abs(found.astype(int) - meant(jpeg, crop, 160)).max() <= 1


def test_what_is_not_compiled_is_left_to_python(queue: CropQueue) -> None:
    out = np.zeros((64, 64, 3), np.uint8)
    assert not queue.add(memoryview(picture(0)), Crop(0, 0, 256, 256), out)  # areas are averaged
    assert not queue.add(memoryview(picture(0)), Crop(0, 0, 64, 64), out.transpose(1, 0, 2))
    others = [((64, 48, 3), np.uint8), ((64, 64, 1), np.uint8), ((64, 64), np.uint8), ((64, 64, 3), np.int8)]
    for shape, dtype in others:
        assert not unchecked_add(queue, picture(0), Crop(0, 0, 64, 64), np.zeros(shape, dtype))
    out.flags.writeable = False
    assert not queue.add(memoryview(picture(0)), Crop(0, 0, 64, 64), out)
    for crop in (
        Crop(200, 0, 57, 57),
        Crop(0, 284, 57, 57),
        Crop(-1, 0, 50, 50),
        Crop(0, -1, 50, 50),
        Crop(0, 0, 0, 9),
    ):
        assert made(queue, picture(0), crop, 64) is None
    for jpeg in (b"", b"\xff\xd8", bytes(100), picture(0)[:3000]):
        assert made(queue, jpeg, Crop(100, 0, 156, 340), 224) is None


def test_damaged_jpegs_harm_nothing(queue: CropQueue) -> None:
    chance, whole, count = random.Random(0), picture(3, (64, 96)), 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        count += made(queue, bytes(content), Crop(3, 5, 60, 80), 64) is not None
    assert 0 < count < 400
    assert made(queue, whole, Crop(3, 5, 60, 80), 64) is not None


@pytest.mark.usefixtures("built")
def test_a_loader_uses_it_and_gives_the_same_but_for_one_level(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "set", 12, 6, num_frames=2, picture=lambda s, f: natural_picture(s + f, (64, 80)))
    dataset = open_dataset(root)
    view = TrainView(image_size=48, max_gain_db=6.0)
    fast, plain = (Loader(dataset, view, replace(CONFIG, native=native)) for native in (True, False))
    assert native_library() is not None
    number = 0
    for one, other in zip(fast.arrays(), plain.arrays(), strict=True):
        for name in ("log_mel", "gain_db", "window_start_s", "frame_time_s", "frames", "labels", "sample_ids"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        difference = np.abs(one.images.astype(int) - other.images)
        assert difference.max() == 1  # so it was used
        assert difference.mean() < 0.15
        number += len(one)
    assert number == 12


@pytest.mark.usefixtures("built")
def test_evaluation_is_the_same_on_every_machine(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "set", 6, 6, num_frames=2, picture=lambda s, f: natural_picture(s + f, (64, 80)))
    view = EvalView(image_size=48, windows=3)
    fast, plain = (
        Loader(open_dataset(root), view, evaluation_config(replace(CONFIG, native=native))) for native in (True, False)
    )
    for one, other in zip(fast.arrays(), plain.arrays(), strict=True):
        assert np.array_equal(one.images, other.images)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_jpeg_that_cannot_be_decoded_is_an_error_of_its_sample(tmp_path: Path, skip_bad: bool) -> None:
    """As a broken encoder would store it: its hash is true."""

    def encode(rgb: np.ndarray) -> bytes:
        return encode_jpeg(rgb)[: -400 if rgb[0, 0, 0] == 8 * 3 else None]

    root = draw_dataset(tmp_path / "set", 12, 6, num_frames=1, encode=encode)
    loaders = [Loader(open_dataset(root), VIEW, replace(CONFIG, skip_bad=skip_bad, native=n)) for n in (True, False)]
    if skip_bad:
        fast, plain = ([key for batch in loader.arrays() for key in batch.keys] for loader in loaders)
        assert fast == plain
        assert "clip-00003" not in fast
        return
    errors = []
    for loader in loaders:
        with pytest.raises(ShardError, match=r"clip-00003\.frame00\.jpg: a damaged JPEG") as caught:
            list(loader.arrays())
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_a_file_that_is_no_library_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native_library.cache_clear()
    assert native_library() is None
    native_library.cache_clear()
    library_path().parent.mkdir(parents=True)
    library_path().write_bytes(b"no library")
    with caplog.at_level(logging.WARNING):
        assert native_library() is None
    assert "cannot be loaded" in caplog.text
    native_library.cache_clear()


class WrongLibrary:
    """Says that it has made every crop, and has made none."""

    @staticmethod
    def avkit_crop(jobs, count: int) -> None:
        for number in range(count):
            jobs[number].done = 1


def test_a_library_that_makes_other_pictures_is_noticed(queue: CropQueue, cache: Path) -> None:
    assert not works(WrongLibrary())
    assert works(open_library(library_path()))


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler-here"])
def test_a_build_that_fails_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(ConfigError, match=r"Install a C compiler and libjpeg-turbo with its headers"):
        build(tmp_path / "folder" / "load.so")
    assert list((tmp_path / "folder").iterdir()) == []
