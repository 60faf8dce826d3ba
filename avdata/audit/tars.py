"""Manifest rows of samples that were read from a tar."""

import json
from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa

from avdata.shards import TarSample


def json_of(sample: TarSample) -> dict[str, Any]:
    """The object in the content that was read of a sample; empty if there is none."""
    try:
        found = json.loads(sample.content or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def rows_of(found: Iterable[TarSample], schema: pa.Schema, **fixed: Any) -> pa.Table:
    """Manifest rows of a tar's samples: what their json says in the columns' own names and types, else null."""
    rows = []
    for sample in found:
        fields = json_of(sample)
        told = {name: _fitting(fields.get(name), schema, name) for name in _TOLD} if fields else {}
        members = [{"name": m.name, "offset": m.offset, "size": m.size} for m in sample.members]
        row = {**told, **fixed, "key": sample.key, "status": "ok", "reason": "", "members": members}
        row["labels"] = row.get("labels") or []
        rows.append({name: row.get(name) for name in schema.names})
    return pa.Table.from_pylist(rows, schema=schema)


_TOLD: Final = (
    "video_id", "start_s", "end_s", "labels", "duration_s", "frame_times_s", "fps", "width", "height", "rms_dbfs",
    "audio_video_offset_s", "silent", "still", "short", "annotations",
)  # fmt: skip
"""Columns that avkit's own samples carry in their json."""


def _fitting(value: Any, schema: pa.Schema, name: str) -> Any:
    """The value if it can stand in the column, else None."""
    if name not in schema.names:
        return None
    try:
        return pa.scalar(value, schema.field(name).type).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None
