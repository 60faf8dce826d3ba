"""Makes manifest rows from the samples of a tar."""

from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa

from avdata.shards import TarSample, member_columns
from avmanifest.columns import CLIP_COLUMNS
from avmanifest.parsing import metadata_of

_IN_JSON: Final = [column.name for column in CLIP_COLUMNS if column.in_json]


def json_of(sample: TarSample) -> dict[str, Any]:
    """The JSON object in `sample.content`; empty if there is none."""
    return metadata_of(sample.content)


def rows_of(tar_samples: Iterable[TarSample], schema: pa.Schema, **fixed: Any) -> pa.Table:
    """Make manifest rows. Columns come from the fields of the samples' json with the same name and type, else null.

    Args:
        tar_samples: The samples, with the content of their member `json`.
        schema: Columns of the rows.
        **fixed: Values of columns that are equal in all rows.
    """
    rows = []
    for sample in tar_samples:
        fields = json_of(sample)
        stored = {name: _fitting(fields.get(name), schema, name) for name in _IN_JSON} if fields else {}
        members = member_columns(sample.members)
        row = {**stored, **fixed, "key": sample.key, "status": "ok", "reason": "", **members}
        row["labels"] = row.get("labels") or []
        rows.append({name: row.get(name) for name in schema.names})
    return pa.Table.from_pylist(rows, schema=schema)


def _fitting(value: Any, schema: pa.Schema, name: str) -> Any:
    """The value if its type fits the column, else None."""
    if name not in schema.names:
        return None
    try:
        return pa.scalar(value, schema.field(name).type).as_py()
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None
