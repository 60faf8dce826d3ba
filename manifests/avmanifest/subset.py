"""Which samples a number was computed on, as a short text that a paper can quote."""

import hashlib
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

_DIGITS: Final = 16
_HASHED_AT_ONCE: Final = 65_536


def subset_id(keys: pa.Array | pa.ChunkedArray) -> str:
    """The first 16 hex digits of the sha256 over the sorted keys, one a line: the same for the same samples."""
    wide = keys.cast(pa.large_string())
    ordered = wide.take(pc.sort_indices(wide))
    sha256 = hashlib.sha256()
    for first in range(0, len(ordered), _HASHED_AT_ONCE):
        sha256.update("".join(f"{key}\n" for key in ordered.slice(first, _HASHED_AT_ONCE).to_pylist()).encode())
    return sha256.hexdigest()[:_DIGITS]
