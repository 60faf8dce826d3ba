"""Find the media of plan rows in the sources of a run, and open the download stage for remote sources."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.config import PrepareConfig, Retry
from avdata.prepare.download import DownloadConfig, DownloadStage, FetchThread, MediaCache, source_rate_limit
from avdata.prepare.download.rate_limit import RateLimit
from avdata.prepare.report import PrepareListener
from avdata.prepare.sources import Ref, RemoteSource, SourceChain, open_sources
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.remote import FailedRef, Span
from avdata.prepare.sources.synth import SynthConfig
from avdata.prepare.sources.synth.source import SynthRef
from avmanifest.layout import Layout

RateLimitOf = Callable[[RemoteSource, DownloadConfig], RateLimit]


class MediaResolver:
    """Finds the media of plan rows: the first source that has them, in the order given, or the `synth` generator.

    Attributes:
        problems: Messages about files that a source cannot use.
        downloads: The stage that fetches remote media; None before `begin_downloads` and without remote sources.

    Raises:
        ConfigError: A source is unknown or does not exist, or the ffmpeg that it needs is not installed.
    """

    def __init__(self, config: PrepareConfig, layout: Layout) -> None:
        self._synth = (config.synth or SynthConfig()) if config.recipe.name == "synth" else None
        self._chain = SourceChain(open_sources(config.sources, cache_dir=layout.temporary, options=config.remote))
        if self._synth is not None or any(source.name == "youtube" for source in self._chain.remote):
            ffmpeg_binary()  # if it is missing, refuse here, once, and not for every clip
        self._config = config
        self._cache_dir = config.downloads.cache_dir or layout.media
        self.problems = self._chain.problems
        self.downloads: DownloadStage | None = None

    @property
    def coverage(self) -> dict[str, int]:
        """Number of clips located in each source, by its name."""
        return dict(self._chain.coverage)

    def count(self, num_clips: Mapping[str, int]) -> None:
        """Add clips that were located on other machines to `coverage`."""
        for name, number in num_clips.items():
            self._chain.coverage[name] += number

    @property
    def remote(self) -> Sequence[RemoteSource]:
        """The sources whose media have to be fetched."""
        return self._chain.remote

    @property
    def stopped(self) -> FailedRef | None:
        """Why a source was stopped, if one was: the failure of clips that no other source has."""
        return next(iter(self.downloads.stopped.values()), None) if self.downloads else None

    def locate(self, row: Mapping[str, Any]) -> Ref | None:
        """Where the media of a plan row (PLAN_SCHEMA) are; None if no source has them."""
        if self._synth is not None:
            return SynthRef(config=self._synth, index=int(row["video_id"]))
        if self.downloads:
            self._chain.stopped.update(self.downloads.stopped)
        return self._chain.locate(ClipRequest(row["video_id"], row["start_s"], row["end_s"], row["path"]))

    def begin_downloads(
        self, plan: Iterable[pa.Table], listener: PrepareListener, rate_limit_of: RateLimitOf = source_rate_limit
    ) -> None:
        """Open the download stage if a source is remote.

        Args:
            plan: Tables of PLAN_SCHEMA with all clips of this run. They are read if a source is remote.
            listener: Receives messages for the user.
            rate_limit_of: Makes the limit of each source, for this machine or for a cluster.
        """
        if self._chain.remote:
            downloads = self._config.downloads
            fetching = FetchThread(
                downloads,
                self._chain.remote,
                {source.name: rate_limit_of(source, downloads) for source in self._chain.remote},
                MediaCache(self._cache_dir, round(downloads.cache_gb * 1e9)),
                _repeated_videos(plan),
                retry_unavailable=self._config.retry is Retry.ALL or self._config.overwrite,
            )
            self.downloads = DownloadStage(
                fetching,
                lambda request, source: self._chain.locate(request, after=source),
                downloads.look_ahead,
                listener.note,
            )

    def close(self) -> None:
        """Close the download stage."""
        if self.downloads:
            self.downloads.close()


def _repeated_videos(plan: Iterable[pa.Table]) -> dict[str, list[Span]]:
    """The spans of all clips of each video that the plan has more than one clip of."""
    clips = pa.concat_tables([rows.select(["video_id", "start_s", "end_s"]) for rows in plan])
    counts = clips.group_by("video_id").aggregate([("video_id", "count")])
    repeated = counts.filter(pc.greater(counts.column("video_id_count"), 1)).column("video_id")
    spans: dict[str, list[Span]] = {}
    for row in clips.filter(pc.is_in(clips.column("video_id"), repeated.combine_chunks())).to_pylist():
        spans.setdefault(row["video_id"], []).append((row["start_s"], row["end_s"]))
    return spans
