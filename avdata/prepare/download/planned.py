"""What a run's plan and options mean for its downloads."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from avdata.prepare.config import DownloadConfig
from avdata.prepare.download.pace import Pace, machine_pace
from avdata.prepare.sources import RemoteSource
from avdata.prepare.sources.remote import Span


def repeated_videos(plan: Sequence[pa.Table]) -> dict[str, list[Span]]:
    """The clips of each video that the plan (tables of PLAN_SCHEMA) has more than one clip of."""
    clips = pa.concat_tables([rows.select(["video_id", "start_s", "end_s"]) for rows in plan])
    counts = clips.group_by("video_id").aggregate([("video_id", "count")])
    repeated = counts.filter(pc.greater(counts.column("video_id_count"), 1)).column("video_id")
    found: dict[str, list[Span]] = {}
    for row in clips.filter(pc.is_in(clips.column("video_id"), repeated.combine_chunks())).to_pylist():
        found.setdefault(row["video_id"], []).append((row["start_s"], row["end_s"]))
    return found


def source_pace(source: RemoteSource, config: DownloadConfig) -> Pace:
    """The budget of a source: the user's, or the source's own."""
    kind = source.name.partition(":")[0]
    return machine_pace(kind, source.proxy, config.rate_per_hour or source.rate_per_hour, config.pace_dir)
