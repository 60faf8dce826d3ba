"""Hashes of the members of shards whose manifest has none: older datasets, and tars of other tools."""

import logging
import os
import threading
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt64

from avdata.dataset import Shard
from avdata.shards import content_hash, walk_tar
from avmanifest.errors import ShardError
from avmanifest.files import sha256_of, sha256_of_stream
from avmanifest.secrets import identity as url_identity
from avmanifest.table import kept_table

_LOG: Final = logging.getLogger(__name__)
_SCHEMA: Final = pa.schema([pa.field("offset", pa.int64()), pa.field("xxh3", pa.uint64())])

_Hashes = tuple[Int64[np.ndarray, " m"], UInt64[np.ndarray, " m"]]


class ShardHashes:
    """Hashes every member of a shard when it is first needed, and keeps the hashes as a file in a folder.

    The shard is first compared with the SHA-256 of its marker, if it has one. The file is used again while the shard's
    size and modification time stay the same. Safe for threads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[int, _Hashes] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._said = False

    def at(self, number: int, shard: Shard, descriptor: int, offset: int) -> int:
        """The hash of the member whose content begins at this offset.

        Args:
            number: Index of the shard.
            shard: The shard.
            descriptor: Its open file.
            offset: In bytes.

        Raises:
            ShardError: The shard is damaged, or no member begins there.
        """
        if number not in self._known:
            with self._locks.setdefault(number, threading.Lock()):  # one thread hashes the shard, the others wait
                if number not in self._known:
                    self._known[number] = self._load(shard, descriptor)
        offsets, hashes = self._known[number]
        place = int(np.searchsorted(offsets, offset))
        if place == len(offsets) or offsets[place] != offset:
            raise ShardError(f"{shard.name}: no member begins at byte {offset}. The shard is damaged or another one.")
        return int(hashes[place])

    def _load(self, shard: Shard, descriptor: int) -> _Hashes:
        stat = os.fstat(descriptor)
        identity = f"{url_identity(shard.url)}\n{stat.st_size}\n{stat.st_mtime_ns}\n{shard.sha256}"
        path = self._folder / f"{sha256_of(identity)[:40]}.xxh3.index.parquet"
        table = kept_table(path, _SCHEMA, lambda: self._hash(shard, descriptor))
        return table.column("offset").to_numpy(), table.column("xxh3").to_numpy()

    def _hash(self, shard: Shard, descriptor: int) -> pa.Table:
        if not self._said:
            self._said = True
            _LOG.warning(
                "%s: its manifest has no hashes of members. Each such shard is read once and hashed when it is first "
                "used; the hashes are kept in %s",
                shard.name,
                self._folder,
            )
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            if shard.sha256 is not None and (found := sha256_of_stream(file)[0]) != shard.sha256:
                raise ShardError(
                    f"{shard.name}: its sha256 is {found}, its marker says {shard.sha256}. The shard is damaged; which "
                    "sample is not known, as its manifest has no hashes of members. Find out with "
                    "`avkit verify --deep`, and prepare or fetch the shard again."
                )
            file.seek(0)
            try:
                hashes = {m.offset: content_hash(os.pread(descriptor, m.size, m.offset)) for _, m in walk_tar(file)}
            except ShardError as error:
                raise ShardError(f"{shard.name}: {error}") from error
        return pa.table([pa.array(hashes.keys(), pa.int64()), pa.array(hashes.values(), pa.uint64())], schema=_SCHEMA)
