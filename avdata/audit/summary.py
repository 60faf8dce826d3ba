"""Summarizes a dataset: counts, coverage, durations, loudness, flags, duplicates, overlaps, bytes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64

from avdata.audit.dataset import AuditDataset, DatasetKind, MemberSums, SplitRows, merge_sums
from avdata.audit.overlaps import overlaps
from avdata.prepare.operations.pending import pending
from avmanifest.columns import flags, joined, measured
from avmanifest.duplicates import EXAMPLES, repeats
from avmanifest.keys import subset_id
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe, recipe_names

QUANTILES: Final = (0.0, 0.05, 0.5, 0.95, 1.0)
HISTOGRAM_BINS: Final = 48
_OUTLIERS: Final = 0.001  # share of the values at each end that the outermost bins absorb


def summarize(dataset: AuditDataset, lists: Sequence[str] = ()) -> dict[str, Any]:
    """Summarize the manifest and dataset.json as plain data.

    Each split has clips by status, quantiles (0, 5, 50, 95, 100 %) of the measured columns, flags, hours, bytes by kind
    of member, and samples and requested clips by class. `subset_id` is equal for datasets with the same samples.
    `where` is the dataset's condition; all numbers are of the clips that meet it.

    Args:
        dataset: The dataset, manifest or shards.
        lists: Official lists of test sets, as `overlaps` takes them.
    """
    tables = {split: content.table for split, content in dataset.splits.items()}
    everything = joined(tables.values())
    samples = _samples(everything)
    description = dataset.description
    recipe = description.get("recipe", {}).get("name", "")
    builtin = load_recipe(recipe) if recipe in recipe_names() else None
    official = builtin.counts if builtin else {}
    own_lists = (
        [dataset.store.path("plan/lists")] if dataset.store.is_local and dataset.store.is_folder("plan/lists") else []
    )
    return {
        "root": dataset.root,
        "where": dataset.where,
        "kind": dataset.kind.value,
        "recipe": {
            **description.get("recipe", {}),
            **({"note": builtin.note.strip()} if builtin and builtin.note else {}),
        },
        "format_version": description.get("format_version"),
        "plan_hash": description.get("plan_hash", ""),
        "operations": description.get("operations", []),
        "pending": pending(Layout(Path(dataset.store.base))) if dataset.store.is_local else "",
        "config": description.get("config", {}),
        "steps": description.get("config", {}).get("steps", []),
        "tools": description.get("tools", {}),
        "subset_id": subset_id(samples.column("key")),
        "requested": len(everything),
        "samples": len(samples),
        "hours": _hours(samples),
        "splits": {split: _summarize_split(content, official.get(split)) for split, content in dataset.splits.items()},
        "statuses": _counts(everything.column("status")),
        "columns": [column.as_dict() for column in dataset.columns],
        "flagged": {flag.name: _flagged(samples, flag.name) for flag in flags(dataset.columns)},
        "classes": _all_classes(everything, description.get("labels") or (builtin.labels if builtin else ())),
        "histograms": {
            column.name: bins
            for column in measured(dataset.columns)
            if pa.types.is_floating(column.dtype) and (bins := _histogram(samples.column(column.name)))
        },
        "member_bytes": _sizes(_joined(content.members for content in dataset.splits.values())),
        **repeats(everything),
        "overlaps": overlaps(tables, [*own_lists, *lists], recipe),
        "damaged": dict(dataset.damaged),
        "has_failures": dataset.kind is not DatasetKind.SHARDS,
    }


def class_counts(table: pa.Table) -> dict[str, dict[str, int]]:
    """Samples and requested clips of each label, sorted by samples, the fewest first."""
    labels = table.column("labels").combine_chunks()
    ok = pc.equal(table.column("status"), "ok").take(pc.list_parent_indices(labels)).cast(pa.int64())
    counts = pa.table({"label": labels.flatten(), "ok": ok}).group_by("label")
    rows = counts.aggregate([("ok", "sum"), ("ok", "count")]).to_pylist()
    ordered = sorted(rows, key=lambda row: (row["ok_sum"], row["label"]))
    return {row["label"]: {"samples": row["ok_sum"], "requested": row["ok_count"]} for row in ordered}


def _samples(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table.column("status"), "ok"))


def _summarize_split(content: SplitRows, official: int | None) -> dict[str, Any]:
    table = content.table
    samples = _samples(table)
    return {
        "requested": len(table),
        "official": official,
        "samples": len(samples),
        "shards": pc.count_distinct(samples.column("shard")).as_py(),
        "statuses": _counts(table.column("status")),
        "hours": _hours(samples),
        "measured": {
            column.name: values
            for column in measured(content.columns)
            if (values := _quantiles(samples.column(column.name)))
        },
        "flags": {flag.name: pc.sum(samples.column(flag.name)).as_py() or 0 for flag in flags(content.columns)},
        "member_bytes": _sizes(content.members),
        "classes": class_counts(table),
    }


def _flagged(samples: pa.Table, flag: str) -> dict[str, Any]:
    flagged = samples.filter(pc.fill_null(samples.column(flag), False))
    return {"clips": len(flagged), "examples": flagged.select(["key", "split"]).slice(0, EXAMPLES).to_pylist()}


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """The number of rows of each value, the most frequent first."""
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _hours(samples: pa.Table) -> float:
    return (pc.sum(samples.column("duration_s")).as_py() or 0.0) / 3600


def _quantiles(column: pa.ChunkedArray) -> list[float]:
    if column.null_count == len(column):
        return []
    return [float(value) for value in pc.quantile(column, q=list(QUANTILES)).to_pylist()]


def _histogram(column: pa.ChunkedArray) -> dict[str, list[float]]:
    """Bin edges and counts; empty if there are no values. The outermost bins include the outliers."""
    values = column.drop_null().to_numpy()
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    low, high = histogram_range(values)
    if low == high:
        return {"edges": [low, high], "counts": [len(values)]}
    counts, edges = np.histogram(np.clip(values, low, high), HISTOGRAM_BINS, (low, high))
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}


def histogram_range(values: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    """The ends of a histogram of finite values: its outermost bins include the outliers. Equal: it has one bin."""
    low, high = (float(end) for end in np.quantile(values, (_OUTLIERS, 1 - _OUTLIERS), method="nearest"))
    return (low, high) if high - low >= 1e-6 else (low, low)


def _all_classes(table: pa.Table, labels: Sequence[str]) -> dict[str, Any]:
    """Counts of the recipe's classes, in its order; `absent` lists the classes without rows."""
    counts = class_counts(table)
    order = {label: place for place, label in enumerate(labels)}
    ordered = sorted(counts, key=lambda label: (order.get(label, len(order)), label))
    return {
        "listed": len(labels),
        "absent": [label for label in labels if label not in counts],
        "counts": {label: counts[label] for label in ordered},
    }


def _joined(parts: Iterable[Mapping[str, MemberSums]]) -> dict[str, MemberSums]:
    total: dict[str, MemberSums] = {}
    for part in parts:
        merge_sums(total, part)
    return total


def _sizes(members: Mapping[str, MemberSums]) -> dict[str, dict[str, int]]:
    ordered = sorted(members.items(), key=lambda item: (-item[1].num_bytes, item[0]))
    return {kind: {"files": sums.files, "bytes": sums.num_bytes} for kind, sums in ordered}
