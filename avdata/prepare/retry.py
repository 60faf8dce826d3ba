"""Retry failed clips: they become a new part of the plan, with new shards after the existing ones."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from avdata.prepare.append import freeze_part
from avdata.prepare.catalog import PlannedShard, merge_manifest, planned_shards
from avdata.prepare.config import PrepareConfig, Retry
from avdata.prepare.known import KnownShards
from avdata.prepare.output import DatasetOutput
from avdata.prepare.report import PrepareListener
from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA, PLAN_SCHEMA, STATUSES, StatusClass, is_failure, status_class
from avmanifest.table import read_batches
from avmanifest.wording import counted


def plan_retry(
    config: PrepareConfig, output: DatasetOutput, listener: PrepareListener, known: KnownShards
) -> list[PlannedShard]:
    """Freeze a new part of the plan with the failed clips of committed shards. The caller holds the publishing lock.

    Returns:
        The new part's shards; empty if there is nothing to retry, or if the last retry is not finished.
    """
    layout = output.layout
    merge_manifest(layout, known=known)
    if any(not layout.stats(planned.shard).exists() for planned in planned_shards(layout) if planned.is_retry):
        listener.note("the last retry is not finished; continuing it")
        return []
    failed = failed_keys(layout, config.retry)
    if not failed:
        listener.note(f"nothing to retry ({config.retry})")
        return []
    rows: dict[str, dict[str, Any]] = {}
    schema = PLAN_SCHEMA
    for planned in planned_shards(layout):
        schema = planned.rows.schema
        rows |= {row["key"]: row for row in planned.rows.to_pylist() if row["key"] in failed}
    table = pa.Table.from_pylist(list(rows.values()), schema=schema)
    shards, is_ours = freeze_part(config, output, table, appended=False)
    if not is_ours:
        listener.note("another run has started this retry; continuing with its clips")
    listener.note(f"{counted(len(failed), 'failed clip is', 'failed clips are')} tried again")
    return shards


def retried_statuses(retry: Retry) -> list[str]:
    """The statuses of the clips that a retry of this kind tries again."""
    return [
        status
        for status in STATUSES
        if (retry is Retry.ALL and is_failure(status))
        or (retry is Retry.TRANSIENT and status_class(status) is StatusClass.TRANSIENT)
    ]


def failed_keys(layout: Layout, retry: Retry) -> set[str]:
    """Keys of the failed clips that a retry of this kind tries again.

    Clips of shards that do not exist are not included: a run without a retry prepares them.
    """
    statuses = pa.array(retried_statuses(retry), pa.string())
    keys: set[str] = set()
    for split in layout.splits():
        for batch in read_batches(layout.manifest(split), CLIP_SCHEMA, ["key", "status", "shard"]):
            chosen = pc.and_(pc.is_in(batch.column("status"), statuses), pc.is_valid(batch.column("shard")))
            keys.update(batch.column("key").filter(chosen).to_pylist())
    return keys
