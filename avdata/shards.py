"""The byte format of shards: samples as members of a tar archive, and the index beside it.

A shard is a plain ustar archive. The members of a sample are adjacent and in a stable order. Header fields that could
differ between machines are zero, so equal samples give equal bytes.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from avmanifest.errors import ShardError

BLOCK: Final = 512
NPY_HEADER_BYTES: Final = 128
_END_OF_ARCHIVE: Final = bytes(2 * BLOCK)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample. `name` is the part of its name after `KEY.`; offset and size are in bytes."""

    name: str
    offset: int
    size: int


def pack_sample(key: str, members: Mapping[str, bytes]) -> tuple[bytes, list[Member]]:
    """Encode a sample as tar blocks.

    Returns:
        The blocks, and each member's position in them.
    """
    out = io.BytesIO()
    placed = []
    for name, content in members.items():
        info = tarfile.TarInfo(f"{key}.{name}")
        info.size = len(content)
        info.mode = 0o444
        out.write(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        placed.append(Member(name, out.tell(), len(content)))
        out.write(content)
        out.write(bytes(-len(content) % BLOCK))
    return out.getvalue(), placed


def end_of_archive(num_bytes: int) -> bytes:
    """The zero blocks that close an archive of `num_bytes`: two, and padding to a full tar record."""
    padding = -(num_bytes + len(_END_OF_ARCHIVE)) % tarfile.RECORDSIZE
    return _END_OF_ARCHIVE + bytes(padding)


def walk_samples(path: Path) -> Iterator[tuple[str, int, list[Member]]]:
    """Iterate over the samples of a tar in file order.

    Yields:
        Key, offset of the first header, members.

    Raises:
        ShardError: The tar is damaged or truncated, contains anything but regular files, or the members of a sample are
            not adjacent. The message has the file and the offset.
    """
    seen: set[str] = set()
    key, start, members = "", 0, list[Member]()
    try:
        with tarfile.open(path, "r:", errorlevel=2) as tar:
            end = 0
            for info in tar:
                if not info.isreg():
                    raise ShardError(f"{path}: {info.name!r} at byte {info.offset} is not a regular file")
                sample, _, name = info.name.partition(".")
                if sample != key:
                    if sample in seen:
                        raise ShardError(f"{path}: members of {sample!r} are not adjacent (byte {info.offset})")
                    if members:
                        yield key, start, members
                    seen.add(sample)
                    key, start, members = sample, info.offset, []
                members.append(Member(name, info.offset_data, info.size))
                end = info.offset_data + info.size + (-info.size % BLOCK)
    except tarfile.TarError as error:
        raise ShardError(f"{path}: not a whole tar archive ({error})") from error
    if members:
        yield key, start, members
    _check_tail(path, end)


def _check_tail(path: Path, end: int) -> None:
    """Check for the closing zero blocks: without them, a tar truncated between two members would pass as whole."""
    with path.open("rb") as file:
        file.seek(end)
        tail = file.read()
    if len(tail) < len(_END_OF_ARCHIVE) or any(tail):
        raise ShardError(f"{path}: the archive's closing blocks are missing or damaged after byte {end}")


def index_bytes(sample_offsets: Sequence[int], end: int) -> bytes:
    """Encode Megatron-Energon's `.idx`: little-endian uint64 offsets of the samples and of the closing blocks."""
    return np.asarray([*sample_offsets, end], dtype="<u8").tobytes()


def read_index(path: Path) -> npt.NDArray[np.uint64]:
    """Read the offsets of an `.idx` file: n + 1 entries for n samples. Raises ShardError for anything else."""
    content = path.read_bytes()
    offsets = np.frombuffer(content[: len(content) // 8 * 8], dtype="<u8")
    if len(content) % 8 or not len(offsets) or np.any(offsets[1:] < offsets[:-1]):
        raise ShardError(f"{path}: not an index of ascending 64-bit offsets ({len(content)} bytes)")
    return offsets


def pack_npy(array: npt.NDArray[Any]) -> bytes:
    """Encode an array as .npy 1.0 in C order. The header always has 128 bytes."""
    header = repr(
        {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    ).encode("ascii")
    room = NPY_HEADER_BYTES - 10
    assert len(header) < room, header
    prefix = b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little")
    return prefix + header.ljust(room - 1) + b"\n" + np.ascontiguousarray(array).tobytes()


def pack_json(fields: Mapping[str, Any]) -> bytes:
    """Encode flat JSON with sorted keys.

    Raises:
        ValueError: A value is None or not finite. Readers infer the schema from any sample, so all fields have values.
    """
    for name, value in fields.items():
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"sample field {name!r} is {value!r}; the sample's json holds no null and no NaN")
    return json.dumps(fields, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
