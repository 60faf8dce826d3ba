"""Where the media of plan rows lie, and the downloads of what lies elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from avdata.prepare.config import PrepareConfig, Retry
from avdata.prepare.download import DownloadConfig, DownloadStage, FetchThread, MediaCache, repeated_videos, source_pace
from avdata.prepare.download.pace import Pace
from avdata.prepare.report import PrepareListener
from avdata.prepare.sources import Ref, RemoteSource, SourceChain, open_source
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.remote import FailedRef
from avdata.prepare.sources.synth import SynthConfig
from avdata.prepare.sources.synth.source import SynthRef
from avmanifest.layout import Layout

PaceOf = Callable[[RemoteSource, DownloadConfig], Pace]


class MediaResolver:
    """Where the media of plan rows lie: in the sources in the order given, or nowhere yet, for drawn clips.

    What lies elsewhere is fetched by `downloads`, once they have begun.
    """

    def __init__(self, config: PrepareConfig, layout: Layout) -> None:
        self._synth = (config.synth or SynthConfig()) if config.recipe.name == "synth" else None
        self._chain = SourceChain(
            [open_source(source, cache_dir=layout.temporary, options=config.remote) for source in config.sources]
        )
        self._config = config
        self._cache_dir = config.downloads.cache_dir or layout.media
        self.problems = self._chain.problems
        self.downloads: DownloadStage | None = None

    @property
    def coverage(self) -> dict[str, int]:
        """Clips that each source gave."""
        return dict(self._chain.coverage)

    def count(self, given: Mapping[str, int]) -> None:
        """Add clips that sources gave on other machines."""
        for name, number in given.items():
            self._chain.coverage[name] += number

    @property
    def remote(self) -> Sequence[RemoteSource]:
        """The sources that must be fetched from."""
        return self._chain.remote

    @property
    def stopped(self) -> FailedRef | None:
        """Why a source was given up, as the reason of clips that no other source had."""
        return next(iter(self.downloads.stopped.values()), None) if self.downloads else None

    def locate(self, row: Mapping[str, Any]) -> Ref | None:
        """The media of a row (PLAN_SCHEMA); None if no source has it."""
        if self._synth is not None:
            return SynthRef(config=self._synth, index=int(row["video_id"]))
        if self.downloads:
            self._chain.stopped.update(self.downloads.stopped)
        return self._chain.locate(ClipRequest(row["video_id"], row["start_s"], row["end_s"], row["path"]))

    def begin_downloads(
        self, plan: Sequence[pa.Table], listener: PrepareListener, pace_of: PaceOf = source_pace
    ) -> None:
        """Open the stage that fetches, if a source needs it, for a plan (tables of PLAN_SCHEMA).

        `pace_of` gives each source its budget of requests: this machine's, or a cluster's.
        """
        if self._chain.remote:
            downloads = self._config.downloads
            fetching = FetchThread(
                downloads,
                self._chain.remote,
                {source.name: pace_of(source, downloads) for source in self._chain.remote},
                MediaCache(self._cache_dir, round(downloads.cache_gb * 1e9)),
                repeated_videos(plan),
                ask_again=self._config.retry is Retry.ALL or self._config.overwrite,
            )
            self.downloads = DownloadStage(
                fetching,
                lambda request, source: self._chain.locate(request, after=source),
                downloads.look_ahead,
                listener.note,
            )

    def close(self) -> None:
        """End the downloads."""
        if self.downloads:
            self.downloads.close()
