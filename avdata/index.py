"""The index file of a split: where every sample is, as arrays that are mapped into memory and shared by processes.

It is made from the split's manifest and the markers of its shards, and says from which ones: an index of another
manifest is stale, and is made again. docs/format.md describes the file.
"""

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple, overload

import numpy as np
import pyarrow as pa
import xxhash
from jaxtyping import Bool, Integer

from avdata.dataset import (
    ByteRanges,
    Dataset,
    Fingerprint,
    Shard,
    count_blocks,
    last_bytes,
    no_ranges,
)
from avdata.members import MemberMap
from avmanifest.errors import ManifestError
from avmanifest.files import open_descriptor
from avmanifest.layout import ShardName
from avmanifest.parsing import parse_object
from avmanifest.records import MarkerFacts, facts_of, parse_marker
from avmanifest.secrets import shown_url

CONTENT_KEY: Final = "avkit.content"
"""Key in a manifest's Parquet metadata of a hash of all that its rows are made from."""

VERSION: Final = 1
MAGIC: Final = b"AVKINDEX"
END: Final = struct.Struct("<QQ8s")  # bytes of the header before it, their XXH3, the magic
ALIGNED: Final = 64
_TAIL_BYTES: Final = 1 << 18  # the end of a manifest that is compared: its metadata
VALUES_AT_ONCE: Final = 1 << 20  # values that are copied at a time
_CHECKED: Final = 1 << 16  # values that are checked at a time: they stay in the processor's cache
RANGE_PARTS: Final = {"offset": np.dtype("<i8"), "size": np.dtype("<i8"), "xxh3": np.dtype("<u8")}
_KINDS: Final = ("|u1", "<u4", "<i4", "<i8", "<u8", "<f4")
_MOST_FLAGS: Final = 60
_KEPT_SHARDS: Final = 1024
_MAPPED_FROM: Final = 32 << 20  # bytes: a smaller index is read, as nobody can change that afterwards


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
        if size < len(MAGIC) + END.size:
            raise self._damaged(f"{size} bytes")
        self._map = _content_of(descriptor, size)
        if len(self._map) != size:
            raise self._damaged(f"{len(self._map)} of {size} bytes")
        length, digest, magic = END.unpack(self._map[-END.size :])
        begin = size - END.size - length
        if magic != MAGIC or self._map[: len(MAGIC)] != MAGIC or begin < len(MAGIC):
            raise self._damaged("it does not begin and end as an index does")
        content = self._map[begin : begin + length]
        if xxhash.xxh3_64_intdigest(content) != digest:
            raise self._damaged("its header has another hash")
        self.header = parse_object(content, where, ManifestError)
        if self.header.get("version") != VERSION:
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
        return ByteRanges(*(self.array(f"{name}.{part}") for part in RANGE_PARTS))

    def _read_arrays(self, end: int) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays by name. Their places are checked."""
        for name, section in self.header["sections"].items():
            kind, count, offset = section["type"], section["count"], section["offset"]
            if type(count) is not int or type(offset) is not int or kind not in _KINDS:
                raise self._damaged(f"section {name}: {section}")
            if count < 0 or offset < 0 or offset % ALIGNED or offset + count * np.dtype(kind).itemsize > end:
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
                lengths |= {f"{owner}.{part}": count for part in RANGE_PARTS}
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
            if problem := next(filter(None, pool.map(self._samples_problem, range(0, samples, VALUES_AT_ONCE))), ""):
                raise self._damaged(problem)

    def _samples_problem(self, begin: int) -> str:
        """What is wrong with VALUES_AT_ONCE samples from one on, by the bounds of their arrays; empty if nothing is."""
        shard_of, frame_start = self.array("shard_of"), self.array("frame_start")
        end, num_hashes = min(begin + VALUES_AT_ONCE, len(shard_of)), len(self.array("block_xxh3"))
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
                    places = ByteRanges(*(self.array(f"{owner}.{part}")[rows] for part in RANGE_PARTS))
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
