"""A run of prepare: plan, shard tasks, commits, catalog. Run again, it continues where it stopped."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from avdata.prepare import description
from avdata.prepare.append import all_removed, new_labels, plan_append, requested_rows
from avdata.prepare.begun import needs_plan, refuse_lost_description, resumed_plan
from avdata.prepare.card import catalog_files, write_catalog
from avdata.prepare.catalog import (
    Merged,
    PlannedShard,
    coverage,
    each_shard,
    failures,
    merge_manifest,
    planned_shards,
    shard_problem,
    shards_coverage,
    write_index,
)
from avdata.prepare.commit import Observer, Workspace, disk_errors, storage_errors
from avdata.prepare.config import ExecutorKind, PrepareConfig, Retry, Share
from avdata.prepare.executors import Executor, ShardTask, local_executor
from avdata.prepare.known import KnownShards
from avdata.prepare.media_resolver import MediaResolver
from avdata.prepare.operations.swap import settle
from avdata.prepare.output import DatasetOutput, open_output
from avdata.prepare.plan import Plan, freeze, is_appended, without_own_columns
from avdata.prepare.progress import ProgressWriter
from avdata.prepare.ray_cluster import RayExecutor
from avdata.prepare.report import PrepareListener, PrepareReport, SilentListener, StepCosts
from avdata.prepare.requests import class_order, plan_of
from avdata.prepare.retry import plan_retry
from avdata.prepare.sources.remote import FailedRef
from avdata.prepare.steps.registry import load_steps, refuse_clashes, step_columns
from avdata.prepare.steps.run import ALL_FRAMES
from avdata.prepare.steps.step import Step
from avdata.prepare.tracked import tracked
from avmanifest.columns import extra_columns
from avmanifest.errors import ConfigError
from avmanifest.failures import FAILED_COLUMNS, FailedClip, failed_clips, some_of_each, write_tracebacks
from avmanifest.files import replace_bytes
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA, StatusClass, filtered_status, status_class
from avmanifest.secrets import shown_url
from avmanifest.table import read_batches
from avmanifest.wording import counted


def prepare(
    config: PrepareConfig, listener: PrepareListener | None = None, steps: Sequence[Step | str] = ()
) -> PrepareReport:
    """Prepare a dataset, or continue an earlier run. Every requested clip ends as one row of the manifest.

    Args:
        config: What to prepare, from which sources, where to write it, and with how many processes.
        listener: Receives progress events and messages; None: they are dropped.
        steps: What to do with each clip besides, after `config.steps`: objects, or texts such as `black:max_share=0.5`.

    Returns:
        Counts by status, split and source, and the exit code of the command line.

    Raises:
        ConfigError: The output holds a dataset with another plan or configuration; the message has the difference. Or
            a step is none, or one that a dataset may not have.
        ManifestError: A list or a manifest cannot be read.
        StorageError: The output cannot be written.

    Example:
        ::

            report = prepare(PrepareConfig(recipe=load_recipe("vggsound"), out=Path("out"), sources=("local:videos",)))
            print(report.summary)
    """
    config.require_sources()
    config = replace(config, steps=load_steps((*config.steps, *steps)))
    listener = listener or SilentListener()
    output = open_output(config.out, config.patience)
    with output.naming(), disk_errors(config.out):
        output.check()
        with tracked(config, listener) as followed:
            return _prepare(config, output, followed)


def _prepare(config: PrepareConfig, output: DatasetOutput, listener: PrepareListener) -> PrepareReport:
    layout = output.layout
    output.refresh(listener.note)
    # Errors in a source or a list are raised before anything is written.
    media = MediaResolver(config, layout) if config.overwrite or not layout.dataset_json.exists() else None
    plan = plan_of(config, layout) if config.overwrite or needs_plan(config, layout) else None
    if plan is not None:
        refuse_clashes(config.steps, plan.table.column_names)
    costs = StepCosts()
    known = KnownShards.load(layout)
    workspace = Workspace(layout)
    listener = progress = ProgressWriter(listener, workspace.path)
    try:
        with storage_errors(layout.root), workspace.publishing():
            settle(layout, listener.note)
            others = workspace.others(keep=not config.overwrite)
            if config.overwrite:
                _remove_dataset(output, others, listener.note)
            frozen, plan_hash = _frozen_plan(config, output, plan, listener, known.plans)
            known.plan_hash = plan_hash
            if any(map(is_appended, layout.plan_parts()[1:])):
                _add_labels(output)  # a run that appended clips may have been killed before
        check = partial(shard_problem, layout, plan_hash=plan_hash, hashes=config.verify, known=known)
        to_do = _ToDo(layout)
        to_do.add(_shards_to_do(output, workspace, _shards_of(config.share, layout), check, listener))
        if config.append:
            assert plan is not None, "the list is read for --append"
            with workspace.publishing():
                added = plan_append(config, output, plan.table, listener)
                _add_labels(output)
            to_do.add(_shards_to_do(output, workspace, added, check, listener))
        if config.retry is not Retry.NONE:
            with workspace.publishing():
                added = plan_retry(config, output, listener, known)
            to_do.add(_shards_to_do(output, workspace, added, check, listener))
        requested = requested_rows(layout) if len(layout.plan_parts()) > 1 else frozen
        listener.planned(requested, to_do.num_clips)
        listener.shards(0, len(to_do))
        if len(to_do):
            media = media or MediaResolver(config, layout)
            is_ray = config.executor is ExecutorKind.RAY
            if not is_ray:  # with Ray, each node fetches its own media
                media.begin_downloads((planned.rows for planned in to_do), listener)
            for problem in media.problems:
                listener.note(problem)
            if media.downloads:
                progress.sources = media.downloads.snapshot
            executor: Executor = (
                RayExecutor(
                    config=config, output=output, plan_hash=plan_hash, listener=listener, media=media, costs=costs
                )
                if is_ray
                else local_executor(config, output, workspace, media, plan_hash, listener, costs)
            )
            columns = description.extra_columns(layout)
            tasks = (
                ShardTask(planned.shard, tuple(planned.rows.to_pylist()), columns)
                for planned in to_do
                if not output.is_done(planned.shard, plan_hash)
            )
            for number, result in enumerate(executor.run(tasks), start=1):
                if result.stats is not None:
                    state = known.state(to_do.parts[result.shard], result.shard)
                    known.note(result.shard, result.stats, state)
                listener.shards(number, len(to_do))
                listener.step(f"{result.shard}: {'done' if result.stats else 'no source has any of its clips'}")
        share = config.share
        if config.executor is ExecutorKind.ARRAY and not _is_last(output, listener):
            merged = _counted(layout, share)
            splits = shards_coverage(layout, _shards_of(share, layout))
        else:
            share = Share()
            splits, merged = _catalog(config, output, workspace, listener, media.stopped if media else None, known)
    finally:
        if media:
            media.close()
        with suppress(OSError):  # without it the next run checks all shards again
            known.save()
        workspace.close()
    return _report(config, layout, share, plan_hash, splits, merged, media.coverage if media else {}, costs)


class _ToDo:
    """The shards that a run has to prepare, in the order of the plan. Their rows are read when they are asked for.

    Attributes:
        parts: The part of the plan of each.
        num_clips: Their clips.
    """

    def __init__(self, layout: Layout) -> None:
        self.parts: dict[ShardName, int] = {}
        self.num_clips = 0
        self._layout = layout

    def add(self, shards: Iterable[PlannedShard]) -> None:
        """Add shards."""
        for planned in shards:
            self.parts[planned.shard] = planned.part
            self.num_clips += len(planned.rows)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[PlannedShard]:
        return (planned for planned in planned_shards(self._layout) if planned.shard in self.parts)


def _shards_of(share: Share, layout: Layout) -> Iterator[PlannedShard]:
    """The planned shards that a run with this share prepares."""
    for number, planned in enumerate(planned_shards(layout)):
        if number % share.count == share.index:
            yield planned


def _counted(layout: Layout, share: Share) -> Merged:
    """The shards of a task of an array, which merges nothing."""
    counts = Merged()
    for planned in _shards_of(share, layout):
        counts.add(layout, planned, is_whole=False)
    return counts


def _is_last(output: DatasetOutput, listener: PrepareListener) -> bool:
    """Whether all shards of the array exist: then this task writes the manifest for all tasks."""
    output.refresh(listener.note)
    if all(output.layout.stats(planned.shard).exists() for planned in planned_shards(output.layout)):
        return True
    listener.note("other tasks are not done: the last one, or the same command without --executor, writes the manifest")
    return False


def _catalog(
    config: PrepareConfig,
    output: DatasetOutput,
    workspace: Workspace,
    listener: PrepareListener,
    stopped: FailedRef | None,
    known: KnownShards,
) -> tuple[dict[str, Any], Merged]:
    """Merge the manifest, write the catalog, return coverage and shards. Repeats if another run commits shards."""
    layout = output.layout
    while True:
        with storage_errors(layout.root), workspace.publishing():
            workspace.others()  # tidies the workspaces of ended runs
            merged = merge_manifest(layout, stopped, known)
            if not layout.is_mirror:
                write_tracebacks(layout.tracebacks, failures(layout))
            listener.step("manifest merged")
            splits = coverage(layout)
            write_catalog(layout, config.recipe, config.sample, splits, known)
            described = description.read_description(layout)
            indexes = [layout.sample_index(split) for split in splits if write_index(layout, split, described, known)]
            output.renew([*(layout.manifest(split) for split in splits), *indexes, *catalog_files(layout)])
            listener.step("catalog written")
        if not output.refresh(listener.note):
            break
    if not merged.num_missing:
        output.clear()
    return splits, merged


def _remove_dataset(output: DatasetOutput, others: Sequence[Path], note: Observer) -> None:
    if others:
        where = output.layout.root
        raise ConfigError(f"{where}: another run is writing here ({others[0]}). End it before --overwrite.")
    description.keep_removals(output.layout, note)
    output.remove()


def _frozen_plan(
    config: PrepareConfig, output: DatasetOutput, plan: Plan | None, listener: PrepareListener, hashes: dict[str, str]
) -> tuple[pa.Table, str]:
    """The plan's first part, frozen now or by an earlier run, and its hash. The caller holds the publishing lock."""
    layout = output.layout
    if layout.dataset_json.exists():
        return resumed_plan(config, layout, plan, listener.note, hashes)
    assert plan is not None, "dataset.json is removed only by a run that is alone in the output"
    refuse_lost_description(layout)
    _note_plan(plan, listener)
    manifests = layout.manifest("train").parent
    for stale in (*layout.plan_part(0).parent.glob("part-*"), *manifests.glob("*.parquet"), *manifests.glob("*.avidx")):
        stale.unlink()
    plan_hash = plan.hash
    removed = all_removed(config, plan.table, description.kept_removals(layout))
    columns = (*extra_columns(plan.table.schema), *step_columns(config.steps))
    labels = class_order(config, plan.table)
    frozen_hash = None
    if removed:
        listener.note(
            f"{counted(len(removed), 'clip')} removed on request stay removed. To make them again, give another --out."
        )
        plan = replace(plan, table=without_own_columns(plan.table, removed))
        frozen_hash = plan.hash
    freeze(plan, layout.plan_part(0))
    description.write_description(config, layout, labels, plan_hash, columns, removed=removed, frozen_hash=frozen_hash)
    description.forget_kept_removals(layout)
    if output.claim(layout.dataset_json):
        output.renew([layout.plan_part(0)])
        return plan.table, plan_hash
    if description.read_description(layout)["plan_hash"] == plan_hash:
        output.claim(layout.plan_part(0))
    elif not output.fetch(layout.plan_part(0)):
        raise ConfigError(f"{layout.root}: another run has started here with another list. Give another --out.")
    return resumed_plan(config, layout, plan, listener.note, hashes)


