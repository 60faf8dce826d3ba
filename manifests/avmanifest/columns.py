"""The columns of the manifest: one table, from which schema, flags, summaries, the sample's json and cards are made.

A dataset may have extra columns besides: those of the user's list and those of preparation steps. They stand in the
rows of every shard and in the merged manifest, each with its `Column` in the metadata of the Parquet field, and under
`columns` in dataset.json. A reader takes them from there: see `extra_columns`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

import pyarrow as pa

from avmanifest.errors import ManifestError
from avmanifest.secrets import excerpt

NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""Pattern of the name of a column."""

MOST_EXTRA: Final = 256
"""Extra columns of a dataset, at most."""

MOST_LEVELS: Final = 8
"""Levels of lists and structs in the type of an extra column, at most."""

MEMBER_TYPE: Final = pa.struct(
    [pa.field("name", pa.string()), pa.field("offset", pa.int64()), pa.field("size", pa.int64())]
)

_PRIMITIVES: Final[dict[str, pa.DataType]] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}
"""Types that an extra column may have, with lists and structs of them."""


@dataclass(frozen=True, slots=True)
class Column:
    """What is known of a column: all that is said of it anywhere derives from here."""

    name: str
    dtype: pa.DataType
    meaning: str
    _: KW_ONLY
    unit: str = ""  # of the values: s, dBFS
    nullable: bool = True  # False: every row has a value, also that of a failed clip
    optional: bool = False  # was added after the first release: older datasets lack it, and it reads as null
    flag: bool = False  # a bool that marks clips: inspect counts them, `exclude` leaves them out
    in_json: bool = False  # also a field of the sample's json
    title: str = ""  # name for people of a measured number, whose distribution inspect shows; empty: it shows none
    source: str = ""  # of an extra column: `list`, `step NAME` or `manifest`; empty: a column of every dataset

    @property
    def field(self) -> pa.Field:
        """The Arrow field. Its metadata has what the column says of itself."""
        said = {
            "meaning": f"flag: {self.meaning}" if self.flag else self.meaning,
            "unit": self.unit,
            "title": self.title,
            "source": self.source,
            **{name: "true" if getattr(self, name) else "" for name in _MARKS},
        }
        return pa.field(self.name, self.dtype, metadata={name: text for name, text in said.items() if text})

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @classmethod
    def of_field(cls, field: pa.Field) -> "Column":
        """The column of an Arrow field that `Column.field` made, or that one of another origin was read as."""
        said = {
            name.decode(errors="replace"): text.decode(errors="replace")
            for name, text in (field.metadata or {}).items()
        }
        return cls(
            name=field.name,
            dtype=field.type,
            meaning=said.get("meaning", "").removeprefix("flag: "),
            unit=said.get("unit", ""),
            title=said.get("title", ""),
            source=said.get("source", ""),
            **{name: said.get(name) == "true" for name in _MARKS},
        )

    def as_dict(self) -> dict[str, Any]:
        """The column as dataset.json has it."""
        return {
            "name": self.name,
            "type": type_as_json(self.dtype),
            "meaning": self.meaning,
            "unit": self.unit,
            "flag": self.flag,
            "in_json": self.in_json,
            "title": self.title,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, entry: Any, where: object) -> "Column":
        """The extra column of an entry of dataset.json. Raises ManifestError, which names `where`, if it is none."""
        try:
            column = cls(
                name=entry["name"],
                dtype=_type_from_json(entry["type"]),
                meaning=_text(entry, "meaning"),
                unit=_text(entry, "unit"),
                title=_text(entry, "title"),
                source=_text(entry, "source"),
                flag=entry.get("flag") is True,
                in_json=entry.get("in_json") is True,
            )
            check_extra(column)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = excerpt(repr(entry.get("name") if isinstance(entry, Mapping) else entry), 80)
            why = excerpt(repr(error), 300)
            raise ManifestError(f"{where}: not a column: {name} ({why}). Restore the original file.") from error
        return column


_MARKS: Final = ("optional", "flag", "in_json")
"""Fields of Column that are bool, and stand in an Arrow field's metadata."""


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str):
        raise TypeError(f"{name} is not a text")
    return value


