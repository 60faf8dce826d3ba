"""A run of prepare: plan, shard tasks, commits, catalog. Run again, it goes on where it stopped."""

import json
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from avdata.prepare.card import write_catalog
from avdata.prepare.catalog import PlannedShard, coverage, merge_manifest, planned_shards, shard_problem
from avdata.prepare.commit import Workspace, quarantine, storage_errors, write_durably
from avdata.prepare.executors import LocalExecutor, ShardTask
from avdata.prepare.lists import fetch_lists
from avdata.prepare.pipeline import SampleConfig, run_clip
from avdata.prepare.plan import Plan, freeze, hash_table, make_plan
from avdata.prepare.sources import SourceChain, open_source
from avdata.prepare.sources.media import MediaRef
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.synth import CLASSES, SynthConfig
from avdata.prepare.sources.synth.source import SynthRef, synth_requests
from avdata.prepare.supervise import Supervision
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.keys import clip_keys
from avmanifest.layout import Layout
from avmanifest.lists import folder_requests, read_requests
from avmanifest.recipe import Recipe, TableOptions
from avmanifest.schema import CLIP_SCHEMA, FORMAT_VERSION, PLAN_SCHEMA, StatusClass, status_class
from avmanifest.table import read_batches, read_table


class Retry(StrEnum):
    """Which failed clips to try again, in new shards at the end."""

    NONE = "none"
    TRANSIENT = "transient"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """What to prepare, from where, and how."""

    recipe: Recipe
    out: Path
    sample: SampleConfig = field(default_factory=SampleConfig)
    list_path: Path | None = None  # the recipe's list, or the folder of its lists; None: fetched
    sources: tuple[str, ...] = ()
    splits: tuple[str, ...] | None = None  # None: the recipe's default
    table: TableOptions | None = None
    synth: SynthConfig | None = None
    shard_size: int = 1_000
    limit: int | None = None
    supervision: Supervision = field(default_factory=Supervision)
    min_success: float = 0.5  # of the requested clips; fewer is an incomplete dataset
    retry: Retry = Retry.NONE
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.shard_size < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError(f"shard_size={self.shard_size} and limit={self.limit} must be at least 1")
        if not 0 <= self.min_success <= 1:
            raise ConfigError(f"min_success={self.min_success} is not between 0 and 1")
        if self.recipe.name == "synth":
            if self.sources or self.list_path:
                raise ConfigError("recipe synth draws its videos: it takes no --source and no --list")
        elif not self.sources:
            raise ConfigError(f"recipe {self.recipe.name} needs at least one --source, such as local:DIR")


@runtime_checkable
class Listener(Protocol):
    """Told how a run comes along. Every method may do nothing."""

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        """The plan is frozen; so many of its clips are still to be done."""

    def clip_ended(self, status: str) -> None:
        """A clip ended with a status."""

    def step(self, name: str) -> None:
        """Something small was done, such as a step of a commit."""

    def note(self, text: str) -> None:
        """Something the user should read."""


