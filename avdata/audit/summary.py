"""What is in a dataset: counts, coverage, durations, loudness, flags, duplicates, overlaps, bytes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avdata.audit.dataset import AuditDataset, DatasetKind, MemberSums, SplitRows
from avdata.audit.overlaps import overlaps
from avmanifest.duplicates import EXAMPLES, repeats
from avmanifest.keys import subset_id
from avmanifest.recipe import load_recipe, recipe_names

QUANTILES: Final = (0.0, 0.05, 0.5, 0.95, 1.0)
MEASURED: Final = ("duration_s", "fps", "height", "rms_dbfs", "audio_video_offset_s", "num_bad_packets")
FLAGS: Final = ("silent", "still", "short")
HISTOGRAM_BINS: Final = 48
_HISTOGRAMS: Final = ("duration_s", "fps", "rms_dbfs", "audio_video_offset_s")
_OUTLIERS: Final = 0.001  # of the values at either end stand in the last bin, so that one of them hides no shape


def summarize(dataset: AuditDataset, lists: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that rows and description say, as plain data; `lists` are for `overlaps`.

    By split: clips by status, quantiles (0, 5, 50, 95, 100 %) of what was measured, flags, hours, bytes by kind of
    member, and samples of requested clips by class. `subset_id` is the same for any two datasets with the same samples.
    """
    tables = {split: content.table for split, content in dataset.splits.items()}
    everything = pa.concat_tables(tables.values())
    samples = _samples(everything)
    description = dataset.description
    recipe = description.get("recipe", {}).get("name", "")
    known = load_recipe(recipe) if recipe in recipe_names() else None
    official = known.counts if known else {}
    own_lists = (
        [dataset.store.path("plan/lists")] if dataset.store.is_local and dataset.store.is_folder("plan/lists") else []
    )
    return {
        "root": dataset.root,
        "kind": dataset.kind.value,
        "recipe": {**description.get("recipe", {}), **({"note": known.note.strip()} if known and known.note else {})},
        "format_version": description.get("format_version"),
        "plan_hash": description.get("plan_hash", ""),
        "config": description.get("config", {}),
        "tools": description.get("tools", {}),
        "subset_id": subset_id(samples.column("key")),
        "requested": len(everything),
        "samples": len(samples),
        "hours": _hours(samples),
        "splits": {split: _summarize_split(content, official.get(split)) for split, content in dataset.splits.items()},
        "statuses": _counts(everything.column("status")),
        "flagged": {flag: _flagged(samples, flag) for flag in FLAGS},
        "classes": _all_classes(everything, description.get("labels") or (known.labels if known else ())),
        "histograms": {name: found for name in _HISTOGRAMS if (found := _histogram(samples.column(name)))},
        "member_bytes": _sizes(_joined(content.members for content in dataset.splits.values())),
        **repeats(everything),
        "overlaps": overlaps(tables, [*own_lists, *lists], recipe),
        "damaged": dict(dataset.damaged),
        "has_failures": dataset.kind is not DatasetKind.SHARDS,
    }


def class_counts(table: pa.Table) -> dict[str, dict[str, int]]:
    """Of each label, clips requested and samples; the rarest first."""
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
        "measured": {name: found for name in MEASURED if (found := _quantiles(samples.column(name)))},
        "flags": {name: pc.sum(samples.column(name)).as_py() or 0 for name in FLAGS},
        "member_bytes": _sizes(content.members),
        "classes": class_counts(table),
    }


def _flagged(samples: pa.Table, flag: str) -> dict[str, Any]:
    found = samples.filter(pc.fill_null(samples.column(flag), False))
    return {"clips": len(found), "examples": found.select(["key", "split"]).slice(0, EXAMPLES).to_pylist()}


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands there, the most frequent first."""
    found = {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _hours(samples: pa.Table) -> float:
    return (pc.sum(samples.column("duration_s")).as_py() or 0.0) / 3600


def _quantiles(column: pa.ChunkedArray) -> list[float]:
    if column.null_count == len(column):
        return []
    return [float(value) for value in pc.quantile(column, q=list(QUANTILES)).to_pylist()]


def _histogram(column: pa.ChunkedArray) -> dict[str, list[float]]:
    """Bin edges and counts; empty without a value. The outermost values stand in the outermost bins."""
    values = column.drop_null().to_numpy()
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    low, high = np.quantile(values, (_OUTLIERS, 1 - _OUTLIERS), method="nearest")
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.clip(values, low, high), HISTOGRAM_BINS, (low, high))
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}


def _all_classes(table: pa.Table, labels: Sequence[str]) -> dict[str, Any]:
    """Coverage of the recipe's classes, in its order; `absent` are those that no row has."""
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
        for kind, one in part.items():
            before = total.get(kind, MemberSums(0, 0))
            total[kind] = MemberSums(before.files + one.files, before.num_bytes + one.num_bytes)
    return total


def _sizes(members: Mapping[str, MemberSums]) -> dict[str, dict[str, int]]:
    ordered = sorted(members.items(), key=lambda item: (-item[1].num_bytes, item[0]))
    return {kind: {"files": one.files, "bytes": one.num_bytes} for kind, one in ordered}
