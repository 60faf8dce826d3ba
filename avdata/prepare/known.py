"""What is known of the committed shards of a dataset: the facts of their markers, and which were checked.

A checked shard is known again by the sizes, times and inodes of its files and by its part of the plan, as version
control knows unchanged files. So a run that goes on with many shards asks for the state of each file and opens none.
"""

import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from avdata.prepare.commit import read_stats
from avmanifest.errors import ManifestError
from avmanifest.files import replacing, sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.parsing import metadata_of
from avmanifest.records import LARGEST_COUNT, MarkerFacts, facts_of
from avmanifest.table import read_metadata, read_table, write_table

_KEPT_FROM: Final = 100  # checked shards: all files of fewer are read in a moment
_FILE: Final = struct.Struct("<4q")  # inode, size, time of the content, time of the last change
_RECORD: Final = struct.Struct("<16s?QQ32s32s")  # state, whether the facts are there, and they
_MERGED: Final = struct.Struct("<16sI")  # behind it: what the rows in the manifest are made from, and how many they are
_SIZE: Final = _RECORD.size + _MERGED.size
_UNCHECKED: Final = bytes(16)
_TOGETHER: Final = 1024  # records in a piece of memory
_MOST: Final = 1 << 24  # shards: a file that names others would take all memory
_VERSION: Final = 1
_SCHEMA: Final = pa.schema([("split", pa.string()), ("number", pa.int64()), ("record", pa.binary(_SIZE))])
_NOTES: Final = b"avkit.known"


