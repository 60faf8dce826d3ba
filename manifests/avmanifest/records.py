"""dataset.json and the markers of shards, checked as they are read.

Both are written by avkit, but datasets are downloaded too: the type of every field is checked before it is used.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from avmanifest.columns import Column
from avmanifest.errors import ManifestError, ShardError
from avmanifest.parsing import are_names, parse_object
from avmanifest.schema import READ_VERSIONS
from avmanifest.secrets import excerpt
from avmanifest.settings import shown

PARTS: Final = ("tar", "idx", "parquet")
"""Names of a shard's files in its marker, in the order of Layout.files."""

LARGEST_COUNT: Final = 2**60
"""Of samples, clips or bytes in a marker."""

_SHA256: Final = re.compile("[0-9a-f]{64}")


def parse_marker(content: bytes, where: object) -> dict[str, Any]:
    """A shard's marker from its bytes: files, count, successes, status_dict, plan_hash.

    Raises ShardError, which names `where`, for bytes that are no marker or one of another format version.
    """
    advice = "Prepare the shard again."
    stats = parse_object(content, where, ShardError, advice)
    if "format_version" not in stats:
        raise ShardError(f"{where}: not a marker: it has no format_version. {advice}")
    if problem := version_problem(stats["format_version"]):
        raise ShardError(f"{where}: {problem}")
    for name, is_right in (
        ("files", _are_files(stats.get("files"))),
        ("count", _is_count(stats.get("count"))),
        ("successes", _is_count(stats.get("successes"))),
        ("status_dict", _are_counts(stats.get("status_dict"))),
        ("plan_hash", isinstance(stats.get("plan_hash"), str)),
    ):
        if not is_right:
            raise ShardError(f"{where}: not a marker: {name} is {excerpt(repr(stats.get(name)), 200)}. {advice}")
    return stats


class MarkerFacts(NamedTuple):
    """What is used of the markers of many shards."""

    successes: int  # samples
    tar_bytes: int
    tar_sha256: str  # 64 hexadecimal digits
    parquet_sha256: str


def facts_of(stats: Mapping[str, Any]) -> MarkerFacts:
    """The facts of a marker from `parse_marker`."""
    files = stats["files"]
    return MarkerFacts(stats["successes"], files["tar"]["bytes"], files["tar"]["sha256"], files["parquet"]["sha256"])


def version_problem(version: object) -> str | None:
    """What is wrong with a format version that is not read, and what to do; None: it is read."""
    if type(version) is int and version in READ_VERSIONS:
        return None
    known = " and ".join(map(str, READ_VERSIONS))
    is_newer = type(version) is int and version > READ_VERSIONS[-1]
    advice = "Update avkit." if is_newer else "Restore the original file."
    return f"format version {version!r}, this avkit reads {known}. {advice}"


def parse_description(content: bytes, where: object, advice: str = "Restore the original file.") -> dict[str, Any]:
    """dataset.json from its bytes. The types of its fields are checked, the format version is not.

    Raises ManifestError, which names `where` and ends with `advice`, for bytes that are no description of a dataset.
    """
    description = parse_object(content, where, ManifestError, advice)
    config = description.get("config", {})
    for name, value, is_right in (
        ("recipe", description.get("recipe"), isinstance(description.get("recipe", {}), dict)),
        ("recipe.split_aliases", description.get("recipe"), _are_aliases(description.get("recipe", {}))),
        ("config", config, isinstance(config, dict)),
        ("config.steps", config, isinstance(config, dict) and _are_steps(config.get("steps", []))),
        ("config.mel", config, isinstance(config, dict) and are_names(config.get("mel", ["paper"]))),
        ("labels", description.get("labels"), are_names(description.get("labels", []))),
        ("columns", description.get("columns"), isinstance(description.get("columns", []), list)),
        ("plan_hash", description.get("plan_hash"), isinstance(description.get("plan_hash", ""), str)),
        ("removed", description.get("removed"), are_names(description.get("removed", []))),
        ("operations", description.get("operations"), _are_objects(description.get("operations", []))),
        ("tools", description.get("tools"), isinstance(description.get("tools", {}), dict)),
    ):
        if not is_right:
            raise ManifestError(
                f"{where}: not the description of a dataset: {name} is {excerpt(repr(value), 200)}. {advice}"
            )
    return description


def columns_of_description(description: Mapping[str, Any], where: object) -> tuple[Column, ...]:
    """The extra columns that dataset.json declares; none in one of an earlier version.

    Raises ManifestError, which names `where`, for an entry that is no column.
    """
    entries = description.get("columns", [])
    columns = tuple(Column.from_dict(entry, where) for entry in entries)
    if len({column.name for column in columns}) < len(columns):
        raise ManifestError(f"{where}: two of its columns have one name. Restore the original file.")
    return columns


def shown_step(record: Mapping[str, Any]) -> str:
    """A step of dataset.json in words: `black, version 1 (max_share=0.5)`."""
    settings = ", ".join(f"{name}={shown(_as_setting(value))}" for name, value in record["settings"].items())
    return f"{record['name']}, version {record['version']}" + (f" ({settings})" if settings else "")


_NOT_SETTINGS: Final = frozenset(("operation", "plan_hash", "before", "from", "ids_sha256", "keys_sha256"))
"""What an entry of the history has besides the settings of the operation."""


def shown_operation(entry: Mapping[str, Any]) -> str:
    """An operation of dataset.json in words: `reshard shard_size=100`, `subset where=not silent of vggsound (ID)`."""
    settings = (f"{name}={excerpt(str(value), 200)}" for name, value in entry.items() if name not in _NOT_SETTINGS)
    sources = entry.get("from")
    origin = [
        f"of {source.get('recipe')} (subset id {source.get('subset_id')})"
        for source in (sources if isinstance(sources, list) else ())
        if isinstance(source, Mapping)
    ]
    return " ".join([str(entry.get("operation", "unknown")), *settings, *origin])


def _as_setting(value: Any) -> Any:
    """A value of JSON as a setting holds it."""
    return tuple(map(_as_setting, value)) if isinstance(value, list) else value


def _are_steps(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(step, Mapping)
        and isinstance(step.get("name"), str)
        and type(step.get("version")) is int
        and isinstance(step.get("settings"), Mapping)
        for step in values
    )


def _are_files(files: Any) -> bool:
    return isinstance(files, Mapping) and all(
        isinstance(entry := files.get(part), Mapping)
        and _is_count(entry.get("bytes"))
        and isinstance(entry.get("sha256"), str)
        and _SHA256.fullmatch(entry["sha256"]) is not None
        for part in PARTS
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_COUNT


def _are_counts(values: Any) -> bool:
    return isinstance(values, Mapping) and all(map(_is_count, values.values()))


def _are_aliases(recipe: Any) -> bool:
    aliases = recipe.get("split_aliases", {}) if isinstance(recipe, dict) else {}
    return isinstance(aliases, dict) and all(map(are_names, aliases.values()))


def _are_objects(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)
