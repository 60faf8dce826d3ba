"""What a step of prepare is: it looks at one clip, and adds columns and members to its sample, or drops it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from avdata.samples import Samples
from avmanifest.columns import Column

Need = Literal["frames", "waveform", "video"]
"""What a step looks at: the stored frames, the sound, or every frame of the clip."""

Image = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A decoded clip, as a step gets it. Nothing in it may be changed.

    What the step does not need (`Step.needs`) may be empty. Times are seconds from the start of the clip.
    """

    key: str
    row: Mapping[str, Any]  # of the plan, with the columns of the user's list
    facts: Mapping[str, Any]  # measured columns: those of avkit, and those of the steps before
    duration_s: float
    frames: Sequence[Image] = ()  # the stored frames, RGB
    frame_times_s: Sequence[float] = ()
    waveform: Samples = field(default_factory=lambda: np.zeros(0, np.float32))  # 16 kHz, mono, from -1 to 1
    video: Iterable[tuple[float, Image]] = ()  # time and small RGB image of every frame; may be iterated several times
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A value for each of the step's columns, its members, and why the clip is dropped (empty: it is not)."""

    values: Mapping[str, Any]
    members: Mapping[str, bytes] = field(default_factory=dict)
    dropped: str = ""


@runtime_checkable
class Step(Protocol):
    """A step: a frozen dataclass whose fields are its settings."""

    name: ClassVar[str]  # [a-z][a-z0-9_]*; a dropped clip has the status filtered_NAME
    version: ClassVar[int]  # incremented when equal clips get other values
    columns: ClassVar[tuple[Column, ...]]
    members: ClassVar[tuple[str, ...]]  # names of the members that it writes
    needs: ClassVar[tuple[Need, ...]]

    def run(self, clip: Clip) -> StepResult:
        """Look at the clip. Equal clips must give equal results; what is random comes from `clip.rng`."""
        ...


def outside(values: Mapping[str, Any], **limits: tuple[int | float | None, int | float | None]) -> str:
    """Why a clip is dropped: the first of its values that lies outside its limits, in words; empty if none does.

    Args:
        values: The step's columns. A value that is None is within all limits.
        limits: Least and greatest value of columns. None: no limit.
    """
    for name, (least, most) in limits.items():
        value = values[name]
        if value is not None and least is not None and value < least:
            return f"{name} is {value:.4g}; at least {least:g} was asked for"
        if value is not None and most is not None and value > most:
            return f"{name} is {value:.4g}; at most {most:g} was asked for"
    return ""
