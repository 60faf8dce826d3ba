"""Interlaced and HDR video: whole pictures of two fields, SDR pictures of PQ and HLG, and both raw on request."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from avdata.prepare.decode import open_media

NUM_FRAMES, SIZE = 30, (96, 64)  # at 25 fps


def drawn(path: Path, params: str, *, moving: bool = True, pix_fmt: str = "yuv420p", level: int = 255) -> Path:
    """A bar that moves between the two fields of each frame, or that stands still, as H.264 with B-frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.gop_size = pix_fmt, 10
        stream.options = {"x264-params": f"bframes=2:scenecut=0:log-level=error:{params}", "crf": "4"}
        for number in range(NUM_FRAMES):
            image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
            for field in (0, 1):
                begin = (4 * number + 8 * field * moving) % 80 if moving else 40
                image[field::2, begin : begin + 6] = level
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("interlaced") / "tff.mp4", "tff=1")


def combing(image: np.ndarray) -> float:
    """How much every second line differs from the lines around it, in levels."""
    gray = image.astype(float).mean(axis=2)
    return float(np.abs(gray[1:-1] - (gray[:-2] + gray[2:]) / 2).mean())


def whole_read(path: Path) -> Iterator[np.ndarray]:
    """The pictures of the file after bwdif over the whole stream, without avkit."""
    with av.open(str(path)) as container:
        graph = av.filter.Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        bwdif, sink = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        graph.configure()
        for frame in container.decode(video=0):
            source.push(frame)
        source.push(None)
        for _ in range(NUM_FRAMES):
            frame = sink.pull()
            assert isinstance(frame, av.VideoFrame)
            yield frame.to_ndarray(format="gray")


def test_fields_become_whole_pictures_and_it_is_said(interlaced: Path) -> None:
    times_s = [number / 25 for number in range(NUM_FRAMES)]
    with open_media(interlaced) as media:
        whole = media.frames(times_s, short_side=None)
        assert media.info.deinterlaced
    with open_media(interlaced, deinterlace=False) as media:
        woven = media.frames(times_s, short_side=None)
        assert not media.info.deinterlaced
    assert whole.times_s == woven.times_s == pytest.approx(times_s)
    assert np.mean([combing(image) for image in woven.images]) > 5 * np.mean([combing(image) for image in whole.images])
    for image, expected in zip(whole.images, whole_read(interlaced), strict=True):
        assert np.abs(image.astype(int).mean(axis=2) - expected).mean() < 2


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_does_not_depend_on_what_else_is_asked(interlaced: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with open_media(interlaced) as media:
        every = media.frames([number / 25 for number in range(NUM_FRAMES)], short_side=None).images
    numbers = rng.permutation(NUM_FRAMES)[:5].tolist()
    with open_media(interlaced) as media:
        together = media.frames([number / 25 for number in numbers], short_side=None).images
    for number, image in zip(numbers, together, strict=True):
        np.testing.assert_array_equal(image, every[number])
        with open_media(interlaced) as media:
            np.testing.assert_array_equal(media.frames([number / 25], short_side=None).images[0], every[number])


def test_progressive_video_is_not_touched(tmp_path: Path) -> None:
    path = drawn(tmp_path / "plain.mp4", "")
    with open_media(path) as media, open_media(path, deinterlace=False, tone_map=False) as raw:
        for image, other in zip(media.frames([0.1, 0.7]).images, raw.frames([0.1, 0.7]).images, strict=True):
            np.testing.assert_array_equal(image, other)
        assert (media.info.deinterlaced, media.info.tone_mapped) == (False, "")


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "pq"), ("arib-std-b67", "hlg")])
def test_hdr_becomes_sdr_and_it_is_said(tmp_path: Path, transfer: str, name: str) -> None:
    params = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    path = drawn(tmp_path / "hdr.mp4", params, moving=False, pix_fmt="yuv420p10le", level=148)
    with open_media(path) as media:
        (image,) = media.frames([0.5], short_side=None).images
        assert media.info.tone_mapped == name
    with open_media(path, tone_map=False) as media:
        (raw,) = media.frames([0.5], short_side=None).images
        assert media.info.tone_mapped == ""
    bar, raw_bar = image[30, 43].astype(int), raw[30, 43].astype(int)
    assert np.ptp(bar) <= 6, "gray stays gray"
    if name == "pq":  # 58 % PQ is diffuse white
        assert bar.mean() > raw_bar.mean() + 50
    assert image[30, 10].max() <= 3
