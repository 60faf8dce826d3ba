"""Videos as windows: what is on screen and heard in each, ends, and memory that doesn't grow."""

import weakref
from pathlib import Path

import numpy as np
import pytest

from avdata.melspec import log_mel
from avdata.prepare.decode import open_media
from avdata.profiles import profile
from avdata.video_windows import frame_times, iter_windows, num_windows
from avdata.waveform import StoredSamples
from avdata.windows import SAMPLE_RATE, WindowConfig
from avmanifest.errors import ConfigError, DecodeError
from tests.drawn import draw_media, read_number, sine

SECOND = WindowConfig(window_s=1.0, fps=5.0, short_side=60)


def draw(path: Path, seconds: float = 2.5, *, sound_s: float | None = None, **options: object) -> Path:
    """A video of 10 numbered pictures a second."""
    sound = None if sound_s == 0 else sine(sound_s or seconds, 44_100)
    return draw_media(path, num_frames=round(seconds * 10), fps=10, sound=sound, **options)


def test_windows_follow_each_other_and_keep_their_true_ends(tmp_path: Path) -> None:
    windows = list(iter_windows(draw(tmp_path / "a.mp4"), SECOND))
    duration_s = windows[0].duration_s
    assert [window.number for window in windows] == [0, 1, 2]
    assert [(window.start_s, window.end_s) for window in windows] == [(0, 1), (1, 2), (2, duration_s)]
    assert duration_s == pytest.approx(2.5, abs=0.05)
    numbers = [read_number(frame) for window in windows for frame in window.frames]
    times = [time for window in windows for time in window.times_s]
    assert numbers == [round(time * 10) for time in times]
    assert times == pytest.approx([number / 5 for number in range(len(times))])
    assert {window.frames.shape[1:] for window in windows} == {(60, 80, 3)}
    assert {window.waveform.shape for window in windows} == {(SAMPLE_RATE,)}
    last = windows[-1]
    assert not last.waveform[last.num_samples :].any()
    assert np.abs(last.waveform[: last.num_samples - 1600]).max() > 0.3


@pytest.mark.parametrize("name", ["paper", "released"])
def test_a_window_sounds_as_its_span_does_when_prepared(tmp_path: Path, name: str) -> None:
    path = draw(tmp_path / "a.mp4", 3.0)
    config = WindowConfig(window_s=1.0, hop_s=0.5)
    for window in iter_windows(path, config):
        with open_media(path) as media:
            span = StoredSamples(media.waveform(window.start_s, window.end_s).samples)[:]
        heard = window.waveform[: window.num_samples]
        assert np.array_equal(log_mel(heard, profile(name)), log_mel(span, profile(name)))


def test_a_video_shorter_than_a_window_is_one_window(tmp_path: Path) -> None:
    (window,) = iter_windows(draw(tmp_path / "a.mp4", 1.0), WindowConfig(num_frames=2))
    assert window.start_s == 0
    assert window.end_s == window.duration_s == pytest.approx(1.0, abs=0.05)
    assert window.waveform.shape == (3 * SAMPLE_RATE,)
    assert not window.waveform[window.num_samples :].any()
    assert window.times_s == pytest.approx((window.end_s / 4, 3 * window.end_s / 4))


def test_a_video_without_sound_has_none_and_one_whose_sound_is_over_has_silence(tmp_path: Path) -> None:
    assert all(window.waveform is None for window in iter_windows(draw(tmp_path / "mute.mp4", sound_s=0), SECOND))
    first, *_, last = iter_windows(draw(tmp_path / "early.mp4", 3.0, sound_s=1.0), SECOND)
    assert first.waveform.any()
    assert not last.waveform.any()
    late = draw(tmp_path / "late.mp4", 3.0, sound_s=1.5, audio_start_s=1.5)
    first, second, third = iter_windows(late, SECOND)
    assert not first.waveform.any()
    assert not second.waveform[: SAMPLE_RATE // 2 - 2000].any()
    assert third.waveform.any()


def test_a_file_of_sound_alone_is_refused_unless_pictures_can_be_done_without(tmp_path: Path) -> None:
    path = draw_media(tmp_path / "a.mp4", num_frames=0, sound=sine(1.2, 44_100))
    with pytest.raises(DecodeError, match="no video stream"):
        next(iter_windows(path))
    windows = list(iter_windows(path, WindowConfig(window_s=1.0, needs_video=False)))
    assert [(window.frames, window.times_s) for window in windows] == [(None, ())] * 2
    assert windows[0].waveform.any()


@pytest.mark.parametrize(
    "content", [b"", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", b"x" * 999]
)
def test_what_is_no_video_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match="not a media file"):
        next(iter_windows(path))
    with pytest.raises(ConfigError, match="no such video"):
        next(iter_windows(tmp_path / "http://host/a.mp4"))


def test_a_long_video_never_holds_more_than_a_window(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.mp4", 20.0, sound_s=0.5, gop=50)
    alive: list[weakref.ref[object]] = []
    most = 0
    for window in iter_windows(path, WindowConfig(window_s=0.5, fps=10.0, short_side=30)):
        alive.append(weakref.ref(window.frames))
        del window
        most = max(most, sum(ref() is not None for ref in alive))
    assert len(alive) >= 40
    assert most <= 1


@pytest.mark.parametrize(
    ("duration_s", "hop_s", "count"), [(0.2, None, 1), (3.0, None, 1), (3.005, None, 1), (3.1, None, 2), (9, 1.5, 5)]
)
def test_windows_reach_the_end_and_no_further(duration_s: float, hop_s: float | None, count: int) -> None:
    assert num_windows(float(duration_s), WindowConfig(hop_s=hop_s)) == count


def test_frames_of_windows_that_touch_are_each_asked_for_once() -> None:
    config = WindowConfig(window_s=0.7, fps=7.3)
    times = [time for number in range(20) for time in frame_times(number * 0.7, (number + 1) * 0.7, config)]
    assert times == [number / 7.3 for number in range(len(times))]


@pytest.mark.parametrize(
    "settings", [{"window_s": 0.0}, {"hop_s": 4.0}, {"fps": 0.1}, {"fps": 1e4}, {"num_frames": 0}, {"short_side": 1}]
)
def test_what_cannot_be_watched_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        WindowConfig(**settings)


@pytest.mark.parametrize("name", ["short_sound.mp4", "late_video.mp4", "rotated.mp4", "no_sound.mp4"])
def test_videos_of_every_kind_are_read_to_their_end(name: str, kinds: Path) -> None:
    windows = list(iter_windows(kinds / name, WindowConfig(window_s=1.0, short_side=64)))
    assert windows[-1].end_s == windows[-1].duration_s
    assert all(min(window.frames.shape[1:3]) == 64 for window in windows)
    assert {window.waveform is None for window in windows} == {name == "no_sound.mp4"}
    assert (name == "rotated.mp4") == (windows[0].frames.shape[1] > windows[0].frames.shape[2])
