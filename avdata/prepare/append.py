"""Append clips to a dataset: those of a grown list become a new part of the plan, with shards after the existing ones.

What is there stays: shards, rows, keys and splits.
"""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from avdata.prepare.catalog import PlannedShard, planned_shards
from avdata.prepare.commit import Observer, storage_errors
from avdata.prepare.config import PrepareConfig
from avdata.prepare.description import read_description, removed_keys
from avdata.prepare.output import DatasetOutput
from avdata.prepare.plan import freeze, is_appended, make_plan, without_own_columns
from avdata.prepare.report import PrepareListener
from avmanifest.errors import ConfigError
from avmanifest.keys import clip_keys
from avmanifest.layout import Layout
from avmanifest.schema import PLAN_SCHEMA
from avmanifest.table import completed, read_table
from avmanifest.wording import counted

_PLACE = ("shard", "position")


def requested_rows(layout: Layout) -> pa.Table:
    """The rows (PLAN_SCHEMA) of all requested clips, each once: the plan's first part, then what was appended."""
    parts = layout.plan_parts()
    return pa.concat_tables(read_table(path, PLAN_SCHEMA) for path in parts if path == parts[0] or is_appended(path))


def next_shards(layout: Layout) -> dict[str, int]:
    """The first shard number of each split that no part of the plan has."""
    numbers: Counter[str] = Counter()
    for planned in planned_shards(layout):
        numbers[planned.shard.split] = max(numbers[planned.shard.split], planned.shard.number + 1)
    return dict(numbers)


def plan_append(
    config: PrepareConfig, output: DatasetOutput, listed: pa.Table, listener: PrepareListener
) -> list[PlannedShard]:
    """Freeze a new part of the plan with the clips of the list that the dataset lacks.

    The caller holds the publishing lock. Clips that the list has no more stay, and so do labels, times and columns of
    clips that the list now gives otherwise; a message says how many.

    Args:
        config: The run.
        output: The dataset.
        listed: The plan that the list alone would make (PLAN_SCHEMA).
        listener: Receives the messages.

    Returns:
        The new part's shards; empty if the dataset has all clips of the list.

    Raises:
        ConfigError: A column of the list has another type than in the dataset.
    """
    layout = output.layout
    present = requested_rows(layout)
    listed = comparable_rows(config, present, listed, listener.note)
    listed = without_own_columns(listed, removed_keys(read_description(layout)))
    new, known = new_rows(present, listed)
    _note_differences(present, known, listener)
    if not len(new):
        listener.note("nothing to append: the dataset has all clips of the list")
        return []
    shards, is_ours = freeze_part(config, output, new, appended=True)
    if is_ours:
        appended = f"{len(new):,} new of the list's {counted(len(listed), 'clip')}: appended"
        listener.note(f"{appended} to the {len(present):,} that are there")
    else:
        listener.note("another run has appended clips; continuing with its clips")
    return shards


def freeze_part(
    config: PrepareConfig, output: DatasetOutput, clips: pa.Table, *, appended: bool
) -> tuple[list[PlannedShard], bool]:
    """Freeze clips as the next part of the plan, with shards after the existing ones.

    Args:
        config: The run.
        output: The dataset.
        clips: Rows as a plan has them; their places in it are given anew.
        appended: Whether the clips are in no earlier part; else they are tried again.

    Returns:
        The part's shards, and whether they are these clips': another run may have frozen this part first.
    """
    layout = output.layout
    plan = make_plan(
        clips.drop_columns(["key", *_PLACE]),
        clips.column("key"),
        seed=config.sample.seed,
        shard_size=config.shard_size,
        first_shards=next_shards(layout),
    )
    part = len(layout.plan_parts())
    with storage_errors(layout.root):
        freeze(plan, layout.plan_part(part), appended=appended)
    is_ours = output.claim(layout.plan_part(part))
    return [planned for planned in planned_shards(layout) if planned.part == part], is_ours


