"""A tar read header by header: where everything lies, and where it is damaged."""

import json
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from avdata.shards import BLOCK, Member
from avmanifest.errors import ShardError

ByteFile = Any
"""What fsspec opens: it reads, seeks and tells. Not all of it is a typing.IO."""

_END_BYTES: Final = 2 * BLOCK
_MAX_JSON_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a tar. `sample` and `member` are its name before and after the first dot."""

    sample: str
    member: str
    header: int  # offset of its header
    offset: int  # offset of its content
    size: int

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.offset + self.size + (-self.size % BLOCK)


class DamagedTar(ShardError):
    """A tar that cannot be read on: from which byte, and why."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"{reason} (byte {offset})")
        self.offset = offset
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TarSample:
    """What adjacent files of a tar share up to the first dot of their names."""

    key: str
    header: int
    members: tuple[Member, ...]
    json: dict[str, Any] | None  # of the member `json`, where it was asked for and is an object


def entries(file: ByteFile) -> Iterator[Entry]:
    """The files of a tar in their order. Raises DamagedTar where it cannot be read on, or where its end is missing."""
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.isreg():
                    folder, base = posixpath.split(info.name)
                    stem, _, member = base.partition(".")
                    entry = Entry(posixpath.join(folder, stem), member, info.offset, info.offset_data, info.size)
                    end = entry.end
                    yield entry
                else:
                    end = info.offset_data
    except tarfile.TarError as error:
        raise DamagedTar(end, f"the archive cannot be read on: {error}") from error
    file.seek(end)
    tail = file.read(_END_BYTES)
    if len(tail) < _END_BYTES:
        raise DamagedTar(end, "the archive's closing blocks are missing: it was cut")
    if any(tail):
        raise DamagedTar(end, "no header and no closing block stands here: damaged")


def samples(file: ByteFile, *, read_json: bool = False) -> Iterator[TarSample]:
    """The samples of a tar in their order; hidden files (`__`, no stem) are left out.

    A key whose members are not adjacent comes once for each place. Raises DamagedTar like `entries`.
    """
    key, header, members, content = "", 0, list[Member](), None
    for entry in entries(file):
        name = posixpath.basename(entry.sample)
        if not name or name.startswith("__"):
            continue
        if entry.sample != key:
            if members:
                yield TarSample(key, header, tuple(members), content)
            key, header, members, content = entry.sample, entry.header, [], None
        members.append(Member(entry.member.lower(), entry.offset, entry.size))
        if read_json and members[-1].name == "json" and entry.size <= _MAX_JSON_BYTES:
            content = _json_object(file, entry)
    if members:
        yield TarSample(key, header, tuple(members), content)


def _json_object(file: ByteFile, entry: Entry) -> dict[str, Any] | None:
    here = file.tell()
    file.seek(entry.offset)
    content = file.read(entry.size)
    file.seek(here)
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def rows_of(found: Iterable[TarSample], schema: pa.Schema, **fixed: Any) -> pa.Table:
    """Manifest rows of a tar's samples: what their json says in the columns' own names and types, else null."""
    rows = []
    for sample in found:
        told = {} if sample.json is None else {name: _fitting(sample.json.get(name), schema, name) for name in _TOLD}
        members = [{"name": m.name, "offset": m.offset, "size": m.size} for m in sample.members]
        row = {**told, **fixed, "key": sample.key, "status": "ok", "reason": "", "members": members}
        row["labels"] = row.get("labels") or []
        rows.append({name: row.get(name) for name in schema.names})
    return pa.Table.from_pylist(rows, schema=schema)


_TOLD: Final = (
    "video_id", "start_s", "end_s", "labels", "duration_s", "frame_times_s", "fps", "width", "height", "rms_dbfs",
    "audio_video_offset_s", "silent", "still", "short", "annotations",
)  # fmt: skip
"""Columns that avkit's own samples carry in their json."""


def _fitting(value: Any, schema: pa.Schema, name: str) -> Any:
    """The value if it can stand in the column, else None."""
    if name not in schema.names:
        return None
    try:
        return pa.scalar(value, schema.field(name).type).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None
