"""What the shipped steps cost: `python -m tests.step_costs VIDEOS` and `python -m tests.step_costs near NUM_CLIPS`.

The first measures the processor time of each step on the first 10 s of every video of a folder, as a share of the time
that the clip takes without steps. The second measures how long it takes to find the near duplicates among made clips.
"""

import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from avdata.prepare.config import SampleConfig
from avdata.prepare.near_duplicates import first_of_groups
from avdata.prepare.pipeline import ClipTask, run_clip
from avdata.prepare.sources.media import MediaRef
from avdata.prepare.steps import SHIPPED
from avdata.prepare.steps.registry import load_steps
from avmanifest.layout import ShardName
from avmanifest.schema import PLAN_SCHEMA

ROUNDS = 3
COPIES = 50  # one made clip of so many is a copy


def clip_task(number: int, video: Path, folder: Path) -> ClipTask:
    """The task of a video's first clip."""
    row = dict.fromkeys(PLAN_SCHEMA.names) | {"key": f"k{number}", "video_id": video.stem, "start_s": 0.0, "labels": []}
    row |= {"split": "train", "path": video.name, "frame_times_s": [], "annotations": "{}", "licence": ""}
    ref = MediaRef(source="local:videos", name=video.name, path=str(video))
    return ClipTask(shard=ShardName("train", 0), place=number, row=row, ref=ref, blocks=folder / f"{number}.blocks")


def steps_on(videos: Path) -> None:
    """Print each step's processor time as a share of that of the clips without steps: the median of three rounds."""
    cv2.setNumThreads(0)
    config, steps = SampleConfig(clip_seconds=10.0), load_steps(list(SHIPPED))
    with TemporaryDirectory() as folder:
        tasks = [clip_task(number, video, Path(folder)) for number, video in enumerate(sorted(videos.iterdir()))]
        tasks = [task for task in tasks if run_clip(config, task, steps).row["status"] == "ok"]
        bare, shares = [], dict[str, list[float]]()
        for _ in range(ROUNDS):
            begun_s = time.process_time()
            for task in tasks:
                run_clip(config, task)
            bare.append(time.process_time() - begun_s)
            found = [run_clip(config, task, steps).seconds for task in tasks]
            for name in found[0]:
                shares.setdefault(name, []).append(sum(seconds[name] for seconds in found) / bare[-1])
    print(f"{len(tasks)} clips; without steps {median(bare) / len(tasks) * 1e3:.0f} ms of processor time each")
    for name, values in shares.items():
        print(f"{name:20} {median(values):6.1%}  ({min(values):.1%} to {max(values):.1%})")


def near(num_clips: int) -> None:
    """Print the time for made clips of 10 s, with pictures and sounds, and with sounds alone; 2 % are copies.

    A clip has 10 frames like 4 pictures; a copy shares 3 frames. Its sound is shifted, with 12 % of the bits flipped.
    """
    rng = np.random.default_rng(0)
    pictures = np.empty((num_clips, 10), np.uint64)
    for part in np.array_split(pictures, max(num_clips // 50_000, 1)):
        values = rng.normal(size=(len(part) * 4, 64)).astype(np.float32)
        is_set = values > np.median(values, axis=1, keepdims=True)
        scenes = np.packbits(is_set, axis=1).view(">u8").astype(np.uint64).reshape(len(part), 4)
        noise = np.uint64(1) << rng.integers(0, 64, part.shape, dtype=np.uint64)
        part[:] = scenes[:, rng.integers(0, 4, 10)] ^ np.where(rng.random(part.shape) < 0.5, noise, np.uint64(0))
    sounds = rng.integers(1, 2**32, (num_clips, 150), dtype=np.uint32)
    originals = rng.choice(num_clips // 2, num_clips // COPIES, replace=False)
    copies = num_clips // 2 + np.arange(len(originals))
    pictures[copies, :3] = pictures[originals, :3]
    flips = np.packbits(rng.random((len(copies), 150, 32)) < 0.12, axis=2).view("<u4")[..., 0]
    sounds[copies] = np.roll(sounds[originals], 7, axis=1) ^ flips
    for name, shown in (("pictures and sounds", list(pictures)), ("sounds alone", None)):
        begun_s = time.process_time()
        firsts = first_of_groups(shown, list(sounds))
        found = float((firsts[copies] == originals).mean())
        print(f"{num_clips:,} clips, {name}: {time.process_time() - begun_s:.0f} s, {found:.1%} of the copies found")


if __name__ == "__main__":
    if sys.argv[1] == "near":
        near(int(sys.argv[2]))
    else:
        steps_on(Path(sys.argv[1]))
