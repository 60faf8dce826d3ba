"""Where a video cuts from one shot to another, by the detectors of PySceneDetect."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from avdata.prepare.steps.step import Clip, Need, StepResult, outside
from avmanifest.columns import Column
from avmanifest.extras import require_extras
from avmanifest.settings import Bounds, check

_ANY_RATE = 25.0  # the detectors count frames; their times are kept here


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Cuts between shots."""

    name: ClassVar[str] = "cuts"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column(name="num_cuts", dtype=pa.int32(), meaning="cuts between shots", title="Cuts"),
        Column(
            name="cut_times_s",
            dtype=pa.list_(pa.float64()),
            meaning="times of the first frames of new shots, from the clip's start",
            unit="s",
        ),
        Column(
            name="longest_shot_s",
            dtype=pa.float64(),
            meaning="longest part of the clip without a cut",
            unit="s",
            title="Longest shot",
        ),
    )
    members: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("video",)

    detector: Annotated[str, "Detector of PySceneDetect.", ("adaptive", "content")] = "adaptive"
    max_cuts: Annotated[int | None, "Drop clips with more cuts.", Bounds(0)] = None
    min_shot_s: Annotated[float | None, "Drop clips whose longest shot is shorter, seconds.", Bounds(0)] = None

    def __post_init__(self) -> None:
        check(self, "cuts:")
        require_extras("scenedetect")

    def run(self, clip: Clip) -> StepResult:
        """Find the cuts."""
        times_s = cut_times(clip.video, self.detector)
        values = {
            "num_cuts": len(times_s),
            "cut_times_s": times_s,
            "longest_shot_s": longest_shot_s(times_s, clip.duration_s),
        }
        limits = {"num_cuts": (None, self.max_cuts), "longest_shot_s": (self.min_shot_s, None)}
        return StepResult(values=values, dropped=outside(values, **limits))


def cut_times(frames: Iterable[tuple[float, UInt8[np.ndarray, "_ _ 3"]]], detector: str) -> list[float]:
    """Times of the first frames of new shots, ascending, in seconds.

    Args:
        frames: Times in seconds and RGB images of one size of the clip's frames, in the order of display. 64 pixels on
            the short side are enough.
        detector: `content`: the mean difference of hue, saturation and brightness to the frame before is 27 (of 255)
            or more. `adaptive`: it is 15 or more, and 3 times that of the 2 frames before and the 2 after. So a fast
            motion is no cut, but neither is a cut in the first or last 2 frames.
    """
    from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode  # noqa: PLC0415 - an extra

    found: Any = (ContentDetector if detector == "content" else AdaptiveDetector)(min_scene_len=0)
    times_s: list[float] = []
    cuts: list[int] = []
    for number, (time_s, image) in enumerate(frames):
        times_s.append(time_s)
        bgr = np.ascontiguousarray(image[..., ::-1])
        cuts += [cut.frame_num for cut in found.process_frame(FrameTimecode(number, _ANY_RATE), bgr)]
    return [times_s[number] for number in cuts]


def longest_shot_s(cuts: list[float], duration_s: float) -> float:
    """Seconds of the longest part of the clip without a cut."""
    return max(end_s - start_s for start_s, end_s in pairwise([0.0, *cuts, duration_s]))
