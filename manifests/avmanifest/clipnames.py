"""Parsing of clip names in files and lists, and the suffixes of video files."""

import re
import unicodedata
from collections.abc import Container
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

_NOT_IN_NAMES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})  # Unicode: controls, surrogates, line and paragraph ends
_NAME_SUFFIXES: Final = frozenset({*MEDIA_SUFFIXES, ".wav", ".flac", ".m4a", ".mp3", ".jpg"})
_VIDEO: Final = ".video"  # precedes the media suffix in WebDataset shards of videos
_SPAN: Final = r"(?:[_-](?P<start>[0-9]{1,9}(?:\.[0-9]{1,9})?)(?:[_-](?P<end>[0-9]{1,9}(?:\.[0-9]{1,9})?))?)?"
_CLIP_NAME: Final = re.compile(rf"Y?(?P<video_id>{YOUTUBE_ID}){_SPAN}")
_TITLED_NAME: Final = re.compile(rf"(?:.*[ _])?\[(?P<video_id>{YOUTUBE_ID})\]{_SPAN}", re.DOTALL)


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

    A name is a YouTube id, optionally followed by a start and an end, joined by `_` or `-`. The id may follow a `Y`, as
    in copies of AudioSet (`YID_30.000_40.000`), or stand in brackets after a title, as yt-dlp names files
    (`Title [ID]`). An id has 11 characters, so no name has two of these forms. Folders before the name and a media
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
    match = _match(name)
    if match is None:
        return None
    video_id, start, end = match["video_id"], match["start"], match["end"]
    if start is None:
        return ClipName(video_id)
    scale = 1000.0 if _is_milliseconds(start, end, unit) else 1.0
    start_s = float(start) / scale
    if end is None:
        return ClipName(video_id, start_s)
    end_s = float(end) / scale
    return ClipName(video_id, start_s, end_s) if end_s > start_s else None


def usual_spelling(name: str) -> str | None:
    """The name of a clip in the form `ID_START_END`, with the numbers as they are. None: no name of a YouTube clip."""
    match = _match(name)
    return None if match is None else "_".join(filter(None, match.group("video_id", "start", "end")))


def printable_name(path: str) -> str:
    """The path with control characters, line ends and bytes that are not UTF-8 written as `%0A`.

    Other characters that are not visible (spaces of other scripts, joiners, marks of direction) are part of a name.
    """
    if path.isascii() and path.isprintable():
        return path
    return "".join(_escaped(letter) if unicodedata.category(letter) in _NOT_IN_NAMES else letter for letter in path)


def _escaped(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))


def _match(name: str) -> re.Match[str] | None:
    stem = _without_suffix(name.rpartition("/")[2])
    return _CLIP_NAME.fullmatch(stem) or _TITLED_NAME.fullmatch(stem)


def split_media_suffix(name: str) -> tuple[str, str]:
    """The stem and the suffix of a file name. The suffix is empty if it is not in MEDIA_SUFFIXES.

    `.video.mp4` is one suffix, as WebDataset shards of videos have it. `ID_30.000` has no suffix: the dot belongs to
    the number.
    """
    stem = _without_suffix(name, MEDIA_SUFFIXES)
    return (stem, name[len(stem) :]) if stem else (name, "")


def _without_suffix(name: str, suffixes: Container[str] = _NAME_SUFFIXES) -> str:
    stem, dot, suffix = name.rpartition(".")
    if not dot or (dot + suffix).lower() not in suffixes:
        return name
    return stem[: -len(_VIDEO)] if stem.lower().endswith(_VIDEO) and len(stem) > len(_VIDEO) else stem


def _is_milliseconds(start: str, end: str | None, unit: TimeUnit) -> bool:
    if unit != "auto":
        return unit == "ms"
    if "." in start or "." in (end or ""):
        return False
    if end is None:
        return start[0] != "0" and int(start) % 1000 == 0
    return int(end) - int(start) >= 1000


def display_name(path: str) -> str:
    """The path as valid UTF-8 text; other bytes are written as escapes such as `\\xe9`."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
