"""Runs of prepare that fetch from servers on loopback, and what became of their clips."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from avdata.prepare.config import BreakerConfig, DownloadConfig, HttpOptions, PrepareConfig, Supervision
from avmanifest.recipe import TableOptions, load_recipe
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table
from tests.videos import SMALL

HASTE = HttpOptions(connect_s=5.0, stalled_s=1.0, slow_window_s=0.5)


Clip = str | tuple[str, float, float]
"""A video's id, and the clip's start and end where they are not 0 and 3 s."""


def clip_list(folder: Path, clips: Iterable[Clip]) -> Path:
    """A list for recipe table."""
    path = folder / "clips.csv"
    rows = [(clip, 0.0, 3.0) if isinstance(clip, str) else clip for clip in clips]
    path.write_text("id,start,end,label\n" + "".join(f'"{name}",{start},{end},a\n' for name, start, end in rows))
    return path


def remote_config(folder: Path, clips: Iterable[Clip], source: str, **changes: Any) -> PrepareConfig:
    """A run over clips that fetches from a source; asks as fast as it can, and once."""
    folder.mkdir(parents=True, exist_ok=True)
    usual: dict[str, Any] = {
        "recipe": load_recipe("table"),
        "out": folder / "out",
        "list_path": clip_list(folder, clips),
        "table": TableOptions(id_column="id", start_column="start", end_column="end", label_column="label"),
        "sources": (source,),
        "sample": SMALL,
        "shard_size": 4,
        "supervision": Supervision(num_workers=1),
        "downloads": impatient(folder),
    }
    return PrepareConfig(**usual | changes)


def impatient(folder: Path, **changes: Any) -> DownloadConfig:
    """No waiting between attempts and requests, and no pause for a refusal."""
    usual: dict[str, Any] = {
        "num_workers": 4,
        "attempts": 1,
        "backoff_s": 0.0,
        "rate_per_hour": 3.6e6,
        "pace_dir": folder / "pace",
        "breaker": BreakerConfig(threshold=1000),
    }
    return DownloadConfig(**usual | changes)


def rows_of(config: PrepareConfig) -> dict[str, dict[str, Any]]:
    """The manifest's rows by video id."""
    rows = read_table(config.out / "manifest" / "train.parquet", CLIP_SCHEMA).to_pylist()
    return {row["video_id"]: row for row in rows}
