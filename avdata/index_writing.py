"""Writes the index of a split from its manifest and the markers of its shards; `avdata.index` reads it."""

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from jaxtyping import Bool, Integer

from avdata.dataset import (
    ByteRanges,
    Dataset,
    key_lines,
    no_ranges,
    read_names,
    samples_of,
    take,
)
from avdata.index import ALIGNED, END, MAGIC, RANGE_PARTS, VALUES_AT_ONCE, VERSION, Index, IndexedShards, IndexOf
from avmanifest.columns import columns_of, named
from avmanifest.columns import flags as flag_columns
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.layout import ShardName
from avmanifest.records import MarkerFacts
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_batches, read_schema
from avmanifest.wording import counted

_ROWS: Final = 65_536  # of the manifest at a time
_SMALL: Final = ("flags", "frame_member")  # may have one byte a value

Markers = Callable[[Sequence[ShardName]], Iterable[MarkerFacts | None]]
"""What the markers of shards say, in their order; None for one that is missing."""


def build_index(index_of: IndexOf, manifest: Path | io.BytesIO, markers: Markers, out: IO[bytes], folder: Path) -> None:
    """Write an index.

    Args:
        index_of: What it is of.
        manifest: The file, or its content.
        markers: Reads the markers of the shards.
        out: Where the index is written.
        folder: For temporary files as large as the index. They have no name, so a killed process leaves none.

    Raises:
        ManifestError: The manifest is damaged, or does not agree with the markers.
        ShardError: A marker is damaged.
        ConfigError: There is no sample.
    """
    schema = read_schema(manifest, CLIP_SCHEMA, where=index_of.shown)
    marks = named(flag_columns(columns_of(schema)))
    numbers, counts, is_sorted = _numbers_of(index_of, manifest)
    if not len(numbers):
        raise ConfigError(f"{index_of.shown}: no clip became a sample. avkit inspect shows why.")
    shards = _shards_of(index_of, numbers, counts, markers)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(IndexWriter(folder, marks))
        hashed = np.ones(len(numbers), np.bool_)
        for rows in _rows_of(index_of, manifest, numbers, read_names(schema)):
            samples = samples_of(rows, shards, index_of.members, index_of.classes)
            writer.append(samples, _flags_of(rows, marks))
            hashed[samples.shard_of[rows.column("member_xxh3").is_null().to_numpy()]] = False
        if not is_sorted:
            writer = stack.enter_context(_sorted_by_shard(writer, index_of, shards, hashed, folder, marks))
        writer.finish(out, index_of, shards, hashed)


def _numbers_of(
    index_of: IndexOf, manifest: Path | io.BytesIO
) -> tuple[Integer[np.ndarray, " s"], Integer[np.ndarray, " s"], bool]:
    """Numbers of the shards, samples of each by the manifest, and whether the rows are ordered by shard."""
    found: dict[int, int] = {}
    is_sorted, last = True, -1
    for batch in read_batches(manifest, CLIP_SCHEMA, ["status", "shard"], _ROWS, where=index_of.shown):
        shards = batch.column("shard").filter(pc.equal(batch.column("status"), "ok"))
        if shards.null_count:
            raise ManifestError(f"{index_of.shown}: a sample has no shard. Run the same prepare again.")
        values = np.concatenate([[last], shards.to_numpy()])
        is_sorted &= bool((values[1:] >= values[:-1]).all())
        last = int(values[-1])
        for number, count in zip(*(each.tolist() for each in np.unique(values[1:], return_counts=True)), strict=True):
            found[number] = found.get(number, 0) + count
    numbers = np.array(sorted(found), np.int64)
    return numbers, np.array([found[number] for number in numbers.tolist()], np.int64), is_sorted


def _shards_of(
    index_of: IndexOf, numbers: Integer[np.ndarray, " s"], counts: Integer[np.ndarray, " s"], markers: Markers
) -> IndexedShards:
    names = [ShardName(index_of.split, number) for number in numbers.tolist()]
    num_bytes, sha256 = np.empty(len(names), np.int64), bytearray()
    for row, (name, listed, facts) in enumerate(zip(names, counts.tolist(), markers(names), strict=True)):
        if facts is None or facts.successes != listed:
            raise ManifestError(
                f"{index_of.shown}: {counted(listed, 'sample')} in shard {name.number:05d}, "
                f"its marker says {None if facts is None else facts.successes}. Run the same prepare again."
            )
        num_bytes[row] = facts.tar_bytes
        sha256 += bytes.fromhex(facts.tar_sha256)
    hashes = np.frombuffer(sha256, np.uint8).reshape(-1, 32)
    return IndexedShards(index_of.root, index_of.split, numbers, num_bytes, hashes, np.ones(len(names), np.uint8))


