import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avdata.prepare.config import DECODERS
from avdata.prepare.decode import decode_same_packets, open_media
from avmanifest.errors import ConfigError, DecodeError
from tests.drawn import bursts, draw_media, numbered_picture, read_number, sine, stream_copy

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def status_of(source: Path | io.BytesIO, decoder: str = "pyav") -> str:
    """The status of reading one frame and one second of audio."""
    try:
        with open_media(source, decoder) as media:
            media.frames([0.2, 0.8])
            media.waveform(0.0, min(1.0, media.duration_s))
    except DecodeError as error:
        assert error.message
        return error.status
    return "ok"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at 25 fps with B frames, and a 440 Hz tone."""
    path = tmp_path_factory.mktemp("drawn") / "clip.mp4"
    return draw_media(path, num_frames=100, sound=sine(4, 44_100), video_options={"bf": "2"})


def heard_bursts(samples: np.ndarray) -> list[tuple[float, float]]:
    """Start and end in seconds of each tone in a 16 kHz waveform of `bursts`."""
    (loud,) = np.nonzero(np.abs(samples) > 0.1)
    groups = np.split(loud, np.nonzero(np.diff(loud) > 1600)[0] + 1)
    return [(group[0] / 16_000, group[-1] / 16_000) for group in groups if len(group)]


# Every one has sound before its start: what an encoder needs to begin, and what the edit list hides.
@pytest.fixture(
    scope="module",
    params=[
        ("mp4", "aac", 44_100),
        ("mov", "aac", 48_000),
        ("mp4", "libopus", 48_000),
        ("mp4", "libmp3lame", 44_100),
        ("mp4", "ac3", 48_000),
        ("mp4", "flac", 48_000),
        ("mov", "pcm_s16le", 48_000),
    ],
    ids=lambda param: "-".join(map(str, param)),
)
def uncut(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds with key frames every four, and a tone in each second."""
    suffix, codec, rate = request.param
    return draw_media(
        tmp_path_factory.mktemp("uncut") / f"whole.{suffix}",
        num_frames=250,
        gop=100,
        sound=bursts(10, rate),
        sound_rate=rate,
        audio_codec=codec,
        video_options={"bf": "2", "preset": "ultrafast"},
    )


@pytest.mark.parametrize("skip_s", [3.3, 5.0, 0.02])
def test_the_audio_of_a_clip_cut_without_reencoding_keeps_its_times(uncut: Path, tmp_path: Path, skip_s: float) -> None:
    cut = stream_copy(uncut, tmp_path / f"cut{uncut.suffix}", skip_s)
    for start_s, end_s in [(0.0, 9.9 - skip_s), (2.0, 4.6), (0.1, 2.9), (1.3, 4.3)]:
        with open_media(cut) as media:
            sound = media.waveform(start_s, end_s)
            picture = media.frames([start_s + 0.05]).images[0]
        starts = [second + 0.5 - skip_s - start_s for second in range(10)]
        expected = [(start, start + 0.2) for start in starts if -0.2 < start < end_s - start_s]
        expected = [(max(start, 0.0), min(end, end_s - start_s)) for start, end in expected]
        assert np.array(heard_bursts(sound.samples)) == pytest.approx(np.array(expected), abs=0.003)
        assert sound.real_s == pytest.approx(end_s - start_s, abs=0.05)
        assert abs(read_number(picture) - (skip_s + start_s + 0.05) * 25) <= 1


@pytest.mark.slow
def test_consecutive_spans_of_a_cut_clip_equal_those_read_alone(tmp_path: Path) -> None:
    whole = draw_media(tmp_path / "whole.mp4", num_frames=200, gop=100, sound=bursts(8, 44_100))
    cut = stream_copy(whole, tmp_path / "cut.mp4", 1.3)
    spans = [(2.0, 5.0), (0.0, 3.0), (0.0, 6.0), (1.0, 2.0)]
    alone = []
    for span in spans:
        with open_media(cut) as media:
            alone.append(media.waveform(*span).samples)
    with open_media(cut) as media:
        together = [media.waveform(*span).samples for span in spans]
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)  # far below a 16-bit step


