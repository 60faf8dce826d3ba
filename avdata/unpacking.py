"""Unpacks a compressed archive while it is read: gzip and zstd, of any number of parts."""

import hashlib
from typing import Any, Final

import pyarrow as pa

from avmanifest.errors import ShardError

_MOST_TIMES: Final = 200  # of the compressed size: media hardly shrink, text shrinks tenfold
_ALWAYS_BYTES: Final = 64 * 1024**2  # of a small file, which may be empty space


def is_swollen(num_bytes: int, packed_bytes: int) -> bool:
    """Whether no media can be this large from so few compressed bytes."""
    return num_bytes > _ALWAYS_BYTES + _MOST_TIMES * packed_bytes


class Unpacked:
    """The content of a compressed stream.

    Args:
        source: The compressed stream: `read(size)` gives its next bytes.
        kind: gzip or zstd.
        where: Name of the shard in messages.
    """

    def __init__(self, source: Any, kind: str, where: str) -> None:
        self._kind, self._where = kind, where
        self._source = _Counted(source)
        self._stream = pa.CompressedInputStream(pa.PythonFile(self._source, mode="r"), kind)
        self._num_bytes = 0

    def read(self, size: int, /) -> bytes:
        """The next bytes; empty at the end.

        Raises:
            ShardError: The stream is damaged or cut, or its content is so large that it cannot be a shard's.
        """
        try:
            content = bytes(self._stream.read(size))
        except (OSError, pa.ArrowException) as error:
            raise ShardError(
                f"{self._where}: damaged {self._kind} after byte {self._source.num_bytes} ({error}). Fetch it again."
            ) from error
        self._num_bytes += len(content)
        if is_swollen(self._num_bytes, self._source.num_bytes):
            raise ShardError(
                f"{self._where}: {self._source.num_bytes} bytes unpack to more than {_MOST_TIMES} times as many, which "
                "no samples do. It is damaged or made to fill the disk."
            )
        return content

    @property
    def packed_bytes(self) -> int:
        """Size of the compressed stream, of which all was read."""
        return self._source.num_bytes

    @property
    def packed_sha256(self) -> str:
        """SHA-256 of the compressed stream."""
        return self._source.sha256.hexdigest()


class _Counted:
    """A stream that is hashed while it is read. Has what pyarrow asks of a file."""

    closed = False

    def __init__(self, source: Any) -> None:
        self._source = source
        self.num_bytes = 0
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._source.read(size)
        self.num_bytes += len(content)
        self.sha256.update(content)
        return content

    def close(self) -> None:
        self.closed = True
