"""Thumbnails: a thousand samples have less than 3 MB on a page, whatever their pictures are."""

import cv2
import numpy as np
import pytest

from avdata.audit.shown import thumbnail_uri
from avdata.draw.thumbnails import FRAME_BYTES, MEL_BYTES, frame_thumbnail, mel_thumbnail
from avdata.images import encode_jpeg


def decoded(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (16, 1200), (8, 8), (1, 1)])
def test_a_frame_keeps_its_shape_and_noise_fits_too(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    content = frame_thumbnail(encode_jpeg(noise))
    assert content[:4] == b"RIFF"
    assert len(content) <= FRAME_BYTES
    small = decoded(content)
    assert max(small.shape[0] / 96, small.shape[1] / 128) <= 1
    if min(height, width) > 200:
        assert small.shape[1] / small.shape[0] == pytest.approx(width / height, rel=0.1)


def test_a_picture_is_recognized():
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[:, 160:] = (250, 30, 30)
    small = decoded(frame_thumbnail(encode_jpeg(frame)))[..., ::-1].astype(int)
    assert np.abs(small[:, 5:-70].mean(axis=(0, 1))).max() < 20
    assert small[:, 75:-5].mean(axis=(0, 1)) == pytest.approx([250, 30, 30], abs=20)


@pytest.mark.parametrize("columns", [1, 64, 10_000])
def test_a_log_mel_fits(columns):
    noise = np.random.default_rng(0).normal(size=(128, columns)).astype(np.float32)
    content = mel_thumbnail(noise)
    assert 0 < len(content) <= MEL_BYTES


def test_what_is_no_picture_has_none():
    assert frame_thumbnail(b"") == frame_thumbnail(b"no image") == b""
    assert mel_thumbnail(np.zeros((128, 0), np.float32)) == b""
    assert thumbnail_uri(b"") == ""


def test_a_thousand_are_under_three_megabytes():
    assert 1000 * (len(thumbnail_uri(b"x" * FRAME_BYTES)) + len(thumbnail_uri(b"x" * MEL_BYTES))) < 3_000_000
