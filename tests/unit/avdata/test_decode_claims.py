"""Files that claim what cannot be true: lengths, rates, sizes, times. They are refused before memory is taken."""

import resource
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avdata.prepare.decode import open_media
from avmanifest.errors import DecodeError
from tests.drawn import draw_media, read_number, sine


def box(content: bytes, *path: str) -> int:
    """Position of the content of an MP4 box; `path` lists its parents, each with `NAME#INDEX` for later ones."""
    start, end = 0, len(content)
    for step in path:
        name, _, index = step.partition("#")
        found = []
        position = start
        while position < end:
            (size,) = struct.unpack_from(">I", content, position)
            if content[position + 4 : position + 8] == name.encode():
                found.append((position + 8, position + size))
            position += size
        start, end = found[int(index or 0)]
    return start


MDHD = ("moov", "trak#0", "mdia", "mdhd")  # version and flags, two times, then timescale and duration
STTS = ("moov", "trak#0", "mdia", "minf", "stbl", "stts")
ELST = ("moov", "trak#0", "edts", "elst")


def put(content: bytearray, where: int, value: int) -> None:
    struct.pack_into(">I", content, where, value)


def four_million_fps(content: bytearray) -> None:
    put(content, box(content, *MDHD) + 12, 2**31 - 1)


def length_of_49_days(content: bytearray) -> None:
    put(content, box(content, "moov", "mvhd") + 16, 2**32 - 1)


def length_of_a_day(content: bytearray) -> None:
    put(content, box(content, "moov", "mvhd") + 16, 100_000_000)


def times_that_stand_still(content: bytearray) -> None:
    start = box(content, *STTS)
    for entry in range(struct.unpack_from(">I", content, start + 4)[0]):
        put(content, start + 12 + 8 * entry, 0)


def frames_of_a_day_each(content: bytearray) -> None:
    start = box(content, *STTS)
    for entry in range(struct.unpack_from(">I", content, start + 4)[0]):
        put(content, start + 12 + 8 * entry, 2**31 - 1)


def no_time_base(content: bytearray) -> None:
    put(content, box(content, *MDHD) + 12, 0)


def audio_time_base_of_1_hz(content: bytearray) -> None:
    put(content, box(content, "moov", "trak#1", "mdia", "mdhd") + 12, 1)


def audio_time_base_of_2_ghz(content: bytearray) -> None:
    put(content, box(content, "moov", "trak#1", "mdia", "mdhd") + 12, 2**31 - 1)


def audio_of_another_rate(content: bytearray) -> None:
    """The samples are of 44.1 kHz; their times say 22 kHz."""
    put(content, box(content, "moov", "trak#1", "mdia", "mdhd") + 12, 22_050)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("claims") / "clip.mp4"
    return draw_media(path, num_frames=100, sound=sine(4, 44_100), video_options={"preset": "ultrafast"})


def outcome(path: Path, end_s: float | None = None) -> str:
    """`ok`, or the status with which frames and sound of the whole file are refused, in at most 1 GiB of new memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with open_media(path) as media:
            end_s = media.duration_s if end_s is None else end_s
            frames = media.frames([end_s * share for share in (0.01, 0.3, 0.6, 0.99)])
            media.refuse_frames_outside(frames.times_s, end_s)
            sound = media.waveform(0.0, end_s)
            assert sound.real_s <= end_s + 0.1
            info = media.info
    except DecodeError as error:
        assert error.message
        result = error.status
    else:
        assert all(-0.5 <= time_s <= end_s for time_s in frames.times_s)
        assert 0 <= info.fps <= 1000
        result = "ok"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    return result


def test_the_untouched_file_is_ok(clip: Path) -> None:
    assert outcome(clip) == "ok"


@pytest.mark.parametrize(
    "claim",
    [
        four_million_fps, no_time_base, times_that_stand_still, frames_of_a_day_each,
        audio_time_base_of_1_hz, audio_time_base_of_2_ghz, audio_of_another_rate,
    ],
)  # fmt: skip
def test_a_claim_that_cannot_be_true_is_refused(clip: Path, tmp_path: Path, claim: Callable[[bytearray], None]) -> None:
    content = bytearray(clip.read_bytes())
    claim(content)
    path = tmp_path / "claim.mp4"
    path.write_bytes(content)
    assert outcome(path) in ("media_corrupt", "media_window")


@pytest.mark.parametrize("claim", [length_of_49_days, length_of_a_day])
def test_a_wrong_claim_that_others_correct_does_no_harm(
    clip: Path, tmp_path: Path, claim: Callable[[bytearray], None]
) -> None:
    content = bytearray(clip.read_bytes())
    claim(content)
    path = tmp_path / "claim.mp4"
    path.write_bytes(content)
    assert outcome(path) == "ok"
    with open_media(path) as media:
        assert media.duration_s == pytest.approx(4.0, abs=0.1)


def test_a_video_that_begins_after_the_end_of_the_clip_is_no_part_of_it(tmp_path: Path) -> None:
    """Its frames would all claim 6.5 s in a clip of 4 s."""
    path = draw_media(tmp_path / "late.mp4", num_frames=50, video_start_s=6.5, sound=sine(4, 44_100))
    assert outcome(path, 4.0) == "media_window"
    with open_media(path) as media:
        assert read_number(media.frames([6.6]).images[0]) == 2


def wav(path: Path, rate: int, channels: int = 1, seconds: float = 1.0) -> Path:
    """A WAV file of one second at 16 kHz whose header says another rate and number of channels."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(round(seconds * 16_000) * channels, np.int16).tobytes())
    content = bytearray(path.read_bytes())
    struct.pack_into("<II", content, 24, rate, min(rate * 2 * channels, 2**32 - 1))
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (0, 1), (10_000_000, 1), (2**32 - 1, 1), (16_000, 255)])
def test_sound_of_a_rate_or_layout_that_no_recording_has_is_refused(tmp_path: Path, rate: int, channels: int) -> None:
    path = wav(tmp_path / "sound.wav", rate, channels)
    with pytest.raises(DecodeError) as caught, open_media(path) as media:
        media.waveform(0.0, min(media.duration_s, 1.0))
    assert caught.value.status == "media_corrupt"


def test_a_picture_of_65535_by_65535_takes_no_memory(tmp_path: Path) -> None:
    path = draw_media(
        tmp_path / "large.mov", num_frames=50, video_codec="mjpeg", pix_fmt="yuvj420p", sound=sine(2, 44_100)
    )
    content = bytearray(path.read_bytes())
    position = content.find(b"\xff\xc0")
    while position >= 0:
        struct.pack_into(">HH", content, position + 5, 65_535, 65_535)
        position = content.find(b"\xff\xc0", position + 2)
    path.write_bytes(content)
    assert outcome(path) == "media_corrupt"
