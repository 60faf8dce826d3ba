"""Damaged media: pictures and sound that damage touches are found and not returned; intact files raise no alarm."""

import random
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest

from avdata.prepare.bench import psnr_db
from avdata.prepare.decode import open_media
from avdata.prepare.decode.damage import DecoderMessages, report_damage
from avmanifest.errors import DecodeError
from tests.drawn import draw_media, read_number, sine, stream_copy

NUM_FRAMES = 100  # at 25 fps


def packets_of(path: Path, kind: str = "video") -> list[tuple[int, int, int, bool]]:
    """Position, size, presentation time in frames of 40 ms, and whether it is a key frame, of each packet."""
    with av.open(str(path)) as container:
        return [
            (packet.pos, packet.size, round(packet.pts * packet.time_base * 25), packet.is_keyframe)
            for packet in container.demux(container.streams.best(kind))
            if packet.size
        ]


def flip_bits(path: Path, target: Path, seed: int, number: int = 10, kind: str = "video") -> Path:
    """A copy with random bits of the packets flipped."""
    rng, content, packets = random.Random(seed), bytearray(path.read_bytes()), packets_of(path, kind)
    for _ in range(number):
        position, size, _, _ = rng.choices(packets, [size for _, size, _, _ in packets])[0]
        content[position + rng.randrange(size)] ^= 1 << rng.randrange(8)
    target.write_bytes(content)
    return target


def blank_packet(path: Path, target: Path, frame: int, kind: str = "video") -> Path:
    """A copy with the packet of a frame overwritten, but for its first bytes."""
    content = bytearray(path.read_bytes())
    position, size, _, _ = next(packet for packet in packets_of(path, kind) if packet[2] == frame)
    content[position + 8 : position + size] = np.random.default_rng(0).bytes(size - 8)
    target.write_bytes(content)
    return target


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, key frames every second, B-frames, a tone."""
    return draw_media(
        tmp_path_factory.mktemp("drawn") / "clip.mp4",
        num_frames=NUM_FRAMES,
        gop=25,
        sound=sine(4, 44_100),
        video_options={"bf": "2", "preset": "veryfast", "x264-params": "scenecut=0"},
    )


@pytest.mark.slow
def test_hardly_a_picture_of_files_with_flipped_bits_is_wrong(clip: Path, tmp_path: Path) -> None:
    """Pictures are refused, or equal the intact file's picture of the same time.

    A bit in the header of a slice, such as one of its quantizer, changes the picture without an error: up to 2 of 150
    pictures may be wrong. Without a look at damage 26 are.
    """
    with open_media(clip) as media:
        intact = {round(number / 25, 2): media.frames([number / 25 + 0.001]).images[0] for number in range(NUM_FRAMES)}
    num_shown = num_refused = num_wrong = 0
    for seed in range(25):
        damaged = flip_bits(clip, tmp_path / "damaged.mp4", seed, number=3)
        for time_s in (0.02, 0.9, 1.7, 2.5, 3.3, 3.97):
            try:
                with open_media(damaged) as media:
                    found = media.frames([time_s])
            except DecodeError as error:
                assert error.status == "media_corrupt"
                num_refused += 1
                continue
            num_shown += 1
            num_wrong += psnr_db(found.images[0], intact[round(found.times_s[0], 2)]) < 30
    assert num_shown > 90 and num_refused > 15
    assert num_wrong <= 2


def said_of(path: Path, *, fast: bool) -> list[str]:
    """What is found of a file's damage: times or refusals of frames, damaged spans, bad packets."""
    said = []
    for time_s in (0.02, 0.9, 1.7, 3.3):
        with open_media(path, fast=fast) as media:
            try:
                times_s = media.frames([time_s]).times_s
                said.append(f"{times_s} {media.find_damaged_frames(0.0, 2.0)} {media.info.num_bad_packets}")
            except DecodeError as error:
                said.append(f"{error.status} {error.message}")
    return said


