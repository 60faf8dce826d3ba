"""The names that files and lists give a clip, and what counts as a video file."""

import re
from dataclasses import dataclass
from typing import Final

MEDIA_SUFFIXES: Final = (
    ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv", ".3gp",
    ".ogv",
)  # fmt: skip
"""Files that may hold a video, best first: where one stem has several, the first is taken."""

YOUTUBE_ID: Final = r"[A-Za-z0-9_-]{11}"
"""An id is always eleven characters, may contain `_` and `-` and start with them: never split a name on `_`."""

CLIP_NAME: Final = (
    rf"(?:[^,]*/)?(?P<video_id>{YOUTUBE_ID})"
    r"(?:_(?P<start>\d{1,9}(?:\.\d{1,9})?))?(?:_(?P<end>\d{1,9}(?:\.\d{1,9})?))?"
    r"(?:\.(?:mp4|mkv|webm|avi|mov|wav|flac|m4a|jpg))?"
)
"""Pattern of a clip's name, for `re` and for Arrow alike."""

MILLISECONDS_FROM: Final = 1000.0
"""`_30000_40000` counts milliseconds: no clip lasts 1000 s, and none is shorter than one."""

_CLIP_NAME: Final = re.compile(CLIP_NAME, re.ASCII)


@dataclass(frozen=True, slots=True)
class ClipName:
    """A clip as its name tells it; None where the name does not say."""

    video_id: str
    start_s: float | None
    end_s: float | None


def parse_clip_name(name: str) -> ClipName | None:
    """The clip a file name or a list's entry means; None if it is not the name of a YouTube clip.

    Knows `ID`, `ID_000030`, `ID_30`, `ID_30.000`, `ID_000030_000040` (seconds) and `ID_30000_40000`
    (milliseconds: the two numbers differ by 1000 or more), with or without a folder and a media suffix.
    """
    match = _CLIP_NAME.fullmatch(name)
    if match is None:
        return None
    start, end = (None if number is None else float(number) for number in match.group("start", "end"))
    if start is not None and end is not None and end - start >= MILLISECONDS_FROM:
        start, end = start / 1000, end / 1000
    return ClipName(match["video_id"], start, end)
