"""A remote shard of which only the ranges that were asked for are here."""

import os
import tempfile
from dataclasses import replace
from typing import Final

from avdata.load.cache import CacheConfig
from avdata.store import open_store
from avmanifest.errors import ShardError

_ATTEMPTS: Final = 2  # of a request for a range: where it fails, the whole shard is fetched, with all attempts


class PartialShard:
    """A file without a name in the cache folder, as large as the shard and empty but for what was fetched.

    The content is not checked against the shard's hash: only members with hashes of their own may be read from it. Safe
    for threads.
    """

    def __init__(self, url: str, num_bytes: int, config: CacheConfig) -> None:
        """Create the file. Raises OSError if it cannot be made."""
        config.root.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=config.root)  # noqa: SIM115 - closed by `close`
        self._file.truncate(num_bytes)
        self._store = open_store(
            url, config.storage_options, replace(config.retry, attempts=min(config.retry.attempts, _ATTEMPTS))
        )
        self._fetched: set[tuple[int, int]] = set()
        self.descriptor = self._file.fileno()

    def has(self, begin: int, size: int) -> bool:
        """Whether this range was fetched."""
        return (begin, size) in self._fetched

    def fetch(self, begin: int, size: int) -> None:
        """Fetch a range. Raises ShardError if it does not come, or the disk is full."""
        content = self._store.read_range("", begin, size)
        if len(content) != size:
            raise ShardError(f"{self._store.root}: {len(content)} of {size} bytes came from byte {begin} on")
        try:
            written = os.pwrite(self.descriptor, content, begin)
        except OSError as error:
            raise ShardError(f"{self._store.root}: a range cannot be kept in the cache ({error.strerror})") from error
        if written != size:
            raise ShardError(f"{self._store.root}: {written} of {size} bytes could be kept in the cache")
        self._fetched.add((begin, size))

    def close(self) -> None:
        """Remove what was fetched."""
        self._file.close()
