"""Where media comes from."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from avdata.prepare.config import RemoteOptions
from avdata.prepare.sources.archives import ARCHIVE_SUFFIXES, ArchiveSource
from avdata.prepare.sources.http import HttpSource
from avdata.prepare.sources.local import LocalSource
from avdata.prepare.sources.media import MediaRef
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.remote import FailedRef, Fetcher, RemoteRef
from avdata.prepare.sources.synth.source import SynthRef
from avdata.prepare.sources.youtube import YoutubeSource
from avmanifest.errors import ConfigError

Ref = MediaRef | SynthRef | RemoteRef | FailedRef
"""Where the media of a clip are: on disk, to be drawn, to be fetched, or nowhere."""


@runtime_checkable
class Source(Protocol):
    """Something that may have the video a clip needs."""

    name: str  # as it was given: "local:DIR"
    problems: list[str]  # what could not be read of the source itself, one line each for the user

    @property
    def refused(self) -> Counter[str]:
        """How many names were turned down, by reason."""
        ...

    def locate(self, request: ClipRequest) -> MediaRef | RemoteRef | None:
        """Where the source has, or may have, the requested media; None if it hasn't."""
        ...


@runtime_checkable
class RemoteSource(Source, Protocol):
    """A source whose videos are fetched first: `locate` says where one would be."""

    fetcher: Fetcher
    rate_per_hour: float | None  # how many videos it may be asked for if the user doesn't say; None: no limit
    proxy: str | None
    probes: bool  # whether one video goes first, alone, to see that it answers us
    remedy: str  # what to do when it refuses us: a sentence

    def preflight(self) -> list[str]:
        """What the user should know before anything is fetched, one line each."""
        ...


class SourceChain:
    """Sources tried in order: the first that has a video gives it.

    `coverage` counts what each source gave, by its name, and `missing` what none had.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.coverage: dict[str, int] = dict.fromkeys((source.name for source in sources), 0)
        self.missing = 0
        self.stopped: set[str] = set()  # names of sources that are not to be asked any more
        self._sources = tuple(sources)
        if len(self.coverage) < len(sources):
            raise ConfigError(f"a source is given twice: {', '.join(source.name for source in sources)}.")

    @property
    def problems(self) -> list[str]:
        """What could not be read of the sources, one line each for the user."""
        return [problem for source in self._sources for problem in source.problems]

    @property
    def remote(self) -> list[RemoteSource]:
        """The sources whose videos are fetched."""
        return [source for source in self._sources if isinstance(source, RemoteSource)]

    def locate(self, request: ClipRequest, *, after: str = "") -> MediaRef | RemoteRef | None:
        """Where the first source that has the requested media has it, or None.

        `after` is the name of a source that did not have it in the end: those behind it are asked.
        """
        names = list(self.coverage)
        if after:
            self.coverage[after] -= 1
        for source in self._sources[names.index(after) + 1 if after else 0 :]:
            media = None if source.name in self.stopped else source.locate(request)
            if media is not None:
                self.coverage[source.name] += 1
                return media
        self.missing += 1
        return None


def _open_local(rest: str, cache_dir: Path | None, options: RemoteOptions) -> Source:
    del cache_dir, options  # a folder needs neither
    return LocalSource(rest)


def _open_archives(rest: str, cache_dir: Path | None, options: RemoteOptions) -> Source:
    del options
    return ArchiveSource(rest.split("::"), cache_dir=cache_dir)


def _open_http(rest: str, cache_dir: Path | None, options: RemoteOptions) -> Source:
    del cache_dir  # fetched files lie in the cache of the downloads
    return HttpSource(rest, options.http)


SCHEMES: Final[dict[str, Callable[[str, Path | None, RemoteOptions], Source]]] = {
    "local": _open_local,
    "wds": _open_archives,
    "http": _open_http,
}


def reads_archives(spec: str) -> bool:
    """Whether the user's word names archives: `wds:PATTERN`, or the path or address of a .tar, .tar.gz or .tgz."""
    scheme, colon, rest = spec.partition(":")
    if colon and scheme == "wds":
        return rest != ""
    return spec.endswith(ARCHIVE_SUFFIXES) and (not colon or "/" in scheme or rest.startswith("//"))


def open_source(spec: str, *, cache_dir: Path | None = None, options: RemoteOptions | None = None) -> Source:
    """The source a user's word names.

    `local:DIR`, `wds:PATTERN` (several joined by `::`), the plain path of a .tar, .tar.gz or .tgz, `http:TEMPLATE` or
    the template alone, or `youtube`. `cache_dir` keeps the seek points of tar.gz files. Opening reads the whole folder
    or archive once, and asks nothing of a source that fetches. ConfigError if the word names nothing.
    """
    options = options or RemoteOptions()
    scheme, colon, rest = spec.partition(":")
    if spec == "youtube":
        return YoutubeSource(options.youtube)
    if reads_archives(spec):
        return _open_archives(spec.removeprefix("wds:"), cache_dir, options)
    if scheme in ("http", "https") and rest.startswith("//"):
        return _open_http(spec, cache_dir, options)
    if colon and scheme in SCHEMES and rest:
        return SCHEMES[scheme](rest, cache_dir, options)
    known = ", ".join([*(f"{name}:" for name in SCHEMES), "youtube"])
    raise ConfigError(
        f"unknown source {spec!r}; known: {known} or the path of a {', '.join(ARCHIVE_SUFFIXES)}. "
        "A folder is written local:DIR."
    )
