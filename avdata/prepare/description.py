"""dataset.json: recipe, settings, plan hash and package versions of a dataset, and the checks before it is resumed."""

import json
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from avdata.prepare.config import PrepareConfig, SampleConfig
from avdata.prepare.steps.registry import load_steps, step_record
from avmanifest.columns import Column
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import NotAFile, read_file, replace_bytes
from avmanifest.layout import Layout
from avmanifest.parsing import read_json
from avmanifest.recipe import ListSpec, Recipe, load_recipe, recipe_names
from avmanifest.records import columns_of_description, parse_description, shown_step, version_problem
from avmanifest.schema import FORMAT_VERSION
from avmanifest.splits import aliases_of
from avmanifest.wording import counted

_ADDED: Final = {"deinterlace": True, "tone_map": True, "fast_decode": False, "steps": []}
"""Settings that datasets of earlier versions do not record. They go on with these values."""

_ADDED_TO_TABLE: Final = {"columns": ["*"]}
"""The same for the settings of a table. Such datasets go on without the columns of their lists."""


_OF_RECIPE: Final = (
    "name", "title", "licence", "homepage", "citation", "published", "task_categories", "note", "counts",
    "split_aliases",
)  # fmt: skip
"""What is recorded of a recipe: what the dataset card says, and its aliases of splits."""

_ADVICE: Final = "Restore the original file, or --overwrite."


def write_description(
    config: PrepareConfig,
    layout: Layout,
    labels: Sequence[str],
    plan_hash: str,
    columns: Sequence[Column] = (),
    *,
    removed: Collection[str] = (),
    frozen_hash: str | None = None,
) -> None:
    """Write dataset.json. From then on, only runs with the same settings and plan may write to the folder.

    Args:
        config: What is prepared.
        layout: Paths of the dataset.
        labels: The classes in order.
        plan_hash: Hash of the plan.
        columns: The extra columns: those of the list, and those of the steps.
        removed: Keys of the clips that were removed on request.
        frozen_hash: Hash of the plan as it is stored; None: `plan_hash`.
    """
    description = {
        "format_version": FORMAT_VERSION,
        "recipe": {name: getattr(config.recipe, name) for name in _OF_RECIPE},
        "config": settings_of(config),
        "labels": list(labels),
        "columns": [column.as_dict() for column in columns],
        "plan_hash": plan_hash,
        "tools": tool_versions(config),
    }
    if removed:
        description["removed"] = sorted(removed)
    if frozen_hash not in (None, plan_hash):
        description["frozen_plan_hash"] = frozen_hash
    replace_bytes(layout.dataset_json, encoded_description(description), durable=True)


