"""Finding the file of a source that a request refers to.

One clip has many spellings: `ID_000030`, `ID_30`, `ID-30`, `ID_30000_40000`, `ID_000030_000040`, `ID_30.000`,
`YID_30.000`, `Title [ID]`, with or without a suffix, in one folder or in a folder per class. A YouTube id always has 11
characters. Ids contain `-` and `_`, so a name is never split at these characters.

A name alone can be ambiguous (`ID_3000`: second 3000, or second 3 in milliseconds). A request is not, because it
has a start. So the request is written in every spelling, and each spelling is looked up among the files.
`avmanifest.clipnames` parses names for which there is no request.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from avmanifest import clipnames
from avmanifest.clipnames import MEDIA_SUFFIXES, ClipName, parse_clip_name, split_media_suffix, usual_spelling
from avmanifest.errors import ManifestError

YOUTUBE_ID: Final = re.compile(clipnames.YOUTUBE_ID)

_RANK: Final = {suffix: rank for rank, suffix in enumerate(MEDIA_SUFFIXES)}


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """The media that one row of a plan needs.

    Times are seconds in the source video; `end_s` None means the end of the file. `path`, where the list gives
    one, is relative to the source; then only this path is searched.
    """

    video_id: str
    start_s: float = 0.0
    end_s: float | None = None
    path: str = ""

    def __post_init__(self) -> None:
        end_s = math.inf if self.end_s is None else self.end_s
        if not 0 <= self.start_s < math.inf or not self.start_s < end_s:
            raise ManifestError(
                f"video {self.video_id!r}: the clip from {self.start_s} s to {self.end_s} s is not a valid span. "
                "Correct the row: 0 <= start < end."
            )


class FoundFile(NamedTuple):
    """A file of a NameIndex."""

    row: int  # as `add` returned it
    is_clip: bool  # True: the file begins where the clip begins. False: it is the whole video and must be cut


def clip_spellings(video_id: str, start_s: float, end_s: float | None = None) -> Iterator[str]:
    """Every file stem in use for this clip, the most specific first; some may be equal.

    Seconds come before milliseconds: where a name could mean either, it means seconds. A start alone is written in
    milliseconds only from 1000 up, because `ID_500` always means second 500.
    """
    start_ms = round(start_s * 1000)
    start, start_fraction = divmod(start_ms, 1000)
    if end_s is not None:
        end_ms = round(end_s * 1000)
        end, end_fraction = divmod(end_ms, 1000)
        if not start_fraction and not end_fraction and end - start < 1000:
            yield f"{video_id}_{start:06d}_{end:06d}"
            yield f"{video_id}_{start}_{end}"
        if end_ms - start_ms >= 1000:
            yield f"{video_id}_{start_ms}_{end_ms}"
        yield f"{video_id}_{start_ms / 1000:.3f}_{end_ms / 1000:.3f}"
        yield f"{video_id}_{start_ms / 1000}_{end_ms / 1000}"
    if not start_fraction:
        yield f"{video_id}_{start:06d}"
        yield f"{video_id}_{start}"
    yield f"{video_id}_{start_ms / 1000:.3f}"
    yield f"{video_id}_{start_ms / 1000}"
    if start_ms >= 1000:
        yield f"{video_id}_{start_ms}"


def names_tried(request: ClipRequest) -> list[str]:
    """The file names without suffix that `NameIndex.find` looks for, in its order."""
    if request.path or not YOUTUBE_ID.fullmatch(request.video_id):
        return [request.path or request.video_id]
    spellings = clip_spellings(request.video_id, request.start_s, request.end_s)
    return list(dict.fromkeys((*spellings, request.video_id)))


def safe_relative(path: str) -> str | None:
    """The path without `.` and doubled slashes; None if it is absolute, contains `..` or a NUL, or is empty."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        return None
    return "/".join(parts)


