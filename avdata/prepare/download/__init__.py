"""Fetch remote media ahead of decoding, with worker processes, rate limits and a disk cache of its own."""

from avdata.prepare.config import BreakerConfig, DownloadConfig, parse_rate
from avdata.prepare.download.cache import MediaCache
from avdata.prepare.download.fetching import PRELOAD, FetchThread
from avdata.prepare.download.rate_limit import source_rate_limit
from avdata.prepare.download.stage import DownloadStage

__all__ = [
    "PRELOAD",
    "BreakerConfig",
    "DownloadConfig",
    "DownloadStage",
    "FetchThread",
    "MediaCache",
    "parse_rate",
    "source_rate_limit",
]
