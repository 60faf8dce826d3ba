"""A video that has to be fetched before it can be decoded, and what a source of such videos is."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from avdata.prepare.sources.names import ClipRequest
from avmanifest.schema import StatusClass, status_class

Span = tuple[float, float | None]
"""Start and end in the whole video, seconds; None: its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRef:
    """Where a video can be had. Small, and safe to send to another process."""

    address: str  # a URL
    fetch_key: str  # the media's name in the cache: equal keys are one file, fetched once
    is_clip: bool  # the file begins where the clip begins; else it is the whole video and must be cut
    source: str  # the source as it was given
    name: str  # the file within the source, fit to be shown
    request: ClipRequest  # for the next source, should this one not have it

    @property
    def span(self) -> Span:
        """What of the whole video the clip is."""
        return self.request.start_s, self.request.end_s


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRef:
    """A video that no source gave: the status and reason that its clips' rows get."""

    status: str
    reason: str
    source: str
    name: str
    is_clip: bool = False


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file below the folder of a fetch, and which part of the whole video it holds."""

    name: str
    starts_at_s: float = 0.0  # the file's time 0
    covers: Span = (0.0, None)
    video_end_s: float | None = None  # of the whole video, where it is known

    def holds(self, span: Span) -> bool:
        """Whether all of the span is in the file."""
        start_s, end_s = self.covers
        return start_s <= span[0] and (end_s is None or (span[1] is not None and span[1] <= end_s))

    def ends_before(self, span: Span) -> bool:
        """Whether the whole video is known to be over where the span begins."""
        return self.video_end_s is not None and self.video_end_s <= span[0]


@runtime_checkable
class Fetcher(Protocol):
    """Fetches one video in a child process. Picklable."""

    def __call__(self, address: str, spans: tuple[Span, ...], folder: Path) -> tuple[FetchedFile, ...]:
        """Fetch what the spans need into the folder, going on with what an earlier call left there.

        Raises DownloadError with a status of the manifest, OSError for a folder that takes no more.
        """
        ...


def said_of_all(trail: Sequence[FailedRef]) -> FailedRef:
    """How a clip ends that no source gave: what may pass comes before what is for good."""
    chosen = next((ref for ref in trail if status_class(ref.status) is StatusClass.TRANSIENT), trail[0])
    if len(trail) == 1:
        return chosen
    return replace(chosen, reason="; ".join(f"{ref.source}: {ref.status}: {ref.reason}" for ref in trail))


def fetch_key(*parts: str) -> str:
    """A file name for what the parts name, the same in every run."""
    return hashlib.blake2b(json.dumps(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