def _rows_of(
    index_of: IndexOf, manifest: Path | io.BytesIO, numbers: Integer[np.ndarray, " s"], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """The rows of samples, some at a time. `shard` is an index into `numbers`."""
    for batch in read_batches(manifest, CLIP_SCHEMA, columns, _ROWS, where=index_of.shown):
        rows = pa.Table.from_batches([batch]).filter(pc.equal(batch.column("status"), "ok"))
        if len(rows):
            place = np.searchsorted(numbers, rows.column("shard").to_numpy())
            yield rows.set_column(rows.schema.get_field_index("shard"), "shard", pa.array(place))


def _flags_of(rows: pa.Table, marks: Sequence[str]) -> Integer[np.ndarray, " n"]:
    """The flags of each sample as bits: 1 for the first, 2 for the second, ..."""
    bits = np.zeros(len(rows), np.int64)
    for place, name in enumerate(marks):
        bits |= pc.fill_null(rows.column(name), False).to_numpy().astype(np.int64) << place
    return bits


class IndexWriter:
    """Collects samples in temporary files, and then writes them as an index. A context manager."""

    def __init__(self, folder: Path, flags: Sequence[str] = ()) -> None:
        """Create a writer whose temporary files are in a folder. `flags` names the bits of each sample's flags."""
        self._folder, self._flags = folder, flags
        self._columns: dict[str, _Column] = {}
        self._names: dict[str, tuple[int, str]] = {}  # of frames: number, and the name of the mask
        self._log_mels: dict[str, str] = {}
        self._samples = self._frames = self._labels = self._key_bytes = self._blocks = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for column in self._columns.values():
            column.file.close()

    def append(self, samples: Dataset, flags: Integer[np.ndarray, " n"], first_block: int | None = None) -> None:
        """Add samples behind those that are there. The classes of all must be the same.

        Args:
            samples: The samples.
            flags: Their flags as bits.
            first_block: Place of block 0 of `samples.mel_blocks` among all blocks; None: behind those that are there.
        """
        offsets = np.frombuffer(samples.keys.buffers()[1], np.int64)
        offsets = offsets[samples.keys.offset : samples.keys.offset + len(samples) + 1]
        keys = np.frombuffer(samples.keys.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
        self._put("key_start", offsets[1:] - offsets[0] + self._key_bytes, "<i8", 1)
        self._put("keys", keys, "|u1")
        self._digest.update(key_lines(samples.keys))
        self._put("shard_of", samples.shard_of, "<i8")
        self._put("flags", flags, "<i8")
        self._put("frame_start", samples.frame_start[1:].astype(np.int64) + self._frames, "<i8", 1)
        self._put("frame_time_s", samples.frame_time_s, "<f4")
        for name, mask in zip(samples.frame_names, samples.mask_names, strict=True):
            self._names.setdefault(name, (len(self._names), mask))
        numbers = np.array([self._names[name][0] for name in samples.frame_names], np.int64)
        self._put("frame_member", numbers[samples.frame_member], "<i8")
        self._put("label_start", samples.label_start[1:].astype(np.int64) + self._labels, "<i8", 1)
        self._put("label_ids", samples.label_ids, "<i8")
        self._put_ranges("waveform", samples.waveform, self._samples)
        self._put_ranges("frames", samples.frames, self._frames)
        self._put_ranges("masks", samples.masks, self._frames)
        for profile, name in samples.log_mel_member.items():
            if self._log_mels.setdefault(profile, name) != name:
                raise ManifestError(
                    f"log-mels of {profile!r} are named {name} and {self._log_mels[profile]}. Prepare them again."
                )
        for profile in self._log_mels:
            self._put_ranges(f"log_mel.{profile}", samples.log_mel.get(profile, no_ranges(len(samples))), self._samples)
        base = self._blocks if first_block is None else first_block
        for profile in self._log_mels:
            firsts = samples.mel_blocks.get(profile, np.full(len(samples), -1))
            self._put(f"mel_blocks.{profile}", np.where(firsts < 0, -1, firsts + base), "<i8", self._samples, -1)
        self._put("block_xxh3", samples.block_xxh3, "<u4")
        self._blocks += len(samples.block_xxh3)
        self._key_bytes += len(keys)
        self._samples += len(samples)
        self._frames += len(samples.frame_time_s)
        self._labels += len(samples.label_ids)

    def finish(
        self,
        out: IO[bytes],
        index_of: IndexOf,
        shards: IndexedShards,
        hashed: Bool[np.ndarray, " s"],
    ) -> None:
        """Write the index. `hashed` says of which shards the manifest has the hashes of all members."""
        self._put("shard_number", shards.numbers, "<i8")
        self._put("shard_bytes", shards.num_bytes, "<i8")
        self._put("shard_sha256", shards.sha256.ravel(), "|u1")
        self._put("shard_hashed", hashed, "|u1")
        for piece in self._columns["shard_of"].pieces():
            self._digest.update(piece.tobytes())
        sections: dict[str, dict[str, Any]] = {}
        end = out.write(MAGIC)
        for name, column in self._columns.items():
            owner, _, part = name.rpartition(".")
            if owner and part in RANGE_PARTS and not self._columns[f"{owner}.size"].largest:
                continue  # no sample has the member
            end += out.write(bytes(-end % ALIGNED))
            if part == "offset":  # so that offset + size has the same type
                column.largest = self._columns["shard_bytes"].largest
            kind, digest = column.stored(small=name in _SMALL), xxhash.xxh3_64()
            for piece in column.pieces():
                content = piece.astype(kind).tobytes()
                digest.update(content)
                out.write(content)
            sections[name] = {"type": kind, "count": column.count, "offset": end, "xxh3": digest.hexdigest()}
            end += column.count * np.dtype(kind).itemsize
        header = {
            "version": VERSION,
            "split": index_of.split,
            "origin": index_of.origin._asdict(),
            "classes": list(index_of.classes),
            "members": asdict(index_of.members),
            "samples": self._samples,
            "frames": self._frames,
            "log_mels": self._log_mels,
            "frame_names": list(self._names),
            "mask_names": [mask for _, mask in self._names.values()],
            "flags": list(self._flags),
            "fingerprint": self._digest.hexdigest(),
            "sections": sections,
        }
        content = json.dumps(header, sort_keys=True).encode()
        out.write(content)
        out.write(END.pack(len(content), xxhash.xxh3_64_intdigest(content), MAGIC))
        out.flush()

    def _put(self, name: str, values: np.ndarray, kind: str, before: int = 0, fill: int = 0) -> None:
        """Append to a column. A new one begins with `before` times `fill`."""
        if name not in self._columns:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by __exit__
            self._columns[name] = _Column(file, np.dtype(kind), is_narrow=kind == "<i8" and name != "key_start")
            for first in range(0, before, VALUES_AT_ONCE):
                self._columns[name].append(np.full(min(before - first, VALUES_AT_ONCE), fill, kind))
        self._columns[name].append(values)

    def _put_ranges(self, name: str, ranges: ByteRanges, before: int) -> None:
        for part, kind in RANGE_PARTS.items():
            self._put(f"{name}.{part}", getattr(ranges, part), kind.str, before)


@dataclass(slots=True)
class _Column:
    """An array of an index while it grows, in a file."""

    file: IO[bytes]
    kind: np.dtype[Any]
    is_narrow: bool  # store the smallest type that holds the values
    count: int = 0
    largest: int = 0
    smallest: int = 0

    def append(self, values: np.ndarray) -> None:
        if len(values):
            self.count += len(values)
            if self.is_narrow:
                self.largest = max(self.largest, int(values.max()))
                self.smallest = min(self.smallest, int(values.min()))
            self.file.write(np.ascontiguousarray(values, self.kind).tobytes())

    def pieces(self) -> Iterator[np.ndarray]:
        """The values, some at a time."""
        self.file.seek(0)
        while content := self.file.read(VALUES_AT_ONCE * self.kind.itemsize):
            yield np.frombuffer(content, self.kind)

    def stored(self, *, small: bool) -> str:
        """The type that is stored."""
        if not self.is_narrow:
            return self.kind.str
        kinds = ("<i4",) if self.smallest < 0 else ("|u1", "<u4") if small else ("<u4",)
        return next((kind for kind in kinds if self.largest <= np.iinfo(kind).max), "<i8")


@contextlib.contextmanager
def _sorted_by_shard(
    writer: IndexWriter,
    index_of: IndexOf,
    shards: IndexedShards,
    hashed: Bool[np.ndarray, " s"],
    folder: Path,
    marks: Sequence[str],
) -> Iterator[IndexWriter]:
    """The same samples in the order of their shards, and within a shard in their old order: after retries."""
    with tempfile.TemporaryFile(dir=folder) as file, IndexWriter(folder, marks) as other:
        writer.finish(file, index_of, shards, hashed)
        index = Index(file.fileno(), index_of.shown, check=False)
        samples, flags = index.dataset(index_of.root), index.array("flags")
        order = np.argsort(samples.shard_of, kind="stable")
        for first in range(0, len(order), _ROWS):
            rows = order[first : first + _ROWS]
            part = take(samples, rows)  # which has the hashes of all blocks
            other.append(replace(part, block_xxh3=part.block_xxh3[: None if first == 0 else 0]), flags[rows], 0)
        yield other
