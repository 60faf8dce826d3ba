"""A run of prepare: plan, shard tasks, commits, catalog. Run again, it goes on where it stopped."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from avdata.prepare import description
from avdata.prepare.card import catalog_files, write_catalog
from avdata.prepare.catalog import (
    PlannedShard,
    coverage,
    merge_manifest,
    planned_shards,
    shard_problem,
    shards_coverage,
)
from avdata.prepare.commit import Workspace, storage_errors
from avdata.prepare.config import ExecutorKind, PrepareConfig, Retry, Share
from avdata.prepare.executors import Executor, ShardTask, local_executor
from avdata.prepare.media_resolver import MediaResolver
from avdata.prepare.output import Output, open_output
from avdata.prepare.plan import Plan, freeze, hash_table
from avdata.prepare.progress import ProgressMark
from avdata.prepare.ray_cluster import RayExecutor
from avdata.prepare.report import PrepareListener, PrepareReport, SilentListener
from avdata.prepare.requests import class_order, plan_of
from avdata.prepare.retry import plan_retry
from avdata.prepare.sources.remote import FailedRef
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.layout import Layout
from avmanifest.schema import PLAN_SCHEMA
from avmanifest.table import read_table


def prepare(config: PrepareConfig, listener: PrepareListener | None = None) -> PrepareReport:
    """Prepare the dataset, or go on with it. Every requested clip ends as one row of the manifest.

    Raises ConfigError if the output holds another plan or configuration (with the difference), StorageError if
    it cannot be written, ManifestError for a list that cannot be read.
    """
    config.require_sources()
    listener = listener or SilentListener()
    output = open_output(config.out, config.patience)
    with output.naming():
        return _prepare(config, output, listener)


def _prepare(config: PrepareConfig, output: Output, listener: PrepareListener) -> PrepareReport:
    layout = output.layout
    output.check()
    output.refresh(listener.note)
    # What is wrong with a source or a list is said before anything is written.
    media = MediaResolver(config, layout) if config.overwrite or not layout.dataset_json.exists() else None
    plan = plan_of(config, layout) if config.overwrite or _needs_plan(config, layout) else None
    workspace = Workspace(layout)
    listener = mark = ProgressMark(listener, workspace.path)
    try:
        with storage_errors(layout.root), workspace.publishing():
            others = workspace.others()
            if config.overwrite:
                _remove_dataset(output, others)
            frozen, plan_hash = _frozen_plan(config, output, plan, listener)
        to_do = list(_shards_to_do(output, workspace, _shards_of(config.share, layout), plan_hash, listener))
        if config.retry is not Retry.NONE:
            with workspace.publishing():
                added = plan_retry(config, output, listener)
            to_do += _shards_to_do(output, workspace, added, plan_hash, listener)
        listener.planned(frozen, sum(len(planned.rows) for planned in to_do))
        if to_do:
            media = media or MediaResolver(config, layout)
            if config.executor is not ExecutorKind.RAY:  # whose nodes fetch for themselves
                media.begin_downloads([planned.rows for planned in to_do], listener)
            for problem in media.problems:
                listener.note(problem)
            if media.downloads:
                mark.sources = media.downloads.snapshot
            executor = _executor(config, output, workspace, media, plan_hash, listener)
            tasks = (
                ShardTask(planned.shard, tuple(planned.rows.to_pylist()))
                for planned in to_do
                if not output.is_done(planned.shard, plan_hash)
            )
            for result in executor.run(tasks):
                listener.step(f"{result.shard}: {'done' if result.stats else 'left for another source'}")
        share = config.share
        if config.executor is ExecutorKind.ARRAY and not _is_last(output, listener):
            found = shards_coverage(layout, _shards_of(share, layout))
        else:
            share = Share()
            found = _catalog(config, output, workspace, listener, media.stopped if media else None)
    finally:
        if media:
            media.close()
        workspace.close()
    return _report(config, layout, share, plan_hash, found, media.coverage if media else {})


def _executor(
    config: PrepareConfig,
    output: Output,
    workspace: Workspace,
    media: MediaResolver,
    plan_hash: str,
    listener: PrepareListener,
) -> Executor:
    if config.executor is not ExecutorKind.RAY:
        return local_executor(config, output, workspace, media, plan_hash, listener)
    return RayExecutor(config=config, output=output, plan_hash=plan_hash, listener=listener, media=media)


def _shards_of(share: Share, layout: Layout) -> Iterator[PlannedShard]:
    """The planned shards that a run with that share does."""
    for number, planned in enumerate(planned_shards(layout)):
        if number % share.count == share.index:
            yield planned


def _is_last(output: Output, listener: PrepareListener) -> bool:
    """Whether no task of the array is left: then this one writes the manifest for all."""
    output.refresh(listener.note)
    if all(output.layout.stats(planned.shard).exists() for planned in planned_shards(output.layout)):
        return True
    listener.note("other tasks are not done: the last one, or the same command without --executor, writes the manifest")
    return False


def _catalog(
    config: PrepareConfig, output: Output, workspace: Workspace, listener: PrepareListener, stopped: FailedRef | None
) -> dict[str, Any]:
    """Merge the manifest and write the catalog, again if another run committed shards meanwhile; the coverage."""
    layout = output.layout
    while True:
        with storage_errors(layout.root), workspace.publishing():
            workspace.others()  # of this output's runs, those that were killed meanwhile leave nothing
            merge_manifest(layout, stopped)
            listener.step("manifest merged")
            found = coverage(layout)
            write_catalog(layout, config.recipe, config.sample, found)
            output.renew([*(layout.manifest(split) for split in found), *catalog_files(layout)])
            listener.step("catalog written")
        if not output.refresh(listener.note):
            break
    if all(layout.stats(planned.shard).exists() for planned in planned_shards(layout)):
        output.clear()
    return found


def dry_run(config: PrepareConfig) -> pa.Table:
    """The plan (PLAN_SCHEMA) that a run would freeze; nothing is written but fetched lists. See also `estimate`."""
    config.require_sources()
    return plan_of(config, open_output(config.out).layout).table


def _remove_dataset(output: Output, others: Sequence[Path]) -> None:
    if others:
        where = output.layout.root
        raise ConfigError(f"{where}: another run is writing here ({others[0]}). End it before --overwrite.")
    output.remove()


def _needs_plan(config: PrepareConfig, layout: Layout) -> bool:
    """Whether the run's list is read: to freeze it, or to see that it is the frozen one."""
    return not layout.dataset_json.exists() or config.list_path is not None or config.recipe.name == "folder"


