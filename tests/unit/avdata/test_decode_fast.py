"""fast_decode changes pixels by little where FFmpeg leaves out the loop filter, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avdata.prepare.bench import EQUAL_DB, psnr_db
from avdata.prepare.config import SampleConfig
from avdata.prepare.decode import open_media
from avmanifest.errors import ConfigError
from tests.drawn import draw_media, numbered_picture, sine

TIMES_S = [0.0, 0.5, 1.1, 1.9]


def blocky_picture(number: int) -> np.ndarray:
    """Smooth shades under the bars of the number: coded coarsely, they have edges of blocks to filter."""
    shades = np.add.outer(np.arange(120), np.arange(160) + number)[..., None] % 64
    return np.clip(numbered_picture(number).astype(int) // 2 + shades, 0, 255).astype(np.uint8)


def drawn(path: Path, codec: str, options: dict[str, str], picture: Callable[[int], np.ndarray]) -> Path:
    return draw_media(path, video_codec=codec, video_options=options, picture=picture, sound=sine(2, 44_100))


def worst_psnr(path: Path) -> float:
    with open_media(path) as media, open_media(path, fast=True) as fast:
        pairs = zip(media.frames(TIMES_S).images, fast.frames(TIMES_S).images, strict=True)
        return min(psnr_db(image, other) for image, other in pairs)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"crf": "30", "preset": "veryfast"}),
        ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:crf=32"}),
        ("libvpx", {"b": "300000", "deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_pixels_differ_by_little(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    assert 25 < worst_psnr(drawn(tmp_path / "clip.mkv", codec, options, blocky_picture)) < EQUAL_DB


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libvpx-vp9", {"b": "100000", "deadline": "realtime", "cpu-used": "8"}),
        ("libsvtav1", {"crf": "50", "preset": "12"}),
        ("mpeg4", {"b": "100000"}),
        ("libx264", {"crf": "30", "preset": "veryfast", "x264-params": "no-deblock=1"}),
    ],
)
def test_pixels_are_equal_where_no_filter_is_left_out(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    assert worst_psnr(drawn(tmp_path / "clip.mkv", codec, options, blocky_picture)) == EQUAL_DB


def test_decord_cannot_be_fast(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--fast-decode works with --decoder pyav, not with --decoder decord"):
        SampleConfig(fast_decode=True, decoder="decord")
    with (
        pytest.raises(ConfigError, match="cannot leave out the loop filter"),
        open_media(tmp_path / "clip.mp4", "decord", fast=True),
    ):
        pass
