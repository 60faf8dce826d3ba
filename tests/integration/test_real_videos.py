"""Files of every kind: status, rotation, start and duration; every picture against a full decode.

Drawn files, and the 25 real ones where they are beside the checkout.
"""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from avdata.prepare.decode import MediaInfo, open_media
from avdata.prepare.quality import quality_flags
from avmanifest.errors import DecodeError
from tests.drawn import draw_media, numbered_picture
from tests.kinds import KINDS, Kind

VIDEOS = Path(__file__).parents[2].parent / "shared" / "data" / "videos"

REAL = {
    "av1_10bit_portrait.mp4": Kind(4.238, (720, 1280), 29.97, "av1", ("aac", 48_000, 2), 0.021),
    "bbb_rotated90_51.mp4": Kind(2.005, (1080, 1920), 24, "h264", ("aac", 48_000, 6), -0.0833),
    "edit_list_video_starts_1s.mp4": Kind(
        10.005, (1920, 1080), 30, "h264", ("aac", 48_000, 2), -1.0, silent=True, still=True
    ),
    "flower_silent_audio.mp4": Kind(5.055, (960, 540), 29.97, "h264", ("aac", 48_000, 2), silent=True),
    "flower_silent_fragmented.mp4": Kind(5.123, (960, 540), 29.97, "h264", ("aac", 48_000, 2), -0.0667, silent=True),
    "long_6min_av1_silent.mp4": Kind(362.767, (320, 180), 60, "av1", ("aac", 48_000, 2), silent=True, still=True),
    "music_bbb_intro.webm": Kind(30.003, (1280, 720), 24, "vp8", ("vorbis", 44_100, 2), -0.003),
    "neg_corrupted.mp4": Kind(5.0, (1280, 720), 10, "h264", None),
    "neg_noaudio_rot90.mov": Kind(0.1, (320, 568), 30, "h264", None),
    "neg_noaudio_sar2x1.mp4": Kind(5.0, (1280, 360), 30, "h264", None),
    "office_man_av1.mp4": Kind(1.088, (1080, 720), 29.97, "av1", ("aac", 44_100, 1), 0.043),
    "pcm_audio_1080p50.mov": Kind(2.0, (1920, 1080), 50, "h264", ("pcm_s16le", 48_000, 2)),
    "phone_data_streams_speech.mp4": Kind(10.29, (480, 320), 30, "h264", ("aac", 44_100, 2)),
    "phone_sideways_rot90.mov": Kind(1.017, (480, 640), 24.04, "h264", ("aac", 44_100, 1)),
    "shorter_audio.mp4": Kind(1.2, (320, 240), 60, "h264", ("aac", 44_100, 1), sound_s=0.7),
    "silent_black_10s.mp4": Kind(10.0, (320, 240), 30, "h264", ("aac", 44_100, 1), silent=True, still=True),
    "smpte_timecode_25fps.mp4": Kind(10.048, (1920, 1080), 25, "h264", ("aac", 48_000, 2)),
    "speech_friday_1940_film.mp4": Kind(6.166, (640, 480), 30, "h264", ("aac", 44_100, 2)),
    "speech_google_offices.mp4": Kind(35.068, (320, 180), 29.97, "h264", ("aac", 44_100, 2), -0.834),
    # Of two videos and two tracks, the larger picture and the higher rate.
    "speech_nasa_multistream.mp4": Kind(13.056, (480, 270), 29.97, "h264", ("aac", 16_000, 2)),
    "street_60fps_320x240.mp4": Kind(5.019, (320, 240), 60, "h264", ("aac", 48_000, 2)),
    "toy_elf.webm": Kind(8.033, (720, 480), 30, "vp8", ("vorbis", 44_100, 2)),
    "toy_pig.mp4": Kind(6.533, (720, 480), 30, "h264", ("aac", 44_100, 2)),
    "water_stream.mp4": Kind(3.158, (480, 360), 29.98, "h264", ("aac", 44_100, 1)),
    "water_stream.webm": Kind(3.119, (480, 360), 29.97, "vp8", ("vorbis", 44_100, 1)),
}
LONG = "long_6min_av1_silent.mp4"
DAMAGED = "neg_corrupted.mp4"  # from 2.9 s on
HAS_REAL = VIDEOS.is_dir()
EXPECTED = {**KINDS, **(REAL if HAS_REAL else {})}