def _frozen_plan(
    config: PrepareConfig, output: Output, plan: Plan | None, listener: PrepareListener
) -> tuple[pa.Table, str]:
    """The first part of the plan, frozen before or now, and its hash. Called with the publishing lock held."""
    layout = output.layout
    if layout.dataset_json.exists():
        return _plan_of_before(config, layout, plan, listener)
    assert plan is not None, "dataset.json is removed by runs that have the output for themselves"
    if any(layout.shards(split) for split in layout.splits()):
        raise ConfigError(
            f"{layout.root}: holds shards and no {layout.dataset_json.name}, so nobody can tell what they are. "
            "Put the file back, or prepare with --overwrite."
        )
    _tell_duplicates(plan, listener)
    for stale in (*layout.plan_part(0).parent.glob("part-*"), *layout.manifest("train").parent.glob("*.parquet")):
        stale.unlink()
    freeze(plan, layout.plan_part(0))
    plan_hash = plan.hash
    description.write_description(config, layout, class_order(config, plan.table), plan_hash)
    if output.claim(layout.dataset_json):
        output.renew([layout.plan_part(0)])
        return plan.table, plan_hash
    if description.read_description(layout)["plan_hash"] == plan_hash:
        output.claim(layout.plan_part(0))
    elif not output.fetch(layout.plan_part(0)):
        raise ConfigError(f"{layout.root}: another run begins here with another list. Give another --out.")
    return _plan_of_before(config, layout, plan, listener)


def _plan_of_before(
    config: PrepareConfig, layout: Layout, plan: Plan | None, listener: PrepareListener
) -> tuple[pa.Table, str]:
    """The dataset's plan, if this run is to go on with it. Raises ConfigError, with the difference, if not."""
    recorded = description.read_description(layout)
    description.refuse_other_settings(layout, recorded, description.settings_of(config))
    frozen = read_table(layout.plan_part(0), PLAN_SCHEMA)
    if hash_table(frozen) != recorded["plan_hash"]:
        raise ManifestError(f"{layout.plan_part(0)}: is not the plan that {layout.dataset_json} describes")
    if plan is not None:
        description.refuse_other_plan(layout, frozen, plan.table)
    tools = description.tool_versions()
    if recorded["tools"] != tools:
        difference = description.difference(recorded["tools"], tools)
        listener.note(f"{layout.root} was begun with other versions: {difference}")
    return frozen, recorded["plan_hash"]


def _tell_duplicates(plan: Plan, listener: PrepareListener) -> None:
    if plan.num_duplicates:
        listener.note(f"{plan.num_duplicates:,} rows ask for a clip that another row asks for; the first of each stays")
    if plan.cross_split_keys:
        few = ", ".join(plan.cross_split_keys[:5])
        listener.note(f"{len(plan.cross_split_keys):,} clips stand in more than one split, such as {few}")


def _shards_to_do(
    output: Output, workspace: Workspace, shards: Iterable[PlannedShard], plan_hash: str, listener: PrepareListener
) -> Iterator[PlannedShard]:
    """Those of the shards without a true marker. What lies damaged in the place of one is put away."""
    layout = output.layout
    for planned in shards:
        if shard_problem(layout, planned, plan_hash) is None:
            continue
        with workspace.publishing():
            problem = shard_problem(layout, planned, plan_hash)  # another run may have made it meanwhile
            if problem is None:
                continue
            if any(path.exists() for path in layout.files(planned.shard)):
                folder = output.quarantine(planned.shard)
                listener.note(f"{problem}: moved to {folder}, will be made again")
        yield planned


def _report(
    config: PrepareConfig,
    layout: Layout,
    share: Share,
    plan_hash: str,
    found: dict[str, Any],
    sources: dict[str, int],
) -> PrepareReport:
    statuses = sum((Counter(split["statuses"]) for split in found.values()), Counter[str]())
    made = {planned.shard: layout.stats(planned.shard).exists() for planned in _shards_of(share, layout)}
    unmade = [planned for planned in _shards_of(share, layout) if not planned.part and not made[planned.shard]]
    return PrepareReport(
        out=config.out,
        recipe=config.recipe.name,
        plan_hash=plan_hash,
        requested=sum(statuses.values()),
        ok=statuses["ok"],
        statuses=dict(statuses.most_common()),
        splits=found,
        sources=sources,
        pending=sum(len(planned.rows) for planned in unmade),
        num_shards=sum(made.values()),
        min_success=config.min_success,
    )
