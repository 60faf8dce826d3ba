"""Read the clips that a recipe's list requests, fetch official lists, and make the plan."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from avdata.prepare.config import PrepareConfig, SynthConfig
from avdata.prepare.plan import Plan, make_plan
from avdata.prepare.sources.synth import CLASSES
from avdata.prepare.sources.synth.source import synth_requests
from avdata.store import Download, open_store
from avmanifest.errors import ConfigError, DownloadError
from avmanifest.files import replace_bytes, sha256_of, sha256_of_file
from avmanifest.keys import clip_keys
from avmanifest.layout import Layout
from avmanifest.lists import folder_requests, read_requests
from avmanifest.recipe import ListSpec, Recipe

MAX_LIST_BYTES: Final = 512 * 2**20
"""Largest list that is fetched."""


def plan_of(config: PrepareConfig, layout: Layout) -> Plan:
    """The plan that a run freezes. Lists that have no local path are fetched into the output folder."""
    notes: list[str] = []
    requests = requested_clips(config, layout, notes)
    plan = make_plan(
        requests,
        clip_keys(config.recipe, requests),
        seed=config.sample.seed,
        shard_size=config.shard_size,
        limit=config.limit,
    )
    return replace(plan, notes=tuple(notes))


def requested_clips(config: PrepareConfig, layout: Layout, notes: list[str]) -> pa.Table:
    """The rows (REQUEST_SCHEMA) of the recipe's list, of the folder, or of the synthetic dataset.

    `notes` receives a line for each thing about a list that is not as in the official one.
    """
    recipe = config.recipe
    if recipe.name == "synth":
        return synth_requests(config.synth or SynthConfig())
    if recipe.name == "folder":
        table = folder_requests(_folder_root(config))
        return table if config.splits is None else _of_splits(table, config.splits)
    lists = config.list_path or fetch_lists(recipe, config.chosen_splits, layout.lists)
    return read_requests(recipe, lists, config.chosen_splits, config.table, notes)


def class_order(config: PrepareConfig, plan: pa.Table) -> list[str]:
    """The dataset's labels in the order of the class indices: the recipe's, else the plan's, sorted."""
    if config.recipe.name == "synth":
        return [kind.name for kind in CLASSES[: (config.synth or SynthConfig()).num_classes]]
    labels = plan.column("labels").combine_chunks().flatten().unique().to_pylist()
    return list(config.recipe.labels) or sorted(labels)


def _folder_root(config: PrepareConfig) -> Path:
    """The folder of the recipe `folder`: the first local source."""
    for source in config.sources:
        scheme, _, rest = source.partition(":")
        if scheme == "local" and rest:
            return Path(rest).expanduser()
    raise ConfigError(f"recipe folder lists the files of a --source local:FOLDER; got {', '.join(config.sources)}")


def _of_splits(table: pa.Table, splits: tuple[str, ...]) -> pa.Table:
    present = table.column("split").unique().to_pylist()
    if unknown := sorted(set(splits) - set(present)):
        raise ConfigError(f"no clip is of split {unknown}; the folder has the splits {sorted(present)}")
    return table.filter(pa.compute.is_in(table.column("split"), pa.array(splits, pa.string())))


def fetch_lists(recipe: Recipe, splits: tuple[str, ...] | None, folder: Path) -> Path:
    """Fetch the official lists that the splits need, unless the folder has them with the right hash.

    Args:
        recipe: Names the lists, their addresses and hashes.
        splits: The splits to prepare; None: the recipe's default.
        folder: Where the lists are written, each under its official name.

    Returns:
        The folder.

    Raises:
        ConfigError: A list has no address.
        DownloadError: A list cannot be fetched, or its hash differs from the recipe's.
    """
    needed = splits or recipe.default_splits
    specs = [spec for spec in recipe.lists if not needed or not spec.splits or set(needed) & set(spec.splits)]
    for spec in specs:
        target = folder / spec.file
        if not spec.url:
            raise ConfigError(f"recipe {recipe.name}: {spec.file or 'its list'} has no address; give it with --list")
        if not target.exists() or (spec.sha256 and sha256_of_file(target) != spec.sha256):
            replace_bytes(target, _download(recipe, spec), shared=True)
    return folder


def _download(recipe: Recipe, spec: ListSpec) -> bytes:
    remedy = "Download it yourself and give it with --list."
    where = f"recipe {recipe.name}: {spec.url}"
    try:
        with Download(open_store(spec.url), "") as file:
            content = file.read(MAX_LIST_BYTES + 1)
    except Exception as error:
        raise DownloadError("net_http", f"{where}: cannot be fetched ({error}). {remedy}") from error
    if len(content) > MAX_LIST_BYTES:
        raise DownloadError("net_http", f"{where}: more than {MAX_LIST_BYTES} bytes. {remedy}")
    if spec.sha256 and sha256_of(content) != spec.sha256:
        raise DownloadError("net_http", f"{where}: its sha256 is {sha256_of(content)}, not {spec.sha256}. {remedy}")
    return content
