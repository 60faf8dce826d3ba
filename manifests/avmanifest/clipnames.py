"""The names that files and lists give a clip, and which files may hold a video."""

import re
from typing import Final, Literal, NamedTuple

MEDIA_SUFFIXES: Final = (
    ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv", ".3gp",
    ".ogv",
)  # fmt: skip
"""Files that may hold a video, best first: where one stem has several, the first is taken."""

YOUTUBE_ID: Final = r"[A-Za-z0-9_-]{11}"
"""An id is always eleven characters, may contain `_` and `-` and start with them: never split a name on `_`."""

TimeUnit = Literal["auto", "s", "ms"]
"""How the numbers of a name count time. `auto`: as `parse_clip_name` tells seconds from milliseconds."""

_NAME_SUFFIXES: Final = frozenset({*MEDIA_SUFFIXES, ".wav", ".flac", ".m4a", ".mp3", ".jpg"})
_NUMBER: Final = r"_([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_CLIP_NAME: Final = re.compile(rf"({YOUTUBE_ID})(?:{_NUMBER}(?:{_NUMBER})?)?")


class ClipName(NamedTuple):
    """A clip as its name tells it. Without a start the name means the whole video."""

    video_id: str
    start_s: float | None = None
    end_s: float | None = None

    @property
    def start_ms(self) -> int | None:
        """The start in whole milliseconds."""
        return None if self.start_s is None else round(self.start_s * 1000)

    @property
    def end_ms(self) -> int | None:
        """The end in whole milliseconds."""
        return None if self.end_s is None else round(self.end_s * 1000)


def parse_clip_name(name: str, unit: TimeUnit = "auto") -> ClipName | None:
    """Read the clip that a file name, a path or a list's entry names.

    A name is a YouTube id, then perhaps a start, then perhaps an end, joined by `_`, with or without folders before it
    and a media suffix of any case after it. With `unit="auto"` the numbers are read by how the field writes them:

    - A number with a point counts seconds (`ID_30.000`).
    - Two whole numbers count milliseconds if they differ by 1000 or more, else seconds: clips last from 1 s to 1000 s
      (`ID_30000_40000` and `ID_000030_000040` are the same clip).
    - One whole number counts seconds (`ID_30`, VGGSound's `ID_000030`), unless it is a multiple of 1000 without a
      leading zero: those are the milliseconds that AudioSet's tools write (`ID_30000`).

    A clip that begins at second 1000, 2000, ... and is written without zeros is therefore misread (2 of VGGSound's
    172,590 public clips): where a list writes such names, say `unit = "s"` in its recipe. A file is looked up by the
    start that its plan gives, which is never ambiguous.

    Args:
        name: The name, such as `playing_guitar/-_A__b-C_3__000030.mp4`.
        unit: `s` or `ms` where it is known what the numbers count.

    Returns:
        The clip, or None if the name is not one of a YouTube clip, or its end is not after its start.
    """
    match = _CLIP_NAME.fullmatch(_without_suffix(name.rpartition("/")[2]))
    if match is None:
        return None
    video_id, start, end = match.groups()
    if start is None:
        return ClipName(video_id)
    scale = 1000.0 if _is_milliseconds(start, end, unit) else 1.0
    start_s = float(start) / scale
    if end is None:
        return ClipName(video_id, start_s)
    end_s = float(end) / scale
    return ClipName(video_id, start_s, end_s) if end_s > start_s else None


def split_media_suffix(name: str) -> tuple[str, str]:
    """The stem and the suffix of a file name; the suffix is empty if it is none of MEDIA_SUFFIXES.

    `ID_30.000` has no suffix: its dot belongs to the number.
    """
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if stem and (dot + suffix).lower() in MEDIA_SUFFIXES else (name, "")


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and (dot + suffix).lower() in _NAME_SUFFIXES else name


def _is_milliseconds(start: str, end: str | None, unit: TimeUnit) -> bool:
    if unit != "auto":
        return unit == "ms"
    if "." in start or "." in (end or ""):
        return False
    if end is None:
        return start[0] != "0" and int(start) % 1000 == 0
    return int(end) - int(start) >= 1000
