"""Shares of a clip's sound that are silent or clipped."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa

from avdata.prepare.steps.step import Clip, Need, StepResult, outside
from avdata.samples import Samples, pieces
from avmanifest.columns import Column
from avmanifest.settings import SHARE, Bounds, check

WINDOW: int = 160
"""Samples of which one level is measured: 10 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """How much of the sound is silent or clipped."""

    name: ClassVar[str] = "levels"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            name="silence_share",
            dtype=pa.float64(),
            meaning="share of the windows of 10 ms whose RMS is below silence_dbfs, 0 to 1",
            title="Share of silence",
        ),
        Column(
            name="clipped_share",
            dtype=pa.float64(),
            meaning="share of the samples whose absolute value is clip_level or more, 0 to 1",
            title="Share of clipping",
        ),
    )
    members: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("waveform",)

    silence_dbfs: Annotated[float, "Level of silence, dB below a full-scale square wave.", Bounds(-120, 0)] = -60.0
    clip_level: Annotated[float, "Absolute value of a clipped sample, of 1.", SHARE] = 0.99
    max_silence_share: Annotated[float | None, "Drop clips with more silence.", SHARE] = None
    max_clipped_share: Annotated[float | None, "Drop clips with more clipped samples.", SHARE] = None

    def __post_init__(self) -> None:
        check(self, "levels:")

    def run(self, clip: Clip) -> StepResult:
        """Measure both shares."""
        values = {
            "silence_share": silence_share(clip.waveform, self.silence_dbfs),
            "clipped_share": clipped_share(clip.waveform, self.clip_level),
        }
        limits = {"silence_share": (None, self.max_silence_share), "clipped_share": (None, self.max_clipped_share)}
        return StepResult(values=values, dropped=outside(values, **limits))


def silence_share(samples: Samples, level_dbfs: float) -> float:
    """Share of the windows of 10 ms whose RMS is below a level, 0 to 1; a rest at the end that is shorter is left out.

    1 for sound that is shorter than one window.

    Args:
        samples: From -1 to 1, 16 kHz.
        level_dbfs: In dB relative to a full-scale square wave.
    """
    quiet = windows = 0
    for piece in pieces(samples, 6_400 * WINDOW):
        whole = piece[: len(piece) // WINDOW * WINDOW].reshape(-1, WINDOW)
        mean_square = np.square(whole, dtype=np.float64).mean(axis=1)
        quiet += int((mean_square < 10 ** (level_dbfs / 10)).sum())
        windows += len(whole)
    return quiet / windows if windows else 1.0


def clipped_share(samples: Samples, level: float) -> float:
    """Share of the samples whose absolute value is at least `level`, 0 to 1."""
    clipped = sum(int((np.abs(piece) >= level).sum()) for piece in pieces(samples))
    return clipped / len(samples) if len(samples) else 0.0
