"""Settings of prepare. Imports only the standard library, so that help and refusals take no time."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from avdata.prepare.steps import SHIPPED
from avdata.profiles import PROFILES
from avdata.retrying import RetryPolicy
from avdata.tracking import TrackioProject, WandbGroup, WandbName, WandbProject, WandbTags, check_tracking
from avmanifest.errors import ConfigError
from avmanifest.recipe import TABLE_PANEL, Recipe, TableOptions
from avmanifest.settings import NOT_A_SETTING, POSITIVE, SHARE, Bounds, Option, Reader, check
from avmanifest.splits import recipe_splits

DECODERS: Final = ("pyav", "decord")
AAC_RATES: Final = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
MAX_SILENT: Final = 2
NUM_SYNTH_CLASSES: Final = 24

# The headings of prepare's options.
WHAT: Final = "What is prepared"
WHERE_FROM: Final = "Where from"
SAMPLE: Final = "What a sample holds"
HOW: Final = "How the work is done"
FETCHING: Final = "Fetching"
CLUSTER: Final = "On a cluster"
SYNTH: Final = "Recipe synth"
PANELS: Final = (WHAT, WHERE_FROM, SAMPLE, HOW, FETCHING, CLUSTER, TABLE_PANEL, SYNTH)
"""The order of the headings in prepare's help."""

BROWSER: Final = re.compile(
    r"(?P<name>[a-z]+)(?:\+(?P<keyring>[a-z0-9]+))?(?::(?!:)(?P<profile>.+?))?(?:::(?P<container>.+))?"
)
"""The form of --cookies-from-browser, as in yt-dlp."""

_PER_HOUR: Final = {"s": 3600.0, "min": 60.0, "h": 1.0, "d": 1 / 24}
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)/(s|min|h|d)")


def parse_rate(text: str) -> float:
    """Requests per hour, from `250/h`, `2/s`, `10/min` or `5000/d`. Raises ConfigError for other text."""
    match = _RATE.fullmatch(text.strip())
    if not match or not float(match[1]):
        raise ConfigError(f"--rate {text!r} is not a rate. Write 250/h, 10/min or 2/s.")
    return float(match[1]) * _PER_HOUR[match[2]]


def split_steps(text: str) -> tuple[str, ...]:
    """The steps of one text, such as `black:max_share=0.5,max_level=20,cuts`: a comma before `name=` is a setting's."""
    return tuple(filter(None, re.split(r"\s*,(?!\s*\w+\s*=)\s*", text.strip())))


def _read_rate(text: str) -> float:
    """As `parse_rate`. Raises ValueError for a plain number or `none`, which are then read as the type says."""
    if "/" not in text:
        raise ValueError
    return parse_rate(text)


class Retry(StrEnum):
    """Which failed clips to try again, in new shards at the end."""

    NONE = "none"
    TRANSIENT = "transient"
    ALL = "all"