def encoded_description(description: Mapping[str, Any]) -> bytes:
    """dataset.json as it is stored. Equal descriptions give equal bytes."""
    return (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode()


def recipe_of(description: Mapping[str, Any]) -> Recipe:
    """The recipe with what dataset.json records of it: what the card says. Its lists and labels are left out.

    Earlier versions recorded the name, the title and the licence alone. The rest is then that of avkit's own recipe.
    """
    recorded = {name: value for name, value in description["recipe"].items() if name in _OF_RECIPE}
    known = recorded.get("name") in recipe_names()
    usual = load_recipe(recorded["name"]) if known else Recipe(name="", title="", homepage="", licence="", key="")
    counts = recorded.pop("counts", usual.counts)
    recorded["split_aliases"] = {alias: tuple(splits) for alias, splits in aliases_of(description).items()}
    try:
        recorded["task_categories"] = tuple(recorded.get("task_categories", usual.task_categories))
        return replace(usual, **recorded, lists=(ListSpec(format="pattern", counts=counts),), labels=())
    except TypeError as error:
        raise ManifestError(f"dataset.json: recipe is not as avkit writes it ({error}). {_ADVICE}") from error


def joined_recipe(descriptions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What dataset.json records of the recipe of a dataset that was made from several: what differs is joined."""
    first = descriptions[0]["recipe"]
    if all(description["recipe"] == first for description in descriptions):
        return dict(first)
    recipes = list(map(recipe_of, descriptions))
    tasks = dict.fromkeys(task for recipe in recipes for task in recipe.task_categories)
    licences = dict.fromkeys(recipe.licence for recipe in recipes)
    stated = (f"{recipe.name}: {recipe.licence or 'not stated'}" for recipe in recipes)
    return {
        "name": "-and-".join(dict.fromkeys(recipe.name for recipe in recipes)),
        "title": " + ".join(dict.fromkeys(recipe.title for recipe in recipes)),
        "licence": recipes[0].licence if len(licences) == 1 else "; ".join(dict.fromkeys(stated)),
        "homepage": " ".join(dict.fromkeys(recipe.homepage for recipe in recipes if recipe.homepage)),
        "citation": "\n\n".join(dict.fromkeys(recipe.citation.strip() for recipe in recipes if recipe.citation)),
        "published": "",
        "task_categories": list(tasks),
        "note": "\n".join(dict.fromkeys(recipe.note.strip() for recipe in recipes if recipe.note)),
        "counts": {},
        "split_aliases": {alias: list(names) for recipe in recipes for alias, names in recipe.split_aliases.items()},
    }


def sample_of(description: Mapping[str, Any]) -> SampleConfig:
    """What a sample holds, by dataset.json. Settings that an earlier version did not record have their defaults."""
    names = {field.name for field in fields(SampleConfig)}
    recorded = {name: value for name, value in description["config"].items() if name in names}
    return SampleConfig(**recorded | {"mel": tuple(recorded["mel"])})


def removed_keys(description: Mapping[str, Any]) -> frozenset[str]:
    """Keys of the clips that were removed on request, and are not prepared again."""
    return frozenset(description.get("removed", ()))


def keep_removals(layout: Layout, note: Callable[[str], object]) -> None:
    """Write down the keys that were removed from a dataset which will be overwritten: `kept_removals` reads them."""
    try:
        removed = removed_keys(parse_description(read_file(layout.dataset_json), layout.dataset_json, _ADVICE))
    except FileNotFoundError:  # an --overwrite was stopped, and what it wrote down stays
        return
    except (ManifestError, OSError, TypeError) as error:
        note(f"{error} If clips were removed from this dataset on request, remove them again.")
        return
    if removed:
        layout.temporary.mkdir(parents=True, exist_ok=True)
        replace_bytes(_kept_removals(layout), json.dumps(sorted(removed)).encode(), durable=True)


def kept_removals(layout: Layout) -> frozenset[str]:
    """What `keep_removals` wrote down; empty: nothing. Raises ManifestError if the file is damaged."""
    path = _kept_removals(layout)
    if not path.exists():
        return frozenset()
    advice = "It lists the clips that were removed on request. Remove it, and remove the clips again after this run."
    keys = read_json(path, advice=advice)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ManifestError(f"{path}: not a list of keys. {advice}")
    return frozenset(keys)


def forget_kept_removals(layout: Layout) -> None:
    """Remove what `keep_removals` wrote down: dataset.json has it."""
    _kept_removals(layout).unlink(missing_ok=True)


def _kept_removals(layout: Layout) -> Path:
    return layout.temporary / "removed.json"


def frozen_hash(description: Mapping[str, Any]) -> str:
    """Hash of the plan's first part as it is stored.

    It is that of `plan_hash` until `avkit dataset remove` takes the list's own columns of clips out of the plan.
    """
    return str(description.get("frozen_plan_hash", description["plan_hash"]))


def with_plan(description: Mapping[str, Any], plan_hash: str) -> dict[str, Any]:
    """The description with another plan, which is stored as it was made."""
    return {name: value for name, value in description.items() if name != "frozen_plan_hash"} | {"plan_hash": plan_hash}


def settings_of(config: PrepareConfig) -> dict[str, Any]:
    """The settings that determine the dataset's content. They are recorded and must be equal on every resume."""
    settings: dict[str, Any] = asdict(config.sample)
    splits = config.chosen_splits
    settings |= {
        "mel": list(config.sample.mel),
        "recipe": config.recipe.name,
        "splits": None if splits is None else sorted(splits),
        "steps": [step_record(step) for step in load_steps(config.steps)],
        "shard_size": config.shard_size,
        "limit": config.limit,
        "table": None if config.table is None else asdict(config.table),
        "synth": None if config.synth is None else asdict(config.synth),
    }
    return settings


def tool_versions(config: PrepareConfig) -> dict[str, str]:
    """Versions of Python and the packages that influence the bytes of shards, and of yt-dlp if it is used."""
    packages = ["avkit", "av", "numpy", "opencv-python-headless", "pyarrow", "simplejpeg", "soundfile", "soxr"]
    packages += ["yt-dlp"] if "youtube" in config.sources else []
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def extra_columns(layout: Layout) -> tuple[Column, ...]:
    """The extra columns that dataset.json declares. A dataset of an earlier version, or without one, has none."""
    if not layout.dataset_json.exists():
        return ()
    path = layout.dataset_json
    return columns_of_description(parse_description(read_file(path), path, _ADVICE), path)


def read_description(layout: Layout, versions: tuple[int, ...] = (FORMAT_VERSION,)) -> dict[str, Any]:
    """Read dataset.json. Raises ManifestError if it is invalid, or of another format version than these."""
    path = layout.dataset_json
    try:
        content = read_file(path)
    except NotAFile as error:
        raise ManifestError(f"{path}: {error.strerror}. {_ADVICE}") from error
    recorded = parse_description(content, path, _ADVICE)
    if missing := {"format_version", "recipe", "config", "labels", "plan_hash", "tools"} - recorded.keys():
        raise ManifestError(f"{path}: has no {', '.join(sorted(missing))}. {_ADVICE}")
    if problem := version_problem(recorded["format_version"]):
        raise ManifestError(f"{path}: {problem}")
    if (version := recorded["format_version"]) not in versions:
        raise ManifestError(
            f"{path}: format version {version}, this avkit writes {FORMAT_VERSION}. Convert the dataset first: avkit "
            f"dataset migrate {layout.root}"
        )
    return recorded


def refuse_other_settings(layout: Layout, recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ConfigError, with the difference, unless the settings equal the recorded ones."""
    now = json.loads(json.dumps(settings))
    before = _ADDED | recorded["config"]
    if isinstance(before.get("table"), dict):
        before["table"] = _ADDED_TO_TABLE | before["table"]
    if before != now:
        raise ConfigError(
            f"{layout.root} was begun with another configuration: {difference(before, now)}. "
            "Give the same options, another --out, or --overwrite."
        )


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The changed values, as `name before -> after`."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {_shown(name, before)} -> {_shown(name, after)}" for name in names)


def _shown(name: str, values: Mapping[str, Any]) -> str:
    """A value for a message."""
    value = values.get(name)
    if name == "steps" and value is not None:
        return "; ".join(map(shown_step, value)) or "none"
    return repr(value)


def refuse_other_plan(layout: Layout, frozen: pa.Table, now: pa.Table) -> None:
    """Raise ConfigError, with the difference, unless the plans are equal."""
    if frozen.equals(now):
        return
    before, after = (set(table.column("key").to_pylist()) for table in (frozen, now))
    missing = counted(len(before - after), "clip is missing", "clips are missing")
    new = counted(len(after - before), "is new", "are new")
    few = [f"- {key}" for key in sorted(before - after)[:3]] + [f"+ {key}" for key in sorted(after - before)[:3]]
    examples = "; ".join(few) or "the same clips, with other labels, times or columns"
    raise ConfigError(
        f"{layout.root} was begun with another list: {missing} and {new} ({examples}). "
        "Give the same list, another --out, or --overwrite. With --append, new clips are added to those that are there."
    )