def named(drawn: str, *real: str) -> pytest.MarkDecorator:
    """Run with a drawn file, and with real ones where they are."""
    return pytest.mark.parametrize("name", [drawn, *(real if HAS_REAL else ())])


def place_of(name: str, kinds: Path) -> Path:
    return kinds / name if name in KINDS else VIDEOS / name


def info_of(path: Path) -> MediaInfo:
    with open_media(path) as media:
        return media.info


def test_every_file_is_expected_somehow(kinds: Path) -> None:
    assert {path.name for path in kinds.iterdir()} == set(KINDS)
    if HAS_REAL:
        assert {path.name for path in VIDEOS.iterdir() if path.suffix != ".md"} == set(REAL)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_info_is_what_a_person_would_say(name: str, kinds: Path) -> None:
    expected, info = EXPECTED[name], info_of(place_of(name, kinds))
    assert info.duration_s == pytest.approx(expected.duration_s, abs=1e-3)
    assert (info.width, info.height) == expected.size
    assert info.fps == pytest.approx(expected.fps, abs=0.01)
    assert info.video_codec == expected.video_codec
    assert (info.audio_codec, info.audio_rate, info.audio_channels) == (expected.audio or ("", 0, 0))
    assert info.audio_video_offset_s == pytest.approx(expected.offset_s, abs=1e-3)
    assert min(info.video_start_s, info.audio_start_s) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != DAMAGED])
def test_sound_is_read_and_silent_or_still_clips_are_flagged(name: str, kinds: Path) -> None:
    expected = EXPECTED[name]
    end_s = min(expected.duration_s, 10.0)
    with open_media(place_of(name, kinds)) as media:
        images = media.frames(np.linspace(0.02, end_s - 0.05, 6).tolist(), short_side=128).images
        if expected.audio is None:
            with pytest.raises(DecodeError) as caught:
                media.waveform(0.0, end_s)
            assert caught.value.status == "media_no_audio"
            return
        waveform = media.waveform(0.0, end_s)
    assert len(waveform.samples) == round(end_s * 16_000)
    assert waveform.real_s > (end_s - 0.15 if expected.sound_s is None else expected.sound_s)
    assert np.abs(waveform.samples).max() <= 1.0
    flags = quality_flags(waveform.samples, images, asked_s=end_s, real_s=end_s)
    assert (flags.silent, flags.still) == (expected.silent, expected.still)


