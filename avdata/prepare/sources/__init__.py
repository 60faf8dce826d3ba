"""Sources of media files: folders, archives, web servers, YouTube and drawn videos."""

import os
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
from avmanifest.names import did_you_mean
from avmanifest.secrets import Url, shown_url

Ref = MediaRef | SynthRef | RemoteRef | FailedRef
"""The media of a clip: a file on disk, a video to draw, a video to download, or a failure."""


@runtime_checkable
class Source(Protocol):
    """A place to look up videos."""

    name: str  # as the user wrote it, such as "local:FOLDER", without the secrets of a URL
    problems: list[str]  # messages to the user about parts of the source that could not be read

    @property
    def refused(self) -> Counter[str]:
        """Reason -> number of names that were refused for it."""
        ...

    def locate(self, request: ClipRequest) -> MediaRef | RemoteRef | FailedRef | None:
        """The requested media; None if the source does not have it. A remote source returns where it may be.

        A failure if the source has a file that it must refuse.
        """
        ...


@runtime_checkable
class RemoteSource(Source, Protocol):
    """A source whose videos are downloaded before decoding. `locate` returns an address without a request to it."""

    fetcher: Fetcher
    rate_per_hour: float | None  # limit of requested videos per hour unless the user sets one; None: no limit
    proxy: Url | None
    probes: bool  # whether the first video is downloaded alone, to test that the source answers
    remedy: str  # what the user can do when the source blocks the client, as a sentence

    def preflight(self) -> list[str]:
        """Messages to the user before the first download, one line each."""
        ...


class SourceChain:
    """Sources in order of preference. A request gets the media of the first source that has it.

    `coverage` counts the requests that each source answered, by its name; `missing` counts those that none did.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.coverage: dict[str, int] = dict.fromkeys((source.name for source in sources), 0)
        self.missing = 0
        self.stopped: set[str] = set()  # names of sources that are skipped from now on
        self._sources = tuple(sources)
        if len(self.coverage) < len(sources):
            names = ", ".join(source.name for source in sources)
            raise ConfigError(f"a source is given twice: {names}. Name each source once.")

    @property
    def problems(self) -> list[str]:
        """Messages to the user about parts of the sources that could not be read."""
        return [problem for source in self._sources for problem in source.problems]

    @property
    def remote(self) -> list[RemoteSource]:
        """The sources whose videos are downloaded."""
        return [source for source in self._sources if isinstance(source, RemoteSource)]

    def locate(self, request: ClipRequest, *, after: str = "") -> MediaRef | RemoteRef | FailedRef | None:
        """The requested media from the first source that has it; None if no source does.

        If no other source has it, the failure of the first source that refused its file.

        With `after`, the name of a source whose download failed, only the sources after that one are searched.
        """
        names = list(self.coverage)
        failed: FailedRef | None = None
        if after:
            self.coverage[after] -= 1
        for source in self._sources[names.index(after) + 1 if after else 0 :]:
            media = None if source.name in self.stopped else source.locate(request)
            if isinstance(media, FailedRef):
                failed = failed or media
            elif media is not None:
                self.coverage[source.name] += 1
                return media
        self.missing += 1
        return failed


def _open_local(rest: str, cache_dir: Path | None, options: RemoteOptions) -> Source:
    del cache_dir, options  # not used by folders
    return LocalSource(rest)


def _open_archives(rest: str, cache_dir: Path | None, options: RemoteOptions) -> Source:
    del options
    return ArchiveSource(rest.split("::"), cache_dir=cache_dir)


def _open_http(rest: str, cache_dir: Path | None, options: RemoteOptions) -> Source:
    del cache_dir  # downloads have a cache of their own
    return HttpSource(rest, options.http)


SCHEMES: Final[dict[str, Callable[[str, Path | None, RemoteOptions], Source]]] = {
    "local": _open_local,
    "wds": _open_archives,
    "http": _open_http,
}


def reads_archives(spec: str) -> bool:
    """Whether a source's text names archives: `wds:PATTERN`, or the path or URL of an archive."""
    scheme, colon, rest = spec.partition(":")
    if colon and scheme == "wds":
        return rest != ""
    path, _, query = spec.partition("?") if "://" in spec else (spec, "", "")
    return (
        path.endswith(ARCHIVE_SUFFIXES) and "{" not in query and (not colon or "/" in scheme or rest.startswith("//"))
    )


def open_source(spec: str, *, cache_dir: Path | None = None, options: RemoteOptions | None = None) -> Source:
    """Open the source that a text names.

    A folder or an archive is listed completely now. No request is sent to a remote source.

    Args:
        spec: `local:FOLDER`; `wds:PATTERN` (several patterns joined by `::`) or an archive of ARCHIVE_SUFFIXES;
            `http:TEMPLATE` or the template alone; or `youtube`.
        cache_dir: Folder for what is kept of archives: see `ArchiveSource`. None: the user's cache folder.
        options: Settings of the sources that download. None: the defaults.

    Raises:
        ConfigError: The text names no source, or the source cannot be opened.
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
    known = [*(f"{name}:" for name in SCHEMES), "youtube"]
    hint = did_you_mean(f"{scheme}{colon}", known) or ";"
    folder = shown_url(spec) if os.path.isdir(spec) else "FOLDER"  # noqa: PTH112 - of any text, without an error
    raise ConfigError(
        f"unknown source {shown_url(spec)!r}{hint} known: {', '.join(known)} or the path of a "
        f"{', '.join(ARCHIVE_SUFFIXES)}. "
        f"A folder is written local:{folder}."
    )


def open_sources(
    specs: Sequence[str], *, cache_dir: Path | None = None, options: RemoteOptions | None = None
) -> list[Source]:
    """Open the sources that the texts name, as `open_source`. Names that differ only in a secret get a number."""
    opened: dict[str, str] = {}  # text by name
    sources: list[Source] = []
    for spec in specs:
        source = open_source(spec, cache_dir=cache_dir, options=options)
        if opened.get(source.name, spec) != spec:
            source.name = f"{source.name} ({len(sources) + 1})"
        opened[source.name] = spec
        sources.append(source)
    return sources
