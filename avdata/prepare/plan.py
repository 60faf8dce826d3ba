"""Make the plan of a run: requested clips without duplicates, shuffled, each with its shard and position.

The plan is frozen before any clip is prepared. So the bytes of a shard do not depend on the number of worker processes,
their order, or interruptions.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.columns import extra_columns, with_extra
from avmanifest.errors import ManifestError
from avmanifest.files import replacing
from avmanifest.schema import KEY_PATTERN, PLAN_SCHEMA
from avmanifest.table import read_metadata, write_table

_APPENDED: Final = b"avkit.appended"  # in the metadata of a part's schema
_HASHED_ROWS: Final = 65_536  # rows that are converted to Python objects at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The planned clips, and the duplicates that were left out."""

    table: pa.Table  # PLAN_SCHEMA and the list's own columns, ordered by split, shard, position
    num_duplicates: int  # rows whose clip an earlier row requested
    cross_split_keys: tuple[str, ...]  # of those, the keys whose first row is in another split
    notes: tuple[str, ...] = ()  # how the lists were read, where that is not as usual

    @property
    def hash(self) -> str:
        """sha256 of the rows, independent of the file format."""
        return hash_table(self.table)


def make_plan(
    requests: pa.Table,
    keys: pa.Array | pa.ChunkedArray,
    *,
    seed: int,
    shard_size: int,
    limit: int | None = None,
    first_shards: dict[str, int] | None = None,
) -> Plan:
    """Assign every requested clip a shard and a position.

    Of several rows with one key the first is used. Clips are ordered within a split by a hash of (seed, key), which
    shuffles them.

    Args:
        requests: Columns of REQUEST_SCHEMA, and the list's own.
        keys: The key of each row.
        seed: Seed of the shuffle.
        shard_size: Clips per shard.
        limit: Number of clips to keep, the first of that order over all splits: a larger limit keeps a superset.
            None: all.
        first_shards: First shard number of each split; default 0.

    Raises:
        ManifestError: A key does not match KEY_PATTERN.
    """
    keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    _check_keys(keys)
    splits, split_of = _splits(requests)
    high, low = _key_hashes(keys, seed)
    # The sort is stable, so the first of several rows with one key comes first.
    order = np.lexsort((low, high))
    repeated = np.zeros(len(order), dtype=bool)
    repeated[1:] = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    cross = _cross_split(order, repeated, split_of)
    chosen = order[~repeated][:limit]
    chosen = chosen[np.argsort(split_of[chosen], kind="stable")]

    rows = pa.array(chosen)
    shard, position = _places(splits, split_of[chosen], shard_size, first_shards or {})
    columns = {name: requests.column(name).take(rows) for name in requests.column_names}
    columns |= {"key": keys.take(rows), "shard": shard, "position": position}
    schema = with_extra(PLAN_SCHEMA, extra_columns(requests.schema))
    return Plan(
        table=pa.table([columns[name] for name in schema.names], schema=schema),
        num_duplicates=int(repeated.sum()),
        cross_split_keys=tuple(sorted(set(keys.take(pa.array(cross)).to_pylist()))),
    )


def _check_keys(keys: pa.Array) -> None:
    good = pc.match_substring_regex(keys, rf"\A(?:{KEY_PATTERN.pattern})\z").fill_null(False)
    row = pc.index(good, False).as_py()
    if row >= 0:
        key = keys[row].as_py()
        raise ManifestError(f"row {row} of the list gives the key {key!r}; a key must match {KEY_PATTERN.pattern}")


def _splits(requests: pa.Table) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The names of the splits, sorted, and for each row the index of its split."""
    column = requests.column("split")
    names = sorted(column.unique().to_pylist())
    places = pc.index_in(column, pa.array(names, pa.string())).combine_chunks()
    return names, places.to_numpy(zero_copy_only=False).astype(np.int64)


def _key_hashes(keys: pa.Array, seed: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """A keyed 128-bit hash of each key, in two halves. It identifies the key and gives its place in the shuffle."""
    salt = seed.to_bytes(16, "little", signed=True)
    digests = bytearray()
    for start in range(0, len(keys), _HASHED_ROWS):
        for key in keys.slice(start, _HASHED_ROWS).to_pylist():
            digests += hashlib.blake2b(key.encode(), digest_size=16, key=salt).digest()
    halves = np.frombuffer(bytes(digests), dtype="<u8").reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def _cross_split(
    order: npt.NDArray[np.int64], repeated: npt.NDArray[np.bool_], split_of: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Rows whose key an earlier row of another split has."""
    kept = order[np.maximum.accumulate(np.where(repeated, 0, np.arange(len(order))))]
    return np.asarray(order[repeated & (split_of[order] != split_of[kept])])


def _places(
    splits: Sequence[str], split_of: npt.NDArray[np.int64], shard_size: int, first_shards: dict[str, int]
) -> tuple[pa.Array, pa.Array]:
    """Shard and position of each row of a plan that is sorted by split."""
    starts = np.searchsorted(split_of, np.arange(len(splits)))
    places = np.arange(len(split_of)) - starts[split_of]
    first = np.asarray([first_shards.get(split, 0) for split in splits], dtype=np.int64)
    shard = places // shard_size + first[split_of]
    return pa.array(shard.astype(np.int32)), pa.array((places % shard_size).astype(np.int32))


def hash_table(table: pa.Table) -> str:
    """sha256 of a table's column names and values, independent of how Arrow stores them."""
    sha256 = hashlib.sha256(json.dumps(table.column_names).encode())
    for start in range(0, len(table), _HASHED_ROWS):
        for column in table.slice(start, _HASHED_ROWS).columns:
            sha256.update(json.dumps(column.to_pylist()).encode())
    return sha256.hexdigest()


def without_own_columns(table: pa.Table, keys: Collection[str]) -> pa.Table:
    """The rows of a plan, with null in the list's own columns of the clips with these keys."""
    is_kept = pc.invert(pc.is_in(table.column("key"), pa.array(sorted(keys), pa.string())))
    rows = pc.if_else(is_kept, pa.chunked_array([pa.array(range(len(table)), pa.int64())]), None)
    for column in extra_columns(table.schema):
        place = table.schema.get_field_index(column.name)
        table = table.set_column(place, table.schema.field(place), table.column(place).take(rows))
    return table.combine_chunks()


def freeze(plan: Plan, path: Path, *, appended: bool = False) -> None:
    """Write the plan to a file, atomically. `appended`: its clips are new, where a later part usually retries clips."""
    table = marked_appended(plan.table) if appended else plan.table
    with replacing(path, durable=True) as unfinished:
        write_table(table, unfinished)


def marked_appended(table: pa.Table) -> pa.Table:
    """The rows as those of a part of the plan whose clips are in no earlier part."""
    return table.replace_schema_metadata({_APPENDED: b"true"})


def is_appended(path: Path) -> bool:
    """Whether the clips of a part of the plan are in no earlier part. Raises ManifestError if it cannot be read."""
    return _APPENDED in read_metadata(path)
