"""How far a run is, for whoever looks from outside: a mark in the run's workspace, and what is committed."""

import contextlib
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from avdata.prepare.commit import is_abandoned, read_stats
from avdata.prepare.report import PrepareListener
from avmanifest.errors import ConfigError, ShardError
from avmanifest.files import replace_text
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA, PLAN_SCHEMA
from avmanifest.table import read_batches

MARK: Final = "progress.json"
EVERY_S: Final = 1.0
"""Between two marks at least; a file that nobody may read is not worth more."""


class ProgressMark:
    """A listener that passes everything on and leaves a mark of it; a disk that is full costs the mark alone."""

    def __init__(self, listener: PrepareListener, folder: Path) -> None:
        self.sources: Callable[[], dict[str, dict[str, Any]]] = dict
        self._listener = listener
        self._path = folder / MARK
        self._ended: Counter[str] = Counter()
        self._to_do = 0
        self._started = time.time()
        self._next = 0.0  # monotonic

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        """The work begins."""
        self._to_do, self._started = num_to_do, time.time()
        self._listener.planned(plan, num_to_do)
        self._write()

    def clip_ended(self, status: str) -> None:
        """One more."""
        self._ended[status] += 1
        self._listener.clip_ended(status)
        self._write()

    def step(self, name: str) -> None:
        """Nothing to mark."""
        self._listener.step(name)

    def note(self, text: str) -> None:
        """A pause may have begun."""
        self._listener.note(text)
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
    """A run that lives."""

    pid: int
    host: str
    started: float  # seconds since the epoch
    updated: float
    to_do: int
    ended: dict[str, int]  # by status, committed or not
    sources: dict[str, dict[str, Any]]  # of what is fetched, as DownloadStage.snapshot

    @property
    def per_s(self) -> float:
        """Clips a second."""
        return sum(self.ended.values()) / max(self.updated - self.started, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at that rate; None while nobody can tell."""
        return (self.to_do - sum(self.ended.values())) / self.per_s if self.ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a dataset is."""

    out: Path
    requested: int
    committed: dict[str, int]  # clips of existing shards by status, each with the latest that is known of it
    num_shards: int
    num_committed_shards: int
    runs: list[ActiveRun]

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        runs = [asdict(run) | {"per_s": run.per_s, "left_s": run.left_s} for run in self.runs]
        return asdict(self) | {"out": str(self.out), "runs": runs}


def read_progress(layout: Layout) -> Progress:
    """What is on disk of a dataset, while it is made or after. Raises ConfigError if no run has begun there."""
    parts = layout.plan_parts()
    if not parts:
        raise ConfigError(f"{layout.root}: no run of prepare has begun here")
    shards: list[ShardName] = []
    requested = 0
    for part, path in enumerate(parts):
        for batch in read_batches(path, PLAN_SCHEMA, ["split", "shard"]):
            pairs = zip(batch.column("split").to_pylist(), batch.column("shard").to_pylist(), strict=True)
            shards += dict.fromkeys(ShardName(*pair) for pair in pairs)
            requested += 0 if part else len(batch)
    shards = list(dict.fromkeys(shards))
    committed = [shard for shard in shards if layout.stats(shard).exists()]
    return Progress(
        out=layout.root,
        requested=requested,
        committed=_statuses(layout, committed, retried=len(parts) > 1),
        num_shards=len(shards),
        num_committed_shards=len(committed),
        runs=_living(layout),
    )


def _statuses(layout: Layout, shards: list[ShardName], *, retried: bool) -> dict[str, int]:
    """Clips by status. With retries a clip is in two shards, and the later one counts."""
    counts: Counter[str] = Counter()
    if retried:
        latest: dict[str, str] = {}
        for shard in shards:
            for batch in read_batches(layout.clips(shard), CLIP_SCHEMA, ["key", "status"]):
                latest |= zip(batch.column("key").to_pylist(), batch.column("status").to_pylist(), strict=True)
        counts.update(latest.values())
    else:
        for shard in shards:
            with contextlib.suppress(ShardError):  # damaged: the next run makes it again
                counts.update(read_stats(layout, shard)["status_dict"])
    return dict(counts.most_common())


def _living(layout: Layout) -> list[ActiveRun]:
    """The runs whose workspaces somebody holds."""
    runs = []
    for path in sorted(layout.temporary.glob(f"*/{MARK}")):
        with contextlib.suppress(OSError, ValueError, TypeError):  # it may end while we look
            if not is_abandoned(path.parent / "alive.lock"):
                runs.append(ActiveRun(**json.loads(path.read_bytes())))
    return runs