class NameIndex:
    """The files of a source by name. Each file has a row number; an entry takes about 170 bytes.

    Only files that were added can be found, and nothing here reads a disk, so a request cannot reach other files.
    `refused` counts refused files and requests by reason.
    """

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self._rows: dict[str, int] = {}
        self._copies: dict[str, list[int]] = {}  # name -> all rows with it but the first
        self._starts: dict[str, int] = {}  # ID_<start in ms> -> row, for clips whose name contains an end
        self._stems: list[str] = []
        self._places: list[tuple[int, str, str]] = []  # per row: origin, folder, suffix; equal ones share one object
        self._shared_places: dict[tuple[int, str, str], tuple[int, str, str]] = {}
        self._identities: dict[int, ClipName] = {}  # row -> the clip according to metadata
        self._has_clips = False

    def __len__(self) -> int:
        return len(self._stems)

    def add(self, path: str, *, origin: int = 0, identity: ClipName | None = None) -> int:
        """Add a file.

        Args:
            path: Relative to the source, with a media suffix.
            origin: Number of the archive in the source.
            identity: The clip according to metadata. It decides where the name says something else; a start that only
                the name has is kept.

        Returns:
            The file's row number.
        """
        folder, _, name = path.rpartition("/")
        stem, suffix = split_media_suffix(name)
        row = len(self._stems)
        place = (origin, folder, suffix)
        self._stems.append(stem)
        self._places.append(self._shared_places.setdefault(place, place))
        self._register(stem, row)
        named, spelling = parse_clip_name(stem), usual_spelling(stem)
        if identity is not None:
            if named is None or identity.start_s is not None or named.video_id != identity.video_id:
                named, spelling = identity, _spelling(identity)
            self._identities[row] = named
        if named is None or spelling is None:
            return row
        if spelling != stem:
            self._register(spelling, row)
        if named.start_ms is not None:
            self._has_clips = True
        if named.end_ms is not None:
            key = f"{named.video_id}_{named.start_ms}"
            other = self._starts.setdefault(key, row)
            self._starts[key] = min(other, row, key=self._order)
        return row

    def some_paths(self, most: int) -> list[str]:
        """The paths of the files that were added first."""
        return [self.path(row) for row in range(min(most, len(self)))]

    def path(self, row: int) -> str:
        """The file's path relative to its source."""
        _, folder, suffix = self._places[row]
        return f"{folder}/{self._stems[row]}{suffix}" if folder else f"{self._stems[row]}{suffix}"

    def origin(self, row: int) -> int:
        """The `origin` with which the file was added."""
        return self._places[row][0]

    def find(self, request: ClipRequest) -> FoundFile | None:
        """The file for a request; None if there is none.

        A file that is the clip is preferred to the whole video, and both to a file with the clip's start and another
        end. An id that is not a YouTube id must equal the file's stem; an id with a slash is a path. If files in
        several folders or archives have such a stem, the request is refused: they may be different videos, so the list
        must give paths.
        """
        if request.path:
            return self._find_path(request.path, request)
        video_id = request.video_id
        if not YOUTUBE_ID.fullmatch(video_id):
            if "/" in video_id:
                return self._find_path(video_id, request)
            row = self._choose(self._rows_of(video_id))
            return None if row is None else FoundFile(row, is_clip=False)
        if self._has_clips:
            end_s = request.end_s if self._starts else None  # no file name contains an end
            for spelling in clip_spellings(video_id, request.start_s, end_s):
                if (row := self._best(spelling, request, is_clip=True)) is not None:
                    return FoundFile(row, is_clip=True)
        if (row := self._best(video_id, request, is_clip=False)) is not None:
            return FoundFile(row, is_clip=False)
        row = self._starts.get(f"{video_id}_{round(request.start_s * 1000)}")
        return None if row is None else FoundFile(row, is_clip=True)

    def _register(self, name: str, row: int) -> None:
        if self._rows.setdefault(name, row) != row:
            self._copies.setdefault(name, []).append(row)

    def _rows_of(self, name: str) -> list[int]:
        return [self._rows[name], *self._copies.get(name, ())] if name in self._rows else []

    def _order(self, row: int) -> tuple[int, int, str]:
        origin, _, suffix = self._places[row]
        return origin, _RANK[suffix[suffix.rindex(".") :].lower()], self.path(row)

    def _best(self, name: str, request: ClipRequest, *, is_clip: bool) -> int | None:
        """The preferred row of a name of a YouTube clip, of those that metadata does not say to be something else.

        All such files are copies of one clip or video.
        """
        rows = self._rows_of(name)
        if self._identities:
            start_ms = round(request.start_s * 1000) if is_clip else None
            clip = (request.video_id, start_ms)
            rows = [row for row in rows if self._says(row) in (None, clip)]
        return min(rows, key=self._order, default=None)

    def _says(self, row: int) -> tuple[str, int | None] | None:
        """The video id and the start (ms) according to metadata; None if there is none."""
        identity = self._identities.get(row)
        return None if identity is None else (identity.video_id, identity.start_ms)

    def _choose(self, rows: list[int]) -> int | None:
        """The preferred row of a name; None, and counted as refused, if it may mean several videos."""
        if len({self._places[row][:2] for row in rows}) > 1:
            self.refused["several folders or archives have a file of this name; give the path in the list"] += 1
            return None
        return min(rows, key=self._order, default=None)

    def _find_path(self, path: str, request: ClipRequest) -> FoundFile | None:
        relative = safe_relative(path)
        if relative is None:
            self.refused["the path is absolute or contains '..' or a NUL"] += 1
            return None
        folder, _, name = relative.rpartition("/")
        stem, suffix = split_media_suffix(name)
        rows = [
            row
            for row in self._rows_of(stem)
            if self._stems[row] == stem and self._places[row][1] == folder and suffix in ("", self._places[row][2])
        ]
        row = self._choose(rows)
        return None if row is None else FoundFile(row, is_clip=self._is_clip(row, request))

    def _is_clip(self, row: int, request: ClipRequest) -> bool:
        start_ms = round(request.start_s * 1000)
        if row in self._identities and self._identities[row].start_ms is not None:
            return self._identities[row].start_ms == start_ms
        if not YOUTUBE_ID.fullmatch(request.video_id):
            return False
        stem = self._stems[row]
        named = parse_clip_name(stem)
        if named is not None and (named.video_id, named.start_ms) == (request.video_id, start_ms):
            return True
        return usual_spelling(stem) in set(clip_spellings(request.video_id, request.start_s, request.end_s))


class IndexedSource:
    """A source that finds its videos by name: those that a subclass adds to `_index`."""

    def __init__(self) -> None:
        self._index = NameIndex()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def refused(self) -> Counter[str]:
        """Reason -> number of files, members and requests that were refused for it."""
        return self._index.refused

    def some_paths(self, most: int) -> list[str]:
        """The paths of some of its videos in the folder or in their archives."""
        return self._index.some_paths(most)


def _spelling(clip: ClipName) -> str:
    times = [f"{time_s:.3f}" for time_s in (clip.start_s, clip.end_s) if time_s is not None]
    return "_".join([clip.video_id, *times])