class ExecutorKind(StrEnum):
    """Where the shard tasks run."""

    LOCAL = "local"  # this machine
    RAY = "ray"  # a Ray cluster (an extra)
    ARRAY = "array"  # this machine, which makes its share of the shards, as one of many equal commands

    @classmethod
    def _missing_(cls, value: object) -> "ExecutorKind | None":
        return cls.ARRAY if value == "slice" else None  # its name before 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """Contents of a sample. Stored in dataset.json; a resume with other values is refused."""

    clip_seconds: Annotated[
        float | None,
        "Seconds of the span to keep, drawn by seed and key. none: the whole clip.",
        Bounds(0.5, 3600),
        Option("--clip-seconds", SAMPLE),
    ] = None
    num_frames: Annotated[int, "Frames of a clip.", Bounds(1, 100), Option("--frames", SAMPLE)] = 10
    short_side: Annotated[int, "Pixels of a stored frame's short side.", Bounds(16), Option("--short-side", SAMPLE)] = (
        256
    )
    jpeg_quality: Annotated[int, "JPEG quality of the frames.", Bounds(1, 100)] = 90
    mel: Annotated[
        tuple[str, ...],
        "Log-mel profiles to store; the first as KEY.logmel.npy.",
        tuple(PROFILES),
        Option("--mel", SAMPLE),
    ] = ("paper",)
    keep_audio: Annotated[
        bool, "Store the sound as KEY.flac.", Option("--no-audio", SAMPLE, help="Leave the FLAC out.")
    ] = True
    decoder: Annotated[
        str,
        "Decoder of the pictures; decord is an extra. Sound is always decoded by pyav.",
        DECODERS,
        Option("--decoder", SAMPLE),
    ] = "pyav"
    fast_decode: Annotated[
        bool,
        "Leave out the decoder's loop filter: faster for H.264, HEVC and VP8, pixels differ slightly.",
        Option("--fast-decode", SAMPLE),
    ] = False
    deinterlace: Annotated[bool, "Make whole pictures of frames that hold two fields."] = True
    tone_map: Annotated[bool, "Make SDR pictures of HDR video (PQ, HLG)."] = True
    seed: Annotated[int, "Seed of shuffle, frame times and spans.", Option("--seed", SAMPLE, also=("synth.seed",))] = 0

    def __post_init__(self) -> None:
        check(self, "sample.")
        if not self.mel or len(set(self.mel)) < len(self.mel):
            raise ConfigError(f"--mel {', '.join(self.mel) or 'none'}: give one log-mel profile or more, each once")
        if self.fast_decode and self.decoder != "pyav":
            raise ConfigError(
                f"--fast-decode works with --decoder pyav, not with --decoder {self.decoder}. Leave one of them out."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """Limits of the decoding processes."""

    num_workers: Annotated[
        int, "Decoding processes.", Bounds(1), Option("--workers", HOW, default="one a core; ray: one a task")
    ] = 1
    deadline_s: Annotated[
        float,
        "Seconds that a clip of up to 10 minutes may take; a longer one may take proportionally more.",
        POSITIVE,
        Option("--deadline", HOW),
    ] = 60.0
    memory_bytes: Annotated[int, "Bytes of address space that a process may add to its initial size.", Bounds(1)] = (
        4 * 2**30
    )
    recycle_after: Annotated[int, "Clips after which a process is replaced by a new one.", Bounds(1)] = 2_000
    attempts: Annotated[int, "Attempts of a clip whose process dies or exceeds the deadline.", Bounds(1)] = 2

    def __post_init__(self) -> None:
        check(self, "supervision.")


Stalled = Annotated[float, "Seconds without any data after which a transfer is stalled.", POSITIVE]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """Requests to web servers."""

    proxy: Annotated[
        str | None, "URL of a proxy.", Option("--proxy", FETCHING, "URL", also=("remote.youtube.proxy",))
    ] = field(default=None, repr=False)
    connect_s: Annotated[float, "Seconds to connect.", POSITIVE] = 15.0
    stalled_s: Stalled = 30.0
    slow_window_s: Annotated[
        float, "Seconds over which a transfer slower than slow_bytes_per_s counts as stalled.", POSITIVE
    ] = 60.0
    slow_bytes_per_s: Annotated[float, "Bytes per second under which a transfer is slow.", Bounds(0)] = 4096.0
    max_redirects: Annotated[int, "Redirects to follow, at most.", Bounds(0)] = 5
    local_redirects: Annotated[bool, "Follow a redirect from a public host to a loopback or link-local address."] = (
        False
    )
    max_resumes: Annotated[int, "Resumes of one file in one attempt; each must have transferred data.", Bounds(0)] = 20
    max_bytes: Annotated[int, "Bytes of one file, at most.", Bounds(1)] = 16 * 2**30

    def __post_init__(self) -> None:
        check(self, "remote.http.")


@dataclass(frozen=True, slots=True, kw_only=True)
class YoutubeOptions:
    """Requests to YouTube."""

    max_height: Annotated[
        int, "youtube: pixels of the shorter side, at most.", Bounds(1), Option("--max-height", FETCHING)
    ] = 360
    sections_over_s: Annotated[
        float, "Seconds; of a longer video only the sections around its clips are fetched.", Bounds(0)
    ] = 1200.0
    padding_s: Annotated[float, "Seconds before and after each clip of a section.", Bounds(0)] = 5.0
    retries: Annotated[int, "Retries of yt-dlp for one request, within each attempt.", Bounds(0)] = 5
    retry_sleep_s: Annotated[float, "Seconds before the first retry; doubled for each, up to 30.", Bounds(0)] = 1.0
    socket_s: Stalled = 30.0
    proxy: Annotated[str | None, "URL of a proxy."] = field(default=None, repr=False)
    cookies: Annotated[
        Path | None,
        "youtube: a cookies.txt in Netscape's format. Read, never written.",
        Option("--cookies", FETCHING, "FILE"),
    ] = None
    cookies_from_browser: Annotated[
        str | None,
        "youtube: browser whose cookies are used, such as firefox or chrome:PROFILE.",
        Option("--cookies-from-browser", FETCHING, "BROWSER"),
    ] = None
    canary: Annotated[
        str | None,
        "youtube: id of a video that exists. If YouTube does not give it either, the source is paused: "
        "yt-dlp or this machine is at fault then, not the videos. none: no such test.",
    ] = "jNQXAC9IVRw"
    open: Annotated[Callable[[dict[str, Any]], Any] | None, NOT_A_SETTING] = None  # None: yt-dlp; must be picklable

    def __post_init__(self) -> None:
        check(self, "remote.youtube.")
        if self.cookies is not None and not self.cookies.is_file():
            raise ConfigError(f"--cookies {self.cookies}: no such file")
        if self.cookies_from_browser is not None and not BROWSER.fullmatch(self.cookies_from_browser):
            raise ConfigError(
                f"--cookies-from-browser {self.cookies_from_browser!r} is not BROWSER[+KEYRING][:PROFILE][::CONTAINER]"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """Requests of the sources that download."""

    http: HttpOptions = field(default_factory=HttpOptions)
    youtube: YoutubeOptions = field(default_factory=YoutubeOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """When a source that refuses requests is paused, then stopped. Defaults: YouTube lifts limits within an hour."""

    threshold: Annotated[int, "Consecutive refusals after which the source is paused.", Bounds(1)] = 5
    first_pause_s: Annotated[float, "Seconds of the first pause.", Bounds(0)] = 300.0
    growth: Annotated[float, "Factor from each pause to the next.", Bounds(1)] = 3.0
    max_pauses: Annotated[
        int, "Consecutive pauses after which the source is stopped: 5 min, 15 min, 45 min, 2 h 15 min.", Bounds(0)
    ] = 4

    def __post_init__(self) -> None:
        check(self, "downloads.breaker.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadConfig:
    """Downloads of media. These settings do not change samples."""

    num_workers: Annotated[int, "Files downloaded at a time.", Bounds(1), Option("--download-workers", FETCHING)] = 4
    look_ahead: Annotated[int, "Clips that are being downloaded or wait to be decoded, at most.", Bounds(1)] = 64
    cache_dir: Annotated[
        Path | None,
        "Folder of downloaded files. none: _media in the output.",
        Option("--media-cache", FETCHING, "FOLDER"),
    ] = None
    cache_gb: Annotated[float, "GB of downloaded files to keep, at most.", POSITIVE, Option("--cache-gb", FETCHING)] = (
        50.0
    )
    rate_per_hour: Annotated[
        float | None,
        "Files per hour, at most. none: the source's default.",
        Reader(read=_read_rate, form="a rate such as 250/h, 10/min, 2/s"),
        POSITIVE,
        Option("--rate", FETCHING, "RATE"),
    ] = None
    pace_dir: Annotated[
        Path | None, "Folder in which all runs of the machine count their requests. none: the temporary folder."
    ] = None
    attempts: Annotated[int, "Attempts of one video after errors that may pass.", Bounds(1)] = 3
    backoff_s: Annotated[float, "Seconds before the second attempt; doubled for each further one.", Bounds(0)] = 5.0
    deadline_s: Annotated[
        float, "Seconds that the download of a file may take.", POSITIVE, Option("--download-deadline", FETCHING)
    ] = 900.0
    breaker: BreakerConfig = field(default_factory=BreakerConfig)

    def __post_init__(self) -> None:
        check(self, "downloads.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthConfig:
    """A synthetic dataset."""

    num_clips: Annotated[int, "Clips to draw.", Bounds(1, 10_000_000), Option("--num-clips", SYNTH)] = 512
    num_classes: Annotated[
        int,
        "Classes to draw; a multiple of four balances looks and sounds.",
        Bounds(8, NUM_SYNTH_CLASSES),
        Option("--num-classes", SYNTH),
    ] = 16
    max_objects: Annotated[
        int, "Sounding objects in a clip, at most.", Bounds(1, 3), Option("--max-objects", SYNTH)
    ] = 3
    max_silent: Annotated[
        int,
        "Silent moving objects in a clip, at most; mostly one.",
        Bounds(0, MAX_SILENT),
        Option("--max-silent", SYNTH),
    ] = 2
    seconds: Annotated[float, "Seconds of a clip.", Bounds(1, 600), Option("--seconds", SYNTH)] = 4.0
    fps: Annotated[int, "Frames per second.", Bounds(5, 60)] = 25
    width: Annotated[int, "Pixels of a picture's width.", Bounds(64, 1920), Option("--width", SYNTH)] = 320
    height: Annotated[int, "Pixels of a picture's height.", Bounds(64, 1080), Option("--height", SYNTH)] = 240
    sample_rate: Annotated[int, "Hz of the files' sound; all of it lies below 8 kHz.", AAC_RATES] = 44_100
    seed: Annotated[int, "Seed of the drawing.", Bounds(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        check(self, "synth.")
        if self.width % 2 or self.height % 2:
            raise ConfigError(
                f"--width {self.width} --height {self.height}: yuv420p cannot store an odd side. Give even ones."
            )
        if not 0.5 <= self.width / self.height <= 4:
            raise ConfigError(
                f"--width {self.width} --height {self.height}: too narrow or too wide for the objects to move in. "
                "Keep width / height from 0.5 to 4."
            )

    @property
    def num_frames(self) -> int:
        return round(self.seconds * self.fps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The shards of the plan that a run makes: every `count`-th, from the `index`-th on."""

    index: Annotated[
        int,
        "Number of this task in the array, from 0.",
        Option("--task-index", CLUSTER, default="as the SLURM array says"),
    ] = 0
    count: Annotated[int, "Tasks in the array.", Option("--num-tasks", CLUSTER, default="as the SLURM array says")] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(f"--task-index {self.index} is not one of --num-tasks {self.count} tasks, counted from 0")


def slurm_share(environment: Mapping[str, str]) -> Share:
    """The share of this task of a SLURM array. Raises ConfigError outside of one."""
    try:
        number, first, count, step = (
            int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
            for name, default in (("ID", ""), ("MIN", "0"), ("COUNT", ""), ("STEP", "1"))
        )
    except ValueError as error:
        raise ConfigError("--executor array needs --task-index and --num-tasks, except in a SLURM array") from error
    if step < 1 or (number - first) % step or not 0 <= (number - first) // step < count:
        raise ConfigError(
            f"SLURM_ARRAY_TASK_ID={number} is not in an array of {count} from {first} in steps of {step}. "
            "Give --task-index and --num-tasks."
        )
    return Share(index=(number - first) // step, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """All settings of a run of prepare."""

    recipe: Annotated[Recipe, NOT_A_SETTING]
    out: Annotated[Path | str, NOT_A_SETTING]  # a folder, or the URL of one: s3://bucket/prefix
    sample: SampleConfig = field(default_factory=SampleConfig)
    list_path: Annotated[
        Path | None,
        "The official list, or the folder of lists. none: fetched.",
        Option("--list", WHERE_FROM, "FILE|FOLDER"),
    ] = None
    sources: Annotated[
        tuple[str, ...],
        "local:FOLDER, wds:PATTERN or a tar, tar.gz of videos, http:TEMPLATE with {id} and {start}, or youtube. "
        "Tried in the order given.",
        Option("--source", WHERE_FROM, "SOURCE"),
    ] = field(default=(), repr=False)
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    downloads: DownloadConfig = field(default_factory=DownloadConfig)
    splits: Annotated[
        tuple[str, ...] | None,
        "Only these splits, or aliases of the recipe for some, such as AS-20K. none: the recipe's own choice.",
        Option("--split", WHAT, "SPLIT"),
    ] = None
    table: TableOptions | None = None
    synth: SynthConfig | None = None
    steps: Annotated[
        tuple[Any, ...],
        f"Steps that add columns or members, or drop clips: {', '.join(SHIPPED)}, or package.module:Class of your own, "
        "with settings such as black:max_share=0.5. They run in the order given.",
        Reader(read=split_steps, form="steps such as black:max_share=0.5,cuts"),
        Option("--step", SAMPLE, "STEP"),
    ] = ()  # texts, or objects with the protocol of avdata.prepare.steps.step.Step
    shard_size: Annotated[int, "Clips of a shard.", Bounds(1), Option("--shard-size", HOW)] = 1_000
    limit: Annotated[
        int | None, "Clips to prepare, drawn from all splits. none: all.", Bounds(1), Option("--limit", WHAT)
    ] = None
    supervision: Supervision = field(default_factory=Supervision)
    patience: RetryPolicy = field(default_factory=RetryPolicy)  # of requests to a bucket
    min_success: Annotated[
        float,
        "Share of the requested clips that no step dropped; with fewer samples the exit code is 3.",
        SHARE,
        Option("--min-success", HOW),
    ] = 0.5
    retry: Annotated[Retry, "Which failed clips to try again.", Option("--retry", HOW)] = Retry.NONE
    append: Annotated[
        bool,
        "Add the clips of the list that the dataset lacks, in new shards. What is there stays as it is.",
        Option("--append", HOW),
    ] = False
    overwrite: Annotated[bool, "Remove the contents of the output and start again.", Option("--overwrite", HOW)] = False
    verify: Annotated[
        bool, "Hash the tars of finished shards again, not only changed ones.", Option("--verify", HOW)
    ] = False
    executor: Annotated[
        ExecutorKind,
        "Where the work runs: this machine, a Ray cluster, or an array of equal jobs.",
        Option("--executor", CLUSTER),
    ] = ExecutorKind.LOCAL
    share: Share = field(default_factory=Share)  # of executor array
    wandb_project: WandbProject = None
    trackio_project: TrackioProject = None
    wandb_name: WandbName = None
    wandb_group: WandbGroup = None
    wandb_tags: WandbTags = ()
    wandb_resume: ClassVar[str] = "allow"  # each start of prepare is a run of its own there

    def __post_init__(self) -> None:
        check(self)
        check_tracking(self)
        if self.share.count > 1 and self.executor is not ExecutorKind.ARRAY:
            raise ConfigError(f"{self.share.count} tasks belong to --executor array, not to {self.executor}")
        if self.executor is ExecutorKind.ARRAY and (self.overwrite or self.append or self.retry is not Retry.NONE):
            raise ConfigError(
                "--overwrite, --append and --retry concern all tasks, so a single task cannot take them. Remove the "
                "output first, or run --append and --retry without --executor array."
            )
        if self.append and self.recipe.name == "synth":
            raise ConfigError("--append adds the clips of a list that the dataset lacks, and recipe synth has no list")
        if self.append and (self.overwrite or self.limit is not None):
            other = "--overwrite" if self.overwrite else "--limit"
            raise ConfigError(f"--append adds all clips of a list that the dataset lacks: leave {other} out")
        if self.recipe.name == "synth" and (self.sources or self.list_path):
            raise ConfigError("recipe synth draws its videos: it takes no --source and no --list")

    @property
    def chosen_splits(self) -> tuple[str, ...] | None:
        """The splits that `splits` stands for; None: the recipe's own choice. Raises ConfigError for an unknown one."""
        return None if self.splits is None else recipe_splits(self.recipe, self.splits)

    def require_sources(self) -> None:
        """Raise ConfigError if there is no source of videos."""
        if self.recipe.name != "synth" and not self.sources:
            raise ConfigError(f"recipe {self.recipe.name} needs at least one --source, such as local:FOLDER")
