"""What a run tells while it works, and what it leaves behind."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from avmanifest.schema import StatusClass, status_class


@runtime_checkable
class PrepareListener(Protocol):
    """Told how a run comes along. Every method may do nothing."""

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        """The plan is frozen; so many of its clips are still to be done."""

    def clip_ended(self, status: str) -> None:
        """A clip ended with a status."""

    def step(self, name: str) -> None:
        """Something small was done, such as a step of a commit."""

    def note(self, text: str) -> None:
        """Something the user should read."""


class SilentListener:
    """A listener that tells nobody."""

    def planned(self, plan: pa.Table, num_to_do: int) -> None: ...

    def clip_ended(self, status: str) -> None: ...

    def step(self, name: str) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReport:
    """What a run left behind. `splits` is `catalog.coverage`."""

    out: Path | str
    recipe: str
    plan_hash: str
    requested: int
    ok: int
    statuses: dict[str, int]
    splits: dict[str, dict[str, Any]]
    sources: dict[str, int]  # clips located in this run, by source
    pending: int  # clips of shards that no source had anything for
    num_shards: int
    min_success: float

    @property
    def exit_code(self) -> int:
        """0 done, 1 a bug in avkit, 3 incomplete: more sources or another try would help."""
        if any(status_class(status) is StatusClass.BUG for status in self.statuses):
            return 1
        return 3 if self.pending or self.ok < self.min_success * self.requested else 0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self) | {"out": str(self.out), "exit_code": self.exit_code, "summary": self.summary}

    @property
    def summary(self) -> str:
        """One sentence on what there is and what to do next."""
        found = f"{self.ok:,} of {self.requested:,} clips are samples in {self.num_shards:,} shards of {self.out}."
        if self.exit_code == 1:
            return f"{found} Some ended in an error inside avkit: their rows have status internal and the traceback."
        if self.requested and not self.ok and self.pending == self.requested:
            names = ", ".join(self.sources) or "no source"
            return (
                f"0 of {self.requested:,} clips found in {names}. The plan is frozen in {self.out}: "
                "run the same command with a --source that holds the videos."
            )
        if self.exit_code == 3:
            return f"{found} That is incomplete (--min-success {self.min_success:g}): give more sources, or --retry."
        return found
