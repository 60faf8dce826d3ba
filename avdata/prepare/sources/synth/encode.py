"""A drawn clip as an mp4 file: H.264 and AAC, as videos come from the wild, and the same bytes every time."""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

import ffmpeg
import imageio_ffmpeg

from avdata.prepare.sources.synth.picture import render_frame
from avdata.prepare.sources.synth.scene import SynthClip, SynthConfig
from avdata.prepare.sources.synth.sound import render_mix
from avmanifest.errors import AvkitError

_KEY_FRAME_S = 3


def write_clip(config: SynthConfig, clip: SynthClip, path: Path) -> None:
    """Draw the clip into an mp4 at path, which appears whole or not at all; an older file is replaced.

    Frame k is the scene at k / fps seconds and is shown from then on. The sound is mono. Equal inputs give equal
    bytes with one ffmpeg on one machine. Raises AvkitError if ffmpeg fails, with the end of what it said.
    """
    parent = path.parent.absolute()  # so that ffmpeg takes no name for an option or a protocol
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{path.name}.") as folder:
        sound, video, talk = (Path(folder) / name for name in ("sound.f32", "video.mp4", "talk.txt"))
        sound.write_bytes(render_mix(config, clip, config.sample_rate).astype("<f4").tobytes())
        command = _command(config, sound, video)
        # A pipe breaks when the encoder dies; its exit code and words tell why.
        with suppress(BrokenPipeError), talk.open("wb") as stderr, _start(command, stderr) as encoder:
            assert encoder.stdin is not None
            for number in range(config.num_frames):
                encoder.stdin.write(render_frame(config, clip, number / config.fps).tobytes())
        if encoder.returncode != 0:
            words = talk.read_text(errors="replace").strip()[-2000:] or "no message"
            raise AvkitError(
                f"{path}: {command[0]} ended with code {encoder.returncode} and no mp4: {words}. Check the disk's "
                "space and rights, or name another ffmpeg in IMAGEIO_FFMPEG_EXE."
            )
        video.replace(path)


def ffmpeg_binary() -> str:
    """The encoder's path: IMAGEIO_FFMPEG_EXE, else a system ffmpeg that has libx264, else the bundled one."""
    system = shutil.which("ffmpeg")
    if system and "IMAGEIO_FFMPEG_EXE" not in os.environ and _has_x264(system):
        return system
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@cache
def _has_x264(binary: str) -> bool:
    command = [binary, "-v", "error", "-encoders"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    return " libx264 " in listing.stdout


def _command(config: SynthConfig, sound: Path, video: Path) -> list[str]:
    size = f"{config.width}x{config.height}"
    pictures = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, framerate=config.fps)
    track = ffmpeg.input(str(sound), format="f32le", ar=config.sample_rate, ac=1)
    output = ffmpeg.output(
        pictures.video,
        track.audio,
        str(video),
        **{
            "c:v": "libx264",
            "preset": "veryfast",
            "crf": 21,
            "g": _KEY_FRAME_S * config.fps,
            "pix_fmt": "yuv420p",
            "sws_flags": "bilinear+accurate_rnd+bitexact",
            "threads": 1,
            "c:a": "aac",
            "b:a": "96k",
            "map_metadata": -1,
            "fflags": "+bitexact",
            "flags:v": "+bitexact",
            "flags:a": "+bitexact",
            "movflags": "+faststart",
        },
    ).global_args("-v", "error", "-nostdin", "-filter_threads", "1")
    command: list[str] = output.compile(cmd=ffmpeg_binary(), overwrite_output=True)
    return command


def _start(command: list[str], stderr: IO[bytes]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr)  # noqa: S603
    except OSError as error:
        raise AvkitError(f"{command[0]}: cannot be started ({error}). Name an ffmpeg in IMAGEIO_FFMPEG_EXE.") from error
