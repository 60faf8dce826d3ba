"""Carry out an operation on a dataset: check its shards, build the new ones aside, exchange the files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import pyarrow as pa

from avdata.prepare.bucket import local_folder, place_of
from avdata.prepare.catalog import PlannedShard, planned_shards, shard_problem
from avdata.prepare.commit import (
    Observer,
    Workspace,
    build_shard,
    disk_errors,
    marker_problem,
    read_stats,
    storage_errors,
)
from avdata.prepare.config import Supervision
from avdata.prepare.description import encoded_description, read_description
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.operations.swap import Swap, claimed, finish, is_resumed, settle, staged
from avdata.prepare.segments import Segment
from avdata.prepare.supervise import Crashed, Raised, Returned, TimedOut, report_stage, supervise
from avmanifest.columns import Column
from avmanifest.errors import AvkitError, ConfigError, ShardError, StorageError
from avmanifest.files import flush, open_file, read_file, remove, replace_bytes, sha256_of
from avmanifest.layout import Layout, ShardName
from avmanifest.records import columns_of_description
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.secrets import shown_url
from avmanifest.table import read_table, write_table

Edit = Callable[[StoredClip], Segment]
"""Makes the clip of the new shard. Must be picklable."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared dataset that an operation changes.

    `shards` are those of the plan that exist, in the plan's order; `num_missing` are not prepared yet.
    """

    layout: Layout
    description: Mapping[str, Any]
    shards: tuple[PlannedShard, ...]
    num_missing: int


@dataclass(frozen=True, slots=True)
class NewShard:
    """A shard to build.

    `clips` are shards and numbers of rows in them; None: all of the present shard of this name. `planned` are the rows
    of the plan for these clips, in their order, for edits that need them.
    """

    shard: ShardName
    clips: tuple[tuple[ShardName, int], ...] | None = None
    planned: pa.Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an operation makes of a dataset."""

    description: Mapping[str, Any]  # the new dataset.json, without the operation's entry in its history
    shards: tuple[NewShard, ...]
    edit: Edit = StoredClip.kept
    gone: tuple[ShardName, ...] = ()  # shards that the dataset will have no more
    plan: tuple[pa.Table, ...] | None = None  # parts of the new plan; None: the plan stays
    forget: bool = False  # also remove quarantined shards, fetched media and what stopped runs left


@runtime_checkable
class Operation(Protocol):
    """One kind of change."""

    @property
    def name(self) -> str:
        """Its name on the command line."""
        ...

    @property
    def versions(self) -> tuple[int, ...]:
        """The format versions of datasets that it can change."""
        ...

    def settings(self) -> dict[str, Any]:
        """What was asked for, as JSON holds it. It stands in the dataset's history."""
        ...

    def changes(self, dataset: Prepared, note: Observer) -> Changes | None:
        """What to change; None if the dataset is already as asked for. Raises ConfigError if it cannot be done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The result of an operation."""

    operation: str
    root: str
    changed: bool  # False: the dataset already was as asked for
    num_shards: int = 0  # built, by this run or by earlier ones of the same command
    num_clips: int = 0  # of these shards, failed ones included
    bytes_read: int = 0  # tars that were checked, and read again to build the new ones
    bytes_written: int = 0  # tars

    def as_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return asdict(self)


