"""Tracks of different lengths, gaps, clocks that jump, and answers that do not depend on the question."""

import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest

from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.decode import open_media
from avmanifest.errors import DecodeError
from tests.drawn import bursts, draw_media, read_number
from tests.odd_media import FPS, KINDS, copy_packets, ffmpeg, heard, joined, numbered_clip, overstate, seen


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_clip(tmp_path_factory.mktemp("drawn") / "clip.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".flv", ".mov"])
def test_a_track_ends_where_its_packets_end(clip: Path, tmp_path: Path, suffix: str) -> None:
    short_video = copy_packets(clip, tmp_path / f"v{suffix}", video_s=3)
    assert seen(short_video, [1.02, 2.5, 4.0, 5.5]) == [25, 62, 74, 74], "the last picture stands"
    with open_media(short_video) as media:
        assert media.duration_s == pytest.approx(6, abs=0.15)
        assert heard(media.waveform(0.0, 6.0).samples) == [0, 1, 2, 3, 4, 5]
    short_audio = copy_packets(clip, tmp_path / f"a{suffix}", audio_s=4)
    with open_media(short_audio) as media:
        sound = media.waveform(0.0, 6.0)
        assert heard(sound.samples) == [0, 1, 2, 3, None, None]
        assert sound.real_s == pytest.approx(4, abs=0.1)
        assert media.info.audio_gap_s == 0.0
    assert seen(short_audio, [5.5]) == [137]


CODECS = {".ogv": ("libtheora", "libvorbis"), ".wmv": ("wmv2", "wmav2"), ".webm": ("libvpx", "libvorbis")}


def encoded(source: Path, target: Path) -> Path:
    """The file with codecs that suit the suffix, or its packets."""
    video, audio = CODECS.get(target.suffix, ("copy", "copy"))
    ffmpeg("-i", source, "-c:v", video, "-c:a", audio, "-b:v", "1M", "-g", "25", target)
    return target


@pytest.mark.parametrize("suffix", [".ogv", ".wmv", ".ts"])
def test_a_track_ends_where_its_packets_end_in_older_formats(clip: Path, tmp_path: Path, suffix: str) -> None:
    whole = encoded(clip, tmp_path / f"whole{suffix}")
    cut = ("-t", "3", "-i", whole, "-i", whole, "-c", "copy", "-map")
    ffmpeg(*cut, "0:v", "-map", "1:a", tmp_path / f"v{suffix}")
    ffmpeg(*cut, "0:a", "-map", "1:v", tmp_path / f"a{suffix}")
    with open_media(tmp_path / f"v{suffix}") as media:
        assert media.duration_s == pytest.approx(6.05, abs=0.09)
        assert heard(media.waveform(0.0, 5.99).samples)[:5] == [0, 1, 2, 3, 4]
        assert read_number(media.frames([5.9]).images[0]) in range(73, 78)
    with open_media(tmp_path / f"a{suffix}") as media:
        sound = media.waveform(0.0, 5.9)
        assert heard(sound.samples) == [0, 1, 2, None, None]
        assert sound.real_s == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("suffix", [".flv", ".mkv", ".webm", ".ts"])
def test_sound_after_the_last_picture_of_a_recording_without_a_declared_length(
    clip: Path, tmp_path: Path, suffix: str
) -> None:
    whole = encoded(clip, tmp_path / f"whole{suffix}")
    path = tmp_path / f"live{suffix}"
    tags = ("-map_metadata", "-1", "-map_metadata:s", "-1")
    formats = {".flv": "flv", ".mkv": "matroska", ".webm": "webm", ".ts": "mpegts"}
    with path.open("wb") as file:
        command = [ffmpeg_binary(), "-v", "error", "-t", "3", "-i", str(whole), "-i", str(whole), "-c", "copy", *tags]
        command += ["-map", "0:v", "-map", "1:a", "-f", formats[suffix], "-"]  # no seek back: no length is written
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=file)
    with open_media(path) as media:
        assert media.duration_s == pytest.approx(6.05, abs=0.09)
        assert heard(media.waveform(0.0, 6.0).samples) == [0, 1, 2, 3, 4, 5]
        assert read_number(media.frames([5.9]).images[0]) in range(73, 78)


