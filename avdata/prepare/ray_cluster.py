"""Shard tasks on a Ray cluster: one Ray Core task per shard, each with the supervised child processes of one machine.

If a node fails, its unfinished shards are retried on another node; published shards remain. All nodes must reach the
sources and the output under the same names: a shared file system, or a bucket.
"""

import functools
import os
import pickle
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import pyarrow as pa

from avdata.prepare.commit import Workspace, storage_errors
from avdata.prepare.config import DownloadConfig, PrepareConfig
from avdata.prepare.download import source_rate_limit
from avdata.prepare.download.rate_limit import NoRateLimit, RateLimit
from avdata.prepare.executors import ShardResult, ShardTask, local_executor
from avdata.prepare.media_resolver import MediaResolver
from avdata.prepare.output import DatasetOutput, open_output
from avdata.prepare.report import PrepareListener, SilentListener, StepCosts
from avdata.prepare.sources import RemoteSource
from avmanifest.errors import AvkitError, ConfigError, StorageError
from avmanifest.schema import PLAN_SCHEMA
from avmanifest.secrets import excerpt

NAMESPACE: Final = "avkit"
_RETRIES: Final = 3  # of a task whose worker or node died
_WINDOW: Final = 2  # submitted tasks for each task that can run at once
_POLL_S: Final = 1.0  # longest wait for tasks that ended


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeResult:
    """The result of a shard task on its node. It is small: the node writes the samples to the output itself."""

    stats: dict[str, Any] | None = None
    statuses: tuple[str, ...] = ()
    sources: Counter[str] = field(default_factory=Counter)
    costs: StepCosts = field(default_factory=StepCosts)
    error: AvkitError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RayExecutor:
    """Runs tasks of `config.supervision.num_workers` CPUs each on an existing Ray cluster."""

    config: PrepareConfig
    output: DatasetOutput
    plan_hash: str
    listener: PrepareListener
    media: MediaResolver  # the driver's: counts the clips of each source, lists the remote sources
    costs: StepCosts  # receives those of the nodes

    def run(self, tasks: Iterable[ShardTask]) -> Iterator[ShardResult]:
        """Yield each shard when it is published.

        Raises:
            ConfigError: Ray is not installed, there is no cluster, or none of its nodes has the CPUs of one task.
            StorageError: A node cannot write the output, a task was lost on every attempt, or a node writes to a
                folder that this machine does not see. Other AvkitErrors of a node are raised as they are.
        """
        ray = import_ray()
        ours = not ray.is_initialized()
        if ours:
            _join(ray)
        in_flight: dict[Any, ShardTask] = {}
        cpus = self.config.supervision.num_workers
        # Ray retries tasks whose worker or node died, but no exceptions: those are results or bugs.
        remote = ray.remote(num_cpus=cpus, max_retries=_RETRIES, retry_exceptions=False)(shard_on_node)
        blob = pickle.dumps(self.config)
        try:
            nodes = _cpus_of_nodes(ray)
            if max(nodes, default=0) < cpus:
                raise ConfigError(
                    f"--workers {cpus} asks for {cpus} CPUs of one node, and no node has them; the {len(nodes)} nodes "
                    f"have {_counted(nodes)} CPUs. Give --workers {int(max(nodes, default=0)) or 1}, or start "
                    "the nodes with more (ray start --num-cpus)."
                )
            self.listener.note(f"ray: {len(nodes)} nodes, {sum(nodes):g} CPUs")
            for source in self.media.remote:
                cluster_rate_limit(
                    source, self.config.downloads
                )  # created here first: the driver's node outlives the others
            for task in tasks:
                while len(in_flight) >= _window(ray, cpus):
                    yield from self._ended(ray, in_flight)
                in_flight[remote.remote(blob, self.plan_hash, task)] = task
            while in_flight:
                yield from self._ended(ray, in_flight)
        finally:
            for reference in in_flight:
                ray.cancel(reference, force=True)
            if ours:
                ray.shutdown()

    def _ended(self, ray: ModuleType, in_flight: dict[Any, ShardTask]) -> Iterator[ShardResult]:
        """The results of tasks that ended within _POLL_S seconds."""
        done, _ = ray.wait(list(in_flight), timeout=_POLL_S)
        for reference in done:
            task = in_flight.pop(reference)
            try:
                result: _NodeResult = ray.get(reference)
            except ray.exceptions.RayTaskError:
                raise  # a bug: AvkitErrors are returned as values
            except ray.exceptions.RayError as error:
                reason = excerpt(" ".join(str(error).split()), 300)
                raise StorageError(
                    f"{task.shard}: its node or worker died {_RETRIES + 1} times ({reason}). Committed shards "
                    "are safe; run the same command again."
                ) from error
            if result.error is not None:
                raise result.error
            for status in result.statuses:
                self.listener.clip_ended(status)
            self.media.count(result.sources)
            self.costs.add_all(result.costs)
            if result.stats is not None and not self.output.is_done(task.shard, self.plan_hash):
                raise StorageError(
                    f"{self.config.out}: a node published {task.shard}, but this machine does not see it. Give --out a "
                    "folder that every node mounts, or a bucket."
                )
            yield ShardResult(task.shard, result.stats)


