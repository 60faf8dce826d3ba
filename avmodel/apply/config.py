"""Settings of the tasks, and the names of the files that they write. No torch is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from avdata.fits import FITS
from avmanifest.errors import ConfigError
from avmanifest.settings import POSITIVE, Bounds, check
from avmodel.configs.run import MODEL_WEIGHTS, WEIGHTS
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
WHOLE_PICTURE: Region = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyConfig:
    """Common to all tasks."""

    short_side: Annotated[int, "Pixels of the frames' short side.", Bounds(16)] = 256  # prepare stores as many
    device: Annotated[str, "auto, cpu, cuda or cuda:1."] = "auto"
    weights: Annotated[str, "The weights as trained, or their moving average, of a run with ema_decay.", WEIGHTS] = (
        MODEL_WEIGHTS
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanConfig(ApplyConfig):
    """Common to the tasks with a result for each window."""

    window_s: Annotated[float | None, "Seconds of a window. none: as in training.", POSITIVE] = None
    hop_s: Annotated[float | None, "Seconds from a window's start to the next one's. none: a window.", POSITIVE] = None
    fit: Annotated[
        str | None,
        "How a frame becomes square, as data.fit of an evaluation. none: as the checkpoint was trained.",
        FITS,
    ] = None
    fps: Annotated[
        float | None,
        "Frames a second, whose results are averaged. none: one frame, in the middle of the window.",
        POSITIVE,
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayConfig(ApplyConfig):
    """Common to the tasks that write a video."""

    window_s: Annotated[float | None, "Seconds of a window. none: as in training.", POSITIVE] = None
    fps: Annotated[float, "Frames a second of the video that is written, and of the model's input.", POSITIVE] = 10.0
    short_side: int = 360
    batch_size: Annotated[int, "Frames that a device takes at once.", Bounds(1)] = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyConfig(SpanConfig):
    """Labels of each window."""

    top: Annotated[int, "Labels of each window, the likeliest first.", Bounds(1)] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveConfig(SpanConfig):
    """Nearest clips of each window."""

    gallery: Annotated[Path | None, "Folder that avkit evaluate embed wrote."] = None
    query: Annotated[str | None, "Token stream of the window. none: each that the gallery has."] = None
    target: Annotated[str | None, "Token stream of the gallery's clips. none: that of the query."] = None
    top: Annotated[int, "Clips of each window and stream, the nearest first.", Bounds(1)] = 10

    def __post_init__(self) -> None:
        SpanConfig.__post_init__(self)
        if self.target is not None and self.query is None:
            raise ConfigError(f"target={self.target!r}: name the video's stream too, as query")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizeConfig(OverlayConfig):
    """Maps of the sound source."""

    encoding: Annotated[
        str, "Encode image and audio together, or each alone, as for a model of early fusion.", ENCODINGS
    ] = "together"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateConfig(ApplyConfig):
    """Sounds to separate."""

    regions: Annotated[tuple[Region, ...], "Parts of the picture whose sound is separated."] = (WHOLE_PICTURE,)
    hop_s: Annotated[
        float | None, "Seconds from a window's start to the next one's. none: half a window.", POSITIVE
    ] = None

    def __post_init__(self) -> None:
        ApplyConfig.__post_init__(self)
        for left, top, right, bottom in self.regions:
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ConfigError(
                    f"region {left:g},{top:g},{right:g},{bottom:g}: expected left,top,right,bottom from 0 to 1, such "
                    "as 0,0,0.5,1 for the left half"
                )
        if not self.regions:
            raise ConfigError("regions is empty: give at least one")

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
