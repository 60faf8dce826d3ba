"""Tracks of different lengths, gaps, clocks that jump, and answers that do not depend on the question."""

import itertools
import struct
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.decode import open_media
from avmanifest.errors import DecodeError
from tests.drawn import bursts, draw_media, numbered_picture, read_number

FPS = 25


def copy_packets(
    source: Path, target: Path, *, video_s: float = 1e9, audio_s: float = 1e9, gap: tuple[float, float] = (0, 0)
) -> Path:
    """Copy the packets of a file, each stream up to its end, without the audio packets inside of a gap (seconds)."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None or packet.pts is None:
                continue
            begins_s = float(packet.pts * packet.time_base)
            is_video = packet.stream.type == "video"
            if begins_s >= (video_s if is_video else audio_s) or (not is_video and gap[0] <= begins_s < gap[1]):
                continue
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    return target


def heard(samples: np.ndarray) -> list[int | None]:
    """For each second of `bursts` the number of its tone; None: no tone."""
    found: list[int | None] = []
    for second in range(len(samples) // 16_000):
        part = samples[second * 16_000 + 8_000 : second * 16_000 + 11_200]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 16))
        peak = (np.argmax(spectrum) * 16_000 / (1 << 16) - 500) / 150
        found.append(round(peak) if np.abs(part).max() > 0.1 and abs(peak - round(peak)) < 0.1 else None)
    return found


def seen(path: Path, times_s: list[float]) -> list[int]:
    """The numbers of the pictures at some times from the start of the video on."""
    with open_media(path) as media:
        start_s = media.info.video_start_s
    with open_media(path) as media:
        return [read_number(image) for image in media.frames([start_s + time_s for time_s in times_s]).images]


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([ffmpeg_binary(), "-v", "error", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of numbered pictures with B-frames, and a tone of its own in each second."""
    return draw_media(
        tmp_path_factory.mktemp("drawn") / "clip.mp4",
        num_frames=6 * FPS,
        fps=FPS,
        sound=bursts(6, 48_000),
        sound_rate=48_000,
        video_options={"bf": "2", "x264-params": "scenecut=0"},
    )


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


def overstate(path: Path, by_s: float) -> None:
    """Write a longer duration into the header."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".mkv":
        place, unit = content.index(b"\x44\x89\x88") + 3, 1000.0  # Segment / Info / Duration, milliseconds
    else:
        place, unit = content.index(b"duration\0") + 9, 1.0  # FLV's onMetaData, seconds
    (value,) = struct.unpack_from(">d", content, place)
    struct.pack_into(">d", content, place, value + by_s * unit)
    path.write_bytes(content)


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


def part(folder: Path, number: int) -> Path:
    """One of two transport streams of three seconds that belong together; each one's clock begins anew."""
    first = 3 * number * FPS
    return draw_media(
        folder / f"{number}.ts",
        num_frames=3 * FPS,
        fps=FPS,
        picture=lambda n: numbered_picture(n + first),
        sound=bursts(6, 48_000)[number * 144_000 :][:144_000],
        sound_rate=48_000,
        video_options={"bf": "2"},
    )


@pytest.mark.parametrize("jump_s", [0.0, 100.0, -2.0], ids=["again", "ahead", "back"])
def test_parts_joined_by_cat_go_on_where_the_part_before_ended(tmp_path: Path, jump_s: float) -> None:
    parts = [part(tmp_path, 0), part(tmp_path, 1)]
    if jump_s:
        moved = tmp_path / "moved.ts"
        command = [
            ffmpeg_binary(),
            "-v",
            "error",
            "-i",
            str(parts[1]),
            "-c",
            "copy",
            "-output_ts_offset",
            str(3 + jump_s),
            str(moved),
        ]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        parts[1] = moved
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(one.read_bytes() for one in parts))
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


KINDS = {
    "clip.mp4": ("libx264", "aac"),
    "clip.mkv": ("libx264", "aac"),
    "clip.mov": ("mpeg4", "aac"),
    "clip.flv": ("libx264", "aac"),
    "clip.ts": ("libx264", "aac"),
    "two.ts": ("mpeg2video", "mp2"),
    "clip.avi": ("libx264", "mp3"),
    "xvid.avi": ("mpeg4", "mp3"),
    "clip.webm": ("libvpx", "libopus"),
    "one.mpg": ("mpeg1video", "mp2"),
    "two.mpg": ("mpeg2video", "mp2"),
    "old.wmv": ("msmpeg4", "wmav2"),
    "clip.ogv": ("libtheora", "libvorbis"),
    "clip.3gp": ("libx264", "aac"),
    "clip.mxf": ("mpeg2video", "pcm_s16le"),
}


@pytest.mark.parametrize("name", KINDS)
def test_any_times_in_any_order_give_the_pictures_of_a_full_read(clip: Path, tmp_path: Path, name: str) -> None:
    video, audio = KINDS[name]
    path = tmp_path / name
    ffmpeg("-i", clip, "-t", "4", "-c:v", video, "-bf", "0" if "wmv" in name else "2", "-g", "10", "-c:a", audio, path)
    times_s = [number / 50 for number in range(190)]
    every = seen(path, times_s)
    assert set(every) >= set(range(1, 94)), "every picture is shown"
    assert all(later >= earlier for earlier, later in itertools.pairwise(every))
    for seed in range(3):
        chosen = np.random.default_rng(seed).permutation(len(times_s))[:4].tolist()
        assert seen(path, [times_s[n] for n in chosen]) == [every[n] for n in chosen]
        with open_media(path) as media:
            media.waveform(1.0, 2.0)
            for n in chosen:
                start_s = media.info.video_start_s
                assert read_number(media.frames([start_s + times_s[n]]).images[0]) == every[n]
