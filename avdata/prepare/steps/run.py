"""Run the steps of a dataset on a clip, and check what they return."""

import hashlib
import math
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa

from avdata.images import decode_jpeg
from avdata.prepare.steps.step import Clip, Image, Step, StepResult
from avdata.samples import Samples
from avmanifest.columns import Column
from avmanifest.errors import ConfigError
from avmanifest.schema import filtered_status
from avmanifest.secrets import excerpt

ALL_FRAMES: Final = "all frames"
"""What decoding the whole video for the steps is called where their times are listed."""

MAX_MEMBER_BYTES: Final = 64 << 20
"""Bytes of a member that a step adds, at most."""


class StepError(Exception):
    """A step raised an exception, or returned what it may not. The message names the step."""


class ClipMedia:
    """Pictures and sound of a clip as its sample stores them; shared by all steps.

    Args:
        jpegs: The stored frames.
        times_s: Their times from the clip's start, in seconds.
        waveform: The sound as the FLAC holds it, 16 kHz, mono.
        video: All frames of the clip, as `Clip.video`. None: they are not there, because no step asked for them, or
            because the clip comes from a dataset, which does not have them.
    """

    def __init__(
        self,
        jpegs: Sequence[bytes],
        times_s: Sequence[float],
        waveform: Samples,
        video: Iterable[tuple[float, Image]] | None = None,
    ) -> None:
        self.times_s = tuple(times_s)
        self.waveform = waveform
        self.video = video
        self._jpegs = tuple(jpegs)

    @cached_property
    def images(self) -> tuple[Image, ...]:
        """The stored frames, RGB. They cannot be written to."""
        images = tuple(map(decode_jpeg, self._jpegs))
        for image in images:
            image.setflags(write=False)
        return images

    def clip(self, step: Step, row: Mapping[str, Any], facts: Mapping[str, Any], seed: int) -> Clip:
        """What a step sees: what it needs, and copies of the rows."""
        key = str(row["key"])
        digest = hashlib.blake2b(f"{seed}/{key}/{step.name}".encode(), digest_size=16).digest()
        if "video" in step.needs and self.video is None:
            raise StepError(f"step {step.name} needs every frame of the video, and only the clip's members are here")
        return Clip(
            key=key,
            row=deepcopy(dict(row)),
            facts=deepcopy(dict(facts)),
            duration_s=float(facts["duration_s"]),
            frames=self.images if "frames" in step.needs else _NotThere(step, "frames"),
            frame_times_s=self.times_s,
            waveform=self.waveform if "waveform" in step.needs else _NotThere(step, "waveform"),
            video=self.video if self.video is not None and "video" in step.needs else _NotThere(step, "video"),
            rng=np.random.default_rng(int.from_bytes(digest)),
        )


class _NotThere(Sequence[Any]):
    """In place of what a step does not name in its needs: it is empty, and to read it raises ConfigError."""

    def __init__(self, step: Step, need: str) -> None:
        self._message = f"step {step.name} reads {need}, but its needs are {tuple(step.needs)}: name {need!r} there"

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        raise ConfigError(self._message)

    def __getitem__(self, index: Any) -> Any:
        raise ConfigError(self._message)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsResult:
    """What the steps found in a clip. If one dropped it, those after it did not run."""

    values: dict[str, Any]  # by column, of all steps that ran; one that a step left out is None
    members: dict[str, bytes]  # in the order of the steps
    status: str = "ok"  # or filtered_NAME
    reason: str = ""


def needs_video(steps: Sequence[Step]) -> bool:
    """Whether one of the steps looks at every frame of the clip."""
    return any("video" in step.needs for step in steps)


def run_steps(
    steps: Sequence[Step],
    row: Mapping[str, Any],
    facts: Mapping[str, Any],
    media: ClipMedia,
    seed: int,
    *,
    begins: Callable[[str], None] = lambda _: None,
    seconds: dict[str, float] | None = None,
) -> StepsResult:
    """Run the steps in their order, each with the columns of those before it, until one drops the clip.

    Args:
        steps: The steps.
        row: The clip's row of the plan.
        facts: Its measured columns.
        media: Its pictures and sound.
        seed: The dataset's seed.
        begins: Receives the name of every step before it runs.
        seconds: Receives the processor time of every step, in seconds.

    Raises:
        StepError: A step raised an exception, or returned a column or member that it did not declare, a value of
            another type or that is not finite, or a member that is too large.
        MemoryError: A step needs more memory than the process may have.
    """
    values: dict[str, Any] = {}
    members: dict[str, bytes] = {}
    for step in steps:
        begins(step.name)
        begun_s = time.process_time()
        try:
            result = _run(step, media.clip(step, row, {**facts, **values}, seed))
        finally:
            if seconds is not None:
                seconds[step.name] = time.process_time() - begun_s
        values |= _checked_columns(step, result.values)
        if result.dropped:
            return StepsResult(values=values, members={}, status=filtered_status(step.name), reason=result.dropped)
        members |= _checked_members(step, result.members)
    return StepsResult(values=values, members=members)


def _run(step: Step, clip: Clip) -> StepResult:
    process = os.getpid()
    try:
        result = step.run(clip)
    except (MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit in a step, too
        raise StepError(f"step {step.name}: {traceback.format_exc()}") from error
    finally:
        if os.getpid() != process:
            os._exit(1)  # the step forked, and this is the copy: it must not go on with the clip, too
    if not isinstance(result, StepResult):
        raise StepError(f"step {step.name} returned {excerpt(repr(result), 100)}, not a StepResult")
    for name, found in (("values", result.values), ("members", result.members)):
        if not isinstance(found, Mapping):
            raise StepError(f"step {step.name}: {name} is {excerpt(repr(found), 100)}, not a dictionary by name")
    if not isinstance(result.dropped, str):
        raise StepError(
            f"step {step.name}: dropped is {excerpt(repr(result.dropped), 100)}, not a text with the reason"
        )
    return result


def _checked_columns(step: Step, values: Mapping[str, Any]) -> dict[str, Any]:
    known = {column.name: column for column in step.columns}
    if others := set(values) - set(known):
        raise StepError(
            f"step {step.name} returned the column {excerpt(str(min(others, key=str)), 80)}, which it does not "
            f"declare; declared: {', '.join(known) or 'none'}"
        )
    return {name: _checked_value(step, column, values.get(name)) for name, column in known.items()}


def _checked_value(step: Step, column: Column, value: Any) -> Any:
    """The value as Parquet returns it: Python's own numbers and texts."""
    try:
        if column.dtype == pa.bool_() or not isinstance(value, bool):
            stored = pa.array([value], column.dtype).to_pylist()[0]
            if _is_finite(stored):
                return stored
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        pass
    raise StepError(
        f"step {step.name}: the column {column.name} is {excerpt(repr(value), 100)}, not a finite {column.dtype} or "
        "None"
    )


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _checked_members(step: Step, members: Mapping[str, Any]) -> dict[str, bytes]:
    if set(members) != set(step.members):
        raise StepError(
            f"step {step.name} returned the members {sorted(map(str, members))}; declared, and the same in every "
            f"sample: {sorted(step.members)}"
        )
    for name, content in members.items():
        if not isinstance(content, bytes) or len(content) > MAX_MEMBER_BYTES:
            what = f"{len(content):,} bytes" if isinstance(content, bytes) else type(content).__name__
            raise StepError(
                f"step {step.name}: the member {name} is {what}; a member is bytes, at most {MAX_MEMBER_BYTES:,}"
            )
    return {name: members[name] for name in step.members}