def run_operation(
    root: str | Path,
    operation: Operation,
    *,
    num_workers: int = 1,
    observe: Observer = lambda _: None,
    note: Observer = lambda _: None,
) -> Done:
    """Change a dataset in place. Run again after a kill, it goes on; the bytes do not depend on workers or kills.

    Args:
        root: Folder of the dataset.
        operation: What to do.
        num_workers: Processes that build shards.
        observe: Receives the name of every step.
        note: Receives messages for the user.

    Raises:
        ConfigError: It is not a prepared dataset on this machine, the operation cannot be done on it, or another run
            or operation is at work there.
        ShardError: A shard is damaged.
        ManifestError: A file of the dataset cannot be read.
        StorageError: A file cannot be written.
    """
    layout = _layout_of(root)
    with disk_errors(layout.root), ExitStack() as closing:
        workspace = Workspace(layout)
        closing.callback(workspace.close)
        with storage_errors(layout.root), workspace.publishing():
            if layout.swap.exists():
                settle(layout, note)
            dataset = _prepared(layout, operation.versions)
            changes = operation.changes(dataset, note)
            before = sha256_of(read_file(layout.dataset_json))
            settings = operation.settings()
            shown = [str(value) for name, value in settings.items() if not name.endswith("sha256")]
            words = " ".join([operation.name, *shown])
            request = {"operation": words, "before": before, "settings": settings}
            if changes is None or not is_resumed(layout, request):
                settle(layout, note)
            if changes is None:
                return Done(operation=words, root=shown_url(str(layout.root)), changed=False)
            if others := workspace.others(keep=not changes.forget):
                raise ConfigError(f"{layout.root}: another run is writing here ({others[0]}). End it first.")
            closing.enter_context(claimed(layout, request))
        entry = {"operation": operation.name, **settings, "plan_hash": changes.description["plan_hash"]}
        history = [*dataset.description.get("operations", []), entry | {"before": before}]
        described = encoded_description({**changes.description, "operations": history})
        done = _build(dataset, changes, words, num_workers, observe)
        with storage_errors(layout.root):
            _stage_rest(layout, changes, described)
            swap = Swap(
                operation=words,
                shards=tuple(new.shard for new in changes.shards),
                gone=changes.gone,
                num_parts=None if changes.plan is None else len(changes.plan),
                forget=changes.forget,
            )
            flush(layout.operation)
            with workspace.publishing():
                replace_bytes(layout.swap, swap.to_bytes(), durable=True)
                observe("all files made")
                finish(layout, observe)
    return done


def settle_dataset(root: str | Path, note: Observer) -> None:
    """Finish or undo an operation that was stopped. Raises as run_operation does."""
    layout = _layout_of(root)
    workspace = Workspace(layout)
    try:
        with storage_errors(layout.root), workspace.publishing():
            settle(layout, note)
    finally:
        workspace.close()


def _layout_of(root: str | Path) -> Layout:
    folder = local_folder(place_of(root))
    if folder is None:
        raise ConfigError(
            f"{shown_url(str(root))}: an object store cannot exchange several files at once, so readers would find a "
            "mixture. Copy the dataset with `avkit export URL --to FOLDER`, change the copy, and export it back to the "
            "same URL, which replaces the older state."
        )
    if not (folder / "dataset.json").is_file():
        raise ConfigError(f"{folder}: no dataset.json, so not a prepared dataset. Give the --out of an avkit prepare.")
    return Layout(folder)


def _prepared(layout: Layout, versions: tuple[int, ...]) -> Prepared:
    description = read_description(layout, versions)
    planned = tuple(planned_shards(layout))
    present = tuple(one for one in planned if layout.stats(one.shard).exists())
    return Prepared(layout, description, present, len(planned) - len(present))


def _build(dataset: Prepared, changes: Changes, words: str, num_workers: int, observe: Observer) -> Done:
    """Check the shards that are read, and build the new ones in the operation's folder."""
    layout, new = dataset.layout, staged(dataset.layout)
    used = {place for shard in changes.shards for place in _sources(shard)}
    sources = [one for one in dataset.shards if one.shard in used]
    plan_hash = str(changes.description["plan_hash"])
    with ThreadPoolExecutor(num_workers) as pool:
        check = partial(_refuse_damaged, layout, str(dataset.description["plan_hash"]))
        num_checked = sum(pool.map(check, sources))
    columns = columns_of_description(changes.description, layout.dataset_json)
    jobs = [_Job(layout.root, shard, changes.edit, plan_hash, columns) for shard in changes.shards]
    waiting = [job for job in jobs if not job.is_built()]
    for shard in _build_all(waiting, num_workers):
        observe(f"{shard}: built")
    stats = [read_stats(new, job.new.shard) for job in jobs]
    return Done(
        operation=words,
        root=shown_url(str(layout.root)),
        changed=True,
        num_shards=len(jobs),
        num_clips=sum(marker["count"] for marker in stats),
        bytes_read=2 * num_checked if waiting else num_checked,
        bytes_written=sum(read_stats(new, job.new.shard)["files"]["tar"]["bytes"] for job in waiting),
    )


