"""Flags for clips that teach little: kept, and marked in the manifest so that a run can leave them out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from avdata.waveform import rms_dbfs

SILENT_DBFS = -70.0  # recordings of quiet rooms reach -67; muted tracks, dither included, lie below -85
STILL_LEVELS = 1.0  # of 255: codec noise on a picture that does not move stays below
SHORT_TOLERANCE_S = 0.25  # real clips of 10 s come 9.94 s long: AAC packets and key frames end where they end


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFlags:
    """silent: no sound to learn from. still: one picture throughout. short: less of the clip exists than asked for."""

    silent: bool
    still: bool
    short: bool


def quality_flags(
    waveform: Float32[np.ndarray, " n"],
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    asked_s: float,
    real_s: float,
) -> QualityFlags:
    """The flags of a clip: its sound, its stored frames, and the seconds of it asked for and found."""
    return QualityFlags(
        silent=rms_dbfs(waveform) < SILENT_DBFS,
        still=largest_difference(images) < STILL_LEVELS,
        short=real_s < asked_s - SHORT_TOLERANCE_S,
    )


def largest_difference(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> float:
    """Largest mean absolute difference between any two images, 0 to 255, on every eighth pixel of every eighth row.

    255 for images that differ in size, 0 for fewer than two.
    """
    if len({image.shape for image in images}) > 1:
        return 255.0
    thumbnails = [image[::8, ::8].astype(np.int16) for image in images]
    pairs = ((one, other) for i, one in enumerate(thumbnails) for other in thumbnails[:i])
    return max((float(np.abs(one - other).mean()) for one, other in pairs), default=0.0)
