"""Build new shards from the clips of prepared datasets, in a folder aside."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from avdata.prepare.bucket import local_folder, place_of
from avdata.prepare.catalog import PlannedShard, planned_shards, shard_problem
from avdata.prepare.commit import (
    EndedShard,
    Observer,
    build_shard,
    disk_errors,
    is_committed,
    read_stats,
    storage_errors,
)
from avdata.prepare.config import Supervision
from avdata.prepare.description import read_description
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.segments import Segment
from avdata.prepare.supervise import Crashed, Raised, Returned, TimedOut, report_stage, supervise
from avmanifest.columns import Column
from avmanifest.errors import AvkitError, ConfigError, ShardError, StorageError
from avmanifest.files import open_file, remove
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.secrets import shown_url
from avmanifest.table import read_table
from avmanifest.wording import counted

Edit = Callable[[StoredClip], Segment]
"""Makes the clip of the new shard. Must be picklable."""


class Place(NamedTuple):
    """Where a clip is stored."""

    root: Path  # of its dataset
    shard: ShardName
    number: int  # of its row in the shard


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared dataset that an operation reads.

    `shards` are those of the plan that exist, in the plan's order; `num_missing` are not prepared yet.
    """

    layout: Layout
    description: Mapping[str, Any]
    shards: tuple[PlannedShard, ...]
    num_missing: int

    @classmethod
    def read(cls, layout: Layout, versions: tuple[int, ...]) -> "Prepared":
        """The dataset of a folder. Raises ManifestError if it cannot be read, or is of another format version."""
        description = read_description(layout, versions)
        planned = tuple(planned_shards(layout))
        present = tuple(one for one in planned if layout.stats(one.shard).exists())
        return cls(layout, description, present, len(planned) - len(present))

    def require_whole(self) -> None:
        """Raise ConfigError if a shard is not prepared yet."""
        if self.num_missing:
            missing = counted(self.num_missing, "shard is", "shards are")
            raise ConfigError(
                f"{self.layout.root}: {missing} not prepared yet. Run the same avkit prepare to its end first."
            )

    def places(self) -> dict[str, Place]:
        """The place of every clip, by key: of a clip that was retried, that of its last retry."""
        return {
            key: Place(self.layout.root, planned.shard, number)
            for planned in self.shards
            for number, key in enumerate(planned.rows.column("key").to_pylist())
        }


def folder_of(place: str | Path, why_not_remote: str) -> Path:
    """The folder of a prepared dataset on this machine. Raises ConfigError for anything else."""
    folder = local_folder(place_of(place))
    if folder is None:
        raise ConfigError(f"{shown_url(str(place))}: {why_not_remote}")
    if not (folder / "dataset.json").is_file():
        raise ConfigError(f"{folder}: no dataset.json, so not a prepared dataset. Give the --out of an avkit prepare.")
    return folder


@dataclass(frozen=True, slots=True)
class NewShard:
    """A shard to build.

    `clips` are where its clips are; None: all of the present shard of this name. `planned` are the rows of the plan for
    these clips, in their order, for edits that need them.
    """

    shard: ShardName
    clips: tuple[Place, ...] | None = None
    planned: pa.Table | None = None

    def sources(self, root: Path) -> set[tuple[Path, ShardName]]:
        """The shards that are read. `root` is that of the present shard of this name."""
        return {(root, self.shard)} if self.clips is None else {(place.root, place.shard) for place in self.clips}


def shards_of_plan(plan: pa.Table, places: Mapping[str, Place], *, with_rows: bool = False) -> tuple[NewShard, ...]:
    """The shards of a plan.

    Args:
        plan: Rows of PLAN_SCHEMA, ordered by split, shard and position.
        places: Where the clip of each key is stored.
        with_rows: Give the shards their rows, too.
    """
    clips: dict[ShardName, list[Place]] = {}
    columns = (plan.column(name).to_pylist() for name in ("key", "split", "shard"))
    for key, split, number in zip(*columns, strict=True):
        clips.setdefault(ShardName(split, number), []).append(places[key])
    shards, start = [], 0
    for shard, found in clips.items():
        shards.append(NewShard(shard, tuple(found), plan.slice(start, len(found)) if with_rows else None))
        start += len(found)
    return tuple(shards)


@dataclass(frozen=True, slots=True)
class Built:
    """What was built, by this run or by earlier ones."""

    num_shards: int
    num_clips: int
    bytes_read: int
    bytes_written: int


def build_shards(
    datasets: Sequence[Prepared],
    target: Layout,
    shards: Sequence[NewShard],
    edit: Edit,
    *,
    plan_hash: str,
    columns: tuple[Column, ...],
    num_workers: int,
    observe: Observer,
) -> Built:
    """Check the shards that are read, and build the new ones.

    Args:
        datasets: Those that have the clips. `NewShard.clips` None means a shard of the first.
        target: Where the new files are written. Shards that are whole there are kept.
        shards: What to build.
        edit: Makes the new clips.
        plan_hash: Of the new dataset.
        columns: The extra columns of the new rows.
        num_workers: Processes.
        observe: Receives the name of every step.

    Raises:
        ShardError: A shard that is read is damaged.
        StorageError: A file cannot be written, or a worker process died.
    """
    root = datasets[0].layout.root
    used = set().union(*(shard.sources(root) for shard in shards))
    num_checked = 0
    with ThreadPoolExecutor(num_workers) as pool:
        for dataset in datasets:
            check = partial(_refuse_damaged, dataset.layout, str(dataset.description["plan_hash"]))
            read = [one for one in dataset.shards if (dataset.layout.root, one.shard) in used]
            num_checked += sum(pool.map(check, read))
    jobs = [_Job(root, target.root, shard, edit, plan_hash, columns) for shard in shards]
    waiting = [job for job in jobs if not job.is_built()]
    for shard in _build_all(waiting, num_workers):
        observe(f"{shard}: built")
    return Built(
        num_shards=len(jobs),
        num_clips=sum(read_stats(target, job.new.shard)["count"] for job in jobs),
        bytes_read=2 * num_checked if waiting else num_checked,
        bytes_written=sum(read_stats(target, job.new.shard)["files"]["tar"]["bytes"] for job in waiting),
    )