def _add_labels(output: DatasetOutput) -> None:
    """Write the labels of appended clips into dataset.json, after those that are there."""
    layout = output.layout
    recorded = description.read_description(layout)
    if labels := new_labels(recorded["labels"], requested_rows(layout)):
        changed = {**recorded, "labels": [*recorded["labels"], *labels]}
        replace_bytes(layout.dataset_json, description.encoded_description(changed), durable=True)
        output.renew([layout.dataset_json])


def _note_plan(plan: Plan, listener: PrepareListener) -> None:
    for note in plan.notes:
        listener.note(note)
    if plan.num_duplicates:
        listener.note(f"{counted(plan.num_duplicates, 'row')} of the list left out: the clip is in an earlier row, too")
    if plan.cross_split_keys:
        few = ", ".join(plan.cross_split_keys[:5])
        listener.note(f"{counted(len(plan.cross_split_keys), 'clip')} listed in more than one split, such as {few}")


def _shards_to_do(
    output: DatasetOutput,
    workspace: Workspace,
    shards: Iterable[PlannedShard],
    check: Callable[[PlannedShard], str | None],
    listener: PrepareListener,
) -> Iterator[PlannedShard]:
    """The shards that have to be prepared, by `check`. Files of damaged shards are moved to the quarantine folder."""
    layout = output.layout
    for planned, found in each_shard(shards, check):
        if found is None:
            continue
        with workspace.publishing():
            problem = check(planned)  # another run may have committed it meanwhile
            if problem is None:
                continue
            if any(path.exists() for path in layout.files(planned.shard)):
                folder = output.quarantine(planned.shard)
                listener.note(f"{problem}: moved to {folder}; it will be prepared again")
        yield planned


