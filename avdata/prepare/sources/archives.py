"""Videos in archives: tar, tar.gz and zip, read in place without unpacking, and tar.zst, of which a copy is made."""

import gzip
import io
import json
import os
import re
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import IO, Final, cast

from indexed_gzip import IndexedGzipFile

from avdata.prepare.sources.media import Deflated, MediaRef
from avdata.prepare.sources.names import ClipRequest, IndexedSource, safe_relative
from avdata.prepare.sources.sidecar import SIDECAR_BYTES, Sidecars
from avdata.prepare.sources.unpacked import unpacked_copy
from avdata.remote_file import Version
from avdata.shards import DamagedTar, tar_headers
from avdata.store import open_store
from avdata.unpacking import is_swollen
from avdata.urls import check_url
from avmanifest.clipnames import ClipName, display_name, split_media_suffix
from avmanifest.errors import ConfigError, ShardError
from avmanifest.files import cache_folder, open_file, read_file, replace_text, replacing, sha256_of
from avmanifest.parsing import metadata_of
from avmanifest.secrets import shown_url
from avmanifest.wording import counted

ARCHIVE_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".zip")
REMOTE_SCHEMES: Final = ("http", "https", "s3", "gs", "hf")

_UNIX: Final = 3  # the system of a zip's member whose attributes have the mode of a file
_LISTING_VERSION: Final = 3  # raised when the stored listing changes
_LISTING_THREADS: Final = 8  # the seek points of a 20 GB archive take 160 MB of memory while they are made
_SPACING_BYTES: Final = 4 * 1024**2  # between seek points: each takes 32 KiB of index; a read inflates 2 MiB on average
_PADDING_BYTES: Final = 1024**2  # tar pads to 10 KiB; other block sizes pad to more
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # of a zip's member: magic, lengths of the name and of what follows it
_DAMAGED_ZIP: Final = (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, struct.error, OverflowError)
_REMOTE_BLOCK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A video in an archive."""

    name: str
    offset: int  # of its first byte in the archive (in the uncompressed tar for a tar.gz)
    size: int
    identity: ClipName | None = None  # from the metadata file of the same name
    deflated: Deflated | None = None  # in a zip that compresses it


@dataclass(slots=True)
class Listing:
    """The videos of one archive."""

    archive: str
    gzip_index: str = ""
    copy: str = ""  # path of the unpacked tar.zst
    descriptor: int | None = None  # while it is open, no process removes the copy
    problem: str = ""  # description of the damage; empty: none
    version: Version | None = None  # of an archive at a URL
    members: list[Member] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


class ArchiveSource(IndexedSource):
    """The videos in a set of archives, found by name, by path inside an archive, or by WebDataset metadata.

    Each archive is read through once. For a tar.gz that pass also creates seek points, 32 KiB for each 4 MiB of
    content. They are stored in `cache_dir` together with the listing. A tar.zst has no seek points: `cache_dir` keeps a
    plain copy, which no process removes while the source exists. Of a zip only the directory is read.

    A damaged archive contributes the videos before the damage, and a message in `problems`. `refused` counts refused
    members and requests by reason.

    Args:
        patterns: Paths, globs, brace patterns (`{00..19}`) or URLs of tar and zip files; paths of tar.gz and tar.zst
            files.
        cache_dir: Folder for listings, seek points and copies. None: `avkit/archives` in the user's cache folder.

    Raises:
        ConfigError: A pattern matches no file, an archive cannot be opened, or there is no video at all.
    """

    def __init__(self, patterns: Sequence[str], *, cache_dir: Path | None = None) -> None:
        super().__init__()
        self.name = "wds:" + "::".join(map(_shown, patterns))
        self._archives = find_archives(patterns)
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._deflated: list[Deflated | None] = []
        self._gzip_indexes: list[str] = []
        self._copies: list[str] = []
        self._versions: list[Version | None] = []
        self.problems: list[str] = []
        cache_dir = cache_dir or cache_folder("archives")
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            for listing in pool.map(lambda archive: list_archive(archive, cache_dir), self._archives):
                self._add(listing)
        if not self._offsets:
            raise ConfigError(
                f"source {self.name}: no video in {counted(len(self._archives), 'archive')}. "
                + (" ".join(self.problems) or "Check that they contain files such as KEY.mp4.")
            )

    def locate(self, request: ClipRequest) -> MediaRef | None:
        """The requested archive member; None if no archive has it."""
        file = self._index.find(request)
        if file is None:
            return None
        origin = self._index.origin(file.row)
        archive = self._archives[origin]
        member = self._index.path(file.row)
        return MediaRef(
            path=self._copies[origin] or archive,
            offset=self._offsets[file.row],
            size=self._sizes[file.row],
            gzip_index=self._gzip_indexes[origin],
            deflated=self._deflated[file.row],
            version=self._versions[origin],
            is_clip=file.is_clip,
            source=self.name,
            name=display_name(f"{_shown(archive).rpartition('/')[2]}/{member}"),
        )

    def _add(self, listing: Listing) -> None:
        origin = len(self._gzip_indexes)
        self._gzip_indexes.append(listing.gzip_index)
        self._copies.append(listing.copy)
        if listing.descriptor is not None:
            weakref.finalize(self, os.close, listing.descriptor)
        self._versions.append(listing.version)
        for member in listing.members:
            self._index.add(member.name, origin=origin, identity=member.identity)
            self._offsets.append(member.offset)
            self._sizes.append(member.size)
            self._deflated.append(member.deflated)
        self._index.refused.update(listing.refused)
        if listing.problem:
            self.problems.append(
                f"{_shown(listing.archive)}: damaged: {listing.problem}; the {counted(len(listing.members), 'video')} "
                "before the damage can be used. Download the archive again for the rest."
            )


def find_archives(patterns: Sequence[str]) -> list[str]:
    """The absolute paths and URLs that the patterns name, in order and without duplicates.

    Raises ConfigError if a pattern matches nothing, a file is missing, or a name has none of ARCHIVE_SUFFIXES.
    """
    archives: dict[str, None] = {}  # an ordered set
    for pattern in patterns:
        names = list(_expand_braces(pattern))
        for name in names:
            if "://" in name:
                archives[_checked_address(name)] = None
                continue
            path = os.path.normpath(Path(name).expanduser().absolute())
            matches = [path] if Path(path).is_file() else sorted(map(str, Path("/").glob(path.lstrip("/"))))
            if not matches:
                raise ConfigError(f"source wds:{pattern}: no file {name}. Check the path and the pattern.")
            for match in matches:
                if not match.endswith(ARCHIVE_SUFFIXES):
                    raise ConfigError(
                        f"source wds:{pattern}: {match} is not an archive that can be read in place; known: "
                        f"{', '.join(ARCHIVE_SUFFIXES)}. Unpack it and use local:FOLDER."
                    )
                archives[match] = None
    if not archives:
        raise ConfigError("source wds: no archive is named. Write wds:PATTERN.")
    return list(archives)


def list_archive(archive: str, cache_dir: Path) -> Listing:
    """List the videos of one archive, and its damage if there is any.

    For a tar.gz, the listing and the seek points are read from `cache_dir` if they were made from this file with its
    current size and modification time. Otherwise they are made and stored there. Raises ConfigError if the archive
    cannot be opened.
    """
    with _listing_errors(archive):
        if "://" in archive:
            return _list_remote(archive)
        with open_file(archive) as file:
            begin = file.read(2)
            file.seek(0)
            if archive.endswith(".zip"):
                return _list_zip(archive, file)
            if archive.endswith((".tar.zst", ".tzst")):
                return _list_zstd(archive, cache_dir)
            if begin != b"\x1f\x8b":
                return _list_tar(archive, file)
        return _list_gzip(archive, cache_dir)


def require_there(archive: str) -> None:
    """Raise ConfigError unless the server of an archive at a URL has it. Reads nothing of it."""
    with _listing_errors(archive):
        open_store(archive).version("")


@contextmanager
def _listing_errors(archive: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ShardError) as error:
        raise ConfigError(
            f"{_shown(archive)}: cannot be listed: {error}. Check the path and its permissions."
        ) from error


def _named(archive: str, suffixes: str | tuple[str, ...]) -> bool:
    """Whether the path, or that of the URL, ends so."""
    return (archive.partition("?")[0] if "://" in archive else archive).endswith(suffixes)


def _shown(archive: str) -> str:
    return shown_url(archive) if "://" in archive else archive


def _list_remote(archive: str) -> Listing:
    store = open_store(archive)
    version = store.version("")
    with store.open("", block_bytes=_REMOTE_BLOCK_BYTES) as file:
        listing = (_list_zip if _named(archive, ".zip") else _list_tar)(archive, file)
    store.unchanged("", version)
    return replace(listing, version=version)


def _list_gzip(archive: str, cache_dir: Path) -> Listing:
    status = Path(archive).stat()
    identity = f"{_LISTING_VERSION} {os.path.realpath(archive)} {status.st_size} {status.st_mtime_ns}"
    stem = sha256_of(os.fsencode(identity))[:32]
    index_path, listing_path = cache_dir / f"{stem}.gzidx", cache_dir / f"{stem}.json"
    if (cached := _read_listing(listing_path, archive)) is not None and index_path.is_file():
        cached.gzip_index = str(index_path)
        return cached
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (
        gzip.open(archive) as file,
        IndexedGzipFile(archive, spacing=_SPACING_BYTES, drop_handles=False) as points,
        ThreadPoolExecutor(1) as pool,
    ):
        # Two readers in parallel, one pass over the disk. Listing through IndexedGzipFile would inflate the archive
        # twice too, and at a damaged place it would lose the 16 MiB of buffer before it.
        indexing = pool.submit(points.build_full_index)
        listing = _list_tar(archive, file)
        failure = indexing.exception()
        if failure is not None and not listing.problem:
            raise ValueError(f"no seek points could be made: {failure}")
        with replacing(index_path, shared=True) as unfinished:
            points.export_index(str(unfinished))
    replace_text(listing_path, _listing_json(listing), shared=True)  # written last: it marks the index as complete
    listing.gzip_index = str(index_path)
    return listing


def _list_zstd(archive: str, cache_dir: Path) -> Listing:
    try:
        path, descriptor = unpacked_copy(archive, cache_dir)
    except ShardError as error:
        return Listing(archive, problem=str(error))
    try:
        with open_file(path) as file:
            return replace(_list_tar(archive, file), copy=str(path), descriptor=descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _list_zip(archive: str, file: io.BufferedIOBase) -> Listing:
    """Read the directory of a zip, and the header of each video in it."""
    listing = Listing(archive)
    sidecars = Sidecars()
    try:
        with zipfile.ZipFile(cast("IO[bytes]", file)) as opened:
            for info in opened.infolist():
                _add_zip_member(info, opened, file, listing, sidecars)
    except _DAMAGED_ZIP as error:
        listing.problem = str(error) or type(error).__name__
    return _identified(listing, sidecars)


def _add_zip_member(
    info: zipfile.ZipInfo,
    opened: zipfile.ZipFile,
    file: io.BufferedIOBase,
    listing: Listing,
    sidecars: Sidecars,
) -> None:
    """As `_add_member`."""
    mode = info.external_attr >> 16
    is_regular = info.create_system != _UNIX or not stat.S_IFMT(mode) or stat.S_ISREG(mode)
    if (name := _wanted(info.filename, listing, is_regular=is_regular)) is None:
        return
    if info.flag_bits & 1:
        listing.refused["the member is encrypted"] += 1
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        listing.refused["the member is compressed in another way than by deflate"] += 1
    elif is_swollen(info.file_size, info.compress_size):
        listing.refused["the member is far larger than what the archive has of it"] += 1
    elif name.endswith(".json"):
        if info.file_size <= SIDECAR_BYTES:
            sidecars.add(name, opened.read(info))
    else:
        file.seek(info.header_offset)
        magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        offset = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        is_stored = info.compress_type == zipfile.ZIP_STORED
        is_whole = magic == b"PK\x03\x04" and offset + info.compress_size <= opened.start_dir
        if not is_whole or (is_stored and info.compress_size != info.file_size):
            listing.refused["the member's header is damaged"] += 1
            return
        deflated = None if is_stored else Deflated(info.compress_size, info.CRC)
        listing.members.append(Member(name, offset, info.file_size, deflated=deflated))


def _list_tar(archive: str, file: io.BufferedIOBase) -> Listing:
    """Read a tar once. At damage, keep the videos before it and describe it in `problem`."""
    listing = Listing(archive)
    sidecars = Sidecars()
    try:
        for header in tar_headers(file):
            _add_member(header, file, listing, sidecars)
        rest = -file.tell() + file.seek(0, os.SEEK_END)
        if rest > _PADDING_BYTES:
            listing.problem = f"{rest} bytes follow the end mark: zeros of a broken copy, or a second archive"
    except (DamagedTar, EOFError, zlib.error, gzip.BadGzipFile) as error:
        listing.problem = str(error)
    return _identified(listing, sidecars)


def _identified(listing: Listing, sidecars: Sidecars) -> Listing:
    """The listing with the names that metadata give. A member that is stored again replaces the earlier one."""
    last = {member.name: member for member in listing.members}
    listing.members = [replace(member, identity=sidecars.get(member.name)) for member in last.values()]
    return listing


def _add_member(member: tarfile.TarInfo, file: io.BufferedIOBase, listing: Listing, sidecars: Sidecars) -> None:
    """Add the member to the listing if it is a video; add it to `sidecars` if it is metadata."""
    name = _wanted(member.name, listing, is_regular=member.isreg() and not member.issparse())
    if name is None:
        return
    if name.endswith(".json"):
        if member.size <= SIDECAR_BYTES:
            file.seek(member.offset_data)
            sidecars.add(name, file.read(member.size))
    else:
        if member.size:
            file.seek(member.offset_data + member.size - 1)
            if not file.read(1):
                raise DamagedTar(member.offset, f"it ends inside {name!r}")
        listing.members.append(Member(name, member.offset_data, member.size))


def _wanted(name: str, listing: Listing, *, is_regular: bool) -> str | None:
    """The name of a member that is a video or metadata; None for others, and for those that are refused."""
    base, suffix = split_media_suffix(name)
    if (not suffix and not name.endswith(".json")) or base.rpartition("/")[2].startswith("."):
        return None
    safe = safe_relative(name)
    if safe is None:
        listing.refused["the member's name is an absolute path or contains '..' or a NUL"] += 1
    elif not is_regular:
        listing.refused["the member is a link, a device or a sparse file"] += 1
        return None
    return safe


def _listing_json(listing: Listing) -> str:
    members = [[m.name, m.offset, m.size, m.identity] for m in listing.members]
    return json.dumps({"problem": listing.problem, "refused": listing.refused, "members": members})


def _read_listing(path: Path, archive: str) -> Listing | None:
    """A stored listing; None if there is none or it is damaged."""
    try:
        kept = metadata_of(read_file(path))
        members = [
            Member(str(name), int(offset), int(size), identity and ClipName(*identity))
            for name, offset, size, identity in kept["members"]
        ]
        return Listing(archive, problem=str(kept["problem"]), members=members, refused=Counter(kept["refused"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _expand_braces(pattern: str) -> Iterator[str]:
    """The names for a brace pattern such as `a{0..2}b` or `a{x,y}b`. Leading zeros of a range are kept."""
    texts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(text) if place % 2 else [text] for place, text in enumerate(texts)]
    return ("".join(parts) for parts in product(*choices))


def _choices(text: str) -> Sequence[str]:
    if match := re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", text):
        first, last = match[1], match[2]
        if int(first) > int(last):
            raise ConfigError(f"pattern {{{text}}}: the range runs backward. Write the smaller number first.")
        width = max(len(first), len(last)) if first[0] == "0" or last[0] == "0" else 0
        return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return text.split(",") if "," in text else [f"{{{text}}}"]


def _checked_address(address: str) -> str:
    check_url(address, allow_pipe=False)
    scheme, shown = address.partition("://")[0], shown_url(address)
    if scheme not in REMOTE_SCHEMES:
        raise ConfigError(f"source wds:{shown}: unknown scheme {scheme!r}; known: {', '.join(REMOTE_SCHEMES)}.")
    if not _named(address, (".tar", ".zip")):
        raise ConfigError(
            f"source wds:{shown}: only a .tar or a .zip can be read in part over the network; others have to be read "
            "from their beginning. Download it and give its path."
        )
    return address
