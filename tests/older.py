"""Datasets as earlier versions of avkit stored them."""

import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from avdata.prepare.catalog import merge_manifest
from avdata.prepare.commit import EndedShard, build_shard, marker_bytes, read_stats
from avdata.prepare.segments import Segment
from avdata.shards import member_columns, pack_npy, pack_sample, parse_npy
from avmanifest.layout import Layout


def as_version_1(dataset: Path, target: Path) -> Path:
    """A copy of a dataset as format version 1 stored it: log-mels by bands."""
    shutil.copytree(dataset, target)
    layout = Layout(target)
    for shard in [shard for split in layout.splits() for shard in layout.shards(split)]:
        table = pq.read_table(layout.clips(shard), partitioning=None)
        content, segments = layout.tar(shard).read_bytes(), []
        for row in table.to_pylist():
            members = {m["name"]: content[m["offset"] : m["offset"] + m["size"]] for m in row["members"]}
            mels = {name: pack_npy(parse_npy(mel, name)) for name, mel in members.items() if name.startswith("logmel")}
            members |= mels
            blocks, placed = pack_sample(row["key"], members)
            segments.append(Segment(row | member_columns(placed), io.BytesIO(blocks) if members else None))
        plan_hash = read_stats(layout, shard)["plan_hash"]
        for path in layout.files(shard):
            path.unlink()
        build_shard(EndedShard(shard, segments, plan_hash), layout.files(shard))
        marker = json.loads(layout.stats(shard).read_text()) | {"format_version": 1}
        layout.stats(shard).write_bytes(marker_bytes(marker))
    merge_manifest(layout)
    description = json.loads(layout.dataset_json.read_text()) | {"format_version": 1}
    layout.dataset_json.write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    return target
