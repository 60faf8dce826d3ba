import io

import numpy as np
import pytest
from PIL import Image

from avdata.images import decode_jpeg, encode_jpeg, resize_short_side
from avmanifest.errors import ShardError


def gradient(height: int = 120, width: int = 160) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, (rows + columns) // 2], -1).astype(np.uint8)


def test_a_jpeg_keeps_the_picture() -> None:
    rgb = gradient()
    found = decode_jpeg(encode_jpeg(rgb))
    assert found.shape == rgb.shape
    assert np.abs(found.astype(int) - rgb).mean() < 1.0


def test_equal_pixels_give_equal_baseline_bytes_with_halved_chroma() -> None:
    data = encode_jpeg(gradient())
    assert data == encode_jpeg(gradient().copy())
    assert b"\xff\xc0" in data and b"\xff\xc2" not in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.layer[0][1:3] == (2, 2)


def test_quality_is_passed_on() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert len(encode_jpeg(noise, quality=50)) < len(encode_jpeg(noise)) < len(encode_jpeg(noise, quality=98))


def test_views_and_gray_pictures_are_read() -> None:
    assert decode_jpeg(encode_jpeg(gradient()[::-1, ::-1])).shape == (120, 160, 3)
    file = io.BytesIO()
    Image.fromarray(gradient()[..., 0]).save(file, "JPEG")
    assert decode_jpeg(file.getvalue()).shape == (120, 160, 3)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "header only", "huge"])
def test_a_damaged_jpeg_names_its_member(damage: str) -> None:
    data = encode_jpeg(gradient())
    size = data.index(b"\xff\xc0") + 5
    content = {
        "empty": b"",
        "text": b"not a picture",
        "cut": data[: len(data) // 2],
        "header only": data[:20],
        "huge": data[:size] + b"\xff\xdc\xff\xdc" + data[size + 4 :],
    }[damage]
    with pytest.raises(ShardError, match=r"clip\.frame00\.jpg"):
        decode_jpeg(content, "clip.frame00.jpg")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((120, 160), (256, 341)), ((720, 1280), (256, 455)), ((1280, 720), (455, 256)), ((256, 300), (256, 300))],
)
def test_the_short_side_is_exact_and_proportions_stay(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resize_short_side(np.zeros((*size, 3), np.uint8), 256).shape == (*expected, 3)


def test_shrinking_averages() -> None:
    checkers = np.zeros((512, 512, 3), np.uint8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = 200
    assert np.all(np.abs(resize_short_side(checkers, 256).astype(int) - 100) <= 1)
