"""The byte format of shards: samples as members of a tar archive, and the index beside it.

A shard is a plain ustar archive. The members of a sample are adjacent and in a stable order. Header fields that could
differ between machines are zero, so equal samples give equal bytes.
"""

import ast
import io
import json
import math
import posixpath
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

from avmanifest.clipnames import display_name
from avmanifest.errors import ConfigError, DamagedMember, ManifestError, ShardError
from avmanifest.files import disk_error, open_file
from avmanifest.secrets import shown_url
from avmanifest.wording import counted

BLOCK: Final = 512
NPY_HEADER_BYTES: Final = 128
MEL_BLOCK_BYTES: Final = 16_384  # of a log-mel: 64 columns of 128 bands
_MAX_NPY_HEADER_BYTES: Final = 1024
_NPY_MAGIC: Final = b"\x93NUMPY"
_NUMBERS: Final = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248])")
MAX_READ_BYTES: Final = 1 << 20  # of a sample's JSON or label
_NO_SAMPLE: Final = re.compile(r"__[^/]*__(?:$|/)|(?:.*/)?__MACOSX/")  # metadata in tars of webdataset and of macOS
_END_OF_ARCHIVE: Final = bytes(2 * BLOCK)
_COPY_BYTES: Final = 1 << 20  # read and written at a time

ByteFile = Any
"""A file that reads, seeks and tells. fsspec opens such files, and not all of them are a typing.IO."""
_MAX_OFFSET: Final = 1 << 62  # of a header; what a damaged one says may be larger than a file can be


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample. `name` is the part of its name after `KEY.`; offset and size are in bytes."""

    name: str
    offset: int
    size: int
    xxh3: int | None = field(default=None, compare=False)  # `content_hash` of its content; None: unknown
    blocks: tuple[int, ...] | None = field(default=None, compare=False)  # of a log-mel: see `block_hashes`


def content_hash(content: bytes | memoryview) -> int:
    """The hash of a member's content that the manifest holds: XXH3 of 64 bits with seed 0."""
    return xxhash.xxh3_64_intdigest(content)


def block_hashes(content: bytes) -> tuple[int, ...] | None:
    """The hash of each MEL_BLOCK_BYTES behind the header of a log-mel; None if its windows cannot be read alone."""
    if not _is_by_columns(content[:NPY_HEADER_BYTES]):
        return None
    ends = range(NPY_HEADER_BYTES, len(content), MEL_BLOCK_BYTES)
    return tuple(block_hash(content[end : end + MEL_BLOCK_BYTES]) for end in ends)


def block_hash(block: bytes | memoryview) -> int:
    """The low 32 bits of a block's XXH3."""
    return xxhash.xxh3_64_intdigest(block) & 0xFFFFFFFF


def is_log_mel(name: str) -> bool:
    """Whether a member of this name is a log-mel that avkit wrote."""
    return name.startswith("logmel") and name.endswith(".npy")


