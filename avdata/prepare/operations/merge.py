"""Make one dataset of several."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avdata.prepare.append import requested_rows
from avdata.prepare.commit import Observer
from avdata.prepare.description import difference, joined_recipe, removed_keys, sample_of, with_plan
from avdata.prepare.operations.build import Prepared, shards_of_plan
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.operations.derive import Derived
from avdata.prepare.operations.reshard import check_shard_size, plan_anew
from avdata.prepare.segments import Segment
from avdata.shards import ByteFile, pack_json
from avmanifest.columns import Column, with_extra
from avmanifest.errors import ConfigError
from avmanifest.parsing import parse_object
from avmanifest.records import columns_of_description
from avmanifest.schema import PLAN_SCHEMA
from avmanifest.table import completed
from avmanifest.wording import counted

_OF_LISTS: Final = ("splits", "limit", "table", "synth")  # settings that say which clips were asked for
_FEW: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """All clips of the datasets, failed ones, too, in the splits that they have. Shards are those of one plan.

    The samples' settings and steps have to be equal. Classes are those of the first dataset, then new ones of the
    others. Two clips may not have one key, unless prefixes tell them apart.
    """

    prefixes: tuple[str, ...] = ()  # before the keys of each dataset; empty: keys stay
    shard_size: int | None = None  # None: as in the first dataset
    name = "merge"

    def __post_init__(self) -> None:
        check_shard_size(self.shard_size)

    def settings(self) -> dict[str, Any]:
        """The prefixes, if there are any."""
        return {"prefixes": list(self.prefixes)} if self.prefixes else {}

    def derived(self, datasets: Sequence[Prepared], note: Observer) -> Derived:
        """All clips. Raises ConfigError, with the difference, for datasets that do not go together."""
        roots = [dataset.layout.root for dataset in datasets]
        if len(set(roots)) < len(roots) or len(roots) < 2:
            raise ConfigError("merge: give two or more datasets, each once")
        prefixes = self.prefixes or ("",) * len(roots)
        if len(prefixes) != len(roots):
            raise ConfigError(
                f"--prefix: {len(prefixes)} for {len(roots)} datasets. Give one for each, in their order."
            )
        first = datasets[0]
        for other in datasets[1:]:
            _refuse_other_samples(first, other)
        columns = _columns(datasets, note)
        requested = [_requested(*each, columns) for each in zip(datasets, prefixes, strict=True)]
        _refuse_clashes(datasets, requested)
        removed = [_removed(*each) for each in zip(datasets, prefixes, strict=True)]
        _refuse_removed(datasets, requested, removed)
        config = _config([dataset.description["config"] for dataset in datasets])
        recipe = joined_recipe([dataset.description for dataset in datasets])
        size = config["shard_size"] if self.shard_size is None else self.shard_size
        plan = plan_anew(pa.concat_tables(requested), config["seed"], size)
        places = {
            prefix + key: place
            for dataset, prefix in zip(datasets, prefixes, strict=True)
            for key, place in dataset.places().items()
        }
        stays = not any(prefixes) and all(_in_json(dataset) == _names_in_json(columns) for dataset in datasets)
        description = {
            **with_plan(first.description, plan.hash),
            "recipe": recipe,
            "config": {**config, "recipe": recipe["name"], "shard_size": size},
            "labels": list(dict.fromkeys(chain(*(dataset.description["labels"] for dataset in datasets)))),
            "columns": [column.as_dict() for column in columns],
        }
        if any(removed):
            description["removed"] = sorted(set().union(*removed))
        return Derived(
            description=description,
            plan=plan,
            shards=shards_of_plan(plan.table, places, with_rows=not stays),
            edit=StoredClip.kept if stays else _Fitted(_names_in_json(columns)),
        )


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Gives a clip the key that it has in the plan, and its json the columns that its dataset lacks."""

    in_json: frozenset[str]

    def __call__(self, clip: StoredClip) -> Segment:
        key = clip.planned["key"]
        if not clip.is_sample:
            return clip.kept(key=key)
        fields = parse_object(clip.member("json").read(), clip.where("json"))
        wanted = dict.fromkeys(self.in_json) | fields | {"key": key}
        if wanted == fields:
            return clip.kept()
        members: dict[str, bytes | ByteFile] = {member.name: clip.member(member.name) for member in clip.members}
        members["json"] = pack_json(wanted, nullable=self.in_json)
        return clip.with_members(members, key=key)


