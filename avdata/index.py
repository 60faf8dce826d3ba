"""The index file of a split: where every sample is, as arrays that are mapped into memory and shared by processes.

It is made from the split's manifest and the markers of its shards, and says from which ones: an index of another
manifest is stale, and is made again. docs/format.md describes the file.
"""

import contextlib
import hashlib
import io
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from jaxtyping import Bool, Integer

from avdata.dataset import (
    ByteRanges,
    Dataset,
    Fingerprint,
    Shard,
    count_blocks,
    key_lines,
    last_bytes,
    no_ranges,
    read_names,
    samples_of,
    take,
)
from avdata.members import MemberMap
from avmanifest.columns import columns_of, named
from avmanifest.columns import flags as flag_columns
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import open_descriptor
from avmanifest.layout import ShardName
from avmanifest.parsing import parse_object
from avmanifest.records import MarkerFacts, facts_of, parse_marker
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.secrets import shown_url
from avmanifest.table import read_batches, read_schema
from avmanifest.wording import counted

CONTENT_KEY: Final = "avkit.content"
"""Key in a manifest's Parquet metadata of a hash of all that its rows are made from."""

_VERSION: Final = 1
_MAGIC: Final = b"AVKINDEX"
_END: Final = struct.Struct("<QQ8s")  # bytes of the header before it, their XXH3, the magic
_ALIGNED: Final = 64
_TAIL_BYTES: Final = 1 << 18  # the end of a manifest that is compared: its metadata
_ROWS: Final = 65_536  # of the manifest at a time
_AT_ONCE: Final = 1 << 20  # values that are copied at a time
_CHECKED: Final = 1 << 16  # values that are checked at a time: they stay in the processor's cache
_RANGE: Final = {"offset": np.dtype("<i8"), "size": np.dtype("<i8"), "xxh3": np.dtype("<u8")}
_KINDS: Final = ("|u1", "<u4", "<i4", "<i8", "<u8", "<f4")
_MOST_FLAGS: Final = 60
_SMALL: Final = ("flags", "frame_member")  # may have one byte a value
_KEPT_SHARDS: Final = 1024
_MAPPED_FROM: Final = 32 << 20  # bytes: a smaller index is read, as nobody can change that afterwards

Markers = Callable[[Sequence[ShardName]], Iterable[MarkerFacts | None]]
"""What the markers of shards say, in their order; None for one that is missing."""


class Origin(NamedTuple):
    """The manifest of which an index is made.

    Attributes:
        num_bytes: Its size.
        tail: Hash of its last bytes, which have the places, sizes and bounds of all columns.
        changed: When it was last changed, or its version; empty if the tail has a hash of the content (CONTENT_KEY).
    """

    num_bytes: int
    tail: str
    changed: str


def origin_of(read: Callable[[int, int], bytes], num_bytes: int, changed: str) -> Origin:
    """The origin for a manifest of this size. `read(start, size)` gives its bytes."""
    size = min(num_bytes, _TAIL_BYTES)
    tail = read(num_bytes - size, size)
    return Origin(num_bytes, xxhash.xxh3_128_hexdigest(tail), "" if CONTENT_KEY.encode() in tail else changed)


def local_origin(manifest: Path) -> Origin:
    """The origin for a manifest on a disk. Raises ManifestError if it cannot be read."""
    try:
        with contextlib.closing(os.fdopen(open_descriptor(manifest), "rb")) as file:
            status = os.fstat(file.fileno())
            return origin_of(
                lambda start, size: os.pread(file.fileno(), size, start), status.st_size, str(status.st_mtime_ns)
            )
    except OSError as error:
        raise ManifestError(f"{manifest}: cannot be read ({error.strerror}). Restore the original file.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOf:
    """What an index is of: a split of a dataset, whose dataset.json has these classes and this first log-mel."""

    root: str  # folder or URL: of the shards, and for messages
    split: str
    origin: Origin
    classes: Sequence[str]
    members: MemberMap

    @property
    def manifest(self) -> str:
        """Path or URL of the manifest."""
        return f"{self.root}/manifest/{self.split}.parquet"

    def facts(self, shard: ShardName, marker: bytes | None) -> MarkerFacts | None:
        """What the content of a marker says. Raises ShardError for one that is none."""
        where = f"marker of {shown_url(self.root)}/{shard}.tar"
        return None if marker is None else facts_of(parse_marker(marker, where))

    @property
    def shown(self) -> str:
        """The manifest, for messages."""
        return shown_url(self.manifest)


class StaleIndex(Exception):
    """The file is an index, but of another manifest or another version of the format."""


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
) -> "IndexedShards":
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
        shards: "IndexedShards",
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
        end = out.write(_MAGIC)
        for name, column in self._columns.items():
            owner, _, part = name.rpartition(".")
            if owner and part in _RANGE and not self._columns[f"{owner}.size"].largest:
                continue  # no sample has the member
            end += out.write(bytes(-end % _ALIGNED))
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
            "version": _VERSION,
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
        out.write(_END.pack(len(content), xxhash.xxh3_64_intdigest(content), _MAGIC))
        out.flush()

    def _put(self, name: str, values: np.ndarray, kind: str, before: int = 0, fill: int = 0) -> None:
        """Append to a column. A new one begins with `before` times `fill`."""
        if name not in self._columns:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by __exit__
            self._columns[name] = _Column(file, np.dtype(kind), is_narrow=kind == "<i8" and name != "key_start")
            for first in range(0, before, _AT_ONCE):
                self._columns[name].append(np.full(min(before - first, _AT_ONCE), fill, kind))
        self._columns[name].append(values)

    def _put_ranges(self, name: str, ranges: ByteRanges, before: int) -> None:
        for part, kind in _RANGE.items():
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
        while content := self.file.read(_AT_ONCE * self.kind.itemsize):
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
    shards: "IndexedShards",
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