class KnownShards:
    """The shards of a dataset as this and earlier runs found them. Safe for threads that note different shards.

    Attributes:
        plan_hash: That of dataset.json. Shards are checked for one plan.
        manifests: SHA-256 of the merged manifest of each split as it was written. Without, `merged` says nothing.
        columns: Hash of the schema of those.
        plans: Hashes of the rows (`plan.hash_table`) of parts of the plan, by the SHA-256 of the file.
    """

    def __init__(self, layout: Layout, plan_hash: str = "") -> None:
        self.plan_hash = plan_hash
        self.manifests: dict[str, str] = {}
        self.columns = ""
        self.plans: dict[str, str] = {}
        self._layout = layout
        self._pieces: dict[tuple[str, int], bytearray] = {}
        self._parts: dict[int, bytes] = {}

    @classmethod
    def load(cls, layout: Layout) -> "KnownShards":
        """What the last run kept; nothing if there is nothing, or it cannot be read."""
        known = cls(layout)
        path = _file(layout)
        with suppress(ManifestError):
            notes = metadata_of(read_metadata(path).get(_NOTES, b""))
            if notes.get("version") == _VERSION:
                known._fill(read_table(path, _SCHEMA))
                known.manifests, known.plans = (_texts(notes.get(part)) for part in ("manifests", "plans"))
                known.columns = str(notes.get("columns"))
            return known
        return cls(layout)

    def save(self) -> None:
        """Keep what was checked for the next run, if that is worth a file. Raises OSError."""
        table = self._checked()
        path = _file(self._layout)
        if len(table) < _KEPT_FROM:
            if path.exists():
                path.unlink()
            return
        notes = json.dumps(
            {"version": _VERSION, "manifests": self.manifests, "columns": self.columns, "plans": self.plans}
        )
        with replacing(path, shared=True) as unfinished:
            write_table(table.replace_schema_metadata({_NOTES: notes}), unfinished)

    def state(self, part: int, shard: ShardName) -> bytes | None:
        """What a shard's files and its part of the plan are known by; None: a file is missing."""
        digest = xxhash.xxh3_128(self._part(part))
        try:
            for name in self._layout.file_names(shard):
                found = os.stat(name)  # noqa: PTH116 - a Path for each file takes longer than its state
                digest.update(_FILE.pack(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        except OSError:
            return None
        return digest.digest()

    def is_checked(self, shard: ShardName, state: bytes | None) -> bool:
        """Whether the shard was checked in this state. If it was in another, what is known of it is forgotten."""
        piece, place = self._place(shard)
        if piece is None:
            return False
        known = bytes(piece[place : place + len(_UNCHECKED)])
        if known == state and known != _UNCHECKED:
            return True
        piece[place : place + _RECORD.size] = bytes(_RECORD.size)
        return False

    def forget(self, shard: ShardName) -> None:
        """Check the shard again next time."""
        self.is_checked(shard, None)

    def note(self, shard: ShardName, stats: Mapping[str, Any], state: bytes | None = None) -> MarkerFacts:
        """Keep the facts of a marker. `state`: the shard was found whole in this state."""
        facts = facts_of(stats)
        piece, place = self._place(shard, make=True)
        assert piece is not None, "it was made"
        hashes = (bytes.fromhex(facts.tar_sha256), bytes.fromhex(facts.parquet_sha256))
        _RECORD.pack_into(piece, place, state or _UNCHECKED, True, facts.successes, facts.tar_bytes, *hashes)
        return facts

    def facts(self, shard: ShardName) -> MarkerFacts:
        """The facts of a shard's marker, which is read unless they are known. Raises ShardError as `read_stats` does.

        Ask `is_checked` first if another run may have changed the shard meanwhile.
        """
        piece, place = self._place(shard)
        if piece is not None:
            _, is_there, successes, tar_bytes, tar, parquet = _RECORD.unpack_from(piece, place)
            if is_there and max(successes, tar_bytes) <= LARGEST_COUNT:
                return MarkerFacts(successes, tar_bytes, tar.hex(), parquet.hex())
        return self.note(shard, read_stats(self._layout, shard))

    def merged(self, shard: ShardName) -> tuple[bytes, int]:
        """What the shard's rows in the manifest are made from, as `digest_of` it, and how many they are."""
        piece, place = self._place(shard)
        found = (bytes(16), 0) if piece is None else _MERGED.unpack_from(piece, place + _RECORD.size)
        return found[0], found[1]

    def note_merged(self, shard: ShardName, digest: bytes, num_rows: int) -> None:
        """Keep what `merged` says."""
        piece, place = self._place(shard, make=True)
        assert piece is not None, "it was made"
        _MERGED.pack_into(piece, place + _RECORD.size, digest, num_rows)

    def _place(self, shard: ShardName, *, make: bool = False) -> tuple[bytearray | None, int]:
        """The piece of memory in which the record of a shard is, and its first byte there."""
        number, row = divmod(shard.number, _TOGETHER)
        piece = self._pieces.get((shard.split, number))
        if piece is None and make:
            piece = self._pieces.setdefault((shard.split, number), bytearray(_TOGETHER * _SIZE))
        return piece, row * _SIZE

    def _part(self, part: int) -> bytes:
        """What a part of the plan, with the hash of the plan, is known by."""
        if part not in self._parts:
            content = sha256_of_file(self._layout.plan_part(part))
            self._parts[part] = f"{_VERSION}\n{self.plan_hash}\n{content}\n".encode()
        return self._parts[part]

    def _checked(self) -> pa.Table:
        """The records of the shards that were checked or merged."""
        tables = [pa.Table.from_pylist([], _SCHEMA)]
        for (split, number), piece in self._pieces.items():
            records = np.frombuffer(bytes(piece), np.uint8).reshape(_TOGETHER, _SIZE)
            is_checked = records[:, : len(_UNCHECKED)].any(1)
            rows = np.flatnonzero(is_checked | records[:, _RECORD.size :].any(1))
            content = pa.py_buffer(records[rows].tobytes())
            values = pa.FixedSizeBinaryArray.from_buffers(_SCHEMA.field("record").type, len(rows), [None, content])
            numbers = pa.array(number * _TOGETHER + rows, pa.int64())
            tables.append(pa.Table.from_arrays([pa.repeat(split, len(rows)), numbers, values], schema=_SCHEMA))
        return pa.concat_tables(tables)

    def _fill(self, table: pa.Table) -> None:
        numbers = table.column("number")
        if any(column.null_count for column in table.columns) or (
            len(table) and not 0 <= pc.min(numbers).as_py() <= pc.max(numbers).as_py() < _MOST
        ):
            raise ManifestError(f"{_file(self._layout)}: names shards that nobody can have. Remove it.")
        for batch in table.to_batches():
            columns = (batch.column(name).to_pylist() for name in _SCHEMA.names)
            for split, number, record in zip(*columns, strict=True):
                piece, place = self._place(ShardName(split, number), make=True)
                assert piece is not None, "it was made"
                piece[place : place + _SIZE] = record


def _texts(values: Any) -> dict[str, str]:
    """A note's texts by name; none of anything else."""
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}


def digest_of(made_from: str) -> bytes:
    """16 bytes that stand for what rows are made from."""
    return xxhash.xxh3_128_digest(made_from.encode())


def _file(layout: Layout) -> Path:
    return layout.temporary / "known.parquet"
