"""The compiled code: its windows are those of Python, its crops to 1 level; what is unusual is left to Python."""

import ctypes
import inspect
import io
import logging
import random
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

from avdata.images import decode_jpeg, encode_jpeg
from avdata.load import CacheConfig, EvalView, Loader, LoaderConfig, TrainView, evaluation_config, open_dataset
from avdata.load.bench_data import natural_picture
from avdata.load.build_native import build
from avdata.load.crops import CROP_DRAWS, Crop, crop_into, random_crop, shrinks_a_lot
from avdata.load.native import NativeQueue, Source, library_path, native_library, open_library, works
from avdata.shards import BLOCK, MEL_BLOCK_BYTES, block_hash, content_hash, pack_npy_columns
from avmanifest.errors import ConfigError, ShardError
from tests.faults.bit_faults import flip
from tests.faults.test_loader_integrity import place_of
from tests.serving import serving
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
def queue(cache: Path, monkeypatch: pytest.MonkeyPatch) -> NativeQueue:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return NativeQueue(open_library(library_path()))


@pytest.fixture
def built(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders find the compiled code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def source_of(content: bytes) -> Source:
    """Content at byte 3 of a file that is open until the tests end."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the queue reads it later
    file.write(b"abc" + content)
    file.flush()
    FILES.append(file)
    return Source(file.fileno(), 3, len(content), xxh3=content_hash(content))


FILES: list[IO[bytes]] = []


@pytest.fixture(autouse=True)
def close_files():
    yield
    while FILES:
        FILES.pop().close()


def made(queue: NativeQueue, jpeg: bytes, crop: Crop, size: int) -> np.ndarray | None:
    """A compiled crop; None: it was left to Python."""
    out = np.zeros((size, size, 3), np.uint8)
    assert queue.add_crop(source_of(jpeg), lambda height, width: crop, out)
    (is_made,) = queue.run()
    FILES.pop().close()
    return out if is_made else None


def unchecked_add(queue: NativeQueue, jpeg: bytes, crop: Crop, out: np.ndarray) -> bool:
    """Without the tests' checks of shapes and types."""
    return inspect.unwrap(NativeQueue.add_crop)(queue, source_of(jpeg), lambda height, width: crop, out)


def meant(jpeg: bytes, crop: Crop, size: int) -> np.ndarray:
    out = np.zeros((size, size, 3), np.uint8)
    crop_into(decode_jpeg(jpeg), crop, out)
    return out


@lru_cache
def picture(number: int, size: tuple[int, int] = (256, 340)) -> bytes:
    """A JPEG as in a shard."""
    return encode_jpeg(natural_picture(number, size))


@pytest.mark.parametrize("size", [64, 200, 224, 288])
def test_crops_are_those_of_python_to_one_level(queue: NativeQueue, size: int) -> None:
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
def test_crops_at_the_edges(queue: NativeQueue, crop: Crop) -> None:
    size = max(crop.height, crop.width)
    found = made(queue, picture(1), crop, size)
    assert found is not None
    assert np.abs(found.astype(int) - meant(picture(1), crop, size)).max() <= 1


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 20}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_other_kinds_of_jpegs(queue: NativeQueue, mode: str, options: dict) -> None:
    with io.BytesIO() as file:
        Image.fromarray(natural_picture(2)).convert(mode).save(file, "JPEG", **({"quality": 90} | options))
        jpeg = file.getvalue()
    crop = Crop(30, 41, 200, 180, flip=True)
    found = made(queue, jpeg, crop, 160)
    assert found is not None
    assert np.abs(found.astype(int) - meant(jpeg, crop, 160)).max() <= 1


def test_what_is_not_compiled_is_left_to_python(queue: NativeQueue) -> None:
    out = np.zeros((64, 64, 3), np.uint8)
    assert not unchecked_add(queue, picture(0), Crop(0, 0, 64, 64), out.transpose(1, 0, 2))
    others = [((64, 48, 3), np.uint8), ((64, 64, 1), np.uint8), ((64, 64), np.uint8), ((64, 64, 3), np.int8)]
    for shape, dtype in others:
        assert not unchecked_add(queue, picture(0), Crop(0, 0, 64, 64), np.zeros(shape, dtype))
    out.flags.writeable = False
    assert not unchecked_add(queue, picture(0), Crop(0, 0, 64, 64), out)
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