def _sources(new: NewShard) -> set[ShardName]:
    return {new.shard} if new.clips is None else {shard for shard, _ in new.clips}


def _refuse_damaged(layout: Layout, plan_hash: str, planned: PlannedShard) -> int:
    """Bytes of a shard's tar. Raises ShardError if it is damaged or not the plan's."""
    if (problem := shard_problem(layout, planned, plan_hash, hashes=True)) is not None:
        raise ShardError(f"{problem}. Mend the dataset first: avkit verify --repair, then the same avkit prepare.")
    return int(read_stats(layout, planned.shard)["files"]["tar"]["bytes"])


@dataclass(frozen=True, slots=True)
class _Job:
    """A shard to build, as sent to a worker process."""

    root: Path
    new: NewShard
    edit: Edit
    plan_hash: str
    columns: tuple[Column, ...]  # the extra columns of the new rows

    def is_built(self) -> bool:
        """Whether an earlier run has built the shard."""
        target = staged(Layout(self.root))
        return (
            marker_problem(target, self.new.shard, hashes=True) is None
            and read_stats(target, self.new.shard)["plan_hash"] == self.plan_hash
        )

    def build(self) -> None:
        """Build and verify the shard in the operation's folder."""
        files = staged(Layout(self.root)).files(self.new.shard)
        with storage_errors(self.root), disk_errors(self.root):
            files[0].parent.mkdir(parents=True, exist_ok=True)
            for path in files:
                remove(path)
            build_shard(self.new.shard, self._segments(), files, self.plan_hash, columns=self.columns)

    def built_or_error(self) -> AvkitError | None:
        """Build the shard, in a worker process. An error is returned, in a form that can be sent."""
        try:
            self.build()
        except ShardError as error:
            return ShardError(str(error))
        except AvkitError as error:
            return error
        return None

    def _segments(self) -> Iterator[Segment]:
        """The clips of the new shard in order. What a clip holds open is closed when the next one is asked for."""
        layout, shard = Layout(self.root), self.new.shard
        folder = staged(layout).files(shard)[0].parent
        tables = {source: read_table(layout.clips(source), CLIP_SCHEMA) for source in sorted(_sources(self.new))}
        places = self.new.clips or tuple((shard, number) for number in range(len(tables[shard])))
        with ExitStack() as closing:
            tars = {source: closing.enter_context(open_file(layout.tar(source))) for source in tables}
            for position, (source, number) in enumerate(places):
                (row,) = tables[source].slice(number, 1).to_pylist()
                row |= {"shard": shard.number, "position": position}
                planned = {} if self.new.planned is None else self.new.planned.slice(position, 1).to_pylist()[0]
                report_stage(f"clip {row['key']}")
                with ExitStack() as scratch:
                    yield self.edit(StoredClip(row, planned, tars[source], str(layout.tar(source)), folder, scratch))


def _build_all(jobs: Sequence[_Job], num_workers: int) -> Iterator[ShardName]:
    """Build the shards, with several workers in child processes. Yields each one that is done."""
    if num_workers == 1:
        for job in jobs:
            job.build()
            yield job.new.shard
        return
    how = Supervision(num_workers=num_workers, deadline_s=_DEADLINE_S, attempts=1)
    with closing(supervise(_Job.built_or_error, jobs, how, ["avdata.prepare.operations.run"])) as ended:
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


def _stage_rest(layout: Layout, changes: Changes, described: bytes) -> None:
    """Write the new plan and dataset.json into the operation's folder."""
    new = staged(layout)
    new.plan_part(0).parent.mkdir(exist_ok=True)
    for part, table in enumerate(changes.plan or ()):
        remove(new.plan_part(part))
        write_table(table, new.plan_part(part))
    replace_bytes(new.dataset_json, described)
