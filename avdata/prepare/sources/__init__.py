"""Where media comes from."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from avdata.prepare.sources.archives import ARCHIVE_SUFFIXES, ArchiveSource
from avdata.prepare.sources.local import LocalSource
from avdata.prepare.sources.media import MediaRef
from avdata.prepare.sources.names import ClipRequest
from avmanifest.errors import ConfigError


@runtime_checkable
class Source(Protocol):
    """Something that may have the video a clip needs."""

    name: str  # as it was given: "local:DIR"
    problems: list[str]  # what could not be read of the source itself, one line each for the user

    @property
    def refused(self) -> Counter[str]:
        """How many names were turned down, by reason."""
        ...

    def locate(self, request: ClipRequest) -> MediaRef | None:
        """Where the source has the requested media, or None."""
        ...


class SourceChain:
    """Sources tried in order: the first that has a video gives it.

    `coverage` counts what each source gave, by its name, and `missing` what none had.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.coverage: dict[str, int] = dict.fromkeys((source.name for source in sources), 0)
        self.missing = 0
        self._sources = tuple(sources)
        if len(self.coverage) < len(sources):
            raise ConfigError(f"a source is given twice: {', '.join(source.name for source in sources)}.")

    @property
    def problems(self) -> list[str]:
        """What could not be read of the sources, one line each for the user."""
        return [problem for source in self._sources for problem in source.problems]

    def locate(self, request: ClipRequest) -> MediaRef | None:
        """Where the first source that has the requested media has it, or None."""
        for source in self._sources:
            media = source.locate(request)
            if media is not None:
                self.coverage[source.name] += 1
                return media
        self.missing += 1
        return None


def _open_local(rest: str, cache_dir: Path | None) -> Source:
    del cache_dir  # a folder needs no cache
    return LocalSource(rest)


def _open_archives(rest: str, cache_dir: Path | None) -> Source:
    return ArchiveSource(rest.split("::"), cache_dir=cache_dir)


SCHEMES: Final[dict[str, Callable[[str, Path | None], Source]]] = {"local": _open_local, "wds": _open_archives}


def open_source(spec: str, *, cache_dir: Path | None = None) -> Source:
    """The source a user's word names.

    `local:DIR`, `wds:PATTERN` (several joined by `::`), or the plain path of a .tar, .tar.gz or .tgz. `cache_dir`
    keeps the seek points of tar.gz files. Opening reads the whole folder or archive once. ConfigError if the word
    names nothing.
    """
    scheme, colon, rest = spec.partition(":")
    if colon and scheme in SCHEMES and rest:
        return SCHEMES[scheme](rest, cache_dir)
    if spec.endswith(ARCHIVE_SUFFIXES) and (not colon or "/" in scheme or rest.startswith("//")):
        return _open_archives(spec, cache_dir)
    known = ", ".join(f"{name}:" for name in SCHEMES)
    raise ConfigError(
        f"unknown source {spec!r}; known: {known} or the path of a {', '.join(ARCHIVE_SUFFIXES)}. "
        "A folder is written local:DIR."
    )
