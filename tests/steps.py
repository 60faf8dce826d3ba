"""Steps for tests. Worker processes import them from here."""

import os
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa

from avdata.prepare.steps.step import Clip, Need, StepResult
from avdata.shards import pack_npy
from avmanifest.columns import Column
from avmanifest.settings import SHARE, check


@dataclass(frozen=True)
class Light:
    """Mean brightness of the stored frames and of all frames; drops dark clips."""

    least: Annotated[float, "Share of full brightness below which a clip is dropped.", SHARE] = 0.0

    name: ClassVar[str] = "light"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column(name="light", dtype=pa.float64(), meaning="brightness, 0 to 1", in_json=True, title="Brightness"),
        Column(name="is_dim", dtype=pa.bool_(), meaning="the clip is dim", flag=True, in_json=True),
        Column(name="num_video_frames", dtype=pa.int64(), meaning="frames of the clip"),
    )
    members: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("frames", "video")

    def __post_init__(self) -> None:
        check(self)

    def run(self, clip: Clip) -> StepResult:
        light = float(np.mean([image.mean() for image in clip.frames])) / 255
        found = {"light": light, "is_dim": light < 0.2, "num_video_frames": sum(1 for _ in clip.video)}
        dropped = f"brightness {light:.3f} is below {self.least:g}" if light < self.least else ""
        return StepResult(values=found, dropped=dropped)


@dataclass(frozen=True)
class Chance:
    """A number and a member by chance, from the clip's own source of chance."""

    name: ClassVar[str] = "chance"
    version: ClassVar[int] = 3
    columns: ClassVar[tuple[Column, ...]] = (Column(name="dice", dtype=pa.int64(), meaning="a number from 1 to 6"),)
    members: ClassVar[tuple[str, ...]] = ("chance.npy",)
    needs: ClassVar[tuple[Need, ...]] = ("waveform",)

    def run(self, clip: Clip) -> StepResult:
        peak = np.abs(clip.waveform[:]).max(keepdims=True)
        numbers = np.concatenate([peak, clip.rng.random(3)]).astype(np.float32)
        return StepResult(values={"dice": clip.rng.integers(1, 7)}, members={"chance.npy": pack_npy(numbers)})


@dataclass(frozen=True)
class SameMember:
    """Writes a member of the name of Chance's."""

    name: ClassVar[str] = "same_member"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = ()
    members: ClassVar[tuple[str, ...]] = ("chance.npy",)
    needs: ClassVar[tuple[Need, ...]] = ()

    def run(self, clip: Clip) -> StepResult:
        return StepResult(members={"chance.npy": pack_npy(np.zeros(1, np.float32))})


@dataclass(frozen=True)
class Odd:
    """Does with each clip what no step should: the first of `how` with the clip of number 0, and so on."""

    how: tuple[str, ...] = ("nothing",)

    name: ClassVar[str] = "odd"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (Column(name="odd", dtype=pa.float64(), meaning="0"),)
    members: ClassVar[tuple[str, ...]] = ("odd.txt",)
    needs: ClassVar[tuple[Need, ...]] = ("frames", "waveform", "video")

    def run(self, clip: Clip) -> StepResult:
        values: dict[str, Any] = {"odd": 0.0}
        members: dict[str, Any] = {"odd.txt": b"0"}
        match self.how[int(clip.key[-6:]) % len(self.how)]:
            case "raises":
                raise RuntimeError("no more")
            case "hangs":
                time.sleep(600)
            case "dies":
                os._exit(7)
            case "eats":
                values["odd"] = float(np.ones(1 << 36).sum())
            case "prints":
                print("a line that is not JSON", flush=True)
                os.write(1, b"and another\n")
            case "forks":
                if os.fork() == 0:
                    return StepResult(values=values, members=members)
                os.wait()
            case "exits":
                sys.exit("enough")
            case "writes frames":
                clip.frames[0][:] = 0
            case "writes rows":
                clip.facts["frame_times_s"].clear()
                clip.row["labels"].append("odd")
                clip.waveform[0:100][:] = 0
            case "undeclared column":
                values["even"] = 1.0
            case "text":
                values["odd"] = "high"
            case "bool":
                values["odd"] = True
            case "nan":
                values["odd"] = float("nan")
            case "no member":
                members = {}
            case "undeclared member":
                members["even.txt"] = b"1"
            case "member of text":
                members["odd.txt"] = "0"
            case "huge member":
                members["odd.txt"] = bytes((64 << 20) + 1)
            case "list":
                return StepResult(values=[0.0], members=members)  # type: ignore[arg-type]
            case "none":
                return None  # type: ignore[return-value]
        return StepResult(values=values, members=members)


class NoDataclass:
    """No settings can be read into it."""

    name: ClassVar[str] = "none"


@dataclass(frozen=True)
class Bare:
    """Has nothing that a step has."""


@dataclass(frozen=True)
class Picky:
    """Measures the peak of the sound, and drops the clips with odd numbers. Needs members alone."""

    name: ClassVar[str] = "picky"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column(name="peak", dtype=pa.float64(), meaning="peak of the sound, 0 to 1", in_json=True),
        Column(name="rare", dtype=pa.string(), meaning="a text that few clips have", in_json=True),
    )
    members: ClassVar[tuple[str, ...]] = ("peak.txt",)
    needs: ClassVar[tuple[Need, ...]] = ("waveform", "frames")

    def run(self, clip: Clip) -> StepResult:
        number, peak = int(clip.key[-1]), float(np.abs(clip.waveform[:]).max())
        values = {"peak": peak, "rare": clip.facts["video_codec"] if number == 4 else None}
        member = f"{clip.row['video_id']} {clip.frames[0].mean()} {sorted(clip.facts)} {sorted(clip.row)}".encode()
        return StepResult(values=values, members={"peak.txt": member}, dropped="odd" if number % 2 else "")


@dataclass(frozen=True)
class Fails:
    """Raises an exception at every clip."""

    name: ClassVar[str] = "fails"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = ()
    members: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("frames",)

    def run(self, clip: Clip) -> StepResult:
        raise RuntimeError("no more")


@dataclass(frozen=True)
class Dies(Fails):
    """Ends its process."""

    name: ClassVar[str] = "dies"

    def run(self, clip: Clip) -> StepResult:
        os._exit(7)