@pytest.mark.parametrize("codec", ["libx264", "libvpx"])
def test_damage_is_found_as_before_without_the_loop_filter(clip: Path, tmp_path: Path, codec: str) -> None:
    fast = {"deadline": "realtime", "cpu-used": "8"}
    whole = (
        clip if codec == "libx264" else draw_media(tmp_path / "clip.mkv", video_codec=codec, gop=25, video_options=fast)
    )
    intact = said_of(whole, fast=True)
    num_damaged = 0
    for seed in range(5):
        damaged = flip_bits(whole, tmp_path / f"damaged{whole.suffix}", seed)
        said = said_of(damaged, fast=True)
        assert said == said_of(damaged, fast=False)
        num_damaged += said != [line.replace(whole.name, damaged.name) for line in intact]
    assert num_damaged >= 2


def test_damage_lasts_from_the_bad_packet_to_the_next_key_frame(clip: Path, tmp_path: Path) -> None:
    reference = next(frame for _, _, frame, is_key in packets_of(clip) if is_key and frame > 20)
    damaged = blank_packet(clip, tmp_path / "damaged.mp4", reference)  # the key frame of the second group
    with open_media(damaged) as media:
        assert read_number(media.frames([0.97]).images[0]) == 24
        with pytest.raises(DecodeError, match="no intact frame"):
            media.frames([1.6])
        assert media.has_damaged_frames
        spans = media.find_damaged_frames(0.0, 4.0)
        assert np.array(spans) == pytest.approx(np.array([(1.0, 2.0)]), abs=0.001)
        assert media.damaged_share(0.0, 4.0) == pytest.approx(0.25, abs=0.001)
        assert media.damaged_share(0.0, 1.0) == 0.0
        assert media.damaged_share(1.2, 1.8) == pytest.approx(1.0)
        assert read_number(media.frames([2.0]).images[0]) == 50
        assert media.info.num_bad_packets >= 1


def test_a_picture_is_not_replaced_by_one_of_much_later(clip: Path, tmp_path: Path) -> None:
    damaged = blank_packet(clip, tmp_path / "damaged.mp4", 0)
    with open_media(damaged) as media, pytest.raises(DecodeError, match="no intact frame"):
        media.frames([0.1])


def test_the_search_for_damage_may_cover_a_part_of_the_file(clip: Path, tmp_path: Path) -> None:
    damaged = blank_packet(clip, tmp_path / "damaged.mp4", 50)
    with open_media(damaged) as media:
        assert np.array(media.find_damaged_frames(2.5, 3.5)) == pytest.approx(np.array([(2.5, 3.0)]), abs=0.001)
        assert media.find_damaged_frames(0.3, 1.9) == []
        assert media.find_damaged_frames(3.2, 3.9) == []


def test_frames_of_an_intact_file_raise_no_alarm(clip: Path) -> None:
    with open_media(clip) as media:
        media.frames(np.arange(0.01, 4.0, 0.1).tolist())
        media.waveform(0.0, 4.0)
        assert not media.has_damaged_frames
        assert media.find_damaged_frames(0.0, 4.0) == []
        assert (media.damaged_share(0.0, 4.0), media.info.num_bad_packets) == (0.0, 0)


