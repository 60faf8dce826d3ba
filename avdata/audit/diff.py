"""Compares two datasets: keys, statuses, splits, labels, flags, columns and config."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avdata.audit.dataset import AuditDataset
from avmanifest.columns import flags, joined, named
from avmanifest.keys import subset_id

EXAMPLES: Final = 10
_SAME: Final = ("status", "split", "labels")  # must be equal in datasets that are the same


def diff(first: AuditDataset, second: AuditDataset) -> dict[str, Any]:
    """Compare two datasets, A (first) and B (second). Clips are matched by key.

    Returns:
        Plain data: counts of clips and samples in both and in only one; for clips in both, the changes of status,
        split, labels and flags; columns of only one; differing settings; and `same`, whether samples, splits, labels
        and config are equal.
    """
    columns_a, columns_b = first.columns, second.columns
    shared_flags = [name for name in named(flags(columns_a)) if name in named(flags(columns_b))]
    a, b = (_clips(dataset, shared_flags) for dataset in (first, second))
    keys_a, keys_b = a.column("key"), b.column("key")
    both_a = a.filter(pc.is_in(keys_a, value_set=keys_b.combine_chunks()))
    places = pc.index_in(both_a.column("key"), value_set=keys_b.combine_chunks())
    both_b = b.take(places)
    only_a = a.filter(pc.invert(pc.is_in(keys_a, value_set=keys_b.combine_chunks())))
    only_b = b.filter(pc.invert(pc.is_in(keys_b, value_set=keys_a.combine_chunks())))
    config = _config(first.description, second.description)
    ids = [subset_id(table.filter(_is_ok(table)).column("key")) for table in (a, b)]
    shared = pc.sum(pc.and_(_is_ok(both_a), _is_ok(both_b))).as_py() or 0
    changes = {name: _changes(both_a, both_b, name) for name in (*_SAME, *shared_flags)}
    return {
        "where": first.where,
        "a": {"root": first.root, "requested": len(a), "samples": _ok(a), "subset_id": ids[0]},
        "b": {"root": second.root, "requested": len(b), "samples": _ok(b), "subset_id": ids[1]},
        "clips": {"both": len(both_a), "only_a": len(only_a), "only_b": len(only_b)},
        "samples": {"both": shared, "only_a": _ok(a) - shared, "only_b": _ok(b) - shared},
        "only_a": only_a.column("key").slice(0, EXAMPLES).to_pylist(),
        "only_b": only_b.column("key").slice(0, EXAMPLES).to_pylist(),
        "changed": changes,
        "columns": {
            "only_a": [name for name in named(columns_a) if name not in named(columns_b)],
            "only_b": [name for name in named(columns_b) if name not in named(columns_a)],
        },
        "config": config,
        "same": ids[0] == ids[1] and not config and not any(changes[name]["clips"] for name in _SAME),
    }


def _clips(dataset: AuditDataset, flag_names: Sequence[str]) -> pa.Table:
    """key, status, split, labels (joined to one text) and flags (as texts) of every clip.

    Of a repeated key, the first row is used.
    """
    names = ["key", *_SAME, *flag_names]
    tables = (content.table for content in dataset.splits.values())
    table = joined(rows.select([name for name in names if name in rows.column_names]) for rows in tables)
    table = table.combine_chunks()
    labels = pc.binary_join(pc.fill_null(table.column("labels").combine_chunks(), []), " | ")
    texts = {name: pc.fill_null(table.column(name).cast(pa.string()), "unknown") for name in flag_names}
    table = pa.table({**{name: table.column(name) for name in ("key", "status", "split")}, "labels": labels, **texts})
    if pc.count_distinct(table.column("key")).as_py() < len(table):
        first = table.append_column("row", pa.array(range(len(table)))).group_by("key").aggregate([("row", "min")])
        table = table.take(first.column("row_min"))
    return table


def _is_ok(table: pa.Table) -> Any:
    return pc.equal(table.column("status"), "ok")


def _ok(table: pa.Table) -> int:
    return int(pc.sum(_is_ok(table)).as_py() or 0)


def _changes(a: pa.Table, b: pa.Table, name: str) -> dict[str, Any]:
    differ = pc.not_equal(a.column(name), b.column(name))
    pairs = pa.table(
        {"key": a.column("key").filter(differ), "a": a.column(name).filter(differ), "b": b.column(name).filter(differ)}
    )
    counted = pairs.group_by(["a", "b"]).aggregate([("key", "count"), ("key", "min")]).to_pylist()
    counted.sort(key=lambda entry: (-entry["key_count"], entry["a"], entry["b"]))
    return {
        "clips": len(pairs),
        "kinds": [
            {"a": entry["a"], "b": entry["b"], "clips": entry["key_count"], "such_as": entry["key_min"]}
            for entry in counted[: 2 * EXAMPLES]
        ],
    }


def _config(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings that differ, as [value in A, value in B]: config, name of the recipe, classes."""
    settings = [
        {**parts.get("config", {}), "recipe": parts.get("recipe", {}).get("name"), "labels": parts.get("labels")}
        for parts in (first, second)
    ]
    if not first or not second:  # without dataset.json the settings are unknown
        return {}
    names = dict.fromkeys(name for values in settings for name in values)
    return {
        name: [values.get(name) for values in settings]
        for name in names
        if settings[0].get(name) != settings[1].get(name)
    }
