"""Quality flags of clips: silent, still or short ones are kept and flagged, so that training can exclude them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from avdata.samples import Samples
from avdata.waveform import rms_dbfs

SILENT_DBFS = -70.0  # recordings of quiet rooms reach -67; muted tracks, with dither, are below -85
STILL_LEVELS = 1.0  # of 255: codec noise on a still image is below
SHORT_TOLERANCE_S = 0.25  # clips of 10 s can be 9.94 s long, because AAC packets and key frames do not end at the cut


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFlags:
    """silent: no audible sound. still: all frames, of several, are nearly equal. short: less media than requested."""

    silent: bool
    still: bool
    short: bool


def quality_flags(
    waveform: Samples,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    asked_s: float,
    real_s: float,
) -> QualityFlags:
    """The flags of a clip.

    Args:
        waveform: Samples from -1 to 1.
        images: The stored frames, RGB.
        asked_s: Seconds that the plan requests; 0: not known.
        real_s: Seconds that the media have.
    """
    return QualityFlags(
        silent=rms_dbfs(waveform) < SILENT_DBFS,
        still=len(images) > 1 and largest_difference(images) < STILL_LEVELS,  # one frame tells nothing of it
        short=real_s < asked_s - SHORT_TOLERANCE_S,
    )


def largest_difference(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> float:
    """Largest mean absolute difference between any two images, 0 to 255, on every eighth pixel of every eighth row.

    255 for images that differ in size, 0 for fewer than two.
    """
    if len({image.shape for image in images}) > 1:
        return 255.0
    thumbnails = [image[::8, ::8].astype(np.int16) for image in images]
    pairs = ((image, other) for i, image in enumerate(thumbnails) for other in thumbnails[:i])
    return max((float(np.abs(image - other).mean()) for image, other in pairs), default=0.0)
