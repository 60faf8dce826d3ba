"""Reads members of shards by offset. Safe for threads."""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import UInt32

from avdata.cache import lock_file, unlock_file
from avdata.dataset import ByteRange, Shard
from avdata.index import IndexedShards
from avdata.load.cache import CacheConfig, Expected, ShardCache
from avdata.load.hashes import ShardHashes
from avdata.load.native import NativeQueue, Source
from avdata.load.partial import PartialShard
from avdata.shards import MEL_BLOCK_BYTES, block_hash, check_content
from avdata.urls import is_cached, local_path
from avmanifest.errors import DamagedMember, ShardError
from avmanifest.files import open_descriptor

MAX_OPEN: Final = 128  # shards
HEADER_BYTES: Final = 512
_NAME_BYTES: Final = 100
_KEPT: Final = 1 << 30  # users of a handle that no release closes


class BlockRange(NamedTuple):
    """Adjacent blocks of a log-mel in a shard: first byte, number of bytes, and the hash of each block."""

    offset: int
    size: int
    xxh3: UInt32[np.ndarray, " h"]


@dataclass(slots=True)
class _Handle:
    descriptor: int
    cached: bool  # a file of the cache: locked while it has users, and may be evicted while it has none
    users: int = 0
    partial: bool = False  # ranges of the shard are fetched when they are read


