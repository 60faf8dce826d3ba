"""Metadata beside a video: a JSON file of the same name that says which clip the video is."""

import re
from typing import Any, Final

from avdata.prepare.sources.names import YOUTUBE_ID
from avmanifest.clipnames import ClipName, split_media_suffix
from avmanifest.parsing import metadata_of

SIDECAR_BYTES: Final = 1024**2
"""Larger files are not read: they are not the metadata of one clip."""

_ID_FIELDS: Final = ("youtube_id", "video_id", "videoid", "ytid", "yt_id", "id")
_URL_FIELDS: Final = ("url", "webpage_url", "video_url")
_START_FIELDS: Final = ("start_s", "start_seconds", "start_time", "start")
_END_FIELDS: Final = ("end_s", "end_seconds", "end_time", "end")
_WATCH_URL: Final = re.compile(
    r"https?://(?:www\.|m\.)?(?:youtu\.be/|youtube(?:-nocookie)?\.com/(?:embed/|shorts/|live/|v/|watch\?(?:[^#\s]*&)?v=))"
    r"([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])"
)
_CLOCK: Final = re.compile(r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d{1,9})?)", re.ASCII)


_EXTENSION: Final = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{0,9}\Z")


class Sidecars:
    """The metadata in a folder or an archive, by the name of the video that it belongs to.

    `X.json` and yt-dlp's `X.info.json` belong to `X.mp4`, and, if they have none of their own, to `X.video.mp4` and
    other names with one more extension, as in WebDataset.
    """

    def __init__(self) -> None:
        self._clips: dict[str, ClipName] = {}

    def add(self, path: str, document: bytes) -> None:
        """Add a JSON file by its path. Files without the id of a YouTube video are left out."""
        if (clip := read_sidecar(document)) is not None:
            self._clips[owner(path)] = clip

    def get(self, video: str) -> ClipName | None:
        """The clip that the metadata of a video names; None if it has none."""
        return next((self._clips[stem] for stem in owners(video) if stem in self._clips), None)


def owner(path: str) -> str:
    """The name without suffixes of the video that a JSON file belongs to."""
    return path.removesuffix(".json").removesuffix(".info")


def owners(video: str) -> tuple[str, str]:
    """The names under which the metadata of a video is looked up, in this order."""
    stem, _ = split_media_suffix(video)
    return stem, _EXTENSION.sub("", stem)


def read_sidecar(document: bytes) -> ClipName | None:
    """The YouTube id and span in a sample's metadata (JSON); None if it has no YouTube id.

    The id is a field such as `youtube_id` or `video_id`, or part of `url`. The span is `start` and `end`, or the only
    entry of `clips`, in seconds or as `HH:MM:SS.mmm`.
    """
    fields = metadata_of(document)
    texts = [fields[name] for name in _ID_FIELDS if isinstance(fields.get(name), str)]
    ids = [text for text in texts if YOUTUBE_ID.fullmatch(text)]
    urls = [fields[name] for name in _URL_FIELDS if isinstance(fields.get(name), str)]
    ids += [match[1] for url in urls if (match := _WATCH_URL.match(url))]
    if not ids:
        return None
    span = fields.get("clips")
    if isinstance(span, list) and len(span) == 1 and isinstance(span[0], list) and len(span[0]) == 2:
        start_s, end_s = map(_seconds, span[0])
    else:
        start_s = next((_seconds(fields[name]) for name in _START_FIELDS if name in fields), None)
        end_s = next((_seconds(fields[name]) for name in _END_FIELDS if name in fields), None)
    if start_s is None or (end_s is not None and end_s <= start_s):
        end_s = None
    return ClipName(ids[0], start_s, end_s)


def _seconds(time: Any) -> float | None:
    """A time in seconds, rounded to a millisecond; None if it is not a time."""
    if isinstance(time, str) and (match := _CLOCK.fullmatch(time.strip())):
        hours, minutes, seconds = match.groups()
        time = int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    try:
        milliseconds = round(float(time) * 1000)
    except (TypeError, ValueError, OverflowError):
        return None
    return milliseconds / 1000 if 0 <= milliseconds < 10**9 else None