def test_the_displayed_frame_is_the_last_that_began(clip: Path) -> None:
    times_s = [3.99, 0.0, 1.2, 1.199, 1.2001, 2.51]
    with open_media(clip) as media:
        frames = media.frames(times_s, short_side=60)
    assert [read_number(image) for image in frames.images] == [99, 0, 30, 29, 30, 62]
    assert frames.times_s == pytest.approx([3.96, 0.0, 1.2, 1.16, 1.2, 2.48])
    assert {image.shape for image in frames.images} == {(60, 80, 3)}


def test_a_returned_time_selects_the_same_frame_again(clip: Path) -> None:
    with open_media(clip) as media:
        first = media.frames([0.03 + 0.37 * i for i in range(10)])
        again = media.frames([round(time_s, 6) for time_s in first.times_s])
    assert again.times_s == first.times_s


def test_times_outside_the_video_give_its_first_and_last_frame(clip: Path) -> None:
    with open_media(clip) as media:
        frames = media.frames([-1.0, 100.0])
    assert [read_number(image) for image in frames.images] == [0, 99]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("h264.mkv", {}),
        ("hevc.mp4", {"video_codec": "libx265", "video_options": {"x265-params": "log-level=none"}}),
        ("vp9.webm", {"video_codec": "libvpx-vp9", "audio_codec": "libopus", "sound_rate": 48_000}),
        ("asp.avi", {"video_codec": "mpeg4", "audio_codec": "pcm_s16le"}),
        ("open_gop.mp4", {"video_options": {"bf": "3", "x264-params": "open-gop=1"}}),
        ("one_gop.mp4", {"gop": 250}),
        ("fragmented.mp4", {"container_options": FRAGMENTED}),
    ],
)
def test_every_container_and_codec_gives_the_right_pictures(tmp_path: Path, name: str, options: dict) -> None:
    rate = options.get("sound_rate", 44_100)
    path = draw_media(tmp_path / name, num_frames=75, sound=sine(3, rate), **options)
    order = np.random.default_rng(0).permutation(75)[:20]
    with open_media(path) as media:
        start_s = media.info.video_start_s
        waveform = media.waveform(0.0, 2.5)
        frames = media.frames([start_s + number / 25 + 0.011 for number in order])
    assert [read_number(image) for image in frames.images] == order.tolist()
    assert len(waveform.samples) == 40_000
    assert waveform.real_s == pytest.approx(2.5, abs=0.1)


def test_an_mpeg_ts_that_begins_at_100_s_begins_at_0_here(tmp_path: Path) -> None:
    path = draw_media(tmp_path / "a.ts", num_frames=50, sound=sine(2, 44_100), video_start_s=100.0, audio_start_s=100.0)
    with open_media(path) as media:
        start_s = media.info.video_start_s
        frames = media.frames([start_s + 0.5, start_s + 1.7])
    assert 0 <= start_s < 0.05
    assert [read_number(image) for image in frames.images] == [12, 42]


def test_frames_at_a_variable_rate_are_found_across_long_gaps(tmp_path: Path) -> None:
    ticks = np.cumsum(np.random.default_rng(3).choice([17, 40, 400, 900], 60)).tolist()
    path = draw_media(tmp_path / "vfr.mp4", num_frames=60, ticks=ticks, gop=20, video_options={"bf": "3"})
    with open_media(path) as media:
        origin = ticks[0]
        for number in np.random.default_rng(4).permutation(59).tolist():
            time_s = (ticks[number + 1] - origin - 2) / 1000
            shown = media.frames([time_s])
            assert read_number(shown.images[0]) == number
            assert shown.times_s[0] == pytest.approx((ticks[number] - origin) / 1000, abs=1e-3)


def flash_at(hit: int) -> Callable[[int], np.ndarray]:
    return lambda number: np.full((120, 160, 3), 255 if number == hit else 0, np.uint8)