def _report(
    config: PrepareConfig,
    layout: Layout,
    share: Share,
    plan_hash: str,
    splits: dict[str, Any],
    merged: Merged,
    sources: dict[str, int],
    costs: StepCosts,
) -> PrepareReport:
    statuses = sum((Counter(split["statuses"]) for split in splits.values()), Counter[str]())
    is_whole = share.count == 1
    out = shown_url(config.out) if isinstance(config.out, str) else config.out
    found = failures(layout) if is_whole else _failures_of(layout, _shards_of(share, layout))
    has_file = is_whole and layout.tracebacks.exists()
    return PrepareReport(
        out=out,
        recipe=config.recipe.name,
        plan_hash=plan_hash,
        requested=sum(statuses.values()),
        ok=statuses["ok"],
        statuses=dict(statuses.most_common()),
        splits=splits,
        sources=sources,
        pending=merged.num_pending,
        num_shards=merged.num_shards,
        min_success=config.min_success,
        steps=_steps(config, statuses, costs),
        failed=some_of_each(found),
        tracebacks=_tracebacks(statuses, f"{out}/{layout.tracebacks.name}" if has_file else f"{out}/manifest"),
    )


def _tracebacks(statuses: Mapping[str, int], where: str) -> str:
    """Where tracebacks are: in a text file or, of a bucket and of a task of an array, in a column of the manifest."""
    if not any(status_class(status) is StatusClass.BUG for status in statuses):
        return ""
    return where if where.endswith(".txt") else f"the column reason of {where}"


def _failures_of(layout: Layout, shards: Iterable[PlannedShard]) -> Iterator[FailedClip]:
    """The failed clips of shards that exist, by the rows beside them: the manifest is of all tasks of an array."""
    for planned in shards:
        if layout.stats(planned.shard).exists():
            path = layout.clips(planned.shard)
            yield from failed_clips(read_batches(path, CLIP_SCHEMA, list(FAILED_COLUMNS)))


def _steps(config: PrepareConfig, statuses: Mapping[str, int], costs: StepCosts) -> dict[str, dict[str, Any]]:
    """Clips and processor seconds of this run, and clips of the dataset that were dropped, by step."""
    names = [*([ALL_FRAMES] if costs.clips[ALL_FRAMES] else []), *(step.name for step in config.steps)]
    return {
        name: {
            "clips": costs.clips[name],
            "seconds": round(costs.seconds[name], 3),
            "dropped": statuses.get(filtered_status(name), 0),
        }
        for name in names
    }
