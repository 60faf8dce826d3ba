"""The generated dataset as a source: its list of clips, their media, and their ground truth."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa

from avdata.prepare.config import SynthConfig
from avdata.prepare.sources.synth.encode import write_clip
from avdata.prepare.sources.synth.picture import boxes_at, render_masks
from avdata.prepare.sources.synth.scene import SynthClip, synth_clip
from avdata.prepare.sources.synth.sound import render_stems
from avdata.waveform import SAMPLE_RATE, encode_flac
from avmanifest.files import sha256_of_stream
from avmanifest.schema import REQUEST_SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthRef:
    """The media of a clip that is generated on demand. Small and picklable."""

    config: SynthConfig
    index: int

    @property
    def source(self) -> str:
        """The source's name in the manifest."""
        return "synth"

    @property
    def name(self) -> str:
        """The file's name in the manifest."""
        return f"{self.index:06d}.mp4"

    @property
    def is_clip(self) -> bool:
        """True: the file begins where the clip begins."""
        return True


def synth_requests(config: SynthConfig) -> pa.Table:
    """The dataset's list: a table of REQUEST_SCHEMA with one row per clip."""
    clips = [synth_clip(config, index) for index in range(config.num_clips)]
    count = len(clips)
    columns: dict[str, Any] = {
        "video_id": [f"{clip.index:06d}" for clip in clips],
        "start_s": [0.0] * count,
        "end_s": [config.seconds] * count,
        "labels": [list(clip.labels) for clip in clips],
        "split": [clip.split for clip in clips],
        "path": [""] * count,
        "frame_times_s": [[]] * count,
        "annotations": [json.dumps({"objects": _objects(clip)}) for clip in clips],
        "licence": ["CC0-1.0"] * count,
    }
    return pa.table(columns, schema=REQUEST_SCHEMA)


def _objects(clip: SynthClip) -> list[dict[str, Any]]:
    return [{"label": item.kind.name, "sounding": item.sounding} for item in clip.objects]


@contextmanager
def draw_media(ref: SynthRef, path: Path) -> Iterator[tuple[Path, str, int]]:
    """Write the clip's mp4 to path; yield the path, SHA-256 and size in bytes. The file is removed afterwards."""
    try:
        write_clip(ref.config, synth_clip(ref.config, ref.index), path)
        with path.open("rb") as file:
            digest = sha256_of_stream(file)[0]
        yield path, digest, path.stat().st_size
    finally:
        path.unlink(missing_ok=True)


def synth_truth(
    ref: SynthRef, start_s: float, end_s: float, times_s: Sequence[float], height: int, width: int
) -> tuple[dict[str, bytes], str]:
    """The ground truth of a span of a clip.

    Args:
        ref: The clip.
        start_s: Start of the span in the clip, in seconds.
        end_s: End of the span.
        times_s: Times of the stored frames in the clip, in seconds.
        height: Height of the masks in pixels.
        width: Width of the masks in pixels.

    Returns:
        Members of the sample, by name: `maskNN.png` for each stored frame (8 bits; 0 background, k the k-th object) and
        `stemNN.flac`, the audio of each sounding object. And the annotations as JSON: `objects`, from back to front,
        each with its label, whether it sounds, and its box [x0, y0, x1, y1] relative to each stored frame; `sounding`,
        the indices of the sounding objects, loudest first.
    """
    clip = synth_clip(ref.config, ref.index)
    members = {}
    for number, time_s in enumerate(times_s):
        mask = render_masks(ref.config, clip, time_s, height, width)
        members[f"mask{number:02d}.png"] = cv2.imencode(".png", mask)[1].tobytes()
    first, stop = round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)
    for number, stem in enumerate(render_stems(ref.config, clip, SAMPLE_RATE)):
        members[f"stem{number:02d}.flac"] = encode_flac(stem[first:stop])
    boxes = [boxes_at(ref.config, clip, time_s) for time_s in times_s]
    objects = [
        {**item, "boxes": [[round(edge, 5) for edge in frame[place]] for frame in boxes]}
        for place, item in enumerate(_objects(clip))
    ]
    return members, json.dumps({"objects": objects, "sounding": list(clip.sounding)})