class Silent:
    """A listener that tells nobody."""

    def planned(self, plan: pa.Table, num_to_do: int) -> None: ...

    def clip_ended(self, status: str) -> None: ...

    def step(self, name: str) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run left behind. `splits` is `catalog.coverage`."""

    out: Path
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


def prepare(config: PrepareConfig, listener: Listener | None = None) -> Report:
    """Prepare the dataset, or go on with it. Every requested clip ends as one row of the manifest.

    Raises ConfigError if the output holds another plan or configuration (with the difference), StorageError if
    it cannot be written, ManifestError for a list that cannot be read.
    """
    listener = listener or Silent()
    layout = Layout(config.out)
    _check_output(layout)
    workspace = Workspace(layout)
    try:
        plan = _make_plan(config, layout) if config.overwrite or _needs_plan(config, layout) else None
        with storage_errors(layout.root), workspace.publishing():
            others = workspace.others()
            if config.overwrite:
                _remove_dataset(layout, others)
            frozen = _frozen_plan(config, layout, plan, listener)
        plan_hash = hash_table(frozen)
        to_do = list(_shards_to_do(layout, workspace, planned_shards(layout), plan_hash, listener))
        if config.retry is not Retry.NONE:
            with workspace.publishing():
                added = list(_plan_retry(config, layout, listener))
            to_do += _shards_to_do(layout, workspace, added, plan_hash, listener)
        listener.planned(frozen, sum(len(planned.rows) for planned in to_do))
        locate, chain = _locator(config, layout, listener) if to_do else (_nowhere, None)
        executor = LocalExecutor(
            layout=layout,
            workspace=workspace,
            clip=partial(run_clip, config.sample),
            locate=locate,
            supervision=config.supervision,
            plan_hash=plan_hash,
            on_clip=listener.clip_ended,
            observe=listener.step,
        )
        tasks = (ShardTask(planned.shard, tuple(planned.rows.to_pylist())) for planned in to_do)
        for result in executor.run(tasks):
            listener.step(f"{result.shard}: {'done' if result.stats else 'left for another source'}")
        with storage_errors(layout.root), workspace.publishing():
            merge_manifest(layout)
            listener.step("manifest merged")
            found = coverage(layout)
            write_catalog(layout, config.recipe, config.sample, found)
            listener.step("catalog written")
    finally:
        workspace.close()
    return _report(config, layout, frozen, found, dict(chain.coverage) if chain else {})


def dry_run(config: PrepareConfig) -> pa.Table:
    """The plan (PLAN_SCHEMA) that a run would freeze; nothing is written but fetched lists."""
    return _make_plan(config, Layout(config.out)).table


def _nowhere(row: Mapping[str, Any]) -> None:
    raise AssertionError(f"nothing is to be done, and {row['key']} was asked for")


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


def _frozen_plan(config: PrepareConfig, layout: Layout, plan: Plan | None, listener: Listener) -> pa.Table:
    """The first part of the plan: frozen before, or frozen now. Called with the publishing lock held."""
    settings = _settings(config)
    if layout.dataset_json.exists():
        recorded = _read_description(layout)
        _refuse_other_settings(layout, recorded, settings)
        frozen = read_table(layout.plan_part(0), PLAN_SCHEMA)
        if hash_table(frozen) != recorded["plan_hash"]:
            raise ManifestError(f"{layout.plan_part(0)}: is not the plan that {layout.dataset_json} describes")
        if plan is not None:
            _refuse_other_plan(layout, frozen, plan.table)
        if recorded["tools"] != _tools():
            listener.note(f"{layout.root} was begun with other versions: {_difference(recorded['tools'], _tools())}")
        return frozen
    assert plan is not None, "dataset.json is removed by runs that have the output for themselves"
    if any(layout.shards(split) for split in layout.splits()):
        raise ConfigError(
            f"{layout.root}: holds shards and no {layout.dataset_json.name}, so nobody can tell what they are. "
            "Put the file back, or prepare with --overwrite."
        )
    _tell_duplicates(plan, listener)
    description = {
        "format_version": FORMAT_VERSION,
        "recipe": {"name": config.recipe.name, "title": config.recipe.title, "licence": config.recipe.licence},
        "config": settings,
        "labels": _class_order(config, plan.table),
        "plan_hash": plan.hash,
        "tools": _tools(),
    }
    for stale in (*layout.plan_part(0).parent.glob("part-*"), *layout.manifest("train").parent.glob("*.parquet")):
        stale.unlink()
    freeze(plan, layout.plan_part(0))
    write_durably(layout.dataset_json, json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    return plan.table


def _make_plan(config: PrepareConfig, layout: Layout) -> Plan:
    requests = _requests(config, layout)
    return make_plan(
        requests,
        clip_keys(config.recipe, requests),
        seed=config.sample.seed,
        shard_size=config.shard_size,
        limit=config.limit,
    )


def _requests(config: PrepareConfig, layout: Layout) -> pa.Table:
    recipe = config.recipe
    if recipe.name == "synth":
        return synth_requests(config.synth or SynthConfig())
    if recipe.name == "folder":
        table = folder_requests(_folder_root(config))
        return table if config.splits is None else _of_splits(table, config.splits)
    lists = config.list_path or fetch_lists(recipe, config.splits, layout.lists)
    return read_requests(recipe, lists, config.splits, config.table)


def _folder_root(config: PrepareConfig) -> Path:
    """The folder whose files are the dataset: the first local source."""
    for source in config.sources:
        scheme, _, rest = source.partition(":")
        if scheme == "local" and rest:
            return Path(rest).expanduser()
    raise ConfigError(f"recipe folder lists the files of a --source local:DIR; got {', '.join(config.sources)}")


def _of_splits(table: pa.Table, splits: tuple[str, ...]) -> pa.Table:
    present = table.column("split").unique().to_pylist()
    if unknown := sorted(set(splits) - set(present)):
        raise ConfigError(f"no clip is of split {unknown}; the folder has {sorted(present)}")
    return table.filter(pa.compute.is_in(table.column("split"), pa.array(splits, pa.string())))


def _class_order(config: PrepareConfig, plan: pa.Table) -> list[str]:
    """The dataset's labels in the order of the class indices."""
    if config.recipe.name == "synth":
        return [kind.name for kind in CLASSES[: (config.synth or SynthConfig()).num_classes]]
    found = plan.column("labels").combine_chunks().flatten().unique().to_pylist()
    return list(config.recipe.labels) or sorted(found)


