"""Settings of the tasks, and the names of the files that they write. No torch is imported here."""

from dataclasses import dataclass
from pathlib import Path

from avmanifest.errors import ConfigError
from avmodel.evaluate.localization.config import ENCODINGS

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

Region = tuple[float, float, float, float]  # left, top, right and bottom edge, as shares of the picture
ALL_OF_IT: Region = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyConfig:
    """Common to all tasks."""

    short_side: int = 256  # pixels of the frames; prepare stores as many
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanConfig(ApplyConfig):
    """Common to the tasks that say something of each window."""

    window_s: float | None = None  # seconds heard at once; none: as many as the checkpoint was trained on
    hop_s: float | None = None  # from a window's start to the next one's; none: a window
    fps: float | None = None  # frames a second, whose answers are averaged; none: one, in the middle of the window


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayConfig(ApplyConfig):
    """Common to the tasks that write a video."""

    window_s: float | None = None  # as above
    fps: float = 10.0  # frames a second, of the video that is written and for the model
    short_side: int = 360
    batch_size: int = 16  # frames that a device takes at once

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}: must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyConfig(SpanConfig):
    """What is told of each window."""

    top: int = 5  # labels of each window, the likeliest first

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top={self.top}: must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveConfig(SpanConfig):
    """What is looked for, and where."""

    gallery: Path | None = None  # what avkit evaluate embed wrote
    query: str | None = None  # stream of the window; none: each that the gallery has
    target: str | None = None  # stream of the gallery's clips; none: the same
    top: int = 10  # clips of each window and stream, the nearest first

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top={self.top}: must be 1 or more")
        if self.target is not None and self.query is None:
            raise ConfigError(f"target={self.target!r}: say of which stream of the video, too (query)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizeConfig(OverlayConfig):
    """How maps are made."""

    encoding: str = "together"  # or alone: each modality by itself, for a model of early fusion

    def __post_init__(self) -> None:
        OverlayConfig.__post_init__(self)
        if self.encoding not in ENCODINGS:
            raise ConfigError(f"unknown encoding {self.encoding!r}; known: {', '.join(ENCODINGS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateConfig(ApplyConfig):
    """What is listened for, and how closely windows follow each other."""

    regions: tuple[Region, ...] = (ALL_OF_IT,)  # parts of the picture whose sound is wanted
    hop_s: float | None = None  # seconds from a window's start to the next one's; none: half a window

    def __post_init__(self) -> None:
        for left, top, right, bottom in self.regions:
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ConfigError(
                    f"region {left:g},{top:g},{right:g},{bottom:g}: expected left,top,right,bottom from 0 to 1, such "
                    "as 0,0,0.5,1 for the left half"
                )
        if not self.regions:
            raise ConfigError("regions: none is given")

    @property
    def files(self) -> tuple[str, ...]:
        """What is written: the sound of each region and the rest; numbered from 1 if there are several regions."""
        numbers = [""] if len(self.regions) == 1 else [f"-{number}" for number in range(1, len(self.regions) + 1)]
        return tuple(f"{name}{number}.wav" for number in numbers for name in ("separated", "rest"))


def parse_region(text: str) -> Region:
    """The region that `0,0,0.5,1` means. Raises ConfigError for other text; its config, for one outside the picture."""
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(f"region {text!r}: expected left,top,right,bottom, such as 0,0,0.5,1") from error
    return left, top, right, bottom
