"""The columns, statuses and members of a prepared dataset."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import pyarrow as pa

from avmanifest.columns import CLIP_COLUMNS, Column, schema_of

FORMAT_VERSION: Final = 2
"""Incremented when older versions of avkit could no longer read a dataset. A new optional column does not change it."""

READ_VERSIONS: Final = (1, 2)
"""Versions of datasets that this avkit reads. In version 1 the log-mels are stored by bands, in 2 by columns."""

KEY_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
"""Pattern of a key. No dot, because WebDataset groups files by the text before the first dot; no leading underscore,
because some readers ignore such files."""


class StatusClass(StrEnum):
    """How a status is treated: whether the clip is retried, and the exit code."""

    OK = "ok"
    PERMANENT = "permanent"  # a retry would fail in the same way
    TRANSIENT = "transient"  # a retry may succeed: `--retry transient`
    FILTERED = "filtered"  # a step dropped the clip, as was asked: no failure, and never tried again
    REMOVED = "removed"  # not wanted: never retried
    BUG = "bug"  # an error in avkit: exit code 1


_ANOTHER_SOURCE: Final = ("--source", "local:FOLDER", "--retry", "all")
_AGAIN: Final = ("--retry", "transient")


@dataclass(frozen=True, slots=True)
class Status:
    """The result of preparing a clip.

    `options` are those that the remedy adds to the command of `avkit prepare`; empty: the command does not help. Names
    in braces stand for values of that command: `out`, `clip_seconds` (shorter than it was), `deadline`,
    `download_deadline` and `memory_bytes` (twice what they were). Words in capitals are for the user to replace.
    """

    status_class: StatusClass
    meaning: str
    remedy: str = ""
    options: tuple[str, ...] = ()


STATUSES: Final[dict[str, Status]] = {
    "ok": Status(StatusClass.OK, "a sample in a shard"),
    "unavailable_missing": Status(
        StatusClass.PERMANENT, "no source has the video", "Name a source that has it.", _ANOTHER_SOURCE
    ),
    "unavailable_private": Status(
        StatusClass.PERMANENT, "the owner made the video private", "Name another source that has it.",
        _ANOTHER_SOURCE,
    ),
    "unavailable_removed": Status(
        StatusClass.PERMANENT, "the video was taken down", "Name another source that has it.", _ANOTHER_SOURCE
    ),
    "unavailable_geo": Status(
        StatusClass.PERMANENT, "not offered in this country", "Download through a proxy in a country that has it.",
        ("--proxy", "http://HOST:PORT", "--retry", "all"),
    ),
    "unavailable_age": Status(
        StatusClass.PERMANENT, "behind an age check", "Use the cookies of a browser in which an adult is logged in.",
        ("--cookies-from-browser", "firefox", "--retry", "all"),
    ),
    "unavailable_members": Status(
        StatusClass.PERMANENT, "for members of the channel",
        "Use the cookies of a browser in which a member is logged in.",
        ("--cookies-from-browser", "firefox", "--retry", "all"),
    ),
    "unavailable_live": Status(
        StatusClass.PERMANENT, "a live stream or a premiere", "Try again when it has ended.", ("--retry", "all")
    ),
    "blocked_bot": Status(
        StatusClass.TRANSIENT, "the site took the client for a bot",
        "Wait an hour, then use the cookies of a browser that is logged in.",
        ("--cookies-from-browser", "firefox", *_AGAIN),
    ),
    "blocked_rate": Status(
        StatusClass.TRANSIENT, "the site limits the number of requests", "Wait an hour, then ask more slowly.",
        ("--rate", "100/h", *_AGAIN),
    ),
    "blocked_token": Status(
        StatusClass.TRANSIENT, "the site refused access to the media",
        "Install the newest yt-dlp (pip install -U 'yt-dlp[default]'), then try again.", _AGAIN,
    ),
    "blocked_soft": Status(
        StatusClass.TRANSIENT, "the site gave an answer that it also gives to refused clients",
        "Wait an hour, then try again.", _AGAIN,
    ),
    "net_timeout": Status(
        StatusClass.TRANSIENT, "the network took too long", "Try again with more time for each file.",
        ("--download-deadline", "{download_deadline}", *_AGAIN),
    ),
    "net_dns": Status(
        StatusClass.TRANSIENT, "the host name was not found",
        "Check the host in --source and the network, then try again.", _AGAIN,
    ),
    "net_http": Status(
        StatusClass.TRANSIENT, "the server answered with an error",
        "Check the address in --source and your access to it, then try again.", _AGAIN,
    ),
    "media_corrupt": Status(
        StatusClass.PERMANENT, "the file cannot be decoded",
        "Replace the file by a whole one, or fetch it again; then try again.", ("--retry", "all"),
    ),
    "media_no_audio": Status(
        StatusClass.PERMANENT, "the file has no audio stream",
        "Replace the file by one with sound, or name a source that has one.", _ANOTHER_SOURCE,
    ),
    "media_no_video": Status(
        StatusClass.PERMANENT, "the file has no video stream",
        "Replace the file by one with pictures, or name a source that has one.", _ANOTHER_SOURCE,
    ),
    "media_short": Status(
        StatusClass.PERMANENT, "the video is shorter than a clip may be",
        "Prepare a dataset of shorter clips.", ("--clip-seconds", "{clip_seconds}", "--out", "{out}-{clip_seconds}s"),
    ),
    "media_long": Status(
        StatusClass.PERMANENT, "the clip is longer than a sample may be",
        "Prepare a dataset of a part of each video, or list several clips of it.",
        ("--clip-seconds", "10", "--out", "{out}-10s"),
    ),
    "media_window": Status(
        StatusClass.PERMANENT, "the clip begins after the end of the video",
        "Correct the time in the list, or name a source that has the whole video.",
        _ANOTHER_SOURCE,
    ),
    "decode_timeout": Status(
        StatusClass.TRANSIENT, "decoding passed its deadline and was killed", "Try again with more time.",
        ("--deadline", "{deadline}", *_AGAIN),
    ),
    "decode_crash": Status(
        StatusClass.TRANSIENT, "the decoding process died or ran out of memory, twice",
        "Try again with one process and more memory for it.",
        ("--workers", "1", "--set", "supervision.memory_bytes={memory_bytes}", *_AGAIN),
    ),
    "removed": Status(StatusClass.REMOVED, "removed from the dataset on request"),
    "internal": Status(
        StatusClass.BUG, "an error inside avkit or a step",
        "If the traceback ends in a step of yours, mend that; else please report it. Then try again.",
        ("--retry", "all"),
    ),
}  # fmt: skip
"""What a status means and what to do about it. The commands and the pages take both from here."""


_FILTERED: Final = re.compile("filtered_([a-z][a-z0-9_]*)")


def filtered_status(step: str) -> str:
    """The status of a clip that a step dropped."""
    return f"filtered_{step}"


def find_status(name: str) -> Status | None:
    """The status of this name: one of STATUSES, or `filtered_STEP`. None: there is none."""
    if match := _FILTERED.fullmatch(name):
        return Status(StatusClass.FILTERED, f"dropped by the step {match[1]}")
    return STATUSES.get(name)


def status_class(status: str) -> StatusClass:
    """The class of a status. Raises KeyError for a name that is none."""
    if (found := find_status(status)) is None:
        raise KeyError(status)
    return found.status_class


def is_failure(status: str) -> bool:
    """Whether a clip of this status failed: it is no sample, and nobody asked for that. A name that is none failed."""
    found = find_status(status)
    return found is None or found.status_class not in (StatusClass.OK, StatusClass.FILTERED, StatusClass.REMOVED)


def status_meaning(status: str) -> str:
    """What a status says, in words; empty for a name that is none."""
    found = find_status(status)
    return found.meaning if found else ""


def is_optional(field: pa.Field) -> bool:
    """Whether older datasets lack this column. Readers then fill it with nulls."""
    return Column.of_field(field).optional


REQUEST_SCHEMA: Final = pa.schema(
    [
        Column("video_id", pa.string(), "the source video: a YouTube id, or a path without its suffix").field,
        Column("start_s", pa.float64(), "start of the clip in the source video, seconds").field,
        Column("end_s", pa.float64(), "end of the clip, seconds; null: the end of the file").field,
        Column("labels", pa.list_(pa.string()), "canonical label names, in the order of the list").field,
        Column("split", pa.string(), "train, val, test, or the recipe's own name").field,
        Column("path", pa.string(), "where the list says the file lies, relative to a source; empty: by name").field,
        Column("frame_times_s", pa.list_(pa.float64()), "exact times asked for, from the clip's start; or empty").field,
        Column("annotations", pa.string(), "JSON object: boxes, masks, mixture pairs of the recipe; {} if none").field,
        Column("licence", pa.string(), "licence of the clip where the list gives one; else empty").field,
    ]
)
"""The clips that a recipe's list requests: one row per clip."""

PLAN_SCHEMA: Final = pa.schema(
    [
        Column("key", pa.string(), "the clip's id in the dataset").field,
        *REQUEST_SCHEMA,
        Column("shard", pa.int32(), "number of the shard within the split").field,
        Column("position", pa.int32(), "place within the shard").field,
    ]
)
"""The plan: one row per requested clip, with its shard and its position in it."""

CLIP_SCHEMA: Final = schema_of(CLIP_COLUMNS)
"""The manifest: one row per requested clip, including failed clips. A dataset may have extra columns after these."""
