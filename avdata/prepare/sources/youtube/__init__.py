"""Videos on YouTube, downloaded with yt-dlp."""

from avdata.prepare.config import YoutubeOptions
from avdata.prepare.sources.youtube.errors import classify
from avdata.prepare.sources.youtube.fetch import VideoFetcher, open_youtube_dl
from avdata.prepare.sources.youtube.source import YoutubeSource

__all__ = ["VideoFetcher", "YoutubeOptions", "YoutubeSource", "classify", "open_youtube_dl"]
