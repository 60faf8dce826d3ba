"""Intact media of unusual kinds: tracks of different lengths, gaps, clocks that jump, containers without times."""

import struct
import subprocess
from pathlib import Path

import av
import numpy as np

from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.decode import open_media
from tests.drawn import bursts, draw_media, numbered_picture, read_number

FPS = 25


def copy_packets(
    source: Path,
    target: Path,
    *,
    video_s: float = 1e9,
    audio_s: float = 1e9,
    gap: tuple[float, float] = (0, 0),
    jump: tuple[float, float] = (1e9, 0),
) -> Path:
    """Copy the packets of a file, each stream up to its end, without the audio packets inside of a gap (seconds).

    `jump`: from the first time on, the times of the audio packets are greater by the second one.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None or packet.pts is None:
                continue
            begins_s = float(packet.pts * packet.time_base)
            is_video = packet.stream.type == "video"
            if begins_s >= (video_s if is_video else audio_s) or (not is_video and gap[0] <= begins_s < gap[1]):
                continue
            if not is_video and begins_s >= jump[0]:
                ticks = round(jump[1] / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
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


def numbered_clip(path: Path) -> Path:
    """Six seconds of numbered pictures with B-frames, and a tone of its own in each second."""
    return draw_media(
        path,
        num_frames=6 * FPS,
        fps=FPS,
        sound=bursts(6, 48_000),
        sound_rate=48_000,
        video_options={"bf": "2", "x264-params": "scenecut=0"},
    )


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


def joined(folder: Path, jump_s: float = 0.0) -> Path:
    """Two transport streams joined as cat joins them; the second one's clock begins anew, or is off by jump_s."""
    parts = [part(folder, 0), part(folder, 1)]
    if jump_s:
        moved = folder / "moved.ts"
        ffmpeg("-i", parts[1], "-c", "copy", "-output_ts_offset", str(3 + jump_s), moved)
        parts[1] = moved
    path = folder / "joined.ts"
    path.write_bytes(b"".join(one.read_bytes() for one in parts))
    return path


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
"""Name of a file -> video and audio codec."""
