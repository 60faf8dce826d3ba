"""What a run of prepare would do, found out without doing it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from avdata.prepare.append import comparable_rows, new_rows, requested_rows
from avdata.prepare.begun import needs_plan, refuse_lost_description, resumed_plan
from avdata.prepare.catalog import PlannedShard, planned_shards
from avdata.prepare.commit import disk_errors
from avdata.prepare.config import PrepareConfig, Retry
from avdata.prepare.output import open_output
from avdata.prepare.progress import ActiveRun, Progress, latest_statuses, read_progress
from avdata.prepare.requests import plan_of
from avdata.prepare.retry import retried_statuses
from avdata.prepare.steps.registry import load_steps, refuse_clashes
from avdata.tracking import TrackedRun, require_trackers
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The plan of a run, and how much of it is done already."""

    plan: pa.Table  # PLAN_SCHEMA: all clips of the dataset, those that are appended included
    to_do: pa.Table  # PLAN_SCHEMA: those that this run would prepare
    done: Mapping[str, int]  # clips of finished shards in the output, by status
    num_shards: int  # of the dataset as it is in the output; 0: no run has begun there
    num_done_shards: int
    is_overwritten: bool  # what is there would be removed
    runs: tuple[ActiveRun, ...]  # that work on it now
    notes: tuple[str, ...]

    def state(self) -> dict[str, Any]:
        """What is in the output, as JSON-compatible data."""
        return {
            "done": dict(self.done),
            "done_shards": self.num_done_shards,
            "begun_shards": self.num_shards,
            "overwritten": self.is_overwritten,
            "to_do": len(self.to_do),
            "runs": [{"pid": run.pid, "host": run.host} for run in self.runs],
            "notes": list(self.notes),
        }


def dry_run(config: PrepareConfig) -> DryRun:
    """Find out what a run would do. Only fetched lists are written. See also `estimate`.

    Raises:
        ConfigError, ManifestError: As `prepare` raises them before it writes: for an output that it does not take, and
            for a dataset there with another list or other settings.
    """
    config.require_sources()
    require_trackers(TrackedRun.of(config))
    steps = load_steps(config.steps)
    output = open_output(config.out, config.patience)
    notes: list[str] = []
    with output.naming(), disk_errors(config.out):
        layout = output.layout
        output.check()
        output.look()
        begun = layout.dataset_json.exists()
        progress = read_progress(layout) if begun else None
        runs = tuple(progress.runs) if progress else ()
        if config.overwrite and runs:
            raise ConfigError(
                f"{layout.root}: another run is writing here (process {runs[0].pid} on {runs[0].host}). End it before "
                "--overwrite."
            )
        plan = plan_of(config, layout) if config.overwrite or needs_plan(config, layout) else None
        if plan is not None:
            refuse_clashes(steps, plan.table.column_names)
            notes += plan.notes
        if not begun and not config.overwrite:
            refuse_lost_description(layout)
        if not begun or config.overwrite:
            assert plan is not None, "the list is read for a new dataset"
            table = plan.table
            to_do = _of_share(config, table)
        else:
            resumed_plan(config, layout, plan, notes.append, {})
            present = requested_rows(layout)
            new = present.slice(0, 0)
            if config.append and plan is not None:
                new, _ = new_rows(present, comparable_rows(config, present, plan.table, notes.append))
            table = pa.concat_tables([present, new]) if len(new) else present
            to_do = _left_to_do(config, layout, present, new)
    return _found(progress, table, to_do, runs, notes, is_overwritten=begun and config.overwrite)


def _found(
    progress: Progress | None,
    plan: pa.Table,
    to_do: pa.Table,
    runs: tuple[ActiveRun, ...],
    notes: Iterable[str],
    *,
    is_overwritten: bool,
) -> DryRun:
    return DryRun(
        plan=plan,
        to_do=to_do,
        done=progress.committed if progress else {},
        num_shards=progress.num_shards if progress else 0,
        num_done_shards=progress.num_committed_shards if progress else 0,
        is_overwritten=is_overwritten,
        runs=runs,
        notes=tuple(notes),
    )


def _of_share(config: PrepareConfig, plan: pa.Table) -> pa.Table:
    """The rows of a new plan that are in the shards of this run: all of them, or those of a task of an array."""
    count = config.share.count
    if count == 1:
        return plan
    shards = dict.fromkeys(zip(plan.column("split").to_pylist(), plan.column("shard").to_pylist(), strict=True))
    mine = {shard for number, shard in enumerate(shards) if number % count == config.share.index}
    pairs = zip(plan.column("split").to_pylist(), plan.column("shard").to_pylist(), strict=True)
    return plan.filter(pa.array([pair in mine for pair in pairs]))


def _left_to_do(config: PrepareConfig, layout: Layout, present: pa.Table, new: pa.Table) -> pa.Table:
    """The rows of shards that are not there, the appended ones, and the failed ones that are tried again."""
    count, index = config.share.count, config.share.index
    open_shards = [
        planned
        for number, planned in enumerate(planned_shards(layout))
        if number % count == index and not layout.stats(planned.shard).exists()
    ]
    parts = [planned.rows for planned in open_shards]
    if config.retry is not Retry.NONE and not _has_open_retry(open_shards):
        wanted = set(retried_statuses(config.retry))
        again = [key for key, status in latest_statuses(layout).items() if status in wanted]
        parts.append(present.filter(pc.is_in(present.column("key"), value_set=pa.array(again, pa.string()))))
    parts.append(new)
    return pa.concat_tables([part.select(present.column_names) for part in parts] or [present.slice(0, 0)])


def _has_open_retry(shards: Iterable[PlannedShard]) -> bool:
    """Whether the last retry is not finished: it is then gone on with, and no other one begins."""
    return any(planned.is_retry for planned in shards)
