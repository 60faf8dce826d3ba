"""Mono sound of any length: sliced like an array, and kept in a temporary file where it is too long for memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

IN_MEMORY_BYTES: Final = 32 << 20
"""Bytes of a temporary file that are kept in memory; a longer one is written to the disk."""

PIECE: Final = 1 << 20
"""Samples that are read or written together."""


@runtime_checkable
class Samples(Protocol):
    """Samples in float32 that are read in slices: an array, or a SampleFile."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, span: slice, /) -> Any:
        """The samples of a span with a start and a stop: a float32 array."""
        ...


def pieces(samples: Samples, size: int = PIECE) -> Iterator[Float32[np.ndarray, " _"]]:
    """The samples in arrays of `size`; the last one may be shorter."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def scratch_file(folder: Path | None = None) -> Any:
    """A temporary binary file: in memory up to IN_MEMORY_BYTES, then on the disk, without a name, in `folder`."""
    return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, dir=None if folder is None else str(folder))


class SampleFile:
    """Samples in a temporary file. Memory does not grow with their number. Close it, or use it in a `with` block.

    Args:
        folder: Where the file is written when it is too long for memory. None: the system's temporary folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = scratch_file(folder)
        self._length = 0

    def __len__(self) -> int:
        """Number of samples."""
        return self._length

    def append(self, samples: Float32[np.ndarray, " _"]) -> None:
        """Add samples at the end."""
        self._file.seek(self._length * 4)
        self._file.write(np.ascontiguousarray(samples, "<f4").tobytes())
        self._length += len(samples)

    def __getitem__(self, span: slice, /) -> Float32[np.ndarray, " _"]:
        """The samples from span.start to span.stop; fewer at the end. The array may be written to."""
        start, stop, _ = span.indices(self._length)
        self._file.seek(start * 4)
        return np.frombuffer(bytearray(self._file.read(max(stop - start, 0) * 4)), "<f4")

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> "SampleFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pairwise_sum(samples: Samples, *, squared: bool = False, size: int = PIECE) -> np.floating[Any]:
    """The sum that numpy computes for one array of all samples, to the last bit, from pieces of at most `size`.

    Args:
        samples: What is added, in float32.
        squared: Add the squares, in float64.
        size: Samples that are held in memory at a time, at least 128.

    Source: numpy, `pairwise_sum` in loops_utils.h.src: an array is halved at a multiple of 8 until it is short.
    """

    def add(start: int, count: int) -> Any:
        if count <= size:
            part = samples[start : start + count]
            return np.add.reduce(np.square(part, dtype=np.float64) if squared else part)
        half = count // 2
        half -= half % 8
        return add(start, half) + add(start + half, count - half)

    total: np.floating[Any] = add(0, len(samples))
    return total
