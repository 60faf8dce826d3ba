"""Small prepared datasets, drawn for tests and benchmarks: every sample can be told from its pixels and its sound."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avdata.images import encode_jpeg
from avdata.melspec import log_mel
from avdata.prepare.commit import EndedShard, Workspace, commit_shard
from avdata.prepare.segments import Segment
from avdata.profiles import profile
from avdata.shards import member_columns, pack_json, pack_npy_columns, pack_sample
from avdata.waveform import SAMPLE_RATE, encode_flac
from avmanifest.columns import Column, with_extra
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA, FORMAT_VERSION
from avmanifest.table import read_table, table_from_rows, write_table

CLASSES = ("dog barking", "church bell ringing", "rain")
PLAN_HASH = "0" * 64


def flat_frame(sample: int, frame: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """One color: red tells the sample, green the frame; JPEG keeps both to a few units."""
    return np.broadcast_to(np.array([sample * 8 % 256, frame * 20, 128], np.uint8), (*size, 3)).copy()


def waveform_of(sample: int, seconds: float) -> np.ndarray:
    """A tone whose frequency rises with the sample, and noise."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(sample).normal(0, 0.01, len(times))
    return (0.3 * np.sin(2 * np.pi * (200 + 40 * sample) * times * (1 + times / 10)) + noise).astype(np.float32)


@lru_cache(maxsize=256)
def mel_of(sound: Callable[[int, float], np.ndarray], sample: int, seconds: float, name: str) -> np.ndarray:
    """The log-mel of a sample's sound, as a shard has it: read-only, as it is kept for further datasets."""
    mel = log_mel(sound(sample, seconds), profile(name)).astype(np.float16)
    mel.flags.writeable = False
    return mel


@lru_cache(maxsize=256)
def flac_of(sound: Callable[[int, float], np.ndarray], sample: int, seconds: float) -> bytes:
    """The FLAC of a sample's sound."""
    return encode_flac(sound(sample, seconds))


def sample_members(
    sample: int,
    *,
    seconds: float = 5.0,
    num_frames: int = 5,
    mel: Sequence[str] = ("paper",),
    flac: bool = True,
    picture: Callable[[int, int], np.ndarray] = flat_frame,
    mask: Callable[[int, int], np.ndarray | None] = lambda sample, frame: None,
    sound: Callable[[int, float], np.ndarray] = waveform_of,
    pack_mel: Callable[[np.ndarray], bytes] = pack_npy_columns,
    encode: Callable[[np.ndarray], bytes] = encode_jpeg,
) -> tuple[dict[str, bytes], list[float]]:
    """The sample's members, and the times of its frames: the middles of num_frames equal spans."""
    members = {"json": pack_json({"key": sample_key(sample)})}
    for place, name in enumerate(mel):
        members[f"logmel-{name}.npy" if place else "logmel.npy"] = pack_mel(mel_of(sound, sample, seconds, name))
    for frame in range(num_frames):
        members[f"frame{frame:02d}.jpg"] = encode(picture(sample, frame))
        if (values := mask(sample, frame)) is not None:
            members[f"mask{frame:02d}.png"] = cv2.imencode(".png", values)[1].tobytes()
    if flac:
        members["flac"] = flac_of(sound, sample, seconds)
    return members, [(frame + 0.5) * seconds / num_frames for frame in range(num_frames)]


def sample_key(sample: int) -> str:
    return f"clip-{sample:05d}"


def draw_dataset(
    root: Path,
    num_samples: int = 20,
    shard_size: int = 6,
    *,
    split: str = "train",
    first: int = 0,
    failed: Sequence[int] = (),
    labels: Callable[[int], list[str]] = lambda sample: [CLASSES[sample % len(CLASSES)]],
    flags: Callable[[int], dict[str, bool]] = lambda sample: {},
    mel: Sequence[str] = ("paper",),
    columns: Sequence[Column] = (),
    classes: Sequence[str] = CLASSES,
    **sample: Any,
) -> Path:
    """A finished dataset with samples first, first + 1, ...; the `failed` ones are rows without a sample.

    `columns` are extra columns, whose values `flags` gives with those of the flags.
    """
    layout = Layout(root)
    root.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(layout)
    try:
        for number, begin in enumerate(range(first, first + num_samples, shard_size)):
            segments = []
            for place, index in enumerate(range(begin, min(begin + shard_size, first + num_samples))):
                row = dict.fromkeys(CLIP_SCHEMA.names) | {
                    "key": sample_key(index), "video_id": f"video{index}", "source": "drawn", "start_s": 0.0,
                    "labels": labels(index), "split": split, "shard": number, "position": place, "annotations": "{}",
                    "licence": "", "reason": "", "status": "ok", "members": [], "frame_times_s": [],
                    "silent": False, "still": False, "short": False, **flags(index),
                }  # fmt: skip
                if index in failed:
                    segments.append(Segment(row | {"status": "media_corrupt", "reason": "drawn so"}, None))
                    continue
                members, times = sample_members(index, mel=mel, **sample)
                content, placed = pack_sample(sample_key(index), members)
                blocks = workspace.path / f"{index}.blocks"
                blocks.write_bytes(content)
                segments.append(Segment(row | member_columns(placed) | {"frame_times_s": times}, blocks))
            commit_shard(layout, EndedShard(ShardName(split, number), segments, PLAN_HASH, columns), workspace)
            for path in workspace.path.glob("*.blocks"):
                path.unlink()
    finally:
        workspace.close()
    merge(layout, split, columns)
    description = {
        "format_version": FORMAT_VERSION,
        "recipe": {"name": "drawn"},
        "config": {"mel": list(mel)},
        "labels": list(classes),
        "columns": [column.as_dict() for column in columns],
        "plan_hash": PLAN_HASH,
    }
    layout.dataset_json.write_text(json.dumps(description))
    return root


def merge(layout: Layout, split: str, columns: Sequence[Column] = ()) -> None:
    """Write the split's manifest from its shards."""
    rows = [row for s in layout.shards(split) for row in read_table(layout.clips(s), CLIP_SCHEMA).to_pylist()]
    layout.manifest(split).parent.mkdir(exist_ok=True)
    write_table(table_from_rows(rows, with_extra(CLIP_SCHEMA, columns)), layout.manifest(split))
