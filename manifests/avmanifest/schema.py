"""The columns, statuses and members of a prepared dataset."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import pyarrow as pa

FORMAT_VERSION: Final = 1
"""Incremented when older versions of avkit could no longer read a dataset. A new optional column does not change it."""

_OPTIONAL: Final = "optional"  # key in the metadata of a field

KEY_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
"""Pattern of a key. No dot, because WebDataset groups files by the text before the first dot; no leading underscore,
because some readers ignore such files."""


class StatusClass(StrEnum):
    """How a status is treated: whether the clip is retried, and the exit code."""

    OK = "ok"
    PERMANENT = "permanent"  # a retry would fail in the same way
    TRANSIENT = "transient"  # a retry may succeed: `--retry transient`
    BUG = "bug"  # an error in avkit: exit code 1


@dataclass(frozen=True, slots=True)
class Status:
    """The result of preparing a clip."""

    status_class: StatusClass
    meaning: str


STATUSES: Final[dict[str, Status]] = {
    "ok": Status(StatusClass.OK, "a sample in a shard"),
    "unavailable_missing": Status(StatusClass.PERMANENT, "no source has the video"),
    "unavailable_private": Status(StatusClass.PERMANENT, "the owner made the video private"),
    "unavailable_removed": Status(StatusClass.PERMANENT, "the video was taken down"),
    "unavailable_geo": Status(StatusClass.PERMANENT, "not offered in this country"),
    "unavailable_age": Status(StatusClass.PERMANENT, "behind an age check"),
    "unavailable_members": Status(StatusClass.PERMANENT, "for members of the channel"),
    "unavailable_live": Status(StatusClass.PERMANENT, "a live stream or a premiere"),
    "blocked_bot": Status(StatusClass.TRANSIENT, "the site took the client for a bot"),
    "blocked_rate": Status(StatusClass.TRANSIENT, "the site limits the number of requests"),
    "blocked_token": Status(StatusClass.TRANSIENT, "the site refused access to the media"),
    "blocked_soft": Status(StatusClass.TRANSIENT, "the site gave an answer that it also gives to refused clients"),
    "net_timeout": Status(StatusClass.TRANSIENT, "the network took too long"),
    "net_dns": Status(StatusClass.TRANSIENT, "the host name was not found"),
    "net_http": Status(StatusClass.TRANSIENT, "the server answered with an error"),
    "media_corrupt": Status(StatusClass.PERMANENT, "the file cannot be decoded"),
    "media_no_audio": Status(StatusClass.PERMANENT, "the file has no audio stream"),
    "media_no_video": Status(StatusClass.PERMANENT, "the file has no video stream"),
    "media_short": Status(StatusClass.PERMANENT, "the video is shorter than a clip may be"),
    "media_long": Status(StatusClass.PERMANENT, "the clip is longer than a sample may be"),
    "media_window": Status(StatusClass.PERMANENT, "the clip begins after the end of the video"),
    "decode_timeout": Status(StatusClass.TRANSIENT, "decoding passed its deadline and was killed"),
    "decode_crash": Status(StatusClass.TRANSIENT, "the decoding process died or ran out of memory, twice"),
    "internal": Status(StatusClass.BUG, "an error inside avkit"),
}


def status_class(status: str) -> StatusClass:
    """The class of a status. Raises KeyError for a name that is not in STATUSES."""
    return STATUSES[status].status_class


def _field(name: str, dtype: pa.DataType, meaning: str, *, optional: bool = False) -> pa.Field:
    """A column. `optional` is for columns that were added after the first release: older datasets lack them."""
    return pa.field(name, dtype, metadata={"meaning": meaning} | ({_OPTIONAL: "true"} if optional else {}))


def is_optional(field: pa.Field) -> bool:
    """Whether older datasets lack this column. Readers then fill it with nulls."""
    return _OPTIONAL.encode() in (field.metadata or {})


MEMBER_TYPE: Final = pa.struct(
    [pa.field("name", pa.string()), pa.field("offset", pa.int64()), pa.field("size", pa.int64())]
)

REQUEST_SCHEMA: Final = pa.schema(
    [
        _field("video_id", pa.string(), "the source video: a YouTube id, or a path without its suffix"),
        _field("start_s", pa.float64(), "start of the clip in the source video, seconds"),
        _field("end_s", pa.float64(), "end of the clip, seconds; null: the end of the file"),
        _field("labels", pa.list_(pa.string()), "canonical label names, in the order of the list"),
        _field("split", pa.string(), "train, val, test, or the recipe's own name"),
        _field("path", pa.string(), "where the list says the file lies, relative to a source; empty: by name"),
        _field("frame_times_s", pa.list_(pa.float64()), "exact times asked for, from the clip's start; or empty"),
        _field("annotations", pa.string(), "JSON object: boxes, masks, mixture pairs of the recipe; {} if none"),
        _field("licence", pa.string(), "licence of the clip where the list gives one; else empty"),
    ]
)
"""The clips that a recipe's list requests: one row per clip."""