CLIP_COLUMNS: Final = (
    Column("key", pa.string(), "the clip's id in the dataset; the stem of its members", nullable=False, in_json=True),
    Column("video_id", pa.string(), "the source video", in_json=True),
    Column("source", pa.string(), "the source that had the video, and the file in it; empty if none had"),
    Column("start_s", pa.float64(), "start of the clip in the source video, seconds", unit="s", in_json=True),
    Column("end_s", pa.float64(), "end of the clip, seconds; null: unknown, the clip failed", unit="s", in_json=True),
    Column("labels", pa.list_(pa.string()), "canonical label names", in_json=True),
    Column("split", pa.string(), "train, val, test, or the recipe's own name", nullable=False, in_json=True),
    Column("status", pa.string(), "a name of STATUSES, or filtered_STEP", nullable=False),
    Column("reason", pa.string(), "the error message of a failed clip, else empty"),
    Column("shard", pa.int32(), "number of the shard within the split; null: no shard holds the row yet"),
    Column("position", pa.int32(), "place within the shard's plan"),
    Column(
        "members",
        pa.list_(MEMBER_TYPE),
        "name after KEY., byte offset in the tar, size; empty if failed",
        nullable=False,
    ),
    Column(
        "member_xxh3",
        pa.list_(pa.uint64()),
        "XXH3 (64 bits, seed 0) of the content of each of `members`, in their order; empty if failed",
        optional=True,
    ),
    Column(
        "mel_block_xxh3",
        pa.list_(pa.uint32()),
        "low 32 bits of the XXH3 of each 16,384 bytes behind the header of the log-mels among `members`, in their "
        "order, so that a window can be checked without the rest; null unless all of them are stored by columns",
        optional=True,
    ),
    Column("duration_s", pa.float64(), "measured duration of the clip", unit="s", in_json=True, title="Duration"),
    Column(
        "frame_times_s",
        pa.list_(pa.float64()),
        "presentation times of the stored frames, from the start",
        unit="s",
        in_json=True,
    ),
    Column(
        "fps",
        pa.float64(),
        "average frame rate of the source",
        unit="frames/s",
        in_json=True,
        title="Frame rate of the source",
    ),
    Column("width", pa.int32(), "displayed width of the source, pixels", unit="pixels", in_json=True),
    Column(
        "height",
        pa.int32(),
        "displayed height of the source, pixels",
        unit="pixels",
        in_json=True,
        title="Height of the source",
    ),
    Column("video_codec", pa.string(), "codec of the source's video"),
    Column("audio_codec", pa.string(), "codec of the source's audio"),
    Column("audio_rate", pa.int32(), "sample rate of the source, Hz", unit="Hz"),
    Column("audio_channels", pa.int32(), "channels of the source"),
    Column(
        "audio_video_offset_s",
        pa.float64(),
        "start of the audio minus start of the video; applied",
        unit="s",
        in_json=True,
        title="Audio start minus video start",
    ),
    Column("num_bad_packets", pa.int32(), "damaged packets among those that were decoded", title="Damaged packets"),
    Column(
        "damaged_share",
        pa.float64(),
        "share of the clip, 0 to 1, in which pictures or sound are damaged; those pictures are not stored",
        optional=True,
    ),
    Column(
        "audio_gap_s",
        pa.float64(),
        "seconds of the clip for which the source has no audio between audio: silence, not damage",
        unit="s",
        optional=True,
    ),
    Column(
        "deinterlaced",
        pa.bool_(),
        "whether the source's frames hold two fields, of which whole pictures were made",
        optional=True,
    ),
    Column(
        "tone_mapped",
        pa.string(),
        "pq or hlg: the transfer function of the HDR source, whose pictures were made SDR; else empty",
        optional=True,
    ),
    Column(
        "rms_dbfs",
        pa.float64(),
        "loudness of the clip, dB relative to full scale",
        unit="dBFS",
        in_json=True,
        title="Loudness",
    ),
    Column("silent", pa.bool_(), "nothing to hear", flag=True, in_json=True),
    Column("still", pa.bool_(), "nothing moves", flag=True, in_json=True),
    Column("short", pa.bool_(), "the clip lasts less than was asked for", flag=True, in_json=True),
    Column("source_bytes", pa.int64(), "size of the source file", unit="bytes"),
    Column("source_sha256", pa.string(), "hash of the source file"),
    Column("annotations", pa.string(), "JSON object, as in the sample", in_json=True),
    Column("licence", pa.string(), "licence of the clip where the list gives one"),
)
"""The manifest: one row per requested clip, including failed clips."""


PICTURE_HASHES: Final = Column(
    "picture_hashes",
    pa.list_(pa.uint64()),
    "perceptual hash of each stored frame, in their order; 0: a frame without detail",
)
"""What near duplicates are found by, where a step has measured it: see `avdata.prepare.near_duplicates`."""

