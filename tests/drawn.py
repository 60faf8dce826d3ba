"""Small media files drawn for tests: every picture carries its number, every sound is known."""

import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.plane import AudioPlane

from avdata.ffmpeg import ffmpeg_binary

NUM_BITS = 8


def numbered_picture(number: int, width: int = 160, height: int = 120) -> np.ndarray:
    """A picture whose vertical bars are the bits of a number, lowest on the left; noise keeps the codec at work."""
    noise = np.random.default_rng(number).integers(-8, 9, (height, width, 3))
    bits = [(number >> bit) & 1 for bit in range(NUM_BITS)]
    bars = np.repeat(np.array(bits) * 200 + 28, width // NUM_BITS)
    return np.clip(bars[None, :, None] + noise[:, : len(bars)], 0, 255).astype(np.uint8)


def read_number(image: np.ndarray) -> int:
    """The number of a picture, at any size."""
    bars = np.array_split(image.mean(axis=(0, 2)), NUM_BITS)
    return sum(int(bar[len(bar) // 4 : -len(bar) // 4].mean() > 128) << bit for bit, bar in enumerate(bars))


def sine(seconds: float, rate: int, frequency: float = 440.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def bursts(seconds: float, rate: int) -> np.ndarray:
    """A tone from 0.5 s to 0.7 s of each second, else silence: 500 Hz in the first, 150 Hz more in each next."""
    time_s = np.arange(round(seconds * rate)) / rate
    second = np.floor(time_s)
    tone = 0.5 * np.sin(2 * np.pi * (500 + 150 * second) * time_s)
    return np.where((time_s - second >= 0.5) & (time_s - second < 0.7), tone, 0.0).astype(np.float32)


def stream_copy(source: Path, target: Path, skip_s: float) -> Path:
    """Cut the beginning without encoding again, as `ffmpeg -ss SKIP -i SOURCE -c copy TARGET` does.

    In an MP4 the packets from the key frame before the cut on stay, hidden by an edit list.
    """
    command = [ffmpeg_binary(), "-v", "error", "-ss", str(skip_s), "-i", str(source), "-c", "copy", str(target)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return target


def draw_media(
    path: Path,
    *,
    num_frames: int = 50,
    fps: int = 25,
    ticks: Sequence[int] | None = None,
    picture: Callable[[int], np.ndarray] = numbered_picture,
    video_codec: str = "libx264",
    video_options: dict[str, str] | None = None,
    gop: int = 12,
    pix_fmt: str = "yuv420p",
    video_start_s: float = 0.0,
    rotation: int = 0,
    pixel_aspect: Fraction | None = None,
    sound: np.ndarray | None = None,
    sound_rate: int = 44_100,
    sound_layout: str = "mono",
    audio_codec: str = "aac",
    audio_start_s: float = 0.0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a media file. num_frames=0: no video. sound is [channels, n] float32 in [-1, 1]; None: no audio.

    ticks are the pictures' times in 1/1000 s instead of a constant rate.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = audio = None
        if num_frames:
            first = picture(0)
            video = container.add_stream(video_codec, rate=fps, options=video_options or {})
            video.width, video.height, video.pix_fmt = first.shape[1], first.shape[0], pix_fmt
            video.gop_size = gop
            video.codec_context.thread_count = 1
            video.codec_context.time_base = Fraction(1, 1000)
            if pixel_aspect is not None:
                video.codec_context.sample_aspect_ratio = pixel_aspect
            if rotation:
                video.set_display_rotation(rotation)
        if sound is not None:
            audio = container.add_stream(audio_codec, rate=sound_rate, layout=sound_layout)
        if video is not None:
            for number in range(num_frames):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                tick = ticks[number] if ticks is not None else round(1000 * number / fps)
                frame.pts, frame.time_base = tick + round(1000 * video_start_s), Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if audio is not None and sound is not None:
            _write_sound(container, audio, np.atleast_2d(sound), sound_rate, sound_layout, audio_start_s)
    return path


def _write_sound(container, audio, sound, rate, layout, start_s) -> None:
    size = audio.codec_context.frame_size or 1024
    for begin in range(0, sound.shape[1], size):
        block = np.ascontiguousarray(sound[:, begin : begin + size])
        frame = _sound_frame(block, audio.codec_context.format.name, layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = begin + round(start_s * rate)
        container.mux(audio.encode(frame))
    container.mux(audio.encode())


def _sound_frame(block: np.ndarray, sample_format: str, layout: str) -> av.AudioFrame:
    interleaved = block.T.reshape(1, -1)
    if sample_format == "fltp":
        frame = av.AudioFrame("fltp", layout, block.shape[1])
        for number, channel in enumerate(block):  # frame.planes counts too many from eight on
            AudioPlane(frame, number).update(channel.tobytes())
        return frame
    if sample_format == "flt":
        return av.AudioFrame.from_ndarray(np.ascontiguousarray(interleaved), "flt", layout)
    if sample_format == "s16":
        return av.AudioFrame.from_ndarray(np.rint(interleaved * 32767).astype(np.int16), "s16", layout)
    if sample_format == "s16p":
        return av.AudioFrame.from_ndarray(np.rint(block * 32767).astype(np.int16), "s16p", layout)
    if sample_format in ("s32", "s32p"):
        samples = block if sample_format == "s32p" else interleaved
        return av.AudioFrame.from_ndarray(
            np.rint(samples.astype(np.float64) * (2**31 - 1)).astype(np.int32), sample_format, layout
        )
    if sample_format == "u8":
        return av.AudioFrame.from_ndarray((np.rint(interleaved * 127) + 128).astype(np.uint8), "u8", layout)
    raise ValueError(f"no {sample_format} here")