def _tell_duplicates(plan: Plan, listener: Listener) -> None:
    if plan.num_duplicates:
        listener.note(f"{plan.num_duplicates:,} rows ask for a clip that another row asks for; the first of each stays")
    if plan.cross_split_keys:
        few = ", ".join(plan.cross_split_keys[:5])
        listener.note(f"{len(plan.cross_split_keys):,} clips stand in more than one split, such as {few}")


def _settings(config: PrepareConfig) -> dict[str, Any]:
    """What decides the dataset's content besides the videos; recorded, and the same on every resume."""
    settings: dict[str, Any] = asdict(config.sample)
    settings |= {
        "mel": list(config.sample.mel),
        "recipe": config.recipe.name,
        "splits": None if config.splits is None else sorted(config.splits),
        "shard_size": config.shard_size,
        "limit": config.limit,
        "table": None if config.table is None else asdict(config.table),
        "synth": None if config.synth is None else asdict(config.synth),
    }
    return settings


def _tools() -> dict[str, str]:
    """Versions of what has a say in the bytes."""
    packages = ("avkit", "av", "numpy", "opencv-python-headless", "pyarrow", "simplejpeg", "soundfile", "soxr", "torch")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def _read_description(layout: Layout) -> dict[str, Any]:
    path = layout.dataset_json
    try:
        recorded = json.loads(path.read_bytes())
        found = recorded["format_version"]
        complete = {"recipe", "config", "labels", "plan_hash", "tools"} <= recorded.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: not a dataset's description ({error!r}). Prepare with --overwrite.") from error
    if found != FORMAT_VERSION or not complete:
        raise ManifestError(f"{path}: format version {found}, this avkit writes {FORMAT_VERSION}. Use --overwrite.")
    return dict(recorded)


def _refuse_other_settings(layout: Layout, recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(settings))
    if recorded["config"] != now:
        raise ConfigError(
            f"{layout.root} was begun with another configuration: {_difference(recorded['config'], now)}. "
            "Give the same options, another --out, or --overwrite."
        )


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name)!r} -> {after.get(name)!r}" for name in names)


