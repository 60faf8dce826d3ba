"""The clips that a recipe and its list ask for, and their plan."""

from pathlib import Path

import pyarrow as pa

from avdata.prepare.config import PrepareConfig, SynthConfig
from avdata.prepare.lists import fetch_lists
from avdata.prepare.plan import Plan, make_plan
from avdata.prepare.sources.synth import CLASSES
from avdata.prepare.sources.synth.source import synth_requests
from avmanifest.errors import ConfigError
from avmanifest.keys import clip_keys
from avmanifest.layout import Layout
from avmanifest.lists import folder_requests, read_requests


def plan_of(config: PrepareConfig, layout: Layout) -> Plan:
    """The plan that the run would freeze; lists that have to be fetched go below the output."""
    requests = requested_clips(config, layout)
    return make_plan(
        requests,
        clip_keys(config.recipe, requests),
        seed=config.sample.seed,
        shard_size=config.shard_size,
        limit=config.limit,
    )


def requested_clips(config: PrepareConfig, layout: Layout) -> pa.Table:
    """The rows (REQUEST_SCHEMA) of the recipe's list."""
    recipe = config.recipe
    if recipe.name == "synth":
        return synth_requests(config.synth or SynthConfig())
    if recipe.name == "folder":
        table = folder_requests(_folder_root(config))
        return table if config.splits is None else _of_splits(table, config.splits)
    lists = config.list_path or fetch_lists(recipe, config.splits, layout.lists)
    return read_requests(recipe, lists, config.splits, config.table)


def class_order(config: PrepareConfig, plan: pa.Table) -> list[str]:
    """The dataset's labels in the order of the class indices."""
    if config.recipe.name == "synth":
        return [kind.name for kind in CLASSES[: (config.synth or SynthConfig()).num_classes]]
    found = plan.column("labels").combine_chunks().flatten().unique().to_pylist()
    return list(config.recipe.labels) or sorted(found)


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
