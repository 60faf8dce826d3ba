"""References to videos that are downloaded before decoding, and the interface of the code that downloads them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from avdata.prepare.sources.names import ClipRequest
from avmanifest.schema import StatusClass, status_class
from avmanifest.secrets import Url

Span = tuple[float, float | None]
"""Start and end in the whole video, in seconds. An end of None is the end of the video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRef:
    """The address of a video to download. Small and picklable."""

    address: Url
    fetch_key: str  # name of the file in the cache: videos with equal keys are downloaded once
    is_clip: bool  # True: the file begins where the clip begins. False: it is the whole video and must be cut
    source: str  # the source as the user wrote it, without secrets
    name: str  # the file within the source, as printable text
    request: ClipRequest  # to ask the next source if this one does not have the video

    @property
    def span(self) -> Span:
        """The clip's span in the whole video."""
        return self.request.start_s, self.request.end_s


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRef:
    """A video that could not be downloaded, with the status and reason for the manifest rows of its clips."""

    status: str
    reason: str
    source: str
    name: str
    is_clip: bool = False


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A downloaded file and the part of the whole video that it contains."""

    name: str
    starts_at_s: float = 0.0  # position of the file's time 0 in the whole video
    covers: Span = (0.0, None)
    video_end_s: float | None = None  # duration of the whole video, if known

    def contains(self, span: Span) -> bool:
        """Whether the file contains the whole span."""
        start_s, end_s = self.covers
        return start_s <= span[0] and (end_s is None or (span[1] is not None and span[1] <= end_s))

    def ends_before(self, span: Span) -> bool:
        """Whether the whole video is known to end before the span begins."""
        return self.video_end_s is not None and self.video_end_s <= span[0]


@runtime_checkable
class Fetcher(Protocol):
    """Downloads one video in a child process. Must be picklable."""

    def __call__(self, address: str, spans: tuple[Span, ...], folder: Path) -> tuple[FetchedFile, ...]:
        """Download the parts of a video that contain the spans.

        Args:
            address: URL of the video.
            spans: The clips, in seconds of the whole video.
            folder: Where the files are written. A partial file of an earlier call is continued.

        Raises:
            DownloadError: The video is not available; its status is a name of STATUSES.
            OSError: The folder cannot be written.
        """
        ...


def combine_failures(failures: Sequence[FailedRef]) -> FailedRef:
    """The failure to report for a clip that no source could give, from one failure per source.

    Its status is the first transient one, so that the clip can be retried; else the first. The reason names all.
    """
    if len(failures) == 1:
        return failures[0]
    transient = (failure for failure in failures if status_class(failure.status) is StatusClass.TRANSIENT)
    reason = "; ".join(f"{failure.source}: {failure.status}: {failure.reason}" for failure in failures)
    return replace(next(transient, failures[0]), reason=reason)


def fetch_key(*parts: str) -> str:
    """A file name derived from the parts by a hash; the same in every run."""
    return hashlib.blake2b(json.dumps(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
