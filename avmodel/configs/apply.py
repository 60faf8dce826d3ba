"""The tasks of `avkit apply`: their settings, and the names of the files that they write. No torch is imported here."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final

from avdata.fits import FITS
from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name
from avmanifest.settings import POSITIVE, SHARE, Bounds, Option, Reader, check
from avmodel.configs.choices import ENCODINGS, MODEL_WEIGHTS, Weights
from avmodel.configs.dense import DENSE, MAPS, POOLED, DenseConfig

LABELS_TABLE, LABELS_FILE = "labels.csv", "labels.json"
NEIGHBORS_TABLE = "neighbors.csv"
MAPS_FILE = "maps.parquet"
MASKS_FOLDER, MASKS_FILE = "masks", "masks.json"
EMBEDDINGS_FILE = "embeddings.parquet"
OVERLAY_FILE = "overlay.mp4"
# What each task writes.
EMBED_FILES = (EMBEDDINGS_FILE,)
CLASSIFY_FILES = (LABELS_TABLE, LABELS_FILE)
RETRIEVE_FILES = (NEIGHBORS_TABLE,)
LOCALIZE_FILES = (OVERLAY_FILE, MAPS_FILE)
SEGMENT_FILES = (OVERLAY_FILE, MASKS_FOLDER, MASKS_FILE)

# The headings of apply's options.
THE_TASK: Final = "The task"
WINDOWS: Final = "Windows and frames"
TASK: Final = "Of one task"
HOW: Final = "How the work is done"
PANELS: Final = (THE_TASK, WINDOWS, TASK, HOW)
"""The order of the headings in apply's help."""

WindowSeconds = Annotated[
    float | None, "Seconds of a window. none: as in training.", POSITIVE, Option("--window", WINDOWS)
]

Region = tuple[float, float, float, float]  # left, top, right and bottom edge, as shares of the picture
WHOLE_PICTURE: Region = (0.0, 0.0, 1.0, 1.0)


def parse_region(text: str) -> Region:
    """The region that `0,0,0.5,1` means. Raises ConfigError for other text; its config, for one outside the picture."""
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(f"--region {text!r}: expected left,top,right,bottom, such as 0,0,0.5,1") from error
    return left, top, right, bottom