class Index:
    """An open index. A large one stays mapped while any of its arrays is in use, a small one is read into memory.

    A mapped file that is cut in place ends the process by SIGBUS. avkit cuts none: it puts a new file in its place.

    Everything in the file is checked when it is opened: hashes, and that every number is within its bounds.
    """

    def __init__(self, descriptor: int, where: str, *, check: bool = True) -> None:
        """Open an index. Without `check`, only the header is checked: for a file that this process has just written.

        Raises:
            StaleIndex: Another version of avkit wrote it.
            ManifestError: It is damaged.
        """
        self._where = where
        size = os.fstat(descriptor).st_size
        if size < len(_MAGIC) + _END.size:
            raise self._damaged(f"{size} bytes")
        self._map = _content_of(descriptor, size)
        if len(self._map) != size:
            raise self._damaged(f"{len(self._map)} of {size} bytes")
        length, digest, magic = _END.unpack(self._map[-_END.size :])
        begin = size - _END.size - length
        if magic != _MAGIC or self._map[: len(_MAGIC)] != _MAGIC or begin < len(_MAGIC):
            raise self._damaged("it does not begin and end as an index does")
        content = self._map[begin : begin + length]
        if xxhash.xxh3_64_intdigest(content) != digest:
            raise self._damaged("its header has another hash")
        self.header = parse_object(content, where, ManifestError)
        if self.header.get("version") != _VERSION:
            raise StaleIndex(f"{where}: version {self.header.get('version')!r}")
        try:
            self._arrays = dict(self._read_arrays(begin))
            self._check_header()
            if check:
                self._check()
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, pa.ArrowException) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    def require(self, index_of: IndexOf) -> None:
        """Raise StaleIndex unless this is what the index is of."""
        meant = {
            "split": index_of.split,
            "origin": index_of.origin._asdict(),
            "classes": list(index_of.classes),
            "members": asdict(index_of.members),
        }
        if other := [name for name, value in meant.items() if self.header.get(name) != value]:
            raise StaleIndex(f"{self._where}: made with another {other[0]}")

    def array(self, name: str) -> np.ndarray:
        """An array of the file. Raises KeyError if it has none of this name."""
        return self._arrays[name]

    def flagged(self, names: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Which samples have one of these flags."""
        flags = self.array("flags")
        bits = sum(1 << place for place, name in enumerate(self.flags) if name in names)
        return np.asarray(flags & flags.dtype.type(bits) != 0) if bits else np.zeros(len(flags), np.bool_)

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the flags that samples may have."""
        return tuple(self.header["flags"])

    def dataset(self, root: str) -> Dataset:
        """The samples, of shards below this folder or URL."""
        header, frames, samples = self.header, self.header["frames"], self.header["samples"]
        first = header["members"]["log_mel"].split(";")  # the first profile's; JSON has them in another order
        mels = dict(sorted(header["log_mels"].items(), key=lambda entry: entry[1] not in first))
        keys = pa.LargeStringArray.from_buffers(
            samples, pa.py_buffer(self.array("key_start").view(np.uint8)), pa.py_buffer(self.array("keys"))
        )
        shard_of = self.array("shard_of")
        return Dataset(
            shards=IndexedShards(
                root,
                header["split"],
                self.array("shard_number"),
                self.array("shard_bytes"),
                self.array("shard_sha256").reshape(-1, 32),
                self.array("shard_hashed"),
            ),
            keys=keys,
            shard_of=shard_of,
            log_mel={profile: self._ranges(f"log_mel.{profile}", samples) for profile in mels},
            log_mel_member=mels,
            mel_blocks={profile: self.array(f"mel_blocks.{profile}") for profile in mels},
            block_xxh3=self.array("block_xxh3"),
            waveform=self._ranges("waveform", samples),
            frames=self._ranges("frames", frames),
            masks=self._ranges("masks", frames),
            mask_names=tuple(header["mask_names"]),
            frame_start=self.array("frame_start"),
            frame_time_s=self.array("frame_time_s"),
            frame_member=self.array("frame_member"),
            frame_names=tuple(header["frame_names"]),
            label_ids=self.array("label_ids"),
            label_start=self.array("label_start"),
            classes=tuple(header["classes"]),
            known=Fingerprint(keys, shard_of, header["fingerprint"]),
        )

    def _ranges(self, name: str, count: int) -> ByteRanges:
        if f"{name}.size" not in self._arrays:
            return no_ranges(count)
        return ByteRanges(*(self.array(f"{name}.{part}") for part in _RANGE))

    def _read_arrays(self, end: int) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays by name. Their places are checked."""
        for name, section in self.header["sections"].items():
            kind, count, offset = section["type"], section["count"], section["offset"]
            if type(count) is not int or type(offset) is not int or kind not in _KINDS:
                raise self._damaged(f"section {name}: {section}")
            if count < 0 or offset < 0 or offset % _ALIGNED or offset + count * np.dtype(kind).itemsize > end:
                raise self._damaged(f"section {name} is outside of the file")
            yield name, np.frombuffer(self._map, kind, count, offset)

    def _check_header(self) -> None:
        """Check the lengths of all arrays, and the texts of the header."""
        header = self.header
        samples, frames, shards = header["samples"], header["frames"], len(self.array("shard_number"))
        texts = [header["split"], header["fingerprint"], *header["classes"], *header["frame_names"]]
        texts += [*header["mask_names"], *header["flags"], *header["log_mels"], *header["log_mels"].values()]
        if not all(isinstance(text, str) for text in texts) or not isinstance(header["log_mels"], dict):
            raise self._damaged("a name is no text")
        if len(header["mask_names"]) != len(header["frame_names"]) or len(header["flags"]) > _MOST_FLAGS:
            raise self._damaged("its numbers of names differ")
        lengths = {
            **dict.fromkeys(("key_start", "frame_start", "label_start"), samples + 1),
            **dict.fromkeys(("shard_of", "flags"), samples),
            **dict.fromkeys(("frame_time_s", "frame_member"), frames),
            **dict.fromkeys(("shard_bytes", "shard_hashed"), shards),
            "shard_sha256": 32 * shards,
            **{f"mel_blocks.{profile}": samples for profile in header["log_mels"]},
            "keys": int(self.array("key_start")[-1]),
            "label_ids": int(self.array("label_start")[-1]),
        }
        for owner, count in self._owners().items():
            if f"{owner}.size" in self._arrays:
                lengths |= {f"{owner}.{part}": count for part in _RANGE}
        for name, length in lengths.items():
            if (found := len(self.array(name))) != length:
                raise self._damaged(f"{name} has {found} values, expected {length}")
        floats = {name for name, array in self._arrays.items() if array.dtype.kind == "f"}
        hashes = {name for name, array in self._arrays.items() if array.dtype == np.uint64}
        if floats != {"frame_time_s"} or not all(name.endswith(".xxh3") for name in hashes):
            raise self._damaged("an array has a wrong type")
        if self.array("key_start").dtype != np.int64 or self.array("block_xxh3").dtype != np.uint32:
            raise self._damaged("an array has a wrong type")

    def _owners(self) -> dict[str, int]:
        """The members of which there are ranges, and how many ranges each has."""
        samples, frames = self.header["samples"], self.header["frames"]
        mels = {f"log_mel.{profile}": samples for profile in self.header["log_mels"]}
        return {"waveform": samples, "frames": frames, "masks": frames, **mels}

    def _check(self) -> None:
        """Check the hash of every array, and the bounds of its values."""
        samples = self.header["samples"]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            if problem := next(filter(None, pool.map(self._array_problem, self._arrays)), ""):
                raise self._damaged(problem)
            if problem := next(filter(None, pool.map(self._samples_problem, range(0, samples, _AT_ONCE))), ""):
                raise self._damaged(problem)

    def _samples_problem(self, begin: int) -> str:
        """What is wrong with _AT_ONCE samples from one on, by the bounds of their arrays; empty if nothing is."""
        shard_of, frame_start = self.array("shard_of"), self.array("frame_start")
        end, num_hashes = min(begin + _AT_ONCE, len(shard_of)), len(self.array("block_xxh3"))
        self.dataset("").keys.slice(begin, end - begin).validate(full=True)
        for first in range(begin, end, _CHECKED):
            last = min(first + _CHECKED, end)
            inside = slice(int(frame_start[first]), int(frame_start[last]))
            for profile in self.header["log_mels"]:
                blocks = self.array(f"mel_blocks.{profile}")[first:last]
                sizes = self._ranges(f"log_mel.{profile}", len(shard_of)).size[first:last]
                if (blocks >= 0).any() and (blocks + count_blocks(sizes) > num_hashes)[blocks >= 0].any():
                    return f"blocks of {profile} end behind their hashes"
            of_frames = np.repeat(shard_of[first:last], np.diff(frame_start[first : last + 1]))
            for owner in self._owners():
                if f"{owner}.size" in self._arrays:
                    is_framed = owner in ("frames", "masks")
                    rows = inside if is_framed else slice(first, last)
                    places = ByteRanges(*(self.array(f"{owner}.{part}")[rows] for part in _RANGE))
                    numbers, ends = last_bytes(of_frames if is_framed else shard_of[first:last], places)
                    if (ends > self.array("shard_bytes")[numbers]).any():
                        return f"a member of {owner} ends behind its shard"
        return ""

    def _array_problem(self, name: str) -> str:
        """What is wrong with the values of an array, by themselves; empty if nothing is."""
        array, header = self.array(name), self.header
        bounds = {
            "shard_of": len(self.array("shard_number")),
            "frame_member": len(header["frame_names"]),
            "label_ids": len(header["classes"]),
            "shard_hashed": 2,
            "flags": 1 << len(header["flags"]),
        }
        is_ordered = name in ("shard_of", "shard_number") or name.endswith("_start")
        digest = xxhash.xxh3_64()
        for first in range(0, len(array), _CHECKED):
            piece = array[first : first + _CHECKED]
            digest.update(piece.data)
            if name in bounds and int(piece.max()) >= bounds[name]:
                return f"{name} has {piece.max()}, of {bounds[name]}"
            least = -1 if name.startswith("mel_blocks.") else 0
            if piece.dtype.kind == "i" and (int(piece.min()) < least or int(piece.max()) > 2**60):
                return f"{name} has {piece.min()}"
            if piece.dtype.kind == "f" and np.isinf(piece).any():
                return f"{name} is not finite"
            if is_ordered:
                following = array[first : first + _CHECKED + 1]
                is_wrong = np.less_equal if name == "shard_number" else np.less
                if is_wrong(following[1:], following[:-1]).any():
                    return f"{name} is not in order"
        if name.endswith("_start") and int(array[0]):
            return f"{name} begins with {array[0]}"
        if name == "frame_start" and int(array[-1]) != header["frames"]:
            return f"{name} ends with {array[-1]}"
        expected = header["sections"][name]["xxh3"]
        return "" if digest.hexdigest() == expected else f"{name} has another hash"

    def _damaged(self, problem: str) -> ManifestError:
        return ManifestError(f"{self._where}: the index is damaged ({problem[:300]})")


def _content_of(descriptor: int, size: int) -> bytes | mmap.mmap:
    """The content of a file of `size` bytes; less if it was cut meanwhile."""
    if size >= _MAPPED_FROM:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    pieces, begin = [], 0
    while piece := os.pread(descriptor, size - begin, begin):
        pieces.append(piece)
        begin += len(piece)
    return b"".join(pieces)


class IndexedShards(Sequence[Shard]):
    """The shards of an index, each made when it is asked for. Some are kept: every sample asks for its shard."""

    def __init__(
        self,
        root: str,
        split: str,
        numbers: Integer[np.ndarray, " s"],
        num_bytes: Integer[np.ndarray, " s"],
        sha256: Integer[np.ndarray, "s 32"],
        hashed: Integer[np.ndarray, " s"],
    ) -> None:
        self._root, self._split = root, split
        self.numbers, self.num_bytes, self.sha256, self.hashed = numbers, num_bytes, sha256, hashed
        self._kept: dict[int, Shard] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, number: int) -> Shard: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Shard, ...]: ...
    def __getitem__(self, number: int | slice) -> Shard | tuple[Shard, ...]:
        if isinstance(number, slice):
            return tuple(self._made(place) for place in range(*number.indices(len(self))))
        shard = self._kept.get(number)
        if shard is None:
            shard = self._made(number)
            if len(self._kept) >= _KEPT_SHARDS:
                self._kept.clear()
            self._kept[number] = shard
        return shard

    def _made(self, number: int) -> Shard:
        name = ShardName(self._split, int(self.numbers[number]))
        return Shard(
            f"{self._root}/{name}.tar",
            int(self.num_bytes[number]),
            self.sha256[number].tobytes().hex(),
            prepared=True,
            hashed=bool(self.hashed[number]),
        )


def checked_index(descriptor: int, where: str, index_of: IndexOf) -> Index:
    """Open an index and check all of it.

    Raises:
        StaleIndex: It is of something else.
        ManifestError: It is damaged.
    """
    index = Index(descriptor, where)
    index.require(index_of)
    return index
