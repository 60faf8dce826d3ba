"""Progress of a dataset that is being prepared, readable by other processes (`avkit status`).

Each run writes a small file in its workspace. The clips of committed shards are counted from the shards themselves.
"""

import contextlib
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from avdata.prepare.catalog import planned_shards
from avdata.prepare.commit import is_abandoned, read_stats
from avdata.prepare.plan import is_appended
from avdata.prepare.report import PrepareListener
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.files import read_file, replace_text
from avmanifest.layout import Layout, ShardName
from avmanifest.names import near_paths
from avmanifest.parsing import parse_object
from avmanifest.schema import CLIP_SCHEMA, PLAN_SCHEMA
from avmanifest.secrets import without_secrets
from avmanifest.table import read_batches

PROGRESS_FILE: Final = "progress.json"
EVERY_S: Final = 1.0
"""Shortest time between two writes of the file."""


class ProgressWriter:
    """A listener that writes the run's progress to a file and passes every event on to another listener.

    An error in writing the file is ignored: it does not stop the run.

    Args:
        listener: Receives every event.
        folder: The run's workspace, in which the file is written.

    Attributes:
        sources: Gives the state of each remote source; see DownloadStage.snapshot.
    """

    def __init__(self, listener: PrepareListener, folder: Path) -> None:
        self.sources: Callable[[], dict[str, dict[str, Any]]] = dict
        self._listener = listener
        self._path = folder / PROGRESS_FILE
        self._ended: Counter[str] = Counter()
        self._to_do = 0
        self._started = time.time()
        self._next = 0.0  # monotonic

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        """Write the number of clips to do and the time at which the run starts."""
        self._to_do, self._started = num_to_do, time.time()
        self._listener.planned(plan, num_to_do)
        self._write()

    def clip_ended(self, status: str) -> None:
        """Count the clip."""
        self._ended[status] += 1
        self._listener.clip_ended(status)
        self._write()

    def shards(self, done: int, total: int) -> None:
        """Pass on the event: committed shards are counted from the disk."""
        self._listener.shards(done, total)

    def step(self, name: str) -> None:
        """Pass on the event; steps are not written."""
        self._listener.step(name)

    def note(self, text: str) -> None:
        """Write the state of the sources, one of which may have been paused."""
        self._listener.note(without_secrets(text))
        self._write()

    def _write(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        content = {
            "pid": os.getpid(),
            "host": platform.node(),
            "started": self._started,
            "updated": time.time(),
            "to_do": self._to_do,
            "ended": dict(self._ended),
            "sources": self.sources(),
        }
        with contextlib.suppress(OSError):
            replace_text(self._path, json.dumps(content))


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRun:
    """A run that is in progress."""

    pid: int
    host: str
    started: float  # seconds since the epoch
    updated: float  # seconds since the epoch
    to_do: int  # clips
    ended: dict[str, int]  # clips by status, committed or not
    sources: dict[str, dict[str, Any]]  # state of the remote sources, as DownloadStage.snapshot

    @property
    def per_s(self) -> float:
        """Clips per second since the start."""
        return sum(self.ended.values()) / max(self.updated - self.started, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at that rate; None before the first clip has ended."""
        return (self.to_do - sum(self.ended.values())) / self.per_s if self.ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The state of a dataset and of the runs that prepare it."""

    out: Path
    requested: int  # clips
    committed: dict[str, int]  # clips of committed shards by status; a retried clip counts with its last status
    num_shards: int
    num_committed_shards: int
    runs: list[ActiveRun]

    def as_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        runs = [asdict(run) | {"per_s": run.per_s, "left_s": run.left_s} for run in self.runs]
        return asdict(self) | {"out": str(self.out), "runs": runs}


def read_progress(layout: Layout) -> Progress:
    """Read the progress of a dataset, while it is prepared or later.

    Raises:
        ConfigError: There is no plan: no run has started there.
    """
    parts = layout.plan_parts()
    if not parts:
        near = "" if layout.root.exists() else near_paths(layout.root)
        raise ConfigError(
            f"{layout.root}: no run of prepare has started here. Give the --out of an `avkit prepare`.{near}"
        )
    shards: list[ShardName] = []
    requested = 0
    for part, path in enumerate(parts):
        is_retry = part > 0 and not is_appended(path)
        for batch in read_batches(path, PLAN_SCHEMA, ["split", "shard"]):
            pairs = zip(batch.column("split").to_pylist(), batch.column("shard").to_pylist(), strict=True)
            shards += dict.fromkeys(ShardName(*pair) for pair in pairs)
            requested += 0 if is_retry else len(batch)
    shards = list(dict.fromkeys(shards))
    committed = [shard for shard in shards if layout.stats(shard).exists()]
    return Progress(
        out=layout.root,
        requested=requested,
        committed=_statuses(layout, committed, retried=len(parts) > 1),
        num_shards=len(shards),
        num_committed_shards=len(committed),
        runs=_active_runs(layout),
    )


def _statuses(layout: Layout, shards: list[ShardName], *, retried: bool) -> dict[str, int]:
    """Number of clips by status. A retried clip is in two shards; the later one counts."""
    counts: Counter[str] = Counter()
    if retried:
        counts.update(_latest(layout, shards).values())
    else:
        for shard in shards:
            with contextlib.suppress(ShardError):  # damaged: the next run prepares it again
                counts.update(read_stats(layout, shard)["status_dict"])
    return dict(counts.most_common())


def latest_statuses(layout: Layout) -> dict[str, str]:
    """The status of each clip of committed shards by key; a retried clip has that of its last retry."""
    shards = [planned.shard for planned in planned_shards(layout) if layout.stats(planned.shard).exists()]
    return _latest(layout, shards)


def _latest(layout: Layout, shards: Iterable[ShardName]) -> dict[str, str]:
    latest: dict[str, str] = {}
    for shard in shards:
        for batch in read_batches(layout.clips(shard), CLIP_SCHEMA, ["key", "status"]):
            latest |= zip(batch.column("key").to_pylist(), batch.column("status").to_pylist(), strict=True)
    return latest


def _active_runs(layout: Layout) -> list[ActiveRun]:
    """The runs whose workspaces are locked."""
    runs = []
    for path in sorted(layout.temporary.glob(f"*/{PROGRESS_FILE}")):
        with contextlib.suppress(OSError, ManifestError, TypeError):  # the run may end meanwhile
            if not is_abandoned(path.parent / "alive.lock"):
                runs.append(ActiveRun(**parse_object(read_file(path), path)))
    return runs
