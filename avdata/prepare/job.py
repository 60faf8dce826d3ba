"""A run of prepare: plan, shard tasks, commits, catalog. Run again, it goes on where it stopped."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from avdata.prepare import description
from avdata.prepare.card import write_catalog
from avdata.prepare.catalog import PlannedShard, coverage, merge_manifest, planned_shards, shard_problem
from avdata.prepare.commit import Workspace, quarantine, storage_errors
from avdata.prepare.config import PrepareConfig, Retry
from avdata.prepare.download import DownloadStage, FetchThread, MediaCache, repeated_videos, source_pace
from avdata.prepare.executors import LocalExecutor, ShardTask
from avdata.prepare.pipeline import run_clip
from avdata.prepare.plan import Plan, freeze, hash_table
from avdata.prepare.progress import ProgressMark
from avdata.prepare.report import Listener, Report, Silent
from avdata.prepare.requests import class_order, plan_of
from avdata.prepare.retry import plan_retry
from avdata.prepare.sources import Ref, SourceChain, open_source
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.remote import FailedRef
from avdata.prepare.sources.synth import SynthConfig
from avdata.prepare.sources.synth.source import SynthRef
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.layout import Layout
from avmanifest.schema import PLAN_SCHEMA
from avmanifest.table import read_table


def prepare(config: PrepareConfig, listener: Listener | None = None) -> Report:
    """Prepare the dataset, or go on with it. Every requested clip ends as one row of the manifest.

    Raises ConfigError if the output holds another plan or configuration (with the difference), StorageError if
    it cannot be written, ManifestError for a list that cannot be read.
    """
    listener = listener or Silent()
    layout = Layout(config.out)
    _check_output(layout)
    # What is wrong with a source or a list is said before anything is written.
    media = Media(config, layout) if config.overwrite or not layout.dataset_json.exists() else None
    plan = plan_of(config, layout) if config.overwrite or _needs_plan(config, layout) else None
    workspace = Workspace(layout)
    listener = mark = ProgressMark(listener, workspace.path)
    try:
        with storage_errors(layout.root), workspace.publishing():
            others = workspace.others()
            if config.overwrite:
                _remove_dataset(layout, others)
            frozen, plan_hash = _frozen_plan(config, layout, plan, listener)
        to_do = list(_shards_to_do(layout, workspace, planned_shards(layout), plan_hash, listener))
        if config.retry is not Retry.NONE:
            with workspace.publishing():
                added = plan_retry(config, layout, listener)
            to_do += _shards_to_do(layout, workspace, added, plan_hash, listener)
        listener.planned(frozen, sum(len(planned.rows) for planned in to_do))
        if to_do:
            media = media or Media(config, layout)
            media.begin_downloads([planned.rows for planned in to_do], listener)
            for problem in media.problems:
                listener.note(problem)
            if media.downloads:
                mark.sources = media.downloads.snapshot
            executor = LocalExecutor(
                layout=layout,
                workspace=workspace,
                clip=partial(run_clip, config.sample),
                locate=media.locate,
                downloads=media.downloads,
                supervision=config.supervision,
                plan_hash=plan_hash,
                on_clip=listener.clip_ended,
                observe=listener.step,
            )
            tasks = (ShardTask(planned.shard, tuple(planned.rows.to_pylist())) for planned in to_do)
            for result in executor.run(tasks):
                listener.step(f"{result.shard}: {'done' if result.stats else 'left for another source'}")
        with storage_errors(layout.root), workspace.publishing():
            merge_manifest(layout, media.stopped if media else None)
            listener.step("manifest merged")
            found = coverage(layout)
            write_catalog(layout, config.recipe, config.sample, found)
            listener.step("catalog written")
    finally:
        if media:
            media.close()
        workspace.close()
    return _report(config, layout, plan_hash, found, media.coverage if media else {})


def dry_run(config: PrepareConfig) -> pa.Table:
    """The plan (PLAN_SCHEMA) that a run would freeze; nothing is written but fetched lists. See also `estimate`."""
    return plan_of(config, Layout(config.out)).table


class Media:
    """Where the media of plan rows lie: in the sources in the order given, or nowhere yet, for drawn clips.

    What lies elsewhere is fetched by `downloads`, once they have begun.
    """

    def __init__(self, config: PrepareConfig, layout: Layout) -> None:
        self._synth = (config.synth or SynthConfig()) if config.recipe.name == "synth" else None
        self._chain = SourceChain(
            [open_source(source, cache_dir=layout.temporary, options=config.remote) for source in config.sources]
        )
        self._config = config
        self._cache_dir = config.downloads.cache_dir or layout.media
        self.problems = self._chain.problems
        self.downloads: DownloadStage | None = None

    @property
    def coverage(self) -> dict[str, int]:
        """Clips that each source gave."""
        return dict(self._chain.coverage)

    @property
    def stopped(self) -> FailedRef | None:
        """Why a source was given up, as the reason of clips that no other source had."""
        return next(iter(self.downloads.stopped.values()), None) if self.downloads else None

    def locate(self, row: Mapping[str, Any]) -> Ref | None:
        """The media of a row (PLAN_SCHEMA); None if no source has it."""
        if self._synth is not None:
            return SynthRef(config=self._synth, index=int(row["video_id"]))
        if self.downloads:
            self._chain.stopped.update(self.downloads.stopped)
        return self._chain.locate(ClipRequest(row["video_id"], row["start_s"], row["end_s"], row["path"]))

    def begin_downloads(self, plan: Sequence[pa.Table], listener: Listener) -> None:
        """Open the stage that fetches, if a source needs it, for a plan (tables of PLAN_SCHEMA)."""
        if self._chain.remote:
            downloads = self._config.downloads
            fetching = FetchThread(
                downloads,
                self._chain.remote,
                {source.name: source_pace(source, downloads) for source in self._chain.remote},
                MediaCache(self._cache_dir, round(downloads.cache_gb * 1e9)),
                repeated_videos(plan),
                ask_again=self._config.retry is Retry.ALL or self._config.overwrite,
            )
            self.downloads = DownloadStage(
                fetching,
                lambda request, source: self._chain.locate(request, after=source),
                downloads.look_ahead,
                listener.note,
            )

    def close(self) -> None:
        """End the downloads."""
        if self.downloads:
            self.downloads.close()


def _check_output(layout: Layout) -> None:
    root = layout.root
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: is a file. Give --out a folder.")
    if not root.exists():
        return
    ours = layout.dataset_json.exists() or layout.plan_part(0).parent.exists() or layout.temporary.exists()
    if not ours and any(root.iterdir()):
        raise ConfigError(f"{root}: holds files that avkit did not make. Give --out a new or an empty folder.")


def _remove_dataset(layout: Layout, others: Sequence[Path]) -> None:
    """Remove what prepare made below the root, the description first: without it nothing of the rest counts."""
    if others:
        raise ConfigError(f"{layout.root}: another run is writing here ({others[0]}). End it before --overwrite.")
    layout.dataset_json.unlink(missing_ok=True)
    for split in layout.splits():
        for shard in layout.shards(split):
            for path in reversed(layout.files(shard)):
                path.unlink(missing_ok=True)
    for path in (layout.card, layout.croissant):
        path.unlink(missing_ok=True)
    for folder in (layout.energon, layout.quarantine):
        if folder.exists():
            shutil.rmtree(folder)


def _needs_plan(config: PrepareConfig, layout: Layout) -> bool:
    """Whether the run's list is read: to freeze it, or to see that it is the frozen one."""
    return not layout.dataset_json.exists() or config.list_path is not None or config.recipe.name == "folder"


