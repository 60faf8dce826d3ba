"""What a run of prepare is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from avdata.prepare.bucket import Patience
from avdata.prepare.download import DownloadConfig
from avdata.prepare.pipeline import SampleConfig
from avdata.prepare.sources import RemoteOptions
from avdata.prepare.sources.synth import SynthConfig
from avdata.prepare.supervise import Supervision
from avmanifest.errors import ConfigError
from avmanifest.recipe import Recipe, TableOptions


class Retry(StrEnum):
    """Which failed clips to try again, in new shards at the end."""

    NONE = "none"
    TRANSIENT = "transient"
    ALL = "all"


class ExecutorKind(StrEnum):
    """Who does the shard tasks."""

    LOCAL = "local"  # this machine
    RAY = "ray"  # a Ray cluster (an extra)
    SLICE = "slice"  # this machine, a share of the shards: one of many equal commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which of the plan's shards a run does: every `count`-th, from the `index`-th on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(f"task_index={self.index} is not among num_tasks={self.count} tasks, counted from 0")


def slurm_share(environment: Mapping[str, str]) -> Share:
    """The share of this task of a SLURM array. Raises ConfigError outside of one."""
    try:
        number, first, count, step = (
            int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
            for name, default in (("ID", ""), ("MIN", "0"), ("COUNT", ""), ("STEP", "1"))
        )
    except ValueError as error:
        raise ConfigError(
            "--executor slice needs --task-index and --num-tasks; outside of a SLURM array they cannot be found"
        ) from error
    if step < 1 or (number - first) % step or not 0 <= (number - first) // step < count:
        raise ConfigError(
            f"SLURM_ARRAY_TASK_ID={number} is no member of an array of {count} from {first} in steps of {step}. "
            "Give --task-index and --num-tasks."
        )
    return Share(index=(number - first) // step, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """What to prepare, from where, and how."""

    recipe: Recipe
    out: Path | str  # a folder, or the URL of one: s3://bucket/prefix
    sample: SampleConfig = field(default_factory=SampleConfig)
    list_path: Path | None = None  # the recipe's list, or the folder of its lists; None: fetched
    sources: tuple[str, ...] = ()
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    downloads: DownloadConfig = field(default_factory=DownloadConfig)
    splits: tuple[str, ...] | None = None  # None: the recipe's default
    table: TableOptions | None = None
    synth: SynthConfig | None = None
    shard_size: int = 1_000
    limit: int | None = None
    supervision: Supervision = field(default_factory=Supervision)
    patience: Patience = field(default_factory=Patience)  # with a bucket
    min_success: float = 0.5  # of the requested clips; fewer is an incomplete dataset
    retry: Retry = Retry.NONE
    overwrite: bool = False
    executor: ExecutorKind = ExecutorKind.LOCAL
    share: Share = field(default_factory=Share)  # of executor slice

    def __post_init__(self) -> None:
        if self.shard_size < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError(f"shard_size={self.shard_size} and limit={self.limit} must be at least 1")
        if not 0 <= self.min_success <= 1:
            raise ConfigError(f"min_success={self.min_success} is not between 0 and 1")
        if self.share.count > 1 and self.executor is not ExecutorKind.SLICE:
            raise ConfigError(f"{self.share.count} tasks belong to --executor slice, not to {self.executor}")
        if self.executor is ExecutorKind.SLICE and (self.overwrite or self.retry is not Retry.NONE):
            raise ConfigError(
                "--overwrite and --retry decide for all tasks, so no single one may. Remove the output first, or run "
                "--retry without --executor slice."
            )
        if self.recipe.name == "synth":
            if self.sources or self.list_path:
                raise ConfigError("recipe synth draws its videos: it takes no --source and no --list")
        elif not self.sources:
            raise ConfigError(f"recipe {self.recipe.name} needs at least one --source, such as local:DIR")
