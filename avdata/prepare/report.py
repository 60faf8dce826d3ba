"""The progress events of a run of prepare, and the report at its end."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from avmanifest.schema import StatusClass, status_class


@runtime_checkable
class PrepareListener(Protocol):
    """Receives the progress events of a run. An exception that a method raises ends the run."""

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        """The plan (PLAN_SCHEMA) is frozen, and `num_to_do` of its clips are still to be prepared."""

    def clip_ended(self, status: str) -> None:
        """A clip ended with this status of the manifest."""

    def step(self, name: str) -> None:
        """A step was done, such as one file of a shard written."""

    def note(self, text: str) -> None:
        """A message for the user."""


class SilentListener:
    """A listener that ignores all events."""

    def planned(self, plan: pa.Table, num_to_do: int) -> None: ...

    def clip_ended(self, status: str) -> None: ...

    def step(self, name: str) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
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

    @property
    def exit_code(self) -> int:
        """0 done, 1 a bug in avkit, 3 incomplete: give more sources or try again."""
        if any(status_class(status) is StatusClass.BUG for status in self.statuses):
            return 1
        return 3 if self.pending or self.ok < self.min_success * self.requested else 0

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-compatible data."""
        return asdict(self) | {"out": str(self.out), "exit_code": self.exit_code, "summary": self.summary}

    @property
    def summary(self) -> str:
        """What the dataset holds and, if it is incomplete, what to do next."""
        counts = f"{self.ok:,} of {self.requested:,} clips are samples in {self.num_shards:,} shards of {self.out}."
        if self.exit_code == 1:
            return f"{counts} Some ended in an error inside avkit: their rows have status internal and the traceback."
        if self.requested and not self.ok and self.pending == self.requested:
            names = ", ".join(self.sources) or "no source"
            return (
                f"0 of {self.requested:,} clips found in {names}. The plan is frozen in {self.out}: "
                "run the same command with a --source that holds the videos."
            )
        if self.exit_code == 3:
            return f"{counts} That is incomplete (--min-success {self.min_success:g}): give more sources, or --retry."
        return counts