def shard_on_node(blob: bytes, plan_hash: str, task: ShardTask) -> _NodeResult:
    """Run one shard task on this node. `blob` is the pickled PrepareConfig, sent by the driver."""
    statuses: list[str] = []
    costs = StepCosts()
    try:
        config = _config(blob)
        output, media = _opened(blob)
        before = Counter(media.coverage)
        with output.naming(), storage_errors(output.layout.root):
            workspace = Workspace(output.layout)
            try:
                listener = _Statuses(statuses)
                rows = pa.Table.from_pylist([dict(row) for row in task.rows], PLAN_SCHEMA)
                media.begin_downloads([rows], listener, cluster_rate_limit)
                executor = local_executor(config, output, workspace, media, plan_hash, listener, costs)
                (result,) = executor.run([task])
            finally:
                media.close()
                workspace.close()
    except AvkitError as error:
        return _NodeResult(error=error)
    stats = None if result.stats is None else dict(result.stats)
    sources = Counter(media.coverage) - before
    return _NodeResult(stats=stats, statuses=tuple(statuses), sources=sources, costs=costs)


def _config(blob: bytes) -> PrepareConfig:
    """The driver's config. Raises ConfigError if this node cannot import the module of a step."""
    try:
        config: PrepareConfig = pickle.loads(blob)  # noqa: S301 - our own driver's
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{platform.node()}: a node of the cluster cannot import the module of a step ({error}). Install it on "
            "every node, or put it in a folder of each node's PYTHONPATH."
        ) from error
    return config


@functools.lru_cache(maxsize=1)
def _opened(blob: bytes) -> tuple[DatasetOutput, MediaResolver]:
    """Output and sources of a run, opened once per worker process."""
    config = _config(blob)
    output = open_output(config.out, config.patience)
    return output, MediaResolver(config, output.layout)


class _Statuses(SilentListener):
    """Collects the statuses of the clips for the driver."""

    def __init__(self, statuses: list[str]) -> None:
        self._statuses = statuses

    def clip_ended(self, status: str) -> None:
        self._statuses.append(status)


def import_ray() -> ModuleType:
    """Import Ray without its usage reports. Raises ConfigError, with what to install, if it is missing."""
    # Ray sends usage reports to its authors unless this is set before the import.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ConfigError(f"--executor ray needs Ray ({error}). Install it: pip install 'avkit[ray]'") from error
    return ray


def _join(ray: ModuleType) -> None:
    """Join the cluster at RAY_ADDRESS, or the one that this machine is part of. Raises ConfigError without one.

    avkit starts no cluster: Ray listens on every interface without a password, which the user has to decide.
    """
    address = os.environ.get("RAY_ADDRESS") or "auto"
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    except ConnectionError as error:
        where = "this machine is part of none" if address == "auto" else f"none answers at RAY_ADDRESS={address}"
        raise ConfigError(
            f"--executor ray needs a cluster, and {where}. Set RAY_ADDRESS, start one with ray start --head, or leave "
            "--executor out to use this machine alone."
        ) from error


def _cpus_of_nodes(ray: ModuleType) -> list[float]:
    """The CPUs of each node of the cluster that is alive, the most first."""
    return sorted((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), reverse=True)


def _counted(cpus: list[float]) -> str:
    """CPUs of nodes in words: `8 (3 nodes), 4 (1 node)`."""
    counts = Counter(cpus)
    return ", ".join(f"{n:g} ({count} node{'s' * (count > 1)})" for n, count in counts.items()) or "no"


def _window(ray: ModuleType, cpus: int) -> int:
    """How many tasks may be submitted at once, given the CPUs that the cluster has now."""
    return _WINDOW * max(int(ray.cluster_resources().get("CPU", 0) // cpus), 1)


def cluster_rate_limit(source: RemoteSource, downloads: DownloadConfig) -> RateLimit:
    """The limit of a source for the whole cluster, whose nodes are assumed to share one public address."""
    make = functools.partial(source_rate_limit, source, downloads)
    return make() if isinstance(make(), NoRateLimit) else ClusterRateLimit(source.name, make)


class ClusterRateLimit:
    """One rate limit for all nodes of a cluster that share a public address.

    A named Ray actor holds the limit on the node that creates it first; that should be the driver's, which outlives the
    others.

    Args:
        name: Name of the limit: equal names share one actor.
        make: Makes the limit, in the actor.
    """

    def __init__(self, name: str, make: Callable[[], RateLimit]) -> None:
        self._ray = ray = import_ray()
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        actor_class = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=_RETRIES)(_RateLimitActor)
        self._actor = actor_class.options(
            name=f"pace-{name}", namespace=NAMESPACE, get_if_exists=True, scheduling_strategy=here
        ).remote(make)

    def take(self) -> float:
        """See RateLimit."""
        return float(self._ray.get(self._actor.take.remote()))


class _RateLimitActor:
    def __init__(self, make: Callable[[], RateLimit]) -> None:
        self._rate_limit = make()

    def take(self) -> float:
        return self._rate_limit.take()
