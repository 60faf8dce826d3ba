"""Shares of a clip's frames that are black or of one color."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from avdata.prepare.steps.step import Clip, Need, StepResult, outside
from avmanifest.columns import Column
from avmanifest.settings import SHARE, Bounds, check

_SIDE = 16  # pixels of the thumbnails, on which codec noise is averaged away


@dataclass(frozen=True, slots=True, kw_only=True)
class Black:
    """How many of the stored frames are black, or of one color."""

    name: ClassVar[str] = "black"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            name="black_share",
            dtype=pa.float64(),
            meaning="share of the stored frames that are black, 0 to 1",
            title="Share of black frames",
        ),
        Column(
            name="uniform_share",
            dtype=pa.float64(),
            meaning="share of the stored frames that are of one color, 0 to 1; black ones are, too",
            title="Share of frames of one color",
        ),
    )
    members: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("frames",)

    max_level: Annotated[float, "Brightness of black, at most.", Bounds(0, 255)] = 25.0
    max_deviation: Annotated[float, "Deviation of the levels of one color, at most.", Bounds(0, 255)] = 3.0
    max_share: Annotated[float | None, "Drop clips with a larger share of black frames.", SHARE] = None
    max_uniform_share: Annotated[float | None, "Drop clips with a larger share of frames of one color.", SHARE] = None

    def __post_init__(self) -> None:
        check(self, "black:")

    def run(self, clip: Clip) -> StepResult:
        """Measure both shares."""
        values = {
            "black_share": black_share(clip.frames, self.max_level),
            "uniform_share": uniform_share(clip.frames, self.max_deviation),
        }
        limits = {"black_share": (None, self.max_share), "uniform_share": (None, self.max_uniform_share)}
        return StepResult(values=values, dropped=outside(values, **limits))


def black_share(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], max_level: float) -> float:
    """Share of the frames of which 98 % of the area are at most `max_level` bright (0 to 255), 0 to 1."""
    return _share([float(np.mean(_thumbnail(image) <= max_level)) >= 0.98 for image in images])


def uniform_share(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], max_deviation: float) -> float:
    """Share of the frames in which the standard deviation of each channel is at most `max_deviation` (of 255), 0 to 1.

    Black frames are uniform, too.
    """
    thumbnails = [cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for image in images]
    return _share([float(thumbnail.std(axis=(0, 1)).max()) <= max_deviation for thumbnail in thumbnails])


def _thumbnail(image: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _"]:
    """The image in shades of gray, 16 x 16."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers) if answers else 0.0