def _refuse_other_plan(layout: Layout, frozen: pa.Table, now: pa.Table) -> None:
    if frozen.equals(now):
        return
    before, after = (set(table.column("key").to_pylist()) for table in (frozen, now))
    few = [f"- {key}" for key in sorted(before - after)[:3]] + [f"+ {key}" for key in sorted(after - before)[:3]]
    raise ConfigError(
        f"{layout.root} was begun with another list: {len(before - after):,} clips are gone and "
        f"{len(after - before):,} are new ({'; '.join(few) or 'the same clips, with other labels or times'}). "
        "Give the same list, another --out, or --overwrite."
    )


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


def _plan_retry(config: PrepareConfig, layout: Layout, listener: Listener) -> Iterator[PlannedShard]:
    """Freeze another part of the plan with the failed clips of committed shards; its shards, new ones at the end.

    Called with the publishing lock held.
    """
    merge_manifest(layout)
    again: set[str] = set()
    for split in layout.splits():
        for batch in read_batches(layout.manifest(split), CLIP_SCHEMA, ["key", "status", "shard"]):
            for row in batch.to_pylist():
                transient = status_class(row["status"]) is StatusClass.TRANSIENT
                wanted = row["status"] != "ok" and (config.retry is Retry.ALL or transient)
                if wanted and row["shard"] is not None:
                    again.add(row["key"])
    if any(not layout.stats(planned.shard).exists() for planned in planned_shards(layout) if planned.part):
        listener.note("the last retry is not finished; going on with it")
        return
    if not again:
        listener.note(f"nothing to retry ({config.retry})")
        return
    rows: dict[str, dict[str, Any]] = {}
    next_shard: Counter[str] = Counter()
    for planned in planned_shards(layout):
        next_shard[planned.shard.split] = max(next_shard[planned.shard.split], planned.shard.number + 1)
        rows |= {row["key"]: row for row in planned.rows.to_pylist() if row["key"] in again}
    table = pa.Table.from_pylist(list(rows.values()), schema=PLAN_SCHEMA)
    plan = make_plan(
        table.drop_columns(["key", "shard", "position"]),
        table.column("key"),
        seed=config.sample.seed,
        shard_size=config.shard_size,
        first_shards=dict(next_shard),
    )
    part = len(layout.plan_parts())
    with storage_errors(layout.root):
        freeze(plan, layout.plan_part(part))
    listener.note(f"{len(again):,} failed clips are tried again")
    yield from (planned for planned in planned_shards(layout) if planned.part == part)


Locate = Callable[[Mapping[str, Any]], MediaRef | SynthRef | None]


def _locator(config: PrepareConfig, layout: Layout, listener: Listener) -> tuple[Locate, SourceChain | None]:
    """How to find the media of a plan row, and the sources that count what they gave."""
    if config.recipe.name == "synth":
        synth = config.synth or SynthConfig()
        return lambda row: SynthRef(config=synth, index=int(row["video_id"])), None
    chain = SourceChain([open_source(source, cache_dir=layout.temporary) for source in config.sources])
    for problem in chain.problems:
        listener.note(problem)

    def locate(row: Mapping[str, Any]) -> MediaRef | None:
        return chain.locate(ClipRequest(row["video_id"], row["start_s"], row["end_s"], row["path"]))

    return locate, chain


def _report(
    config: PrepareConfig, layout: Layout, frozen: pa.Table, found: dict[str, Any], sources: dict[str, int]
) -> Report:
    statuses = sum((Counter(split["statuses"]) for split in found.values()), Counter[str]())
    shards = [shard for split in found for shard in layout.shards(split)]
    unmade = [p for p in planned_shards(layout) if not p.part and not layout.stats(p.shard).exists()]
    return Report(
        out=config.out,
        recipe=config.recipe.name,
        plan_hash=hash_table(frozen),
        requested=sum(statuses.values()),
        ok=statuses["ok"],
        statuses=dict(statuses.most_common()),
        splits=found,
        sources=sources,
        pending=sum(len(planned.rows) for planned in unmade),
        num_shards=len(shards),
        min_success=config.min_success,
    )
