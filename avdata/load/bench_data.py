"""Makes a synthetic dataset for the benchmark of the loader, with samples as large as VGGSound's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from avdata.images import encode_jpeg
from avdata.melspec import log_mel
from avdata.profiles import profile
from avdata.shards import Member, end_of_archive, index_bytes, member_columns, pack_json, pack_npy_columns, pack_sample
from avdata.waveform import SAMPLE_RATE, encode_flac
from avmanifest.columns import CLIP_COLUMNS, flags, named
from avmanifest.files import sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.records import PARTS
from avmanifest.schema import CLIP_SCHEMA, FORMAT_VERSION
from avmanifest.table import table_from_rows, write_table

SECONDS: Final = 10.0
NUM_FRAMES: Final = 10
_PICTURES: Final = 40  # distinct images; making one takes as long as decoding fifty
_SOUNDS: Final = 4
_PLAN_HASH: Final = "0" * 64


def natural_picture(number: int, size: tuple[int, int] = (256, 340)) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB image of noise with the spectrum of a photograph: about 22 kB as a JPEG of quality 90 at 340 x 256."""
    generator = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None])
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        phases = np.exp(2j * np.pi * generator.random(frequency.shape))
        plane = np.fft.irfft2(frequency**-1.5 * phases, s=size)
        channels.append(plane / plane.std())
    planes = [channels[0] + 0.35 * channel for channel in channels]
    return np.asarray(np.clip(128 + 36 * np.stack(planes, -1), 0, 255), np.uint8)


def draw_bench_dataset(root: Path, num_samples: int, num_shards: int) -> Path:
    """Write a dataset of 10 s samples with 10 frames, a `paper` log-mel and a FLAC. Images and sounds repeat.

    Returns:
        The root.
    """
    pictures = [encode_jpeg(natural_picture(number)) for number in range(_PICTURES)]
    sounds = [_sound(number) for number in range(_SOUNDS)]
    layout = Layout(root)
    layout.manifest("train").parent.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number, places in enumerate(np.array_split(np.arange(num_samples), num_shards)):
        samples = []
        for place in places.tolist():
            frames = {f"frame{n:02d}.jpg": pictures[(place * NUM_FRAMES + n) % _PICTURES] for n in range(NUM_FRAMES)}
            samples.append((f"drawn-{place:06d}", sounds[place % _SOUNDS], frames))
        rows += _write_shard(layout, ShardName("train", number), samples)
    write_table(table_from_rows(rows, CLIP_SCHEMA), layout.manifest("train"))
    description = {"recipe": {"name": "drawn"}, "config": {"mel": ["paper"]}, "labels": ["drawn"]}
    layout.dataset_json.write_text(json.dumps(description | {"format_version": FORMAT_VERSION}))
    return root


def _sound(number: int) -> dict[str, bytes]:
    """Log-mel and FLAC members of a tone in noise."""
    generator = np.random.default_rng(number)
    times = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    tone = 0.2 * np.sin(2 * np.pi * (200 + 150 * number) * times * (1 + times / 10))
    waveform = (tone + generator.normal(0, 0.03, len(times))).astype(np.float32)
    mel = log_mel(waveform, profile("paper")).astype(np.float16)
    return {"logmel.npy": pack_npy_columns(mel), "flac": encode_flac(waveform)}


def _write_shard(
    layout: Layout, shard: ShardName, samples: list[tuple[str, dict[str, bytes], dict[str, bytes]]]
) -> list[dict[str, Any]]:
    """Write the four files of a shard. Returns the rows of the manifest."""
    layout.tar(shard).parent.mkdir(parents=True, exist_ok=True)
    content, rows, offsets = bytearray(), list[dict[str, Any]](), list[int]()
    for place, (key, sound, frames) in enumerate(samples):
        members = {
            "json": pack_json({"key": key}),
            "logmel.npy": sound["logmel.npy"],
            **frames,
            "flac": sound["flac"],
        }
        blocks, placed = pack_sample(key, members)
        shifted = [replace(member, offset=len(content) + member.offset) for member in placed]
        offsets.append(len(content))
        content += blocks
        rows.append(_row(key, shard, place, shifted))
    *parts, marker = layout.files(shard)
    tar, index, clips = parts
    tar.write_bytes(content + end_of_archive(len(content)))
    index.write_bytes(index_bytes(offsets, len(content)))
    write_table(table_from_rows(rows, CLIP_SCHEMA), clips)
    files = {
        name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        for name, path in zip(PARTS, parts, strict=True)
    }
    counts = {"count": len(rows), "successes": len(rows), "status_dict": {"ok": len(rows)}}
    marker.write_text(json.dumps({"format_version": FORMAT_VERSION, "plan_hash": _PLAN_HASH, "files": files, **counts}))
    return rows


def _row(key: str, shard: ShardName, place: int, members: list[Member]) -> dict[str, Any]:
    return dict.fromkeys(CLIP_SCHEMA.names) | {
        "key": key, "video_id": key, "source": "drawn", "start_s": 0.0, "labels": ["drawn"], "split": shard.split,
        "shard": shard.number, "position": place, "annotations": "{}", "licence": "", "reason": "", "status": "ok",
        **member_columns(members),
        "frame_times_s": [(n + 0.5) * SECONDS / NUM_FRAMES for n in range(NUM_FRAMES)],
        **dict.fromkeys(named(flags(CLIP_COLUMNS)), False),
    }  # fmt: skip