def test_damaged_jpegs_harm_nothing(queue: NativeQueue) -> None:
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
    root = draw_dataset(
        tmp_path / "set", 12, 6, num_frames=2, seconds=3.2, picture=lambda s, f: natural_picture(s + f, (64, 80))
    )
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
    root = draw_dataset(
        tmp_path / "set", 6, 6, num_frames=2, seconds=3.2, picture=lambda s, f: natural_picture(s + f, (64, 80))
    )
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

    root = draw_dataset(tmp_path / "set", 12, 6, num_frames=1, seconds=3.2, encode=encode)
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


def broken(root: Path, kind: str) -> None:
    """Damage sample 4 of a dataset, or its shard."""
    path, offset, size = place_of(root, "clip-00004", "logmel.npy" if kind == "window" else "frame00.jpg")
    if kind == "end":
        with path.open("r+b") as file:
            file.truncate(offset + size - 5)
    elif kind == "missing":
        path.unlink()
    else:
        flip(path, 8 * (offset - BLOCK + 2 if kind == "name" else offset + size // 2))


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kind", ["window", "jpeg", "name", "end", "missing"])
@pytest.mark.parametrize("view", [VIEW, EvalView(image_size=32)])
def test_damage_is_the_same_error(tmp_path: Path, kind: str, view: TrainView | EvalView) -> None:
    root = draw_dataset(tmp_path / "set", 6, 6, num_frames=1, seconds=3.2)
    dataset = open_dataset(root)
    config = replace(CONFIG, check_members=kind != "end")  # else the shard's size is what is wrong
    broken(root, kind)
    errors = []
    for native in (True, False):
        loader = Loader(dataset, view, replace(config, native=native))
        with pytest.raises(ShardError) as caught:
            list(loader.arrays())
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.usefixtures("built")
def test_values_that_are_not_finite_are_an_error_of_their_sample(tmp_path: Path) -> None:
    def pack(mel: np.ndarray) -> bytes:
        damaged = mel.copy()
        damaged[3, 100] = np.nan
        return pack_npy_columns(damaged)

    dataset = open_dataset(draw_dataset(tmp_path / "set", 6, 6, num_frames=1, seconds=3.2, pack_mel=pack))
    errors = []
    for native in (True, False):
        with pytest.raises(ShardError, match=r"1 of the window's 24576 log-mel values are not finite") as caught:
            list(Loader(dataset, VIEW, replace(CONFIG, native=native)).arrays())
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.usefixtures("built")
def test_shards_of_the_cache_are_read_before_they_close(tmp_path: Path) -> None:
    """Of which a thread has one open at a time, and every sample is of another one."""
    root = draw_dataset(tmp_path / "set", 12, 1, num_frames=1, seconds=3.2)
    with serving(root) as server:
        config = replace(CONFIG, cache=CacheConfig(root=tmp_path / "cache"))
        dataset = open_dataset(server.url, cache=config.cache)
        fast, plain = (list(Loader(dataset, VIEW, replace(config, native=native)).arrays()) for native in (True, False))
    for one, other in zip(fast, plain, strict=True):
        assert np.array_equal(one.log_mel, other.log_mel)
        assert np.abs(one.images.astype(int) - other.images).max() <= 1


def test_a_file_that_is_no_library_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native_library() is None
    library_path().parent.mkdir(parents=True)
    library_path().write_bytes(b"no library")
    with caplog.at_level(logging.WARNING):
        assert native_library() is None
    assert "cannot be used" in caplog.text


def test_another_cache_folder_has_its_own_library(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of a stopped loader may ask when another test has begun."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert native_library() is not None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native_library() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert native_library() is not None


def test_crops_that_shrink_a_lot_are_those_of_python(queue: NativeQueue) -> None:
    found = made(queue, picture(0), Crop(0, 0, 256, 256, flip=True), 64)
    assert found is not None
    assert np.array_equal(found, meant(picture(0), Crop(0, 0, 256, 256, flip=True), 64))


@pytest.mark.parametrize("size", [1, 5, 6, 7, 9, 32, 224])
def test_the_code_for_avx2_gives_the_same_as_plain_c(queue: NativeQueue, cache: Path, size: int) -> None:
    plain = NativeQueue(open_library(library_path()), plain=True)
    chance = np.random.default_rng(size)
    for number in range(6):
        crop = random_crop(
            256, 340, (0.001, 1.0), (0.5, 2.0), chance.random(CROP_DRAWS).tolist(), flip=bool(number % 2)
        )
        if not shrinks_a_lot(crop, size):
            assert np.array_equal(made(queue, picture(number), crop, size), made(plain, picture(number), crop, size))


def test_windows_are_copied_if_their_blocks_and_values_are_right(queue: NativeQueue) -> None:
    stored = np.arange(3 * MEL_BLOCK_BYTES // 2 - 64, dtype=np.uint16) % 0x7C00
    content = stored.tobytes()
    blocks = range(0, len(content), MEL_BLOCK_BYTES)
    hashes = [block_hash(content[begin : begin + MEL_BLOCK_BYTES]) for begin in blocks]

    def window(skipped: int, *, hashes: list[int] = hashes, content: bytes = content) -> np.ndarray | None:
        out = np.zeros((128, 128), np.float16, order="F")
        source = source_of(content)._replace(xxh3=None, blocks=np.array(hashes, np.uint32).tobytes())
        assert queue.add_window(source, skipped, out)
        assert queue.are_windows() == [True]
        return out if queue.run() == [True] else None

    for skipped in (0, 2, 256, len(content) - 128 * 128 * 2):
        found = window(skipped)
        assert found is not None
        assert found.T.tobytes() == content[skipped : skipped + 128 * 128 * 2]
    assert window(0, hashes=[*hashes[:-1], hashes[-1] ^ 1]) is None
    assert window(0, content=content[:-1] + bytes([content[-1] ^ 1])) is None
    for bad in (0x7C00, 0xFC00, 0x7E00, 0xFFFF):
        stored[1000] = bad
        content = stored.tobytes()
        hashes = [block_hash(content[begin : begin + MEL_BLOCK_BYTES]) for begin in blocks]
        assert window(0, hashes=hashes, content=content) is None
        assert window(2002, hashes=hashes, content=content) is not None
    assert not queue.add_window(source_of(content), len(content) - 100, np.zeros((128, 128), np.float16, order="F"))
    assert not queue.add_window(source_of(content), 0, np.zeros((128, 128), np.float16))


def test_what_is_read_is_what_the_tar_header_and_the_hash_say(queue: NativeQueue) -> None:
    header = b"key.frame00.jpg".ljust(BLOCK, b"\0")
    whole, crop, out = source_of(header + picture(0)), Crop(0, 0, 32, 32), np.zeros((32, 32, 3), np.uint8)
    right = whole._replace(
        offset=3 + BLOCK, size=len(picture(0)), xxh3=content_hash(picture(0)), name="key.frame00.jpg"
    )
    wrong = [
        right._replace(name="key.frame01.jpg"),
        right._replace(name="key.frame00.jp"),
        right._replace(name="key.frame00.jpgs"),
        right._replace(xxh3=1),
        right._replace(size=right.size + 1),
        right._replace(file=-1),
    ]
    for source in [right, *wrong]:
        assert queue.add_crop(source, lambda height, width: crop, out)
    assert queue.run() == [True] + [False] * len(wrong)
    for source in (right._replace(xxh3=None), right._replace(name="")):
        assert queue.add_crop(source, lambda height, width: crop, out)
    queue.drop(1)
    assert queue.run() == [True]
    assert queue.run() == []


class WrongLibrary:
    """Says that it has made everything, and has made nothing."""

    @staticmethod
    def avkit_open() -> int:
        return 1

    @staticmethod
    def avkit_close(memory: int) -> None:
        pass

    @staticmethod
    def avkit_read(jobs: int, count: int, *others: int) -> None:
        for number in range(count):
            ctypes.c_int32.from_address(jobs + 112 * number + 104).value = 2

    @staticmethod
    def avkit_crop(*others: int) -> None:
        pass


def test_a_library_that_makes_other_pictures_is_noticed(queue: NativeQueue, cache: Path) -> None:
    assert not works(WrongLibrary())
    assert works(open_library(library_path()))


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler-here"])
def test_a_build_that_fails_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(ConfigError, match=r"Install a C compiler and libjpeg-turbo with its headers"):
        build(tmp_path / "folder" / "load.so")
    assert list((tmp_path / "folder").iterdir()) == []
