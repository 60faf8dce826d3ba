"""What is in a prepared dataset: counts, coverage, durations, loudness, flags, bytes. What inspect shows."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.errors import ManifestError
from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table

QUANTILES: Final = (0.0, 0.05, 0.5, 0.95, 1.0)
_MEASURED: Final = ("duration_s", "fps", "rms_dbfs", "audio_video_offset_s", "num_bad_packets")
_FLAGS: Final = ("silent", "still", "short")
_COLUMNS: Final = ("key", "status", "labels", "members", *_MEASURED, *_FLAGS)


def audit(root: Path) -> dict[str, Any]:
    """Everything that the manifests and the description say, as plain data.

    By split: clips by status, quantiles (0, 5, 50, 95, 100 %) of what was measured, flags, hours, bytes by kind of
    member, and samples of requested clips by class. `subset_id` is the same for any two datasets with the same
    samples. Raises ManifestError for a folder without a manifest.
    """
    layout = Layout(root)
    splits = [split for split in layout.splits() if layout.manifest(split).exists()]
    if not splits:
        raise ManifestError(f"{root}: no manifest in it. Give the --out of an `avkit prepare` that ran to its end.")
    tables = {split: read_table(layout.manifest(split), CLIP_SCHEMA, _COLUMNS) for split in splits}
    description = json.loads(layout.dataset_json.read_bytes()) if layout.dataset_json.exists() else {}
    return {
        "root": str(root),
        "recipe": description.get("recipe", {}),
        "config": description.get("config", {}),
        "tools": description.get("tools", {}),
        "subset_id": subset_id(tables.values()),
        "splits": {split: _audit_split(table) for split, table in tables.items()},
    }


def subset_id(tables: Any) -> str:
    """The first 16 hex digits of the sha256 over the sorted keys of the samples, one a line."""
    keys = [key for table in tables for key in _samples(table).column("key").to_pylist()]
    sha256 = hashlib.sha256()
    for key in sorted(keys):
        sha256.update(f"{key}\n".encode())
    return sha256.hexdigest()[:16]


def _samples(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table.column("status"), "ok"))


def _audit_split(table: pa.Table) -> dict[str, Any]:
    samples = _samples(table)
    statuses = {entry["values"]: entry["counts"] for entry in pc.value_counts(table.column("status")).to_pylist()}
    return {
        "requested": len(table),
        "samples": len(samples),
        "statuses": dict(sorted(statuses.items(), key=lambda item: (-item[1], item[0]))),
        "hours": (pc.sum(samples.column("duration_s")).as_py() or 0.0) / 3600,
        "measured": {name: _quantiles(samples.column(name)) for name in _MEASURED} if len(samples) else {},
        "flags": {name: pc.sum(samples.column(name)).as_py() or 0 for name in _FLAGS},
        "member_bytes": _member_bytes(samples),
        "classes": class_counts(table),
    }


def _quantiles(column: pa.ChunkedArray) -> list[float]:
    return [float(value) for value in pc.quantile(column, q=list(QUANTILES)).to_pylist()]


def _member_bytes(samples: pa.Table) -> dict[str, int]:
    """Bytes by kind of member: frames are counted together, and so are masks and stems."""
    members = samples.column("members").combine_chunks().flatten()
    kinds = pc.replace_substring_regex(pc.struct_field(members, "name"), r"^([a-z]+)\d+\.", r"\1.")
    sizes = pa.table({"kind": kinds, "size": pc.struct_field(members, "size")})
    sums = sizes.group_by("kind").aggregate([("size", "sum")]).to_pylist()
    return {entry["kind"]: entry["size_sum"] for entry in sorted(sums, key=lambda entry: -entry["size_sum"])}


def class_counts(table: pa.Table) -> dict[str, dict[str, int]]:
    """Of each label, clips requested and samples; the rarest first."""
    labels = table.column("labels").combine_chunks()
    ok = pc.equal(table.column("status"), "ok").take(pc.list_parent_indices(labels)).cast(pa.int64())
    counts = pa.table({"label": labels.flatten(), "ok": ok}).group_by("label")
    rows = counts.aggregate([("ok", "sum"), ("ok", "count")]).to_pylist()
    ordered = sorted(rows, key=lambda row: (row["ok_sum"], row["label"]))
    return {row["label"]: {"samples": row["ok_sum"], "requested": row["ok_count"]} for row in ordered}
