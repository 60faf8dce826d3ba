"""The checks before a run goes on with a dataset that an earlier one began: the same settings, the same list."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from avdata.prepare import description
from avdata.prepare.append import requested_rows, with_known_ids
from avdata.prepare.commit import Observer
from avdata.prepare.config import PrepareConfig
from avdata.prepare.plan import Plan, hash_table, without_own_columns
from avmanifest.columns import extra_columns
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import sha256_of_file
from avmanifest.layout import Layout
from avmanifest.schema import PLAN_SCHEMA
from avmanifest.table import read_table


def needs_plan(config: PrepareConfig, layout: Layout) -> bool:
    """Whether the list has to be read: to freeze the plan, or to compare it with the frozen plan."""
    return (
        not layout.dataset_json.exists()
        or config.append
        or config.list_path is not None
        or config.recipe.name == "folder"
    )


def refuse_lost_description(layout: Layout) -> None:
    """Raise ConfigError if there are shards, but not the file that says of which plan they are."""
    if any(layout.shards(split) for split in layout.splits()):
        raise ConfigError(
            f"{layout.root}: holds shards but no {layout.dataset_json.name}, so their plan is unknown. "
            "Restore the file, or prepare with --overwrite."
        )


def resumed_plan(
    config: PrepareConfig, layout: Layout, plan: Plan | None, note: Observer, hashes: dict[str, str]
) -> tuple[pa.Table, str]:
    """The frozen plan and its hash. Raises ConfigError, with the difference, if this run has another plan.

    `hashes` has hashes of rows by the SHA-256 of their file, and gets this one: to hash rows takes long.
    """
    recorded = description.read_description(layout)
    description.refuse_other_settings(layout, recorded, description.settings_of(config))
    frozen = read_table(layout.plan_part(0), PLAN_SCHEMA)
    content = sha256_of_file(layout.plan_part(0))
    if content not in hashes:
        hashes.clear()
        hashes[content] = hash_table(frozen)
    if hashes[content] != description.frozen_hash(recorded):
        raise ManifestError(f"{layout.plan_part(0)}: is not the plan that {layout.dataset_json} describes")
    if plan is not None and not config.append:
        begun = _as_begun(plan.table, recorded, frozen, layout, note)
        description.refuse_other_plan(layout, *_comparable(config, layout, recorded, frozen, begun))
    tools = description.tool_versions(config)
    if recorded["tools"] != tools:
        difference = description.difference(recorded["tools"], tools)
        note(f"{layout.root} was begun with other versions of packages: {difference}")
    return frozen, recorded["plan_hash"]


def _comparable(
    config: PrepareConfig, layout: Layout, recorded: Mapping[str, Any], frozen: pa.Table, now: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """Both plans; if clips were appended, all of them, in the order of their keys and without their places."""
    requested = requested_rows(layout)
    now = without_own_columns(with_known_ids(config, requested, now), description.removed_keys(recorded))
    if len(requested) == len(frozen):
        return frozen, now
    own, theirs = (table.drop_columns(["shard", "position"]).sort_by("key") for table in (requested, now))
    return own.combine_chunks(), theirs.combine_chunks()


def _as_begun(
    plan: pa.Table, recorded: Mapping[str, Any], frozen: pa.Table, layout: Layout, note: Observer
) -> pa.Table:
    """The plan without the list's own columns if the dataset was begun by a version that did not keep them."""
    own = [column.name for column in extra_columns(plan.schema)]
    if "columns" in recorded or not own:
        return plan
    note(
        f"{layout.root} was begun by a version of avkit that did not keep columns of lists: {', '.join(own)} are left "
        "out. To have them, prepare with another --out."
    )
    return plan.select(frozen.column_names)