class ShardReader:
    """Reads members by offset: of local shards in place, of remote and compressed ones from the cache."""

    def __init__(self, shards: Sequence[Shard], cache: CacheConfig, *, check: bool = True) -> None:
        """Create a reader. Without `check`, the content of members is not compared with their hashes."""
        self.shards = shards
        self._check = check
        self._cache = ShardCache(cache)
        self._hashes = ShardHashes(cache.root)
        self._lock = threading.Lock()
        self._handles: OrderedDict[int, _Handle] = OrderedDict()
        self._opening: dict[int, threading.Lock] = {}
        self._bad: dict[int, str] = {}
        self._checking = threading.Lock()
        self._checked: dict[int, bool] = {}
        self._config = cache
        self._parts: dict[int, PartialShard] = {}  # shards of which ranges are read while they are not in the cache
        self._ranged: set[int] = set()
        self.turns: threading.Semaphore | None = None  # held by threads that fill rows, but not while they wait

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close_idle()

    @contextlib.contextmanager
    def fetching(self) -> Iterator[None]:
        """Permit downloads within the with block. At its end, downloads in other threads are aborted."""
        self._cache.stopped.clear()
        try:
            yield
        finally:
            self._cache.stopped.set()

    @cached_property
    def has_cached(self) -> bool:
        """Whether there is a shard that is read from the cache: a remote or a compressed one."""
        one_folder = isinstance(self.shards, IndexedShards)
        return any(is_cached(shard.url) for shard in (self.shards[:1] if one_folder else self.shards))

    @property
    def reads_ranges(self) -> bool:
        """Whether there is a shard of which ranges are read."""
        return bool(self._ranged)

    def allow_ranges(self, numbers: Iterable[int]) -> bool:
        """Read what is asked for of these shards by ranges, until all of a shard is in the cache.

        Only members with hashes of their own are read so, and only of large remote shards. Returns whether there are
        such shards.
        """
        if self._check and not self._config.offline:
            self._ranged |= {number for number in numbers if self._may_be_ranged(self.shards[number])}
        return self.reads_ranges

    def _may_be_ranged(self, shard: Shard) -> bool:
        if not shard.hashed or shard.sha256 is None or local_path(shard.url) is not None:
            return False
        return (shard.num_bytes or 0) >= self._config.ranges_from_bytes and not self._cache.has(
            shard.url, _expected(shard)
        )

    def fetch(self, number: int) -> None:
        """Put all of a shard into the cache. Raises ShardError as `acquire` does."""
        self.release(number, self.acquire(number, whole=True))

    def leases(self, queue: NativeQueue | None = None) -> "Leases":
        """A with block in which the calling thread opens shards. What `queue` has to read is read before one closes."""
        return Leases(self, queue)

    def sha256(self, number: int) -> str | None:
        """The hash by which a cached shard without a marker is known in this run; None for one read in place."""
        url = self.shards[number].url
        return self._cache.identify(url).sha256 if is_cached(url) else None

    def refetched(self, number: int, *, partial: bool) -> bool:
        """Check the hash of a remote shard's cached copy, once per shard.

        Args:
            number: Index of the shard.
            partial: Whether what was damaged was read by ranges.

        Returns:
            Whether the copy was damaged, or ranges were. The copy is then removed, and the whole shard is fetched at
            the next lease.
        """
        shard = self.shards[number]
        if shard.sha256 is None or not is_cached(shard.url):
            return False
        if partial:
            self._ranged.discard(number)
            return True
        with self._checking:
            if number not in self._checked:
                self._checked[number] = self._cache.remove_damaged(shard.url, _expected(shard))
                if self._checked[number]:
                    with self._lock:
                        handle = self._handles.pop(number, None)
                        if handle is not None and not handle.users:
                            os.close(handle.descriptor)
            return self._checked[number]

    def acquire(self, number: int, *, whole: bool = False) -> _Handle:
        """Open a shard until `release`; see `Leases`. With `whole`, all of it is in the cache then."""
        if not whole and number in self._ranged and (partial := self._partial(number)) is not None:
            return partial
        if (handle := self._ready(number)) is not None:
            return handle
        with self._lock:
            opening = self._opening.setdefault(number, threading.Lock())
        with opening:  # one thread fetches and opens the shard, the others wait
            if (handle := self._ready(number)) is None:
                handle = self._opened(number)
        if len(self._handles) > MAX_OPEN:
            self.close_idle(keep=MAX_OPEN // 2)
        return handle

    def _partial(self, number: int) -> _Handle | None:
        """The handle of a shard that is read by ranges; None if all of it is in the cache by now."""
        shard = self.shards[number]
        if self._cache.has(shard.url, _expected(shard)):
            self._ranged.discard(number)
            return None
        with self._lock:
            if number not in self._parts:
                try:
                    self._parts[number] = PartialShard(shard.url, shard.num_bytes or 0, self._config)
                except OSError:  # the cache cannot be written: the download says so
                    self._ranged.discard(number)
                    return None
            return _Handle(self._parts[number].descriptor, cached=False, users=_KEPT, partial=True)

    def _require(self, descriptor: int, number: int, begin: int, size: int) -> None:
        """Fetch a range of a shard that is read by ranges."""
        part = self._parts.get(number)
        if part is not None and part.descriptor == descriptor and not part.has(begin, size):
            with _without(self.turns):
                part.fetch(begin, size)

    def _ready(self, number: int) -> _Handle | None:
        """The handle of a shard that is already open, else None. Raises ShardError if it failed before."""
        with self._lock:
            if number in self._bad:
                raise ShardError(self._bad[number])
            return self._add_user(number)

    def _opened(self, number: int) -> _Handle:
        """Open a shard and return its handle."""
        try:
            descriptor = self._open(self.shards[number])
        except ShardError as error:
            with self._lock:
                self._bad[number] = str(error)
            raise
        handle = _Handle(descriptor, cached=is_cached(self.shards[number].url), users=1)
        with self._lock:
            self._handles[number] = handle
        return handle

    def _add_user(self, number: int) -> _Handle | None:
        """Count one more user of an open shard; None if it is not open, or was evicted from the cache."""
        handle = self._handles.get(number)
        if handle is None:
            return None
        if handle.cached and not handle.users and not lock_file(handle.descriptor):
            os.close(handle.descriptor)
            del self._handles[number]
            return None
        handle.users += 1
        self._handles.move_to_end(number)
        return handle

    def release(self, number: int, handle: _Handle) -> None:
        """End one use of a handle from `acquire`."""
        with self._lock:
            handle.users -= 1
            if handle.users:
                return
            if self._handles.get(number) is not handle:  # the shard was damaged and has been fetched again
                os.close(handle.descriptor)
            elif handle.cached:
                unlock_file(handle.descriptor)

    def close_idle(self, keep: int = 0) -> None:
        """Close unused shards, the least recently used first, until `keep` are open."""
        with self._lock:
            for number, handle in list(self._handles.items()):
                if len(self._handles) <= keep:
                    break
                if not handle.users:
                    os.close(handle.descriptor)
                    del self._handles[number]

    def close_partial(self) -> None:
        """Give up what was read by ranges. No shard may be in use."""
        self._ranged.clear()
        for part in self._parts.values():
            part.close()
        self._parts.clear()

    def num_bytes(self, descriptor: int) -> int:
        """Size of an open shard in bytes."""
        return os.fstat(descriptor).st_size

    def _open(self, shard: Shard) -> int:
        path = None if is_cached(shard.url) else local_path(shard.url)
        if path is None:
            descriptor = self._cache.open(shard.url, _expected(shard))
        else:
            try:
                descriptor = open_descriptor(path)
            except OSError as error:
                raise ShardError(f"{path}: cannot be opened ({error.strerror}). Prepare or fetch it again.") from error
        size = os.fstat(descriptor).st_size
        if shard.num_bytes is not None and size != shard.num_bytes:
            os.close(descriptor)
            raise ShardError(
                f"{shard.name}: {size} bytes, {'its marker says' if shard.prepared else 'it had'} {shard.num_bytes}. "
                "Prepare or fetch it again."
            )
        return descriptor

    def read_member(
        self, descriptor: int, number: int, key: str, member: str, place: ByteRange, scratch: "Scratch"
    ) -> memoryview:
        """Read a member and check its hash. The result is valid until the next read into the same scratch.

        Args:
            descriptor: File descriptor of the shard.
            number: Index of the shard.
            key: Key of the sample.
            member: Name of the member.
            place: Where its content is, and its hash.
            scratch: Memory of the calling thread.

        Raises:
            DamagedMember: The content does not have the hash that is stored for it.
            ShardError: The shard is truncated or unreadable. In shards that avkit wrote the tar header is checked, too:
                it must have the name of this member.
        """
        shard, (offset, size, stored) = self.shards[number], place
        ahead = HEADER_BYTES if shard.prepared else 0
        view = scratch.room(size + ahead)
        self._read_into(view, descriptor, number, offset - ahead, f"{key}.{member}")
        if ahead:
            name = bytes(view[:_NAME_BYTES]).rstrip(b"\0")
            if name != f"{key}.{member}".encode():
                raise ShardError(
                    f"{shard.name}: {name.decode(errors='replace')!r} found in place of {key}.{member}. The shard is "
                    "damaged or another one: prepare or fetch it again."
                )
        content = view[ahead:]
        if self._check:
            if not shard.hashed:
                stored = self._hashes.at(number, shard, descriptor, offset)
            check_content(content, stored, shard.url, key, member)
        return content

    def source(
        self, descriptor: int, number: int, key: str, member: str, place: "ByteRange | BlockRange"
    ) -> Source | None:
        """What `read_member` or `read_blocks` reads and checks, for compiled code; None: it is fetched first."""
        if self._parts:
            return None
        if isinstance(place, BlockRange):
            return Source(descriptor, place.offset, place.size, blocks=place.xxh3.tobytes() if self._check else None)
        shard, (offset, size, stored) = self.shards[number], place
        if self._check and not shard.hashed:
            stored = self._hashes.at(number, shard, descriptor, offset)
        name = f"{key}.{member}" if shard.prepared else ""
        return Source(descriptor, offset, size, name, stored if self._check else None)

    def read_blocks(
        self, descriptor: int, number: int, key: str, member: str, place: BlockRange, scratch: "Scratch"
    ) -> memoryview:
        """Read adjacent blocks of a log-mel and check the hash of each. Arguments and errors as for `read_member`."""
        view = scratch.room(place.size)
        self._read_into(view, descriptor, number, place.offset, f"{key}.{member}")
        if self._check:
            for begin, stored in zip(range(0, place.size, MEL_BLOCK_BYTES), place.xxh3.tolist(), strict=True):
                block = view[begin : begin + MEL_BLOCK_BYTES]
                if (computed := block_hash(block)) != stored:
                    problem = (
                        f"damaged: its {len(block)} bytes at byte {place.offset + begin} of the shard have xxh3 "
                        f"...{computed:08x}, stored is {stored:08x}"
                    )
                    raise DamagedMember(self.shards[number].name, key, member, problem)
        return view

    def _read_into(self, view: memoryview, descriptor: int, number: int, offset: int, what: str) -> None:
        """Fill `view` with the bytes of a shard at an offset. Raises ShardError, which names `what`, if it cannot."""
        if self._parts:
            self._require(descriptor, number, offset, len(view))
        try:
            num_read = os.preadv(descriptor, [view], offset)
        except OSError as error:
            raise ShardError(f"{self.shards[number].name}: {what} cannot be read ({error.strerror})") from error
        if num_read != len(view):
            end = self.num_bytes(descriptor)
            raise ShardError(
                f"{self.shards[number].name}: truncated at byte {end}, before the end of {what}. Fetch it again."
            )


@contextlib.contextmanager
def _without(turns: threading.Semaphore | None) -> Iterator[None]:
    """Within the block, leave one's turn to another thread."""
    if turns is None:
        yield
        return
    turns.release()
    try:
        yield
    finally:
        turns.acquire()


def _expected(shard: Shard) -> Expected:
    if shard.sha256 is None:
        return Expected()
    source = "its marker says" if shard.prepared else "when this run began it was"
    return Expected(shard.num_bytes, shard.sha256, source)


class Leases:
    """The shards that one thread has open while it fills some rows. Use it as a with block.

    Local shards stay open to the end of the block, of those in the cache only the last one, which can't be evicted.
    """

    __slots__ = ("_cached", "_held", "_queue", "_reader")

    def __init__(self, reader: ShardReader, queue: NativeQueue | None = None) -> None:
        self._reader, self._queue = reader, queue
        self._held: dict[int, _Handle] = {}
        self._cached: int | None = None

    def __enter__(self) -> "Leases":
        return self

    def __exit__(self, *_: object) -> None:
        for number, handle in self._held.items():
            self._reader.release(number, handle)
        self._held.clear()

    def descriptor(self, number: int) -> int:
        """The file descriptor of a shard.

        Raises:
            ShardError: The shard is missing, or its size or hash differs from its marker's. Every later attempt raises
                it again.
        """
        if (handle := self._held.get(number)) is None:
            if self._cached is not None:
                self.end(self._cached)
            handle = self._held[number] = self._reader.acquire(number)
            self._cached = number if handle.cached else None
        return handle.descriptor

    def end(self, number: int) -> bool:
        """End the use of a shard, if it is open. Returns whether it was read by ranges."""
        if self._cached == number:
            self._cached = None
        if (handle := self._held.pop(number, None)) is None:
            return False
        if self._queue is not None:
            self._queue.read()
        self._reader.release(number, handle)
        return handle.partial


class Scratch:
    """Memory that one thread reuses for every read: allocating costs more than reading."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def room(self, num_bytes: int) -> memoryview:
        """num_bytes of the memory. Its earlier content is overwritten."""
        if len(self._memory) < num_bytes:
            self._memory = bytearray(num_bytes)
        return memoryview(self._memory)[:num_bytes]


class ThreadMemory:
    """The memory of one thread: of the last log-mel and the last other member that it read, and what is to be made."""

    __slots__ = ("log_mel", "members", "queue")

    def __init__(self, queue: NativeQueue | None = None) -> None:
        """`queue` None: Python makes everything."""
        self.log_mel, self.members, self.queue = Scratch(), Scratch(), queue