PLAN_SCHEMA: Final = pa.schema(
    [
        _field("key", pa.string(), "the clip's id in the dataset"),
        *REQUEST_SCHEMA,
        _field("shard", pa.int32(), "number of the shard within the split"),
        _field("position", pa.int32(), "place within the shard"),
    ]
)
"""The plan: one row per requested clip, with its shard and its position in it."""

CLIP_SCHEMA: Final = pa.schema(
    [
        _field("key", pa.string(), "the clip's id in the dataset; the stem of its members"),
        _field("video_id", pa.string(), "the source video"),
        _field("source", pa.string(), "the source that had the video, and the file in it; empty if none had"),
        _field("start_s", pa.float64(), "start of the clip in the source video, seconds"),
        _field("end_s", pa.float64(), "end of the clip, seconds; null: unknown, the clip failed"),
        _field("labels", pa.list_(pa.string()), "canonical label names"),
        _field("split", pa.string(), "train, val, test, or the recipe's own name"),
        _field("status", pa.string(), "a name of STATUSES"),
        _field("reason", pa.string(), "the error message of a failed clip, else empty"),
        _field("shard", pa.int32(), "number of the shard within the split; null: no shard holds the row yet"),
        _field("position", pa.int32(), "place within the shard's plan"),
        _field("members", pa.list_(MEMBER_TYPE), "name after KEY., byte offset in the tar, size; empty if failed"),
        _field(
            "member_xxh3",
            pa.list_(pa.uint64()),
            "XXH3 (64 bits, seed 0) of the content of each of `members`, in their order; empty if failed",
            optional=True,
        ),
        _field("duration_s", pa.float64(), "measured duration of the clip"),
        _field("frame_times_s", pa.list_(pa.float64()), "presentation times of the stored frames, from the start"),
        _field("fps", pa.float64(), "average frame rate of the source"),
        _field("width", pa.int32(), "displayed width of the source, pixels"),
        _field("height", pa.int32(), "displayed height of the source, pixels"),
        _field("video_codec", pa.string(), "codec of the source's video"),
        _field("audio_codec", pa.string(), "codec of the source's audio"),
        _field("audio_rate", pa.int32(), "sample rate of the source, Hz"),
        _field("audio_channels", pa.int32(), "channels of the source"),
        _field("audio_video_offset_s", pa.float64(), "start of the audio minus start of the video; applied"),
        _field("num_bad_packets", pa.int32(), "damaged packets among those that were decoded"),
        _field(
            "damaged_share",
            pa.float64(),
            "share of the clip, 0 to 1, in which pictures or sound are damaged; those pictures are not stored",
            optional=True,
        ),
        _field(
            "audio_gap_s",
            pa.float64(),
            "seconds of the clip for which the source has no audio between audio: silence, not damage",
            optional=True,
        ),
        _field(
            "deinterlaced",
            pa.bool_(),
            "whether the source's frames hold two fields, of which whole pictures were made",
            optional=True,
        ),
        _field(
            "tone_mapped",
            pa.string(),
            "pq or hlg: the transfer function of the HDR source, whose pictures were made SDR; else empty",
            optional=True,
        ),
        _field("rms_dbfs", pa.float64(), "loudness of the clip, dB relative to full scale"),
        _field("silent", pa.bool_(), "flag: nothing to hear"),
        _field("still", pa.bool_(), "flag: nothing moves"),
        _field("short", pa.bool_(), "flag: the clip lasts less than was asked for"),
        _field("source_bytes", pa.int64(), "size of the source file"),
        _field("source_sha256", pa.string(), "hash of the source file"),
        _field("annotations", pa.string(), "JSON object, as in the sample"),
        _field("licence", pa.string(), "licence of the clip where the list gives one"),
    ]
)
"""The manifest: one row per requested clip, including failed clips."""
