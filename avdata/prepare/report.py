"""The progress events of a run of prepare, and the report at its end."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from avmanifest.failures import FailedClip
from avmanifest.schema import StatusClass, is_failure, status_class
from avmanifest.wording import counted


@runtime_checkable
class PrepareListener(Protocol):
    """Receives the progress events of a run. An exception that a method raises ends the run."""

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        """The plan (PLAN_SCHEMA) is frozen, and `num_to_do` of its clips are still to be prepared."""

    def clip_ended(self, status: str) -> None:
        """A clip ended with this status of the manifest."""

    def shards(self, done: int, total: int) -> None:
        """Of the shards that this run has to make, so many have ended: committed, or without any clip in a source."""

    def step(self, name: str) -> None:
        """A step was done, such as one file of a shard written."""

    def note(self, text: str) -> None:
        """A message for the user."""


class SilentListener:
    """A listener that ignores all events."""

    def planned(self, plan: pa.Table, num_to_do: int) -> None: ...

    def clip_ended(self, status: str) -> None: ...

    def shards(self, done: int, total: int) -> None: ...

    def step(self, name: str) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What the steps of a run cost: clips and processor seconds, by name in the order of the steps."""

    clips: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds of one clip."""
        self.clips.update(seconds.keys())
        self.seconds.update(seconds)

    def add_all(self, other: "StepCosts") -> None:
        """Add the costs of another run of the same steps."""
        self.clips.update(other.clips)
        self.seconds.update(other.seconds)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PrepareReport:
    """The result of a run."""

    out: Path | str
    recipe: str
    plan_hash: str
    requested: int  # clips
    ok: int  # clips that are samples
    statuses: dict[str, int]  # clips by status
    splits: dict[str, dict[str, Any]]  # as catalog.coverage
    sources: dict[str, int]  # clips located in this run, by source
    pending: int  # clips of shards for which no source had any clip
    num_shards: int
    min_success: float
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)  # of this run: clips, seconds, dropped, by step
    failed: tuple[FailedClip, ...] = ()  # some of the failed clips, of every status
    tracebacks: str = ""  # where those of clips with status internal are

    def __repr__(self) -> str:
        failed = ", ".join(f"{status} {count:,}" for status, count in self.statuses.items() if is_failure(status))
        return f"PrepareReport({self.summary}{f' Failed: {failed}.' if failed else ''})"

    @property
    def filtered(self) -> int:
        """Clips that a step dropped."""
        return sum(n for status, n in self.statuses.items() if status_class(status) is StatusClass.FILTERED)

    @property
    def num_failed(self) -> int:
        """Clips that failed: neither samples, nor dropped by a step, nor removed."""
        return sum(n for status, n in self.statuses.items() if is_failure(status))

    @property
    def exit_code(self) -> int:
        """0 done, 1 a bug in avkit or a step, 3 incomplete: give more sources or try again.

        Clips that a step dropped are no failures: the least share of samples is one of the other clips.
        """
        if any(status_class(status) is StatusClass.BUG for status in self.statuses):
            return 1
        wanted = self.requested - self.filtered
        return 3 if self.pending or self.ok < self.min_success * wanted else 0

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-compatible data."""
        return asdict(self) | {"out": str(self.out), "exit_code": self.exit_code, "summary": self.summary}

    @property
    def summary(self) -> str:
        """What the dataset holds and, if it is incomplete, what to do next."""
        are = "is a sample" if self.ok == 1 else "are samples"
        of = f"{self.ok:,} of {counted(self.requested, 'clip')} {are}"
        counts = f"{of} in {counted(self.num_shards, 'shard')} of {self.out}."
        if self.filtered:
            counts += f" Steps dropped {self.filtered:,}."
        if self.exit_code == 1:
            where = "avkit or a step" if self.steps else "avkit"
            return f"{counts} Some ended in an error inside {where}: the tracebacks are in {self.tracebacks}."
        if self.requested and not self.ok and self.pending == self.requested:
            names = ", ".join(self.sources) or "no source"
            return (
                f"0 of {counted(self.requested, 'clip')} found in {names}. The plan is frozen in {self.out}: "
                "run the same command with a --source that holds the videos."
            )
        if self.exit_code == 3:
            return f"{counts} That is incomplete (--min-success {self.min_success:g})."
        return counts
