"""Open shards, and bytes from them. Safe for threads."""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from avdata.load.cache import CacheConfig, Expected, ShardCache
from avdata.load.index import Shard
from avdata.load.urls import local_path
from avmanifest.errors import ShardError

MAX_OPEN: Final = 128
HEADER_BYTES: Final = 512
_NAME_BYTES: Final = 100


@dataclass(slots=True)
class _Handle:
    descriptor: int
    users: int


class ShardReader:
    """Reads members by offset. Local shards in place, remote ones from the cache."""

    def __init__(self, shards: Sequence[Shard], cache: CacheConfig) -> None:
        self.shards = shards
        self._cache = ShardCache(cache, self.close_idle)
        self._lock = threading.Lock()
        self._handles: OrderedDict[int, _Handle] = OrderedDict()
        self._bad: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_idle()

    def acquire(self, number: int) -> int:
        """Descriptor of a shard, kept open until `release`. Its size is checked when it is opened.

        Raises ShardError for a shard that is missing or not what its marker says, again at every later call.
        """
        with self._lock:
            if number in self._bad:
                raise ShardError(self._bad[number])
            if (handle := self._handles.get(number)) is not None:
                handle.users += 1
                self._handles.move_to_end(number)
                return handle.descriptor
        try:
            descriptor = self._open(self.shards[number])
        except ShardError as error:
            with self._lock:
                self._bad[number] = str(error)
            raise
        with self._lock:
            if (handle := self._handles.get(number)) is not None:  # another thread was faster
                os.close(descriptor)
            else:
                handle = self._handles[number] = _Handle(descriptor, 0)
            handle.users += 1
        if len(self._handles) > MAX_OPEN:
            self.close_idle(keep=MAX_OPEN // 2)
        return handle.descriptor

    def release(self, number: int) -> None:
        """Give back what `acquire` lent."""
        with self._lock:
            self._handles[number].users -= 1

    @contextlib.contextmanager
    def lease(self, number: int) -> Iterator[int]:
        """The descriptor for the length of a with block."""
        descriptor = self.acquire(number)
        try:
            yield descriptor
        finally:
            self.release(number)

    def close_idle(self, keep: int = 0) -> None:
        """Close shards that nobody reads, the longest unused first, until `keep` are open."""
        with self._lock:
            for number, handle in list(self._handles.items()):
                if len(self._handles) <= keep:
                    break
                if not handle.users:
                    os.close(handle.descriptor)
                    del self._handles[number]

    def num_bytes(self, descriptor: int) -> int:
        """Size of an open shard."""
        return os.fstat(descriptor).st_size

    def _open(self, shard: Shard) -> int:
        path = local_path(shard.url)
        if path is None:
            descriptor = self._cache.open(
                shard.url, Expected(shard.num_bytes, shard.sha256) if shard.prepared else Expected()
            )
        else:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"{path}: cannot be opened ({error.strerror}). Prepare or fetch it again.") from error
        size = os.fstat(descriptor).st_size
        if shard.num_bytes is not None and size != shard.num_bytes:
            os.close(descriptor)
            raise ShardError(
                f"{shard.url}: {size} bytes, {'its marker says' if shard.prepared else 'it had'} {shard.num_bytes}. "
                "Prepare or fetch it again."
            )
        return descriptor

    def read_member(
        self, descriptor: int, number: int, key: str, member: str, offset: int, size: int, scratch: "Scratch"
    ) -> memoryview:
        """The member's content, until the next read into the same scratch.

        Of our own shards the header before the content is read too: ShardError if another member stands there.
        """
        shard = self.shards[number]
        ahead = HEADER_BYTES if shard.prepared else 0
        view = scratch.room(size + ahead)
        try:
            found = os.preadv(descriptor, [view], offset - ahead)
        except OSError as error:
            raise ShardError(f"{shard.url}: {key}.{member} cannot be read ({error.strerror})") from error
        if found != size + ahead:
            raise ShardError(f"{shard.url}: cut at byte {offset - ahead + found}, in {key}.{member}. Fetch it again.")
        if ahead:
            name = bytes(view[:_NAME_BYTES]).rstrip(b"\0")
            if name != f"{key}.{member}".encode():
                raise ShardError(
                    f"{shard.url}: {name.decode(errors='replace')!r} stands where {key}.{member} should. It is damaged "
                    "or another shard: prepare or fetch it again."
                )
        return view[ahead:]


class Scratch:
    """Memory of one thread, used for every read: fresh memory costs more than the read."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def room(self, num_bytes: int) -> memoryview:
        """That much of the memory; what was in it is lost."""
        if len(self._memory) < num_bytes:
            self._memory = bytearray(num_bytes)
        return memoryview(self._memory)[:num_bytes]