@pytest.mark.parametrize(
    ("extension", "skip_s"), [("mp4", 0.5), ("mp4", 1.7), ("mkv", 0.5), ("mkv", 1.7), ("mov", 1.7), ("ts", 0.5)]
)
def test_a_copy_cut_inside_an_open_group_raises_no_alarm(tmp_path: Path, extension: str, skip_s: float) -> None:
    """The first pictures lean on some that are not in the file: they are left out, and are no damage."""
    whole = draw_media(
        tmp_path / "whole.mkv",
        num_frames=NUM_FRAMES,
        gop=25,
        sound=sine(4, 44_100),
        video_options={"bf": "3", "preset": "ultrafast", "x264-params": "open-gop=1:scenecut=0:ref=3"},
    )
    with open_media(stream_copy(whole, tmp_path / f"cut.{extension}", skip_s)) as media:
        end_s = media.duration_s
        for times_s in ([0.8, end_s - 0.3], [end_s / 2], [0.1, 0.2]):
            media.frames(times_s)
        media.waveform(0.0, end_s)
        media.frames([0.5])
        assert (media.info.num_bad_packets, media.damaged_share(0.0, end_s)) == (0, 0.0)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("hevc.mp4", "libx265", {"x265-params": "log-level=none:keyint=25"}),
        ("vp8.webm", "libvpx", {}),
        ("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_one_bad_packet_makes_a_clip_doubtful_whose_decoder_does_not_notice_all_damage(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = draw_media(tmp_path / name, num_frames=50, gop=25, video_codec=codec, video_options=options)
    with open_media(path) as media:
        assert read_number(media.frames([1.5]).images[0]) == 37
    content = bytearray(path.read_bytes())
    position, size, _, _ = packets_of(path)[5]
    content[position + 4 : position + size] = b"\xff" * (size - 4)
    path.write_bytes(content)
    with open_media(path) as media, pytest.raises(DecodeError, match="does not notice all damage"):
        media.frames([0.1, 0.3, 1.5])


def test_a_packet_that_the_container_cannot_read_is_damage(tmp_path: Path) -> None:
    """Its decoder would not notice that pictures are missing, and the one before would stand in their place."""
    path = draw_media(tmp_path / "vp8.webm", num_frames=50, gop=50, video_codec="libvpx")
    content = bytearray(path.read_bytes())
    position, _, _, _ = packets_of(path)[30]
    content[position] = 0xFF  # the number of its track
    path.write_bytes(content)
    with open_media(path) as media, pytest.raises(DecodeError, match="does not notice all damage"):
        media.frames([0.1, 1.4])


@pytest.mark.parametrize("codec", ["flac", "ac3"])
def test_a_flipped_bit_in_sound_with_checksums_is_found(tmp_path: Path, codec: str) -> None:
    path = draw_media(tmp_path / "sound.mkv", num_frames=0, sound=sine(4, 48_000), sound_rate=48_000, audio_codec=codec)
    with open_media(path) as media:
        whole = media.waveform(0.0, 4.0).samples
        assert media.damaged_share(0.0, 4.0) == 0.0
    content = bytearray(path.read_bytes())
    packets = packets_of(path, "audio")
    position, size, _, _ = packets[len(packets) // 8 + 4]
    content[position + size // 2] ^= 4
    path.write_bytes(content)
    with open_media(path) as media:
        samples = media.waveform(0.0, 4.0).samples
        assert 0.0 < media.damaged_share(0.0, 4.0) < 0.1
        assert media.info.num_bad_packets == 1
    (changed,) = np.nonzero(np.abs(samples - whole) > 0.02)
    middle = samples[changed[0] + 160 : changed[-1] - 160]  # without the filter's ripple at the edges of the silence
    assert len(changed) < 6_400
    assert len(middle) > 100 and np.abs(middle).max() < 0.01


def test_the_log_level_of_the_process_is_restored() -> None:
    av.logging.set_level(None)
    with DecoderMessages() as outer:
        with DecoderMessages() as inner:
            av.logging.log(av.logging.ERROR, "h264", "error while decoding MB 1 2")
        av.logging.log(av.logging.ERROR, "h264", "error while decoding MB 1 2")
        assert av.logging.get_level() == av.logging.INFO
    assert av.logging.get_level() is None
    assert (len(outer), len(inner)) == (1, 1)
    assert report_damage(inner)
    assert not report_damage([(av.logging.WARNING, "h264", "deprecated"), (av.logging.INFO, "libdav1d", "1.5.3")])
    assert not report_damage([(av.logging.ERROR, "h264", "mmco: unref short failure")])
