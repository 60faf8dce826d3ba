"""Every frame of a span, small: which frames these are, and how often they can be read."""

from pathlib import Path

import pytest

from avdata.prepare.decode import open_media
from avdata.prepare.decode.small_video import SHORT_SIDE, SmallVideo
from tests.drawn import draw_media, read_number, sine


def numbers_and_times(path: Path, start_s: float, end_s: float, decoder: str = "pyav") -> list[tuple[int, float]]:
    """The number in each frame, and its time, after stored frames and sound were read as `prepare` reads them."""
    with open_media(path, decoder) as media:
        media.frames([start_s, (start_s + end_s) / 2])
        if media.info.audio_codec:
            media.waveform(start_s, end_s)
        info = media.info
        with SmallVideo(media, start_s, end_s, path.parent) as video:
            found = [(read_number(image), round(time_s, 6)) for time_s, image in video]
            assert [(read_number(image), round(time_s, 6)) for time_s, image in video] == found
            assert len(video) == len(found)
        assert media.info == info
    return found


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "ts"])
def test_they_are_all_frames_of_the_span_with_their_times(tmp_path: Path, suffix: str) -> None:
    options = {} if suffix == "avi" else {"bf": "2"}
    path = draw_media(tmp_path / f"clip.{suffix}", num_frames=75, sound=sine(3, 44_100)[None], video_options=options)
    for start_s, end_s in ((0.0, 0.37), (1.53, 2.0)):
        with open_media(path) as media:
            times_s = [start_s + 0.01 * tick for tick in range(round(100 * (end_s - start_s)))]
            frames = media.frames(times_s, SHORT_SIDE)
        displayed = [(read_number(image), time_s) for image, time_s in zip(frames.images, frames.times_s, strict=True)]
        expected = [(number, round(time_s - start_s, 6)) for number, time_s in dict.fromkeys(displayed)]
        assert len(expected) >= 9
        assert numbers_and_times(path, start_s, end_s) == expected


def test_the_first_one_is_displayed_at_the_start(tmp_path: Path) -> None:
    ticks = [0, 400, 900, 1000, 2000, 2950]
    path = draw_media(tmp_path / "vfr.mp4", num_frames=6, ticks=ticks, gop=3)
    assert numbers_and_times(path, 1.5, 2.9) == [(3, -0.5), (4, 0.5)]
    assert numbers_and_times(path, 0.95, 1.0) == [(2, -0.05)]


@pytest.mark.parametrize("rotation", [0, 90])
def test_images_are_small_and_turned_as_displayed(tmp_path: Path, rotation: int) -> None:
    path = draw_media(tmp_path / "rot.mp4", num_frames=5, rotation=rotation)
    with open_media(path) as media, SmallVideo(media, 0.0, 0.2, tmp_path) as video:
        shapes = {image.shape for _, image in video}
        (_, image), *_ = video
        with pytest.raises(ValueError, match="read-only"):
            image[:] = 0
    wide = (SHORT_SIDE, 85, 3)
    assert shapes == {(85, SHORT_SIDE, 3) if rotation else wide}