def num_blocks(size: int) -> int:
    """Blocks of a log-mel of `size` bytes."""
    return max(0, -(-(size - NPY_HEADER_BYTES) // MEL_BLOCK_BYTES))


def _is_by_columns(header: bytes) -> bool:
    """Whether a .npy header is that of `pack_npy_columns`, of float16."""
    return b"'descr': '<f2', 'fortran_order': True" in header and len(header) == NPY_HEADER_BYTES


def member_columns(members: Sequence[Member]) -> dict[str, Any]:
    """The columns of a manifest row that describe its members. The hashes are null unless all are known."""
    hashes = [member.xxh3 for member in members]
    blocks = [member.blocks for member in members if is_log_mel(member.name)]
    return {
        "members": [{"name": member.name, "offset": member.offset, "size": member.size} for member in members],
        "member_xxh3": None if None in hashes else hashes,
        "mel_block_xxh3": None if None in blocks else [one for of_mel in blocks if of_mel for one in of_mel],
    }


def members_of(row: Mapping[str, Any]) -> list[Member]:
    """The members of a manifest row, with their hashes if it has them. Raises ManifestError if it has too few."""
    members, hashes = row["members"], row.get("member_xxh3")
    if hashes is None:
        hashes = [None] * len(members)
    elif len(hashes) != len(members):
        raise ManifestError(
            f"{row['key']}: {counted(len(members), 'member')}, but {counted(len(hashes), 'hash', 'hashes')} in "
            "member_xxh3"
        )
    blocks = row.get("mel_block_xxh3")
    left = iter(() if blocks is None else blocks)
    found = []
    for entry, xxh3 in zip(members, hashes, strict=True):
        has_blocks = blocks is not None and is_log_mel(entry["name"])
        of_mel = tuple(islice(left, num_blocks(entry["size"]))) if has_blocks else None
        if of_mel is not None and len(of_mel) != num_blocks(entry["size"]):
            raise ManifestError(f"{row['key']}: too few hashes in mel_block_xxh3 for its log-mels")
        found.append(Member(entry["name"], entry["offset"], entry["size"], xxh3, of_mel))
    if next(left, None) is not None:
        raise ManifestError(f"{row['key']}: more hashes in mel_block_xxh3 than its log-mels have blocks")
    return found


def check_content(content: bytes | memoryview, stored: int, shard: str, key: str, member: str) -> None:
    """Raise DamagedMember unless the content of a member has the hash that is stored for it.

    Args:
        content: The content.
        stored: Its hash by the manifest.
        shard: Path or URL of the shard; a message shows it without secrets.
        key: Key of the sample.
        member: Name of the member.
    """
    _refuse_other_hash(content_hash(content), stored, len(content), shard, key, member)


def check_member(file: ByteFile, member: Member, shard: str, key: str) -> None:
    """As `check_content`, for a member of any size in an open file; nothing is checked if its hash is not known."""
    if member.xxh3 is not None:
        digest, left = xxhash.xxh3_64(), member.size
        file.seek(member.offset)
        while left and (chunk := file.read(min(left, _COPY_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
        _refuse_other_hash(digest.intdigest(), member.xxh3, member.size - left, shard, key, member.name)


def _refuse_other_hash(computed: int, stored: int, num_bytes: int, shard: str, key: str, member: str) -> None:
    if computed != stored:
        raise DamagedMember(
            shown_url(shard),
            key,
            member,
            f"damaged: its {num_bytes} bytes have xxh3 {computed:016x}, stored is {stored:016x}",
        )


def pack_sample(key: str, members: Mapping[str, bytes]) -> tuple[bytes, list[Member]]:
    """Encode a sample as tar blocks.

    Returns:
        The blocks, and each member's position in them and its hash.
    """
    out = io.BytesIO()
    placed = write_sample(out, key, members)
    return out.getvalue(), placed


def write_sample(out: ByteFile, key: str, members: Mapping[str, bytes | ByteFile]) -> list[Member]:
    """Write a sample as tar blocks to an open file that is empty.

    Args:
        out: The file.
        key: Key of the sample.
        members: Their contents by name: bytes, or an open file, from its start to its end. Memory does not grow with
            the size of a file.

    Returns:
        Each member's position in `out` and its hash.
    """
    placed = []
    offset = 0
    for name, content in members.items():
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        info = tarfile.TarInfo(f"{key}.{name}")
        file.seek(0, io.SEEK_END)
        info.size = file.tell()
        info.mode = 0o444
        offset += out.write(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        file.seek(0)
        digest, blocks = xxhash.xxh3_64(), list[int]()
        head = file.read(NPY_HEADER_BYTES) if is_log_mel(name) else b""
        in_blocks = _is_by_columns(head)
        digest.update(head)
        out.write(head)
        while chunk := file.read(MEL_BLOCK_BYTES if in_blocks else _COPY_BYTES):
            digest.update(chunk)
            out.write(chunk)
            if in_blocks:
                blocks.append(block_hash(chunk))
        placed.append(Member(name, offset, info.size, digest.intdigest(), tuple(blocks) if in_blocks else None))
        offset += info.size + out.write(bytes(-info.size % BLOCK))
    return placed


def end_of_archive(num_bytes: int) -> bytes:
    """The zero blocks that close an archive of `num_bytes`: two, and padding to a full tar record."""
    padding = -(num_bytes + len(_END_OF_ARCHIVE)) % tarfile.RECORDSIZE
    return _END_OF_ARCHIVE + bytes(padding)


class DamagedTar(ShardError):
    """A tar that cannot be read any further: from which byte on, and why."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"{reason} (byte {offset})")
        self.offset = offset
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TarSample:
    """Adjacent files of a tar whose names are equal up to the first dot. `header` is the offset of the first header."""

    key: str
    header: int
    members: tuple[Member, ...]
    content: bytes | None = None  # of the member that was asked for, if there is one of at most MAX_READ_BYTES


def tar_headers(file: ByteFile) -> Iterator[tarfile.TarInfo]:
    """Iterate over the headers of a tar in file order. At the end, the file is behind the closing blocks.

    Args:
        file: An uncompressed tar. The caller may read elsewhere in it between two headers.

    Raises:
        DamagedTar: The tar cannot be read any further, or its closing blocks are missing.
    """
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # otherwise tarfile keeps every header in memory
                if info.size < 0 or not end < tar.offset < _MAX_OFFSET:
                    raise DamagedTar(
                        info.offset, f"{display_name(info.name)!r} has {info.size} bytes: a damaged header"
                    )
                end = tar.offset
                yield info
    # Of hostile headers tarfile lets errors of int(), decode() and seek() pass, and calls itself for every long name.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, LookupError) as error:
        raise DamagedTar(end, f"not a whole, uncompressed tar: it cannot be read on ({error})") from error
    file.seek(end)
    closing = file.read(len(_END_OF_ARCHIVE))
    if len(closing) < len(_END_OF_ARCHIVE):
        raise DamagedTar(end, "it ends without an end mark, its closing blocks are missing: it was cut")
    if any(closing):
        raise DamagedTar(end, "neither a header nor closing blocks are here: it is damaged, and cannot be read on")


def require_tars(paths: Sequence[Path]) -> None:
    """Refuse local files that are no shards at all, before any of them is read.

    Raises:
        ConfigError: A file is missing, is no regular file or may not be read, or none of the files begins as a tar. If
            some do, the others are damaged shards, which whoever reads them reports.
    """
    is_tar = []
    for path in paths:
        try:
            with open_file(path) as file:
                begin = file.read(BLOCK)
        except OSError as error:
            if disk_error(error) is not None:
                raise
            raise ConfigError(f"{path}: {error.strerror}. Name shards that are there and that you can read.") from error
        is_tar.append(_begins_as_tar(begin))
    if paths and not any(is_tar):
        raise ConfigError(
            f"{paths[0]}: not a tar. Name a prepared dataset's folder, or shards: 'train/{{00..09}}.tar'."
        )


def _begins_as_tar(begin: bytes) -> bool:
    if begin == bytes(BLOCK):  # a tar of nothing
        return True
    try:
        tarfile.TarInfo.frombuf(begin, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def walk_tar(file: ByteFile, *, strict: bool = False) -> Iterator[tuple[int, Member]]:
    """Iterate over the regular files of a tar: offset of the header, and the member under its full name.

    Args:
        file: As for tar_headers, which also says what else is raised.
        strict: Allow nothing but regular files, and nothing but zeros after the last one.

    Raises:
        DamagedTar: A file is sparse, or `strict` forbids something.
    """
    for info in tar_headers(file):
        name = display_name(info.name)
        if info.issparse():
            raise DamagedTar(info.offset, f"{name!r} is a sparse file. Pack the archive again")
        if info.isreg():
            yield info.offset, Member(name, info.offset_data, info.size)
        elif strict:
            raise DamagedTar(info.offset, f"{name!r} is not a regular file")
    if strict and any(file.read()):
        raise DamagedTar(file.tell(), "something follows the closing blocks: the archive is damaged")


def tar_samples(file: ByteFile, *, read: str = "", adjacent: bool = False, strict: bool = False) -> Iterator[TarSample]:
    """Iterate over the samples of a tar in file order, with the member names in lower case.

    Left out, as in webdataset: links and folders, names without a dot or with nothing before it, and `__NAME__` as a
    file or a folder. Keys that begin with `__` are samples: YouTube ids do.

    Args:
        file: An uncompressed tar, as for walk_tar.
        read: Name of a member whose content is read on the way.
        adjacent: Raise DamagedTar if the members of a key are not adjacent. Otherwise it comes once for each place.
        strict: As for walk_tar, which also says what else is raised.

    Raises:
        DamagedTar: A sample has a member twice; or as for walk_tar.
    """
    seen: set[str] = set()
    key, start, members, content = "", 0, list[Member](), None
    for header, found in walk_tar(file, strict=strict):
        folder, base = posixpath.split(found.name)
        stem, _, name = base.partition(".")
        if not stem or not name or _NO_SAMPLE.match(found.name):
            continue
        if (sample := posixpath.join(folder, stem)) != key:
            if adjacent and sample in seen:
                raise DamagedTar(header, f"members of {sample!r} are not adjacent")
            if members:
                yield TarSample(key, start, tuple(members), content)
            seen.add(sample)
            key, start, members, content = sample, header, [], None
        if any(member.name == name.lower() for member in members):
            raise DamagedTar(
                header, f"sample {sample!r} has the member {name.lower()!r} twice. Give each sample a key of its own"
            )
        members.append(Member(name.lower(), found.offset, found.size))
        if members[-1].name == read and found.size <= MAX_READ_BYTES:
            file.seek(found.offset)
            content = file.read(found.size)
    if members:
        yield TarSample(key, start, tuple(members), content)


def walk_samples(path: Path) -> Iterator[tuple[str, int, list[Member]]]:
    """Iterate over the samples of one of our shards in file order.

    Yields:
        Key, offset of the first header, members.

    Raises:
        ShardError: The tar is damaged or truncated, contains anything but regular files, or the members of a sample are
            not adjacent. The message has the file and the offset.
    """
    try:
        with open_file(path) as file:
            for sample in tar_samples(file, adjacent=True, strict=True):
                yield sample.key, sample.header, list(sample.members)
    except DamagedTar as error:
        raise ShardError(f"{path}: {error}") from error


def index_bytes(sample_offsets: Sequence[int], end: int) -> bytes:
    """Encode Megatron-Energon's `.idx`: little-endian uint64 offsets of the samples and of the closing blocks."""
    return np.asarray([*sample_offsets, end], dtype="<u8").tobytes()


def pack_npy(array: npt.NDArray[Any]) -> bytes:
    """Encode an array as .npy 1.0 in C order. The header always has 128 bytes."""
    return _npy_start(array.dtype, array.shape) + np.ascontiguousarray(array).tobytes()


def pack_npy_columns(array: npt.NDArray[Any]) -> bytes:
    """Encode a 2-D array as .npy 1.0, one column after the other (Fortran order). The header always has 128 bytes."""
    return _npy_start(array.dtype, array.shape, by_columns=True) + array.tobytes("F")


def write_npy_columns(
    file: ByteFile, columns: Iterable[npt.NDArray[Any]], num_rows: int, num_columns: int, dtype: npt.DTypeLike
) -> None:
    """Write the bytes of `pack_npy_columns` for an array that comes in pieces of columns to an open, empty file."""
    kind = np.dtype(dtype)
    file.write(_npy_start(kind, (num_rows, num_columns), by_columns=True))
    for piece in columns:
        file.write(piece.astype(kind).tobytes("F"))


def _npy_start(dtype: np.dtype[Any], shape: tuple[int, ...], *, by_columns: bool = False) -> bytes:
    descr = np.lib.format.dtype_to_descr(dtype)
    header = repr({"descr": descr, "fortran_order": by_columns, "shape": shape}).encode("ascii")
    room = NPY_HEADER_BYTES - 10
    assert len(header) < room, header
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + header.ljust(room - 1) + b"\n"


def parse_npy(content: bytes | memoryview, where: str) -> npt.NDArray[Any]:
    """View the array of a .npy file without copying. Versions 1 to 3 with numbers are read, in C and Fortran order.

    Raises ShardError, which names `where`, for anything else, and for a shape that needs more bytes than there are.
    """
    try:
        if content[:6] != _NPY_MAGIC or content[6:7] not in (b"\1", b"\2", b"\3"):
            raise ValueError("its first bytes are not those of a .npy file")
        begin = 10 if content[6:7] == b"\1" else 12
        start = begin + int.from_bytes(content[8:begin], "little")
        if start > min(len(content), _MAX_NPY_HEADER_BYTES):
            raise ValueError(f"a header of {start} bytes in {len(content)}; at most {_MAX_NPY_HEADER_BYTES} are read")
        dtype, shape, is_fortran = _npy_header(bytes(content[:start]), begin)
        size = math.prod(shape)
        if size * dtype.itemsize > len(content) - start:
            raise ValueError(f"shape {shape} of {dtype} needs more than its {len(content)} bytes")
        array = np.frombuffer(content, dtype, size, start if size else 0)
        return array.reshape(shape, order="F" if is_fortran else "C")
    except (ValueError, OverflowError) as error:
        raise ShardError(f"{where}: not an array ({error}). Fetch or prepare the shard again.") from error


@lru_cache(maxsize=4096)
def _npy_header(head: bytes, begin: int) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Type, shape, and whether the order is Fortran's. `begin`: first byte of the dictionary. Raises ValueError."""
    try:
        header = ast.literal_eval(head[begin:].decode("utf-8" if head[6] == 3 else "latin-1").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"its header is not a dictionary: {error}") from error
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header has other entries than descr, fortran_order and shape")
    descr, is_fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    if not isinstance(descr, str) or not _NUMBERS.fullmatch(descr):
        raise ValueError(f"its type {repr(descr)[:80]} is not one of plain numbers")
    if type(is_fortran) is not bool or type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"its shape {repr(shape)[:80]} or fortran_order {repr(is_fortran)[:80]} has a wrong type")
    return np.dtype(descr), shape, is_fortran


def pack_json(fields: Mapping[str, Any], nullable: Collection[str] = ()) -> bytes:
    """Encode the fields of a sample as JSON with sorted keys.

    Args:
        fields: Their values.
        nullable: Fields that may be None: extra columns, whose types the card declares.

    Raises:
        ValueError: Another value is None, or one is not finite. Readers without a declared schema infer it from any
            sample, so all fields that every dataset has have values.
    """
    for name, value in fields.items():
        if (value is None and name not in nullable) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"sample field {name!r} is {value!r}; the sample's json holds no null and no NaN")
    return json.dumps(fields, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
