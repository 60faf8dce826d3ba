"""What a run of prepare is asked for."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """What to prepare, from where, and how."""

    recipe: Recipe
    out: Path
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