SOUND_FINGERPRINT: Final = Column(
    "sound_fingerprint", pa.list_(pa.uint32()), "32 bits for every 64 ms of the sound; 0: silence"
)
"""The same for sounds."""

NEAR_DUPLICATE_OF: Final = Column(
    "near_duplicate_of",
    pa.string(),
    "key of the first clip that shows and sounds nearly the same; null: there is none before this one",
    source="manifest",
)
"""A column of the merged manifest alone: it depends on all clips of the dataset."""


def schema_of(columns: Iterable[Column]) -> pa.Schema:
    """The Arrow schema of columns, in their order."""
    return pa.schema([column.field for column in columns])


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns of a manifest's or a shard's schema, as their fields' metadata describes them."""
    return tuple(map(Column.of_field, schema))


def extra_columns(schema: pa.Schema) -> tuple[Column, ...]:
    """The extra columns of a schema: the user's and those of steps.

    One that this version could not have written, such as one of a newer type, is left out like every unknown column.
    """
    return tuple(column for column in columns_of(schema) if column.source and _is_extra(column))


def _is_extra(column: Column) -> bool:
    try:
        check_extra(column)
    except ValueError:
        return False
    return True


def with_extra(schema: pa.Schema, columns: Iterable[Column]) -> pa.Schema:
    """A schema with extra columns after its own."""
    return pa.schema([*schema, *(column.field for column in columns)])


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """The rows of several manifests. A column that one of them lacks is null in its rows.

    Raises ManifestError if a column has different types in them.
    """
    try:
        return pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise ManifestError(f"a column has different types in the manifests that are read together: {error}") from error


def measured(columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns of numbers whose distribution is shown."""
    return tuple(column for column in columns if column.title and _is_number(column.dtype))


def flags(columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns that mark clips."""
    return tuple(column for column in columns if column.flag and column.dtype == pa.bool_())


def check_extra(column: Column) -> None:
    """Raise ValueError, with the reason, if a dataset may not have this extra column."""
    if not NAME_PATTERN.fullmatch(column.name):
        raise ValueError(f"its name must match {NAME_PATTERN.pattern}")
    if is_taken(column.name) and (column.name, column.source) != (NEAR_DUPLICATE_OF.name, NEAR_DUPLICATE_OF.source):
        raise ValueError("avkit has a column of this name")
    if column.flag and column.dtype != pa.bool_():
        raise ValueError(f"a flag is of type bool, not {column.dtype}")
    type_as_json(column.dtype)


_CONTRACT: Final = frozenset(column.name for column in CLIP_COLUMNS) | {"path", "row"}
"""Names that no extra column may have: `path` is a column of the plan, `row` is added while rows are sorted."""


def is_taken(name: str) -> bool:
    """Whether a column of avkit has this name, so that no column of a list or a step may have it."""
    return name in _CONTRACT or name == NEAR_DUPLICATE_OF.name


def type_as_json(dtype: pa.DataType, levels: int = MOST_LEVELS) -> Any:
    """A type as dataset.json has it: a name, {"list": type} or {"struct": {name: type}}.

    Raises ValueError for a type that no extra column may have.
    """
    if levels < 0:
        raise ValueError(f"its type has more than {MOST_LEVELS} levels")
    if pa.types.is_list(dtype):
        return {"list": type_as_json(dtype.value_type, levels - 1)}
    if pa.types.is_struct(dtype):
        return {"struct": {field.name: type_as_json(field.type, levels - 1) for field in dtype}}
    name = next((name for name, known in _PRIMITIVES.items() if known == dtype), None)
    if name is None:
        raise ValueError(f"its type is {excerpt(str(dtype), 100)}; known: {', '.join(_PRIMITIVES)}, list, struct")
    return name


def _type_from_json(content: Any, levels: int = MOST_LEVELS) -> pa.DataType:
    if levels < 0:
        raise ValueError(f"its type has more than {MOST_LEVELS} levels")
    if isinstance(content, str):
        return _PRIMITIVES[content]
    if "list" in content:
        return pa.list_(_type_from_json(content["list"], levels - 1))
    return pa.struct([(name, _type_from_json(inner, levels - 1)) for name, inner in content["struct"].items()])


def named(columns: Iterable[Column]) -> list[str]:
    """The names of the columns."""
    return [column.name for column in columns]


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype))