def _refuse_other_samples(first: Prepared, other: Prepared) -> None:
    """Raise ConfigError, with the difference, unless samples have the same settings and steps."""
    one, two = (_settings(dataset.description) for dataset in (first, other))
    if one != two:
        raise ConfigError(
            f"{other.layout.root}: its samples are made otherwise than those of {first.layout.root}: "
            f"{difference(one, two)}. Log-mels and steps can be added (avkit dataset add-mel, add-step); for other "
            "settings, prepare one of them again."
        )


def _settings(description: Mapping[str, Any]) -> dict[str, Any]:
    return asdict(sample_of(description)) | {"steps": description["config"].get("steps", [])}


def _columns(datasets: Sequence[Prepared], note: Observer) -> tuple[Column, ...]:
    """The extra columns of all datasets. One that is integer in some and double in others becomes double.

    Raises ConfigError for other differences of types, and for a column of a list here and a step there.
    """
    found: dict[str, Column] = {}
    for dataset in datasets:
        for column in columns_of_description(dataset.description, dataset.layout.dataset_json):
            held = found.setdefault(column.name, column)
            if held.dtype != column.dtype and {held.dtype, column.dtype} == {pa.int64(), pa.float64()}:
                held = found[column.name] = replace(held, dtype=pa.float64())
            elif held.dtype != column.dtype or held.source != column.source:
                raise ConfigError(
                    f"{dataset.layout.root}: its column {column.name!r} is {column.dtype} of {column.source}, in the "
                    f"datasets before {held.dtype} of {held.source}. Prepare one of them again with another name or "
                    "type of it."
                )
            if (held.meaning, held.unit) != (column.meaning, column.unit):
                note(f"column {column.name} is described in several ways; kept: {held.meaning}")
            if column.in_json and not held.in_json:
                found[column.name] = replace(held, in_json=True)
    return tuple(found.values())


def _requested(dataset: Prepared, prefix: str, columns: Iterable[Column]) -> pa.Table:
    """The requested clips of a dataset, in the columns of the new plan."""
    rows = requested_rows(dataset.layout)
    keys = pc.binary_join_element_wise(prefix, rows.column("key"), "")
    rows = rows.set_column(rows.schema.get_field_index("key"), PLAN_SCHEMA.field("key"), keys)
    own = tuple(column for column in columns if column.source == "list")
    for column in own:
        if column.name in rows.column_names:
            place = rows.schema.get_field_index(column.name)
            rows = rows.set_column(place, column.field, rows.column(column.name).cast(column.dtype))
    schema = with_extra(PLAN_SCHEMA, own)
    return completed(rows, schema)


def _refuse_clashes(datasets: Sequence[Prepared], requested: Sequence[pa.Table]) -> None:
    """Raise ConfigError if two datasets have a clip of one key."""
    for number, mine in enumerate(requested):
        keys = mine.column("key").combine_chunks()
        for other in range(number):
            both = keys.filter(pc.is_in(keys, value_set=requested[other].column("key").combine_chunks()))
            if len(both):
                raise ConfigError(
                    f"{datasets[number].layout.root} and {datasets[other].layout.root} both have "
                    f"{counted(len(both), 'key')}, such as {', '.join(both[:_FEW].to_pylist())}. Give each dataset a "
                    "--prefix, or leave these clips out of one with avkit dataset subset."
                )


def _removed(dataset: Prepared, prefix: str) -> set[str]:
    return {prefix + key for key in removed_keys(dataset.description)}


def _refuse_removed(datasets: Sequence[Prepared], requested: Sequence[pa.Table], removed: Sequence[set[str]]) -> None:
    """Raise ConfigError if a clip was removed from one dataset and is in another one."""
    for number, gone in enumerate(removed):
        for other, rows in enumerate(requested):
            keys = rows.column("key").combine_chunks()
            both = keys.filter(pc.is_in(keys, value_set=pa.array(sorted(gone - removed[other]), pa.string())))
            if len(both) and other != number:
                raise ConfigError(
                    f"{datasets[other].layout.root} has {counted(len(both), 'clip')} removed on request from "
                    f"{datasets[number].layout.root}, such as {', '.join(both[:_FEW].to_pylist())}. Remove them there, "
                    "too: avkit dataset remove."
                )


def _config(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of the first dataset. Those that say which clips were asked for are None where they differ."""
    first = configs[0]
    apart = [name for name in _OF_LISTS if any(config.get(name) != first.get(name) for config in configs)]
    return {**first, **dict.fromkeys(apart)}


def _in_json(dataset: Prepared) -> frozenset[str]:
    return _names_in_json(columns_of_description(dataset.description, dataset.layout.dataset_json))


def _names_in_json(columns: Iterable[Column]) -> frozenset[str]:
    return frozenset(column.name for column in columns if column.in_json)
