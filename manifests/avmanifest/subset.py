"""A short id of a set of samples, to report which samples a score was computed on."""

import hashlib
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

_DIGITS: Final = 16
_HASHED_AT_ONCE: Final = 65_536


def subset_id(keys: pa.Array | pa.ChunkedArray) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the sorted keys, one per line. Equal sets have equal ids."""
    wide = keys.cast(pa.large_string())
    ordered = wide.take(pc.sort_indices(wide))
    sha256 = hashlib.sha256()
    for first in range(0, len(ordered), _HASHED_AT_ONCE):
        sha256.update("".join(f"{key}\n" for key in ordered.slice(first, _HASHED_AT_ONCE).to_pylist()).encode())
    return sha256.hexdigest()[:_DIGITS]
