"""What a step of prepare is: it looks at one clip, and adds columns and members to its sample, or drops it.

A step is a frozen dataclass whose fields are its settings. `docs/adding-a-step.md` shows how to write one.
"""

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
    """A clip as its sample stores it. Nothing in it may be changed, and the frames cannot be.

    What the step does not name in its `needs` is not there: to read it raises ConfigError. Times are seconds from the
    start of the clip.
    """

    key: str
    row: Mapping[str, Any]  # of the plan, with the columns of the user's list
    facts: Mapping[str, Any]  # measured columns: those of avkit, and those of the steps before
    duration_s: float
    frames: Sequence[Image] = ()  # the stored frames, RGB, as their JPEGs hold them
    frame_times_s: Sequence[float] = ()
    # 16 kHz, mono, from -1 to 1, as the FLAC holds it; read in slices
    waveform: Samples = field(default_factory=lambda: np.zeros(0, np.float32))
    # Time and RGB image, 64 pixels on the short side, of every intact frame in the order of display. The first is the
    # one displayed at the start: its time may be below 0. They may be iterated over several times.
    video: Iterable[tuple[float, Image]] = ()
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))  # by seed, key and step


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step found in a clip."""

    values: Mapping[str, Any] = field(default_factory=dict)  # by column; one that is left out is null
    members: Mapping[str, bytes] = field(default_factory=dict)  # content by name: every member that the step declares
    dropped: str = ""  # why the clip is dropped, with the value; empty: it is kept


@runtime_checkable
class Step(Protocol):
    """A step. It is pickled and sent to the worker processes, each of which uses its copy for many clips.

    What `run` returns may depend on the clip and the step's fields alone. So the bytes of a dataset depend neither on
    the number of processes nor on their order.
    """

    name: ClassVar[str]  # [a-z][a-z0-9_]*; a dropped clip has the status filtered_NAME
    version: ClassVar[int]  # incremented when equal clips get other results: a dataset goes on with the same one only
    columns: ClassVar[tuple[Column, ...]]
    members: ClassVar[tuple[str, ...]]  # names, after KEY., of the members that it adds to every sample, in this order
    needs: ClassVar[tuple[Need, ...]]

    def run(self, clip: Clip) -> StepResult:
        """Look at the clip. What is random comes from `clip.rng`.

        An exception ends the clip as `internal`, with the step's name and the traceback as the reason.
        """
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
