"""Parsing of clip names in files and lists, and the suffixes of video files."""

import re
from typing import Final, Literal, NamedTuple

MEDIA_SUFFIXES: Final = (
    ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv", ".3gp",
    ".ogv",
)  # fmt: skip
"""Suffixes of video files, by preference: of several files with one stem, the first is used."""

YOUTUBE_ID: Final = r"[A-Za-z0-9_-]{11}"
"""Pattern of a YouTube id. It may contain and begin with `_` and `-`, so a name must never be split at `_`."""

TimeUnit = Literal["auto", "s", "ms"]
"""The unit of the numbers in a clip name. `auto`: `parse_clip_name` decides by its rules."""

_NAME_SUFFIXES: Final = frozenset({*MEDIA_SUFFIXES, ".wav", ".flac", ".m4a", ".mp3", ".jpg"})
_NUMBER: Final = r"_([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_CLIP_NAME: Final = re.compile(rf"({YOUTUBE_ID})(?:{_NUMBER}(?:{_NUMBER})?)?")


class ClipName(NamedTuple):
    """A clip according to its name. Times are in seconds. Without a start, the name means the whole video."""

    video_id: str
    start_s: float | None = None
    end_s: float | None = None

    @property
    def start_ms(self) -> int | None:
        """The start, rounded to milliseconds."""
        return None if self.start_s is None else round(self.start_s * 1000)

    @property
    def end_ms(self) -> int | None:
        """The end, rounded to milliseconds."""
        return None if self.end_s is None else round(self.end_s * 1000)


def parse_clip_name(name: str, unit: TimeUnit = "auto") -> ClipName | None:
    """Parse the name of a clip in a file name, a path or a list.

    A name is a YouTube id, optionally followed by a start and an end, joined by `_`. Folders before it and a media
    suffix in any case after it are ignored. With `unit="auto"` the unit of the numbers is derived as follows:

    - A number with a decimal point is in seconds (`ID_30.000`).
    - Two integers are milliseconds if they differ by 1000 or more, else seconds, because clips last from 1 s to 1000 s
      (`ID_30000_40000` and `ID_000030_000040` are the same clip).
    - One integer is in seconds (`ID_30`, VGGSound's `ID_000030`), unless it is a multiple of 1000 without a leading
      zero. Those are milliseconds, as AudioSet's tools write them (`ID_30000`).

    So a clip that begins at second 1000, 2000, ... and is written without leading zeros is misread (2 of VGGSound's
    172,590 public clips). For a list with such names, set `unit = "s"` in its recipe. When a file is looked up, the
    start comes from the plan and is never ambiguous.

    Args:
        name: The name, such as `playing_guitar/-_A__b-C_3__000030.mp4`.
        unit: `s` or `ms` if the unit is known.

    Returns:
        The clip. None if this is not the name of a YouTube clip, or the end is not after the start.
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
    """The stem and the suffix of a file name. The suffix is empty if it is not in MEDIA_SUFFIXES.

    `ID_30.000` has no suffix: the dot belongs to the number.
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
