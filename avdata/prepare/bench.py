"""Benchmark prepare against bare decoding and ffmpeg, clip by clip on the same clips in one run."""

import contextlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import psutil
from jaxtyping import UInt8

from avdata.cores import usable_cores
from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.config import SampleConfig, SynthConfig
from avdata.prepare.decode import decode_same_packets, open_media
from avdata.prepare.frames import draw_frame_times
from avdata.prepare.pipeline import ClipTask, run_clip
from avdata.prepare.sources.local import LocalSource
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.synth import synth_clip, write_clip
from avdata.processes import memory_of_tree
from avmanifest.errors import AvkitError, ConfigError
from avmanifest.layout import ShardName
from avmanifest.lists import folder_requests

EQUAL_DB: Final = 99.0  # PSNR of equal images


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareBench:
    """What to measure. Synthetic videos have the size and length of VGGSound's."""

    videos: Path | None = None  # a folder of videos; None: synthetic ones
    num_clips: int = 16
    rounds: int = 3
    clip_seconds: float = 10.0  # of a longer video only the first seconds are measured
    memory_clips: tuple[int, ...] = (500, 5_000)  # clips of each run whose peak memory is measured

    def __post_init__(self) -> None:
        if self.num_clips < 1 or self.rounds < 1 or any(count < 1 for count in self.memory_clips):
            raise ConfigError("--clips, --memory-clips and the rounds must be at least 1")


def bench_prepare(bench: PrepareBench) -> dict[str, Any]:
    """Measure clips per second of processor time on one core, and peak memory.

    `avkit`: hash, decode, 10 frames, log-mel, JPEG, FLAC, tar blocks on disk. `decode`: PyAV decodes the groups of
    pictures and the audio that this needs. `decode_dropping`: the same without the frames that avkit skips because no
    other frame refers to them. `ffmpeg_null`: `ffmpeg -threads 1 -f null` on the same files. `fast_decode`: what
    `sample.fast_decode=true` saves and changes, by codec.

    Processor time is measured, so other work on the machine has little influence. `peak_rss_mb` is the largest memory
    of all processes together, shared pages counted once, while that many short clips are prepared on all cores.

    Args:
        bench: What to measure.

    Returns:
        The figures by name, as printed by `avkit bench prepare`.

    Raises:
        ConfigError: No video of the folder can become a sample.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = bench.videos or Path(scratch) / "videos"
        if bench.videos is None:
            draw_videos(bench.num_clips, bench.clip_seconds, folder)
        clips = _clips(bench, folder, Path(scratch))
        seconds = _measure(bench, clips)
        rates = {name: len(clips) / median(rounds) for name, rounds in seconds.items()}
        ratios = {
            name: median(other / ours for ours, other in zip(seconds["avkit"], seconds[name], strict=True))
            for name in seconds
            if name != "avkit"
        }
        return {
            **{f"{name}_clips_per_s_per_core": round(rate, 3) for name, rate in rates.items()},
            **{f"avkit_over_{name}": round(ratio, 3) for name, ratio in ratios.items()},
            "fast_decode": _fast_decode(bench, clips),
            "clips": len(clips),
            "peak_rss_mb": {
                str(count): round(_peak_memory(count, Path(scratch) / f"memory-{count}") / 1e6, 1)
                for count in bench.memory_clips
            },
        }


def draw_videos(num_clips: int, seconds: float, folder: Path) -> list[str]:
    """Draw synthetic videos of the size of VGGSound's into the folder, on all cores; their names without `.mp4`."""
    config = SynthConfig(num_clips=num_clips, seconds=seconds, width=340, height=256)

    def draw(index: int) -> str:
        write_clip(config, synth_clip(config, index), folder / f"{index:06d}.mp4")
        return f"{index:06d}"

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(draw, range(num_clips)))


@dataclass(frozen=True, slots=True)
class _Clip:
    task: ClipTask
    path: Path
    duration_s: float


def _clips(bench: PrepareBench, folder: Path, scratch: Path) -> list[_Clip]:
    """The first videos of the folder that can become samples."""
    source = LocalSource(folder)
    clips = []
    for place, row in enumerate(folder_requests(folder).to_pylist()):
        ref = source.locate(ClipRequest(row["video_id"], path=row["path"]))
        assert ref is not None, row
        row |= {"key": f"clip-{place}", "shard": 0, "position": place, "end_s": bench.clip_seconds}
        task = ClipTask(shard=ShardName("train", 0), place=place, row=row, ref=ref, blocks=scratch / "blocks")
        end = run_clip(SampleConfig(), task)
        if end.row["status"] == "ok":
            clips.append(_Clip(task, folder / row["path"], end.row["duration_s"]))
        if len(clips) == bench.num_clips:
            break
    if not clips:
        raise ConfigError(f"{folder}: none of its videos can become a sample")
    return clips


