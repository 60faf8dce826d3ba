"""Where a video cuts from one shot to another, by the detectors of PySceneDetect."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from avmanifest.extras import naming_extras

Detector = Literal["content", "adaptive"]

_ANY_RATE = 25.0  # the detectors count frames; their times are kept here


def cut_times(frames: Iterable[tuple[float, UInt8[np.ndarray, "_ _ 3"]]], detector: Detector) -> list[float]:
    """Times of the first frames of new shots, ascending, in seconds.

    Args:
        frames: Times in seconds and RGB images of one size of the clip's frames, in the order of display. 64 pixels on
            the short side are enough.
        detector: `content`: the mean difference of hue, saturation and brightness to the frame before is 27 (of 255)
            or more. `adaptive`: it is 15 or more, and 3 times that of the 2 frames before and the 2 after. So a fast
            motion is no cut, but neither is a cut in the first or last 2 frames.

    Raises:
        ConfigError: PySceneDetect is not installed.
    """
    with naming_extras():
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