def _refuse_damaged(layout: Layout, plan_hash: str, planned: PlannedShard) -> int:
    """Bytes of a shard's tar. Raises ShardError if it is damaged or not the plan's."""
    if (problem := shard_problem(layout, planned, plan_hash, hashes=True)) is not None:
        raise ShardError(f"{problem}. Mend the dataset first: avkit verify --repair, then the same avkit prepare.")
    return int(read_stats(layout, planned.shard)["files"]["tar"]["bytes"])


@dataclass(frozen=True, slots=True)
class _Job:
    """A shard to build, as sent to a worker process."""

    root: Path  # of the present shard of this name
    target: Path
    new: NewShard
    edit: Edit
    plan_hash: str
    columns: tuple[Column, ...]  # the extra columns of the new rows

    def is_built(self) -> bool:
        """Whether an earlier run has built the shard."""
        return is_committed(Layout(self.target), self.new.shard, self.plan_hash, hashes=True)

    def build(self) -> None:
        """Build and verify the shard."""
        files = Layout(self.target).files(self.new.shard)
        with storage_errors(self.target), disk_errors(self.target):
            files[0].parent.mkdir(parents=True, exist_ok=True)
            for path in files:
                remove(path)
            segments = self._segments(files[0].parent)
            build_shard(EndedShard(self.new.shard, segments, self.plan_hash, self.columns), files)

    def built_or_error(self) -> AvkitError | None:
        """Build the shard, in a worker process. An error is returned, in a form that can be sent."""
        try:
            self.build()
        except ShardError as error:
            return ShardError(str(error))
        except AvkitError as error:
            return error
        return None

    def _segments(self, folder: Path) -> Iterator[Segment]:
        """The clips of the new shard in order. What a clip holds open is closed when the next one is asked for."""
        shard, places = self.new.shard, self.new.clips
        with OpenShards(_MOST_OPEN) as shards:
            if places is None:
                rows, _ = shards.get(self.root, shard)
                places = tuple(Place(self.root, shard, number) for number in range(len(rows)))
            for position, (root, source, number) in enumerate(places):
                rows, tar = shards.get(root, source)
                (row,) = rows.slice(number, 1).to_pylist()
                row |= {"shard": shard.number, "position": position}
                planned = {} if self.new.planned is None else self.new.planned.slice(position, 1).to_pylist()[0]
                report_stage(f"clip {row['key']}")
                name = str(Layout(root).tar(source))
                with ExitStack() as scratch:
                    yield self.edit(StoredClip(row, planned, tar, name, folder, scratch))


class OpenShards:
    """The rows and the open tars of shards, of the `limit` that were used last. It is closed by its context.

    Clips come nearly in the order in which they are stored, so few shards are in use at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[tuple[Path, ShardName], tuple[pa.Table, io.BufferedReader]] = {}

    def __enter__(self) -> "OpenShards":
        return self

    def __exit__(self, *_: object) -> None:
        for _rows, tar in self._open.values():
            tar.close()

    def get(self, root: Path, shard: ShardName) -> tuple[pa.Table, io.BufferedReader]:
        """Rows (CLIP_SCHEMA and extra columns) and tar of a shard. Both are valid until another shard is asked for."""
        found = self._open.pop((root, shard), None)
        if found is None:
            if len(self._open) >= self._limit:
                _rows, tar = self._open.pop(next(iter(self._open)))
                tar.close()
            layout = Layout(root)
            found = (read_table(layout.clips(shard), CLIP_SCHEMA), open_file(layout.tar(shard)))
        self._open[root, shard] = found
        return found


_MOST_OPEN: Final = 32


def _build_all(jobs: Sequence[_Job], num_workers: int) -> Iterator[ShardName]:
    """Build the shards, with several workers in child processes. Yields each one that is done."""
    if num_workers == 1:
        for job in jobs:
            job.build()
            yield job.new.shard
        return
    how = Supervision(num_workers=num_workers, deadline_s=_DEADLINE_S, attempts=1)
    with closing(supervise(_Job.built_or_error, jobs, how, ["avdata.prepare.operations.build"])) as ended:
        for job, outcome in ended:
            match outcome:
                case Returned(None):
                    yield job.new.shard
                case Returned(error):
                    assert error is not None
                    raise error
                case Raised(message):
                    raise RuntimeError(message)
                case TimedOut(_, stage) | Crashed(_, _, stage):
                    raise StorageError(
                        f"{job.new.shard}: a worker process died at {stage}: memory is short, or a step ended it. "
                        "Run the same command again, with fewer --workers: it goes on."
                    )


_DEADLINE_S: Final = 7 * 86_400.0  # for a shard: whole members are copied, and the user can stop the command