def _measure(bench: PrepareBench, clips: Sequence[_Clip]) -> dict[str, list[float]]:
    """Processor seconds of each method over all clips, by round. The methods alternate on every clip."""
    config = SampleConfig()

    def decode_only(clip: _Clip, *, drop: bool) -> None:
        decode_same_packets(clip.path, _frame_times(config, clip), 0.0, clip.duration_s, drop=drop)

    methods: dict[str, Callable[[_Clip], object]] = {
        "avkit": lambda clip: run_clip(config, clip.task),
        "decode": partial(decode_only, drop=False),
        "decode_dropping": partial(decode_only, drop=True),
        "ffmpeg_null": lambda clip: _ffmpeg_null(clip.path),
    }
    seconds = {name: [0.0] * bench.rounds for name in methods}
    for number in range(bench.rounds):
        for clip in clips:
            for name, method in methods.items():
                seconds[name][number] += _cpu_s_of(partial(method, clip))
    return seconds


def _frame_times(config: SampleConfig, clip: _Clip) -> list[float]:
    return draw_frame_times(config.seed, clip.task.row["key"], 0.0, clip.duration_s, config.num_frames)


def _fast_decode(bench: PrepareBench, clips: Sequence[_Clip]) -> dict[str, dict[str, float]]:
    """What `fast_decode` saves and changes, by codec.

    `time`: its processor time over that of avkit without it, the median of the rounds. Of the frames at stored size,
    before JPEG: how many there are, how many differ, and their PSNR in dB: the lowest, the lowest tenth's and the
    median. Equal frames count as EQUAL_DB.
    """
    config = SampleConfig()
    fast = replace(config, fast_decode=True)
    ratios: dict[str, list[float]] = {}
    psnr: dict[str, list[float]] = {}
    of_codec: dict[str, list[_Clip]] = {}
    for clip in clips:
        times_s = _frame_times(config, clip)
        with open_media(clip.path) as media, open_media(clip.path, fast=True) as other:
            frames, others = (one.frames(times_s, config.short_side).images for one in (media, other))
            codec = media.info.video_codec
        psnr.setdefault(codec, []).extend(map(psnr_db, frames, others))
        of_codec.setdefault(codec, []).append(clip)
    for codec, members in of_codec.items():
        for _ in range(bench.rounds):
            usual_s = fast_s = 0.0
            for clip in members:
                usual_s += _cpu_s_of(partial(run_clip, config, clip.task))
                fast_s += _cpu_s_of(partial(run_clip, fast, clip.task))
            ratios.setdefault(codec, []).append(fast_s / usual_s)
    return {
        codec: {
            "time": round(median(ratios[codec]), 3),
            "frames": len(found),
            "differing": sum(value < EQUAL_DB for value in found),
            "lowest_db": round(min(found), 1),
            "tenth_db": round(float(np.percentile(found, 10)), 1),
            "median_db": round(median(found), 1),
        }
        for codec, found in sorted(psnr.items())
    }


def psnr_db(image: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"]) -> float:
    """Peak signal-to-noise ratio of two images in dB, at most EQUAL_DB."""
    squared = float(((image.astype(np.float32) - other) ** 2).mean())
    return min(EQUAL_DB, 10 * float(np.log10(255**2 / squared))) if squared else EQUAL_DB


def _cpu_s_of(work: Callable[[], object]) -> float:
    before = _cpu_s()
    work()
    return _cpu_s() - before


def _cpu_s() -> float:
    """Processor time of this process and of the children it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _ffmpeg_null(path: Path) -> None:
    command = [ffmpeg_binary(), "-v", "quiet", "-nostdin", "-threads", "1", "-i", str(path), "-f", "null", "-"]
    subprocess.run(command, check=False)  # noqa: S603 - no shell; the exit code for a damaged file is ignored


def _peak_memory(num_clips: int, scratch: Path) -> int:
    """Peak memory in bytes of a run over that many clips, which are hard links to one short synthetic video."""
    videos = scratch / "videos"
    config = SynthConfig(num_clips=1, seconds=3.2, width=64, height=64, fps=5)
    write_clip(config, synth_clip(config, 0), videos / "000000.mp4")
    for number in range(1, num_clips):
        (videos / f"{number:06d}.mp4").hardlink_to(videos / "000000.mp4")
    command = [sys.executable, "-c", _MEMORY_RUN, str(videos), str(scratch / "out")]
    peak = 0
    with subprocess.Popen(command) as run:  # noqa: S603 - no shell
        root = psutil.Process(run.pid)
        while run.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, memory_of_tree(root))
            time.sleep(0.2)
    if run.returncode:
        raise AvkitError(f"the memory run of {num_clips} clips ended with code {run.returncode}")
    shutil.rmtree(scratch)
    return peak


_MEMORY_RUN = """
import sys
from pathlib import Path
from avdata.prepare.config import PrepareConfig
from avdata.prepare.job import prepare
from avdata.prepare.config import Supervision
from avdata.cores import usable_cores
from avmanifest.recipe import load_recipe
if __name__ == "__main__":
    prepare(PrepareConfig(recipe=load_recipe("folder"), out=Path(sys.argv[2]), sources=(f"local:{sys.argv[1]}",),
                          supervision=Supervision(num_workers=usable_cores())))
"""