def parse_regions(text: str) -> tuple[Region, ...]:
    """Regions with semicolons between them. Raises ConfigError as `parse_region`."""
    return tuple(parse_region(part) for part in text.split(";") if part.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyConfig:
    """Common to all tasks."""

    short_side: Annotated[int, "Pixels of the frames' short side.", Bounds(16), Option("--short-side", WINDOWS)] = (
        256  # prepare stores as many
    )
    device: Annotated[str, "Where the model runs: auto, cpu, cuda or cuda:1.", Option("--device", HOW, "DEVICE")] = (
        "auto"
    )
    weights: Weights = MODEL_WEIGHTS

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanConfig(ApplyConfig):
    """Common to the tasks with a result for each window."""

    window_s: WindowSeconds = None
    hop_s: Annotated[
        float | None,
        "Seconds from a window's start to the next one's. none: a window.",
        POSITIVE,
        Option("--hop", WINDOWS, help="Seconds from a window's start to the next one's. none: as the task does."),
    ] = None
    fit: Annotated[
        str | None,
        "How a frame becomes square, as data.fit of an evaluation. none: as the checkpoint was trained.",
        FITS,
        Option("--fit", WINDOWS, help="embed, classify, retrieve: how a frame becomes square. none: as in training."),
    ] = None
    fps: Annotated[
        float | None,
        "Frames a second, whose results are averaged. none: one frame, in the middle of the window.",
        POSITIVE,
        Option(
            "--fps",
            WINDOWS,
            "FPS",
            help="Frames a second that the model takes, and of overlay.mp4. none: one for each window.",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayConfig(ApplyConfig):
    """Common to the tasks that write a video."""

    window_s: WindowSeconds = None
    fps: Annotated[
        float,
        "Frames a second of the video that is written, and of the model's input.",
        POSITIVE,
        Option("--fps", WINDOWS, "FPS"),
    ] = 10.0
    short_side: int = 360
    batch_size: Annotated[int, "Frames that a device takes at once.", Bounds(1)] = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyConfig(SpanConfig):
    """Labels of each window."""

    top: Annotated[
        int,
        "Labels of each window, the likeliest first.",
        Bounds(1),
        Option("--top", TASK, "NUMBER", help="classify: labels of each window; retrieve: clips of each window."),
    ] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveConfig(SpanConfig):
    """Nearest clips of each window."""

    gallery: Annotated[
        Path | None,
        "Folder that avkit evaluate embed wrote.",
        Option("--gallery", TASK, "FOLDER", help="retrieve: folder that avkit evaluate embed wrote. Required there."),
    ] = None
    query: Annotated[
        str | None,
        "Token stream of the window. none: each that the gallery has.",
        Option(
            "--query", TASK, "STREAM", help="retrieve: token stream of the window, such as audio. none: each of them."
        ),
    ] = None
    target: Annotated[
        str | None,
        "Token stream of the gallery's clips. none: that of the query.",
        Option(
            "--target", TASK, "STREAM", help="retrieve: token stream of the clips, such as image. none: as --query."
        ),
    ] = None
    top: Annotated[
        int, "Clips of each window and stream, the nearest first.", Bounds(1), Option("--top", TASK, "NUMBER")
    ] = 10

    def __post_init__(self) -> None:
        SpanConfig.__post_init__(self)
        if self.target is not None and self.query is None:
            raise ConfigError(f"--target {self.target!r}: name the video's stream too, as --query")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizeConfig(OverlayConfig):
    """Maps of the sound source."""

    encoding: Annotated[
        str,
        "Encode image and audio together, or each alone, as for a model of early fusion.",
        ENCODINGS,
        Option("--encoding", TASK, help="localize: encode image and audio together, or each alone."),
    ] = "together"
    threshold: Annotated[
        float,
        "Share of the color scale up to which overlay.mp4 shows no color: 0 colors nearly all, 1 nothing.",
        SHARE,
        Option("--threshold", TASK, "SHARE", help="localize: share of the color scale up to which there is no color."),
    ] = 0.5
    maps: Annotated[
        str,
        "What a patch is compared with, as the setting of avkit evaluate localization. pooled: the vector of the "
        "window's sound, by cosine; dense: each of its tokens, as dense.* say.",
        MAPS,
    ] = POOLED
    dense: DenseConfig = field(default_factory=DenseConfig)
    moment_s: Annotated[
        float | None,
        "With maps=dense: seconds of sound that a frame is compared with, half of them before it. none: the window's.",
        POSITIVE,
    ] = None
    scale: Annotated[
        tuple[float, float] | None,
        "Values of the first and the last color: cosines, or inner products of maps=dense. none: the lowest and the "
        "highest of the film where it is not silent.",
    ] = None
    silence_dbfs: Annotated[
        float,
        "dB of level, where 0 is a full-scale square wave: frames whose sound is below get no color.",
        Bounds(-120, 0),
    ] = -70.0  # where prepare calls a clip silent

    def __post_init__(self) -> None:
        OverlayConfig.__post_init__(self)
        if self.scale is not None and not -math.inf < self.scale[0] < self.scale[1] < math.inf:
            raise ConfigError(
                f"scale={self.scale[0]:g},{self.scale[1]:g}: the first value must be below the last one, both finite, "
                "such as 0,0.5"
            )
        if self.scale is not None and self.cosines and not -1 <= self.scale[0] < self.scale[1] <= 1:
            raise ConfigError(f"scale={self.scale[0]:g},{self.scale[1]:g}: cosines are from -1 to 1")
        if self.moment_s is not None and self.maps == POOLED:
            raise ConfigError(
                f"moment_s={self.moment_s:g} with maps={POOLED}: one vector is for the whole window. Set maps={DENSE}."
            )

    @property
    def cosines(self) -> bool:
        """Whether the maps have cosines, and not inner products."""
        return self.maps == POOLED or self.dense.unit_length


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateConfig(ApplyConfig):
    """Sounds to separate."""

    regions: Annotated[
        tuple[Region, ...],
        "Parts of the picture whose sound is separated.",
        Reader(read=parse_regions, form="edges from 0 to 1 such as 0,0,0.5,1; several with ; between them"),
        Option(
            "--region",
            TASK,
            "X0,Y0,X1,Y1",
            help="separate: part of the picture, its left, top, right and bottom edge from 0 to 1.",
            default="the whole picture",
        ),
    ] = (WHOLE_PICTURE,)
    hop_s: Annotated[
        float | None,
        "Seconds from a window's start to the next one's. none: half a window.",
        POSITIVE,
        Option("--hop", WINDOWS),
    ] = None

    def __post_init__(self) -> None:
        ApplyConfig.__post_init__(self)
        for left, top, right, bottom in self.regions:
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ConfigError(
                    f"--region {left:g},{top:g},{right:g},{bottom:g}: expected left,top,right,bottom from 0 to 1, such "
                    "as 0,0,0.5,1 for the left half"
                )
        if not self.regions:
            raise ConfigError("regions is empty: give at least one --region")

    @property
    def files(self) -> tuple[str, ...]:
        """What is written: the sound of each region and the rest; numbered from 1 if there are several regions."""
        numbers = [""] if len(self.regions) == 1 else [f"-{number}" for number in range(1, len(self.regions) + 1)]
        return tuple(f"{name}{number}.wav" for number in numbers for name in ("separated", "rest"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What `avkit apply --task NAME` does. The module of its name has `load`, which imports torch."""

    summary: str
    takes: str  # what its checkpoint is
    config: type[ApplyConfig]
    files: Callable[[Any], tuple[str, ...]]  # what is written, of a config
    trained_by: str | None = None  # the task of `avkit evaluate` that makes what it takes; None: any checkpoint


TASKS: Mapping[str, Task] = {
    "embed": Task(
        summary="A vector for each window and stream.", takes="a run", config=SpanConfig, files=lambda _: EMBED_FILES
    ),
    "classify": Task(
        summary="The most likely labels of each window, and of the video.",
        takes="a finetuned run",
        config=ClassifyConfig,
        files=lambda _: CLASSIFY_FILES,
        trained_by="finetune",
    ),
    "retrieve": Task(
        summary="The nearest clips of --gallery, for each window.",
        takes="a run",
        config=RetrieveConfig,
        files=lambda _: RETRIEVE_FILES,
    ),
    "localize": Task(
        summary="A map of the sound source over the picture.",
        takes="a run",
        config=LocalizeConfig,
        files=lambda _: LOCALIZE_FILES,
    ),
    "segment": Task(
        summary="A mask of the sound source for each frame.",
        takes="a segmenter",
        config=OverlayConfig,
        files=lambda _: SEGMENT_FILES,
        trained_by="segmentation",
    ),
    "separate": Task(
        summary="The sound of the picture, or of each --region, and the rest.",
        takes="a separator",
        config=SeparateConfig,
        files=lambda config: config.files,
        trained_by="separation",
    ),
}


def require_task(task: str) -> None:
    """Raise ConfigError, with the known tasks, for an unknown one."""
    if task not in TASKS:
        raise ConfigError(unknown_name("task", task, TASKS))


def task_config(task: str, **settings: Any) -> ApplyConfig:
    """The task's config with these settings. Raises ConfigError, with the known, for others and for another task."""
    require_task(task)
    known = [field.name for field in fields(TASKS[task].config)]
    if strange := [name for name in settings if name not in known]:
        raise ConfigError(f"{', '.join(strange)}: not a setting of {task}, which has {', '.join(known)}")
    return TASKS[task].config(**settings)
