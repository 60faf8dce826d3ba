"""dataset.json: what a dataset was made from and with, and the refusal to go on with anything else."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from avdata.prepare.config import PrepareConfig
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import replace_text
from avmanifest.layout import Layout
from avmanifest.schema import FORMAT_VERSION


def write_description(config: PrepareConfig, layout: Layout, labels: Sequence[str], plan_hash: str) -> None:
    """Write dataset.json; from then on the folder is this dataset."""
    description = {
        "format_version": FORMAT_VERSION,
        "recipe": {"name": config.recipe.name, "title": config.recipe.title, "licence": config.recipe.licence},
        "config": settings_of(config),
        "labels": list(labels),
        "plan_hash": plan_hash,
        "tools": tool_versions(),
    }
    replace_text(layout.dataset_json, json.dumps(description, indent=1, ensure_ascii=False) + "\n", durable=True)


def settings_of(config: PrepareConfig) -> dict[str, Any]:
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


def tool_versions() -> dict[str, str]:
    """Versions of what has a say in the bytes."""
    packages = ("avkit", "av", "numpy", "opencv-python-headless", "pyarrow", "simplejpeg", "soundfile", "soxr")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def read_description(layout: Layout) -> dict[str, Any]:
    """dataset.json. Raises ManifestError for one of another format, or none of ours."""
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


def refuse_other_settings(layout: Layout, recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ConfigError, with the difference, unless the settings are the recorded ones."""
    now = json.loads(json.dumps(settings))
    if recorded["config"] != now:
        raise ConfigError(
            f"{layout.root} was begun with another configuration: {difference(recorded['config'], now)}. "
            "Give the same options, another --out, or --overwrite."
        )


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What changed, as `name before -> after`."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name)!r} -> {after.get(name)!r}" for name in names)


def refuse_other_plan(layout: Layout, frozen: pa.Table, now: pa.Table) -> None:
    """Raise ConfigError, with the difference, unless the plans are one."""
    if frozen.equals(now):
        return
    before, after = (set(table.column("key").to_pylist()) for table in (frozen, now))
    few = [f"- {key}" for key in sorted(before - after)[:3]] + [f"+ {key}" for key in sorted(after - before)[:3]]
    raise ConfigError(
        f"{layout.root} was begun with another list: {len(before - after):,} clips are gone and "
        f"{len(after - before):,} are new ({'; '.join(few) or 'the same clips, with other labels or times'}). "
        "Give the same list, another --out, or --overwrite."
    )