class FullDecode:
    """Every intact picture of a file's best video stream, decoded from the first packet to the last."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            assert stream is not None and stream.time_base is not None
            stream.codec_context.thread_count = 1
            shown: dict[float, np.ndarray] = {}
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    continue
                for frame in frames:
                    if not frame.is_corrupt:
                        time_s = float(frame.pts * stream.time_base) - container.start_time / av.time_base
                        shown[time_s] = frame.reformat(64, 36, "gray").to_ndarray()
        self.times_s = np.array(sorted(shown))
        self.pictures = [shown[time_s] for time_s in self.times_s.tolist()]

    def position(self, time_s: float) -> int:
        return max(0, int(np.searchsorted(self.times_s, time_s, side="right")) - 1)


def small_gray(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [av.VideoFrame.from_ndarray(image, format="rgb24").reformat(64, 36, "gray").to_ndarray() for image in images]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in (LONG, DAMAGED)])
def test_every_picture_is_the_one_a_full_decode_shows(name: str, kinds: Path) -> None:
    path = place_of(name, kinds)
    reference = FullDecode(path)
    rng = random.Random(name)
    duration_s = EXPECTED[name].duration_s
    upright = EXPECTED[name].size
    for num_times in (1, 4, 10):
        times_s = [rng.uniform(0.0, duration_s) for _ in range(num_times)]
        with open_media(place_of(name, kinds), tone_map=False) as media:
            if num_times == 4 and EXPECTED[name].audio:
                media.waveform(0.0, duration_s)
            frames = media.frames(times_s, short_side=None)
        positions = [reference.position(time_s) for time_s in times_s]
        assert frames.times_s == pytest.approx(reference.times_s[positions].tolist(), abs=1e-6)
        assert {image.shape for image in frames.images} == {(upright[1], upright[0], 3)}
        if "rot" not in name:
            for position, picture in zip(positions, small_gray(frames.images), strict=True):
                assert np.abs(picture.astype(int) - reference.pictures[position]).mean() < 6.0


@pytest.mark.skipif(not HAS_REAL, reason="needs the real videos beside the checkout")
def test_damage_in_a_real_file_is_found() -> None:
    with open_media(VIDEOS / DAMAGED) as media:
        assert media.frames([0.1, 2.85]).times_s == pytest.approx([0.1, 2.8])
        with pytest.raises(DecodeError, match="no intact frame"):
            media.frames([4.5])
        assert np.array(media.find_damaged_frames(0.0, 5.0)) == pytest.approx(np.array([(2.9, 5.0)]), abs=0.001)
        assert media.damaged_share(0.0, 5.0) == pytest.approx(0.42, abs=0.001)


@pytest.mark.parametrize("name", ["drawn", *([LONG] if HAS_REAL else [])])
def test_frames_far_into_a_long_file_are_found(name: str, tmp_path: Path) -> None:
    if name == LONG:
        path = VIDEOS / LONG
    else:
        small = partial(numbered_picture, width=64, height=48)
        path = draw_media(tmp_path / "long.mp4", num_frames=363, ticks=range(0, 363_000, 1000), gop=250, picture=small)
    with av.open(str(path)) as container:
        times_s = [
            float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.pts is not None
        ]
    starts_s = np.sort(times_s)
    asked_s = [300.013, 5.5, 361.0, 123.4567]
    with open_media(path) as media:
        found = media.frames(asked_s).times_s
    expected = [starts_s[np.searchsorted(starts_s, time_s, side="right") - 1] for time_s in asked_s]
    assert found == pytest.approx(expected, abs=1e-6)


@named("stereo.mp4", "smpte_timecode_25fps.mp4")
def test_the_timecode_counts_on(name: str, kinds: Path) -> None:
    """One picture every 40 ms, each unlike the one before: the burnt-in number changes with every one."""
    times_s = [2.0 + 0.04 * i + 0.001 for i in range(25)]
    with open_media(place_of(name, kinds)) as media:
        frames = media.frames(times_s, short_side=None)
        between = media.frames([time_s + 0.037 for time_s in times_s], short_side=None)
    assert frames.times_s == pytest.approx([time_s - 0.001 for time_s in times_s], abs=1e-6)
    assert between.times_s == frames.times_s
    changes = [
        np.abs(one.astype(int) - other).max() for one, other in zip(frames.images, frames.images[1:], strict=False)
    ]
    assert min(changes) > 60


@named("rotated.mp4", "bbb_rotated90_51.mp4", "phone_sideways_rot90.mov")
def test_rotated_pictures_stand_upright(name: str, kinds: Path) -> None:
    """A display matrix of -90 degrees turns the coded picture clockwise."""
    with av.open(str(place_of(name, kinds))) as container:
        coded = next(container.decode(container.streams.best("video")))
        assert coded.rotation == -90
        turned = np.rot90(coded.to_ndarray(format="rgb24"), -1)
    with open_media(place_of(name, kinds)) as media:
        image = media.frames([0.0], short_side=None).images[0]
    assert np.abs(image.astype(int) - turned).mean() < 2.0


@named("late_video.mp4", "speech_google_offices.mp4")
def test_the_late_video_stays_with_its_sound(name: str, kinds: Path) -> None:
    """Its video begins 0.8 s after its sound: until then the first picture is shown."""
    start_s, second_s = (0.8, 0.84) if name in KINDS else (0.834, 0.867)
    with open_media(place_of(name, kinds)) as media:
        found = media.frames([0.0, 0.5, second_s + 0.02]).times_s
    assert found == pytest.approx([start_s, start_s, second_s], abs=1e-3)


@named("stereo.mp4", "phone_data_streams_speech.mp4")
def test_a_span_of_sound_is_a_slice_of_the_whole(name: str, kinds: Path) -> None:
    with open_media(place_of(name, kinds)) as media:
        whole = media.waveform(0.0, 4.0).samples
        part = media.waveform(1.5, 3.5).samples
    assert np.abs(whole[24_000:56_000] - part).max() < 1e-5


@named("stereo.mp4", "speech_friday_1940_film.mp4")
def test_a_cut_copy_of_a_file_is_corrupt(name: str, kinds: Path, tmp_path: Path) -> None:
    content = place_of(name, kinds).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError) as caught, open_media(path) as media:
        media.frames([0.5, 3.9])
        media.waveform(0.0, 4.0)
    assert caught.value.status == "media_corrupt"