@pytest.mark.parametrize("suffix", [".flv", ".mkv"])
def test_a_recording_that_was_killed_is_read_to_its_end(clip: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"live{suffix}"
    with path.open("wb") as file:
        command = [ffmpeg_binary(), "-v", "error", "-i", str(clip), "-c", "copy", "-flush_packets", "1", "-f"]
        command += ["flv" if suffix == ".flv" else "matroska", "-"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=file)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with open_media(path) as media:
        assert 3 < media.duration_s < 5
        assert heard(media.waveform(0.0, 3.0).samples) == [0, 1, 2]
    assert seen(path, [0.02, 1.02, 2.5]) == [0, 25, 62]


def flip_time(path: Path, *, video: bool, byte: int, bit: int) -> None:
    """Flip a bit in the times, pts and dts, of the middle packet of a stream of a transport stream."""
    content = bytearray(path.read_bytes())
    places = []
    for packet in range(0, len(content), 188):
        header = packet + 4 + (1 + content[packet + 4] if content[packet + 3] & 0x20 else 0)
        stream = 0xE0 if video else 0xC0
        if content[packet + 1] & 0x40 and content[header : header + 4] == bytes([0, 0, 1, stream]):
            places.append(header)
    place = places[len(places) // 2]
    content[place + 9 + byte] ^= bit
    if content[place + 7] & 0x40:
        content[place + 14 + byte] ^= bit
    path.write_bytes(content)


@pytest.mark.parametrize("video", [True, False], ids=["video", "audio"])
@pytest.mark.parametrize(("byte", "bit"), [(1, 1), (1, 4), (2, 0x80), (2, 0x10), (3, 0x80)])
def test_one_packet_with_a_wrong_time_moves_nothing(
    clip: Path, tmp_path: Path, video: bool, byte: int, bit: int
) -> None:
    path = tmp_path / "v.ts"
    ffmpeg("-i", clip, "-c", "copy", path)
    flip_time(path, video=video, byte=byte, bit=bit)
    assert seen(path, [0.02 + 0.2 * number for number in range(28)]) == list(range(0, 140, 5))
    with open_media(path) as media:
        assert media.duration_s == pytest.approx(6.03, abs=0.1)
        assert heard(media.waveform(0.0, 6.0).samples) == [0, 1, 2, 3, 4, 5]
        assert media.info.audio_gap_s == 0.0


def test_a_frame_rate_that_rises_is_no_jump(tmp_path: Path) -> None:
    ticks = [*range(0, 3000, 500), *range(3000, 6000, 40)]
    sound = {"sound": bursts(6, 48_000), "sound_rate": 48_000}
    draw_media(tmp_path / "v.mp4", num_frames=len(ticks), ticks=ticks, **sound)  # type: ignore[arg-type]
    ffmpeg("-i", tmp_path / "v.mp4", "-c", "copy", tmp_path / "v.ts")
    assert seen(tmp_path / "v.ts", [0.6, 2.6, 3.01, 4.01, 5.01]) == [1, 5, 6, 31, 56]
    with open_media(tmp_path / "v.ts") as media:
        assert media.duration_s == pytest.approx(6.03, abs=0.1)
        assert heard(media.waveform(0.0, 6.0).samples) == [0, 1, 2, 3, 4, 5]


def test_one_picture_and_a_song_in_ts(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "still.ts"
    ffmpeg("-i", clip, "-c", "copy", "-map", "0:v", "-frames:v", "1", tmp_path / "still.mp4")
    ffmpeg("-i", tmp_path / "still.mp4", "-i", clip, "-map", "0:v", "-map", "1:a", "-c", "copy", path)
    with open_media(path) as media:
        assert [read_number(image) for image in media.frames([0.1, 3.0, 5.9]).images] == [0, 0, 0]
        assert heard(media.waveform(0.0, 6.0).samples) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_picture_stands_until_the_next_one(clip: Path, tmp_path: Path, suffix: str) -> None:
    slides = draw_media(
        tmp_path / f"s{suffix}", num_frames=3, ticks=[0, 1000, 3000], sound=bursts(6, 48_000), sound_rate=48_000
    )
    with open_media(slides) as media:
        times_s = media.frames([0.5, 1.5, 2.9, 3.5, 5.9]).times_s
        assert times_s == pytest.approx([0, 1, 1, 3, 3], abs=0.01)
        assert media.waveform(0.0, 5.9).real_s == pytest.approx(5.9, abs=0.1)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".flv"])
def test_a_gap_of_the_sound_is_silence_and_counted(clip: Path, tmp_path: Path, suffix: str) -> None:
    path = copy_packets(clip, tmp_path / f"gap{suffix}", gap=(1.9, 4.2))
    with open_media(path) as media:
        sound = media.waveform(0.0, 6.0)
        assert heard(sound.samples) == [0, 1, None, None, 4, 5]
        assert media.info.audio_gap_s == pytest.approx(2.3, abs=0.1)
        assert sound.real_s == pytest.approx(3.7, abs=0.2)
        media.waveform(1.0, 3.0)
        assert media.info.audio_gap_s == pytest.approx(1.1, abs=0.1), "the span ends inside of the gap"
        media.waveform(4.5, 6.0)
        assert media.info.audio_gap_s == 0.0
    with open_media(clip) as media:
        media.waveform(0.0, 6.0)
        assert media.info.audio_gap_s == 0.0


def test_a_clip_that_is_mostly_a_gap_of_the_sound_is_damaged(clip: Path, tmp_path: Path) -> None:
    """The sound goes on after a pause: short ones are silence, and so are long ones of longer clips."""
    hour = copy_packets(clip, tmp_path / "hour.mkv", jump=(3.0, 3600.0))
    with open_media(hour) as media:
        assert media.duration_s == pytest.approx(3606, abs=0.2)
        with pytest.raises(
            DecodeError,
            match=r"no sound for 359\d\.\d+ s between 0\.000 and 36\d\d\.\d+ s, after the last picture at 6\.",
        ) as refused:
            media.waveform(0.0, media.duration_s)
        assert refused.value.status == "media_corrupt"
        assert heard(media.waveform(0.0, 3.0).samples) == [0, 1, 2]
        assert heard(media.waveform(0.0, 60.0).samples) == [0, 1, 2, *[None] * 57]
    for pause_s, refused_s in ((55.0, False), (75.0, True)):
        path = copy_packets(clip, tmp_path / f"{pause_s:g}.mkv", jump=(3.0, pause_s))
        with open_media(path) as media:
            if refused_s:
                with pytest.raises(DecodeError, match="no sound for 7"):
                    media.waveform(0.0, media.duration_s)
            else:
                assert len(media.waveform(0.0, media.duration_s).samples) > 16_000 * 60


def test_a_long_pause_of_the_sound_is_silence_while_pictures_go_on(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in recordings whose encoder sends nothing in silence."""
    monkeypatch.setattr("avdata.prepare.decode.media.MAX_AUDIO_GAP_S", 1.0)
    paused = copy_packets(clip, tmp_path / "paused.mkv", gap=(1.0, 5.0))
    with open_media(paused) as media:
        assert heard(media.waveform(0.0, 6.0).samples)[2:4] == [None, None]
        assert media.info.audio_gap_s == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize("suffix", [".mkv", ".flv"])
def test_a_duration_that_is_a_second_too_long_is_corrected(clip: Path, tmp_path: Path, suffix: str) -> None:
    path = copy_packets(clip, tmp_path / f"long{suffix}")
    with open_media(path) as media:
        true_s = media.duration_s
    overstate(path, 1.0)
    with open_media(path) as media:
        assert media.duration_s == pytest.approx(true_s, abs=0.11)
        assert media.clip_span(0.0, 7.0, 1.0)[1] == media.duration_s
        assert [read_number(image) for image in media.frames([media.duration_s - 0.01]).images] == [149]
        media.waveform(0.0, media.duration_s)


@pytest.mark.parametrize("suffix", [".mkv", ".flv"])
def test_a_file_that_was_cut_is_damaged(clip: Path, tmp_path: Path, suffix: str) -> None:
    path = copy_packets(clip, tmp_path / f"cut{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_media(path) as media, pytest.raises(DecodeError, match=r"Fetch the file again"):
        media.frames([5.5])
    with open_media(path) as media, pytest.raises(DecodeError, match=r"where the container declares"):
        media.waveform(0.0, 6.0)


@pytest.mark.parametrize("jump_s", [0.0, 100.0, -2.0], ids=["again", "ahead", "back"])
def test_parts_joined_by_cat_go_on_where_the_part_before_ended(tmp_path: Path, jump_s: float) -> None:
    path = joined(tmp_path, jump_s)
    with open_media(path) as media:
        assert media.duration_s == pytest.approx(6, abs=0.15)
        starts = media.info.video_start_s
        numbers = [read_number(image) for image in media.frames([starts + (n + 0.5) / FPS for n in range(150)]).images]
        assert media.info.num_bad_packets == 0
        off = [abs(number - n) for n, number in enumerate(numbers)]
        assert max(off) <= 2, "the parts' sound is a little longer than their pictures"
        assert set(numbers) >= set(range(148))
        assert heard(media.waveform(0.0, 6.0).samples) == [0, 1, 2, 3, 4, 5]
    assert abs(seen(path, [4.5])[0] - 112) <= 2, "asked alone"


@pytest.mark.parametrize("name", KINDS)
def test_any_times_in_any_order_give_the_pictures_of_a_full_read(clip: Path, tmp_path: Path, name: str) -> None:
    video, audio = KINDS[name]
    path = tmp_path / name
    ffmpeg(
        "-i", clip, "-t", "2.4", "-c:v", video, "-bf", "0" if "wmv" in name else "2", "-g", "10", "-c:a", audio, path
    )
    times_s = [number / 50 for number in range(110)]
    every = seen(path, times_s)
    assert set(every) >= set(range(1, 54)), "every picture is shown"
    assert all(later >= earlier for earlier, later in itertools.pairwise(every))
    for seed in range(2):
        chosen = np.random.default_rng(seed).permutation(len(times_s))[:4].tolist()
        assert seen(path, [times_s[n] for n in chosen]) == [every[n] for n in chosen]
        with open_media(path) as media:
            media.waveform(1.0, 2.0)
            for n in chosen:
                start_s = media.info.video_start_s
                assert read_number(media.frames([start_s + times_s[n]]).images[0]) == every[n]