def _frozen_plan(config: PrepareConfig, layout: Layout, plan: Plan | None, listener: Listener) -> tuple[pa.Table, str]:
    """The first part of the plan, frozen before or now, and its hash. Called with the publishing lock held."""
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
    return plan.table, plan_hash


def _plan_of_before(
    config: PrepareConfig, layout: Layout, plan: Plan | None, listener: Listener
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


def _tell_duplicates(plan: Plan, listener: Listener) -> None:
    if plan.num_duplicates:
        listener.note(f"{plan.num_duplicates:,} rows ask for a clip that another row asks for; the first of each stays")
    if plan.cross_split_keys:
        few = ", ".join(plan.cross_split_keys[:5])
        listener.note(f"{len(plan.cross_split_keys):,} clips stand in more than one split, such as {few}")


def _shards_to_do(
    layout: Layout, workspace: Workspace, shards: Iterable[PlannedShard], plan_hash: str, listener: Listener
) -> Iterator[PlannedShard]:
    """Those of the shards without a true marker. What lies damaged in the place of one is put away."""
    for planned in shards:
        if shard_problem(layout, planned, plan_hash) is None:
            continue
        with workspace.publishing():
            problem = shard_problem(layout, planned, plan_hash)  # another run may have made it meanwhile
            if problem is None:
                continue
            if any(path.exists() for path in layout.files(planned.shard)):
                folder = quarantine(layout, planned.shard)
                listener.note(f"{problem}: moved to {folder}, will be made again")
        yield planned


def _report(
    config: PrepareConfig, layout: Layout, plan_hash: str, found: dict[str, Any], sources: dict[str, int]
) -> Report:
    statuses = sum((Counter(split["statuses"]) for split in found.values()), Counter[str]())
    shards = [shard for split in found for shard in layout.shards(split)]
    unmade = [p for p in planned_shards(layout) if not p.part and not layout.stats(p.shard).exists()]
    return Report(
        out=config.out,
        recipe=config.recipe.name,
        plan_hash=plan_hash,
        requested=sum(statuses.values()),
        ok=statuses["ok"],
        statuses=dict(statuses.most_common()),
        splits=found,
        sources=sources,
        pending=sum(len(planned.rows) for planned in unmade),
        num_shards=len(shards),
        min_success=config.min_success,
    )
