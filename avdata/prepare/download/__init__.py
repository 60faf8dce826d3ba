"""Fetching, a stage of its own before decoding: it has its own workers, its own pace and its own memory on disk."""

from avdata.prepare.config import BreakerConfig, DownloadConfig, parse_rate
from avdata.prepare.download.cache import MediaCache
from avdata.prepare.download.fetching import PRELOAD, FetchThread
from avdata.prepare.download.planned import repeated_videos, source_pace
from avdata.prepare.download.stage import DownloadStage

__all__ = [
    "PRELOAD",
    "BreakerConfig",
    "DownloadConfig",
    "DownloadStage",
    "FetchThread",
    "MediaCache",
    "parse_rate",
    "repeated_videos",
    "source_pace",
]