def new_labels(labels: Sequence[str], requested: pa.Table) -> list[str]:
    """The labels of the requested clips that are not among these, sorted: they become the last classes."""
    found = requested.column("labels").combine_chunks().flatten().unique().to_pylist()
    return sorted(set(found) - set(labels))


def new_rows(present: pa.Table, listed: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of the list, as `comparable_rows` gives them, whose clips the dataset lacks, and the others."""
    is_known = pc.is_in(listed.column("key"), present.column("key").combine_chunks())
    return listed.filter(pc.invert(is_known)), listed.filter(is_known)


def comparable_rows(config: PrepareConfig, present: pa.Table, listed: pa.Table, note: Observer) -> pa.Table:
    """The rows of the list in the columns of the dataset's plan, with the ids that their clips have there.

    Raises:
        ConfigError: A column of the list has another type than in the dataset.
    """
    return with_known_ids(config, present, _conforming(listed, present.schema, note))


def with_known_ids(config: PrepareConfig, present: pa.Table, listed: pa.Table) -> pa.Table:
    """The rows of a folder with the ids and keys that the dataset has of the same files; other lists as they are.

    The id of a file depends on whether the folder has another one that differs in its suffix alone. Files whose keys
    have a prefix (`avkit dataset merge`) may be those of another folder.
    """
    if config.recipe.name != "folder":
        return listed
    present = present.filter(pc.equal(present.column("key"), clip_keys(config.recipe, present)))
    places = pc.index_in(listed.column("path"), value_set=present.column("path").combine_chunks())
    for name in ("key", "video_id"):
        place = listed.schema.get_field_index(name)
        ids = pc.coalesce(present.column(name).take(places), listed.column(name))
        listed = listed.set_column(place, listed.schema.field(place), ids)
    return listed


def all_removed(config: PrepareConfig, plan: pa.Table, removed: frozenset[str]) -> frozenset[str]:
    """The removed keys, and of a folder those of the files that had such a key, or may have had.

    The id of a file is its path with or without the suffix: see `with_known_ids`.
    """
    if config.recipe.name != "folder" or not removed:
        return removed
    paths = plan.column("path").combine_chunks()
    gone = pa.array(sorted(removed), pa.string())
    start_s = pa.repeat(pa.scalar(0.0), len(plan))
    hit = pc.is_in(plan.column("key"), value_set=gone)
    for ids in (paths, pc.replace_substring_regex(paths, r"\.[^./]*\z", "")):
        keys = clip_keys(config.recipe, pa.table({"video_id": ids, "start_s": start_s}))
        hit = pc.or_(hit, pc.is_in(keys, value_set=gone))
    return removed.union(plan.column("key").filter(hit).to_pylist())


def _conforming(listed: pa.Table, schema: pa.Schema, note: Observer) -> pa.Table:
    """The rows in the columns of the dataset's plan. Raises ConfigError for a column of another type."""
    for field in schema:
        if field.name in listed.column_names and listed.schema.field(field.name).type != field.type:
            raise ConfigError(
                f"column {field.name!r} is {listed.schema.field(field.name).type} in the list and {field.type} in the "
                "dataset. Make the list's values of that type, or prepare another dataset."
            )
    if further := [name for name in listed.column_names if name not in schema.names]:
        note(f"the dataset has no columns {', '.join(further)}: those of the list are left out")
    return completed(listed, schema)


def _note_differences(present: pa.Table, listed: pa.Table, listener: PrepareListener) -> None:
    """Say how many of the present clips the list lacks, or gives otherwise."""
    if missing := len(present) - len(listed):
        listener.note(f"{counted(missing, 'clip')} of the dataset not in the list: kept (see avkit dataset remove)")
    own, theirs = (table.drop_columns(_PLACE).sort_by("key") for table in (present, listed))
    own = own.filter(pc.is_in(own.column("key"), theirs.column("key").combine_chunks()))
    names = [name for name in own.column_names if not own.column(name).equals(theirs.column(name))]
    if names:
        listener.note(f"the list gives {', '.join(names)} of present clips otherwise; the dataset keeps what it has")