@pytest.mark.parametrize(
    ("extension", "container_options"), [("mp4", {}), ("mkv", {}), ("ts", {}), ("mov", {}), ("mp4", FRAGMENTED)]
)
@pytest.mark.parametrize(("video_start_s", "audio_start_s"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_a_flash_and_a_beep_at_one_time_stay_synchronous(
    tmp_path: Path, extension: str, container_options: dict, video_start_s: float, audio_start_s: float
) -> None:
    rate, instant_s = 48_000, 2.0
    beep = np.zeros(rate * 3, np.float32)
    begin = round((instant_s - audio_start_s) * rate)
    beep[begin : begin + rate // 10] = sine(0.1, rate, 1000.0)
    path = draw_media(
        tmp_path / f"sync.{extension}",
        num_frames=75,
        picture=flash_at(round((instant_s - video_start_s) * 25)),
        video_start_s=video_start_s,
        audio_start_s=audio_start_s,
        sound=beep,
        sound_rate=rate,
        container_options=container_options,
    )
    with open_media(path) as media:
        times_s = np.arange(1.5, 2.5, 0.01).tolist()
        bright = [image.mean() > 100 for image in media.frames(times_s, short_side=32).images]
        waveform = media.waveform(1.5, 2.5)
        offset_s = media.info.audio_video_offset_s
    flash_s = times_s[bright.index(True)]
    beep_s = 1.5 + int(np.argmax(np.abs(waveform.samples) > 0.1)) / 16_000
    assert beep_s == pytest.approx(flash_s, abs=0.02)
    # A fragmented file states a late start as one long first packet instead.
    if container_options is not FRAGMENTED:
        assert offset_s == pytest.approx(audio_start_s - video_start_s, abs=0.03)


def test_audio_that_starts_late_is_zeros_until_then(tmp_path: Path) -> None:
    path = draw_media(tmp_path / "late.mp4", sound=sine(2, 48_000), sound_rate=48_000, audio_start_s=1.0)
    with open_media(path) as media:
        waveform = media.waveform(0.0, 2.0)
    assert np.abs(waveform.samples[: round(0.95 * 16_000)]).max() < 1e-3
    assert np.abs(waveform.samples[round(1.1 * 16_000) :]).max() > 0.4
    assert waveform.real_s == pytest.approx(1.02, abs=0.01)


@pytest.mark.parametrize(
    ("layout", "num_channels", "codec", "extension"),
    [
        ("mono", 1, "pcm_s16le", "mov"),
        ("stereo", 2, "pcm_s16le", "mov"),
        ("5.1", 6, "pcm_s16le", "mkv"),
        ("5.1", 6, "pcm_f32le", "mkv"),
        ("stereo", 2, "pcm_u8", "mov"),
        ("stereo", 2, "pcm_s32le", "mkv"),
        ("stereo", 2, "aac", "mp4"),
        ("5.1", 6, "aac", "mp4"),
        ("7.1", 8, "aac", "mp4"),
        ("7.1", 8, "flac", "mkv"),
    ],
)
def test_channels_are_mixed_by_their_plain_mean(
    tmp_path: Path, layout: str, num_channels: int, codec: str, extension: str
) -> None:
    tone = sine(1, 48_000, amplitude=0.6)
    sound = np.stack([tone] + [np.zeros_like(tone)] * (num_channels - 1))
    path = draw_media(
        tmp_path / f"mix.{extension}",
        num_frames=0,
        sound=sound,
        sound_rate=48_000,
        sound_layout=layout,
        audio_codec=codec,
    )
    with open_media(path) as media:
        middle = media.waveform(0.2, 0.8).samples
        assert media.info.audio_channels == num_channels
    rms = float(np.sqrt(np.mean(middle**2)))
    assert rms == pytest.approx(0.6 / np.sqrt(2) / num_channels, rel=0.02)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_a_tone_keeps_its_frequency_phase_and_length_at_any_rate(tmp_path: Path, rate: int) -> None:
    path = draw_media(
        tmp_path / "tone.mov", num_frames=0, sound=sine(2, rate), sound_rate=rate, audio_codec="pcm_s16le"
    )
    with open_media(path) as media:
        samples = media.waveform(0.5, 1.5).samples
    assert len(samples) == 16_000
    expected = 0.5 * np.sin(2 * np.pi * 440 * (0.5 + np.arange(16_000) / 16_000))
    assert np.abs(samples - expected).max() < 2e-3


def test_the_audio_of_a_span_is_a_slice_of_the_whole(clip: Path) -> None:
    with open_media(clip) as media:
        whole = media.waveform(0.0, 4.0).samples
        part = media.waveform(1.5, 3.0).samples
    assert np.abs(whole[24_000:48_000] - part).max() < 1e-4  # the AAC decoder's own noise after a seek: up to 2e-5


def test_reading_frames_first_does_not_change_the_audio(clip: Path) -> None:
    with open_media(clip) as media:
        alone = media.waveform(0.0, 4.0).samples
    with open_media(clip) as media:
        media.frames([3.0, 0.5])
        after = media.waveform(0.0, 4.0).samples
        assert [read_number(image) for image in media.frames([0.5]).images] == [12]
    assert np.array_equal(alone, after)


def test_samples_that_are_not_finite_become_silence(tmp_path: Path) -> None:
    sound = sine(1, 16_000)
    sound[8_000], sound[8_001], sound[8_002] = np.nan, np.inf, 40.0
    path = draw_media(tmp_path / "nan.mkv", num_frames=0, sound=sound, sound_rate=16_000, audio_codec="pcm_f32le")
    with open_media(path) as media:
        samples = media.waveform(0.0, 1.0).samples
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() == 1.0


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_the_display_matrix_is_applied(tmp_path: Path, rotation: int) -> None:
    path = draw_media(tmp_path / "rot.mp4", num_frames=30, rotation=rotation)
    with open_media(path) as media:
        image = media.frames([21 / 25], short_side=None).images[0]
        info = media.info
    # A rotation in the file is counterclockwise, as numpy counts it: undone, the picture carries its number again.
    assert read_number(np.rot90(image, -rotation // 90)) == 21
    assert (info.width, info.height) == ((120, 160) if rotation % 180 else (160, 120))
    assert image.shape == (info.height, info.width, 3)


def test_pixels_are_made_square(tmp_path: Path) -> None:
    path = draw_media(tmp_path / "sar.mp4", num_frames=10, pixel_aspect=Fraction(2, 1))
    with open_media(path) as media:
        image = media.frames([0.2], short_side=60).images[0]
        assert (media.info.width, media.info.height) == (320, 120)
    assert image.shape == (60, 160, 3)
    assert read_number(image) == 5


def test_the_info_describes_the_file(clip: Path) -> None:
    with open_media(clip) as media:
        info = media.info
    assert (info.width, info.height, info.fps) == (160, 120, pytest.approx(25.0))
    assert (info.video_codec, info.audio_codec) == ("h264", "aac")
    assert (info.audio_rate, info.audio_channels, info.num_bad_packets) == (44_100, 1, 0)
    assert info.duration_s == pytest.approx(4.0, abs=0.05)


def test_a_stream_in_memory_reads_like_a_file(clip: Path) -> None:
    with open_media(io.BytesIO(clip.read_bytes())) as media:
        assert [read_number(image) for image in media.frames([3.3]).images] == [82]
        assert len(media.waveform(1.0, 2.0).samples) == 16_000


def test_a_container_without_a_duration_is_measured(tmp_path: Path) -> None:
    path = draw_media(
        tmp_path / "live.webm",
        num_frames=50,
        video_codec="libvpx-vp9",
        audio_codec="libopus",
        sound=sine(2, 48_000),
        sound_rate=48_000,
        container_options={"live": "1"},
    )
    with av.open(str(path)) as container:
        assert container.duration is None
    with open_media(path) as media:
        assert media.duration_s == pytest.approx(2.0, abs=0.05)
        assert [read_number(image) for image in media.frames([1.5]).images] == [37]
        assert media.waveform(0.0, 2.0).real_s == pytest.approx(2.0, abs=0.05)


# What is no media, or too little of it.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!doctype html><title>Video unavailable</title>" * 50,
        np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes(),
        b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
    ],
    ids=["empty", "html", "random", "playlist", "script"],
)
def test_a_file_that_is_not_media_is_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    assert status_of(path) == "media_corrupt"
    assert status_of(io.BytesIO(content)) == "media_corrupt"


def test_a_file_without_its_index_is_corrupt(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "no_moov.mp4"
    content = clip.read_bytes()
    path.write_bytes(content[: content.rindex(b"moov") - 4])
    assert status_of(path) == "media_corrupt"


@pytest.fixture(scope="module")
def cut_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds whose index comes first, cut in half."""
    folder = tmp_path_factory.mktemp("cut")
    whole = draw_media(
        folder / "whole.mp4",
        num_frames=200,
        sound=sine(8, 44_100),
        container_options={"movflags": "faststart", "max_interleave_delta": "0"},
    )
    content = whole.read_bytes()
    path = folder / "cut.mp4"
    path.write_bytes(content[: len(content) // 2])
    return path


def test_a_truncated_file_can_be_read_up_to_its_end(cut_clip: Path) -> None:
    with open_media(cut_clip) as media:
        assert read_number(media.frames([1.0]).images[0]) == 25


def test_a_truncated_file_does_not_return_its_last_frame_for_later_times(cut_clip: Path) -> None:
    with open_media(cut_clip) as media, pytest.raises(DecodeError, match="no intact frame") as caught:
        media.frames([7.9])
    assert caught.value.status == "media_corrupt"


def test_missing_audio_of_a_truncated_file_is_not_returned_as_silence(cut_clip: Path) -> None:
    with open_media(cut_clip) as media, pytest.raises(DecodeError, match="declares 8") as caught:
        media.waveform(0.0, 8.0)
    assert caught.value.status == "media_corrupt"


def test_damage_in_the_middle_is_counted_and_its_frames_are_refused(clip: Path, tmp_path: Path) -> None:
    content = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        target = packets[50]
        assert target.pos is not None
        content[target.pos + 8 : target.pos + target.size] = bytes(target.size - 8)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    with open_media(path) as media:
        frames = media.frames([number / 25 + 0.01 for number in range(100)])
        assert media.info.num_bad_packets > 0
    numbers = [read_number(image) for image in frames.images]
    assert all(number <= expected for expected, number in enumerate(numbers))
    assert numbers[:36] == list(range(36)) and numbers[-12:] == list(range(88, 100))


def test_audio_keeps_its_times_after_bad_packets(tmp_path: Path) -> None:
    rate = 48_000
    sound = np.zeros(rate * 4, np.float32)
    sound[3 * rate : 3 * rate + 4800] = sine(0.1, rate, 1000.0)
    path = draw_media(tmp_path / "beep.mp4", num_frames=0, sound=sound, sound_rate=rate)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in [packet for packet in container.demux() if packet.size][60:66]:
            assert packet.pos is not None
            content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(content)
    with open_media(path) as media:
        waveform = media.waveform(0.0, 4.0)
        assert media.info.num_bad_packets > 0
    beep_s = int(np.argmax(np.abs(waveform.samples) > 0.1)) / 16_000
    assert beep_s == pytest.approx(3.0, abs=0.005)
    assert 3.7 < waveform.real_s < 3.95


def test_a_file_of_bad_packets_is_corrupt(clip: Path, tmp_path: Path) -> None:
    content = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        for packet in container.demux():
            if packet.size and packet.pos is not None:
                content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    assert status_of(path) == "media_corrupt"
    with open_media(path) as media, pytest.raises(DecodeError) as caught:
        media.waveform(0.0, 4.0)
    assert caught.value.status == "media_corrupt"


def test_a_missing_stream_has_its_own_status(tmp_path: Path) -> None:
    assert status_of(draw_media(tmp_path / "video.mp4")) == "media_no_audio"
    assert status_of(draw_media(tmp_path / "audio.mp4", num_frames=0, sound=sine(2, 44_100))) == "media_no_video"


def test_silent_audio_is_not_an_error(tmp_path: Path) -> None:
    path = draw_media(tmp_path / "silent.mp4", sound=np.zeros(2 * 44_100, np.float32))
    assert status_of(path) == "ok"


def test_spans_are_cut_to_the_media_or_refused(tmp_path: Path) -> None:
    path = draw_media(tmp_path / "short.mp4", num_frames=30, sound=sine(1.2, 44_100))
    with open_media(path) as media:
        assert media.clip_span(0.0, 10.0, 1.0) == (0.0, pytest.approx(1.2, abs=0.05))
        with pytest.raises(DecodeError, match=r"at least 3\.0 s") as short:
            media.clip_span(0.0, 10.0, 3.0)
        with pytest.raises(DecodeError, match="outside the media") as window:
            media.clip_span(30.0, 40.0, 3.0)
        with pytest.raises(DecodeError) as sound:
            media.waveform(30.0, 40.0)
        # The rest of a span that reaches past the end is silence, and real_s says so.
        padded = media.waveform(0.0, 3.0)
    assert (short.value.status, window.value.status, sound.value.status) == (
        "media_short",
        "media_window",
        "media_window",
    )
    assert len(padded.samples) == 48_000
    assert padded.real_s == pytest.approx(1.2, abs=0.05)
    assert not padded.samples[round(1.3 * 16_000) :].any()


def test_audio_that_ends_before_the_span_is_media_window(tmp_path: Path) -> None:
    path = draw_media(tmp_path / "a.mp4", num_frames=100, sound=sine(1, 44_100))
    with open_media(path) as media, pytest.raises(DecodeError, match="nothing in the span") as caught:
        media.waveform(2.0, 4.0)
    assert caught.value.status == "media_window"


def test_decode_same_packets_counts_the_packets_of_frames_and_waveform(clip: Path) -> None:
    times_s = [0.3, 1.7, 3.1]
    with open_media(clip) as media:
        media.frames(times_s)
        media.waveform(0.0, 2.0)
        num_packets = media.num_packets
    assert decode_same_packets(clip, times_s, 0.0, 2.0) == num_packets > 0


def test_an_unknown_decoder_lists_the_known(clip: Path) -> None:
    with pytest.raises(ConfigError, match=", ".join(DECODERS)), open_media(clip, "opencv"):
        pass


def test_a_missing_file_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_media(tmp_path / "nowhere.mp4"):
        pass


class TestDecord:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("decord")

    def test_it_gives_the_same_frames(self, clip: Path) -> None:
        times_s = [3.99, 0.0, 1.199, 2.51]
        with open_media(clip) as media, open_media(clip, "decord") as other:
            expected, found = media.frames(times_s), other.frames(times_s)
            assert np.array_equal(media.waveform(0.0, 4.0).samples, other.waveform(0.0, 4.0).samples)
        assert [read_number(image) for image in found.images] == [99, 0, 29, 62]
        assert found.times_s == pytest.approx(expected.times_s)
        assert [image.shape for image in found.images] == [image.shape for image in expected.images]

    def test_it_reads_a_stream_beside_pyav(self, clip: Path) -> None:
        with open_media(io.BytesIO(clip.read_bytes()), "decord") as media:
            assert [read_number(image) for image in media.frames([3.3]).images] == [82]
            assert media.waveform(1.0, 2.0).real_s == pytest.approx(1.0, abs=0.01)

    @pytest.mark.parametrize("rotation", [90, 180, -90])
    def test_it_applies_the_display_matrix(self, tmp_path: Path, rotation: int) -> None:
        path = draw_media(tmp_path / "rot.mp4", num_frames=30, rotation=rotation)
        with open_media(path) as media, open_media(path, "decord") as other:
            expected, found = (one.frames([0.84], short_side=None).images[0] for one in (media, other))
        assert np.abs(expected.astype(int) - found).mean() < 2.0

    def test_it_refuses_pixels_that_are_not_square(self, tmp_path: Path) -> None:
        path = draw_media(tmp_path / "sar.mp4", sound=sine(2, 44_100), pixel_aspect=Fraction(2, 1))
        assert (status_of(path), status_of(path, "decord")) == ("ok", "media_corrupt")

    def test_it_refuses_a_file_with_an_edit_list(self, clip: Path, tmp_path: Path) -> None:
        cut = stream_copy(clip, tmp_path / "cut.mp4", 0.3)
        with open_media(cut) as media:
            assert read_number(media.frames([0.0]).images[0]) == 8
        assert status_of(cut, "decord") == "media_corrupt"

    def test_it_reads_av1_or_refuses_it(self, tmp_path: Path) -> None:
        path = draw_media(tmp_path / "av1.mp4", num_frames=10, video_codec="libsvtav1", sound=sine(1, 44_100))
        assert status_of(path) == "ok"
        knows_av1 = (
            int(pytest.importorskip("decord").__version__.partition(".")[0]) >= 3
        )  # decord2; decord 0.6 does not
        assert status_of(path, "decord") == ("ok" if knows_av1 else "media_corrupt")


def test_the_drawn_number_can_be_read_back() -> None:
    assert [read_number(numbered_picture(number)) for number in (0, 1, 77, 255)] == [0, 1, 77, 255]
