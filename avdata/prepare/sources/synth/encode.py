"""Encoding a generated clip to an mp4 file with H.264 and AAC. The bytes are reproducible."""

from pathlib import Path
from typing import Any

import ffmpeg

from avdata.ffmpeg import encoder, scratch_folder
from avdata.prepare.config import SynthConfig
from avdata.prepare.sources.synth.picture import render_frame
from avdata.prepare.sources.synth.scene import SynthClip
from avdata.prepare.sources.synth.sound import render_mix

_KEY_FRAME_S = 3


def write_clip(config: SynthConfig, clip: SynthClip, path: Path) -> None:
    """Render the clip and write it to an mp4 at path, atomically; an existing file is replaced.

    Frame k shows the scene at k / fps seconds. The audio is mono. Equal inputs give equal bytes with the same ffmpeg on
    the same machine. Raises AvkitError with the end of ffmpeg's output if ffmpeg fails.
    """
    with scratch_folder(path) as folder:
        sound, video = folder / "sound.f32", folder / "video.mp4"
        sound.write_bytes(render_mix(config, clip, config.sample_rate).astype("<f4").tobytes())
        with encoder(_output(config, sound, video), path) as pictures:
            for number in range(config.num_frames):
                pictures.write(render_frame(config, clip, number / config.fps).tobytes())
        video.replace(path)


def _output(config: SynthConfig, sound: Path, video: Path) -> Any:
    size = f"{config.width}x{config.height}"
    pictures = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, framerate=config.fps)
    track = ffmpeg.input(str(sound), format="f32le", ar=config.sample_rate, ac=1)
    return ffmpeg.output(
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
    ).global_args("-filter_threads", "1")
