"""Videos in tar and tar.gz archives, read in place without unpacking."""

import gzip
import io
import json
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Final

from indexed_gzip import IndexedGzipFile

from avdata.prepare.sources.media import MediaRef
from avdata.prepare.sources.names import ClipRequest, NameIndex, safe_relative
from avdata.prepare.sources.sidecar import SIDECAR_BYTES, Sidecars
from avdata.remote_file import Version
from avdata.shards import DamagedTar, tar_headers
from avdata.store import open_store
from avdata.urls import check_url
from avmanifest.clipnames import ClipName, display_name, split_media_suffix
from avmanifest.errors import ConfigError, ShardError
from avmanifest.files import cache_folder, open_file, read_file, replace_text, replacing, sha256_of
from avmanifest.parsing import metadata_of
from avmanifest.secrets import shown_url

ARCHIVE_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
REMOTE_SCHEMES: Final = ("http", "https", "s3", "gs", "hf")

_LISTING_VERSION: Final = 3  # raised when the stored listing changes
_LISTING_THREADS: Final = 8  # the seek points of a 20 GB archive take 160 MB of memory while they are made
_SPACING_BYTES: Final = 4 * 1024**2  # between seek points: each takes 32 KiB of index; a read inflates 2 MiB on average
_PADDING_BYTES: Final = 1024**2  # tar pads to 10 KiB; other block sizes pad to more
_REMOTE_BLOCK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A video in an archive."""

    name: str
    offset: int  # of its first byte in the tar (in the uncompressed tar for a tar.gz)
    size: int
    identity: ClipName | None = None  # from the metadata file of the same name


@dataclass(slots=True)
class Listing:
    """The videos of one archive."""

    archive: str
    gzip_index: str = ""
    problem: str = ""  # description of the damage; empty: none
    version: Version | None = None  # of an archive at a URL
    members: list[Member] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


class ArchiveSource:
    """The videos in a set of archives, found by name, by path inside an archive, or by WebDataset metadata.

    Each archive is read through once. For a tar.gz that pass also creates seek points, 32 KiB for each 4 MiB of
    content. They are stored in `cache_dir` together with the listing.

    A damaged archive contributes the videos before the damage, and a message in `problems`. `refused` counts refused
    members and requests by reason.

    Args:
        patterns: Paths, globs, brace patterns (`{00..19}`) or URLs of tar files; paths of tar.gz files.
        cache_dir: Folder for listings and seek points. None: `avkit/archives` in the user's cache folder.

    Raises:
        ConfigError: A pattern matches no file, an archive cannot be opened, or there is no video at all.
    """

    def __init__(self, patterns: Sequence[str], *, cache_dir: Path | None = None) -> None:
        self.name = "wds:" + "::".join(map(_shown, patterns))
        self._archives = find_archives(patterns)
        self._index = NameIndex()
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._gzip_indexes: list[str] = []
        self._versions: list[Version | None] = []
        self.problems: list[str] = []
        cache_dir = cache_dir or cache_folder("archives")
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            for listing in pool.map(lambda archive: list_archive(archive, cache_dir), self._archives):
                self._add(listing)
        if not self._offsets:
            raise ConfigError(
                f"source {self.name}: no video in {len(self._archives)} archives. "
                + (" ".join(self.problems) or "Check that they contain files such as KEY.mp4.")
            )

    def __len__(self) -> int:
        return len(self._index)

    @property
    def refused(self) -> Counter[str]:
        """Reason -> number of members and requests that were refused for it."""
        return self._index.refused

    def locate(self, request: ClipRequest) -> MediaRef | None:
        """The requested archive member; None if no archive has it."""
        file = self._index.find(request)
        if file is None:
            return None
        origin = self._index.origin(file.row)
        archive = self._archives[origin]
        member = self._index.path(file.row)
        return MediaRef(
            path=archive,
            offset=self._offsets[file.row],
            size=self._sizes[file.row],
            gzip_index=self._gzip_indexes[origin],
            version=self._versions[origin],
            is_clip=file.is_clip,
            source=self.name,
            name=display_name(f"{_shown(archive).rpartition('/')[2]}/{member}"),
        )

    def _add(self, listing: Listing) -> None:
        origin = len(self._gzip_indexes)
        self._gzip_indexes.append(listing.gzip_index)
        self._versions.append(listing.version)
        for member in listing.members:
            self._index.add(member.name, origin=origin, identity=member.identity)
            self._offsets.append(member.offset)
            self._sizes.append(member.size)
        self._index.refused.update(listing.refused)
        if listing.problem:
            self.problems.append(
                f"{_shown(listing.archive)}: damaged: {listing.problem}; the {len(listing.members)} videos before the "
                "damage are used. Download the archive again for the rest."
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
                        f"{', '.join(ARCHIVE_SUFFIXES)}. Unpack it and use local:DIR."
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
    try:
        if "://" in archive:
            return _list_remote(archive)
        with open_file(archive) as file:
            if file.read(2) != b"\x1f\x8b":
                file.seek(0)
                return _list_tar(archive, file)
        return _list_gzip(archive, cache_dir)
    except (OSError, ValueError, ShardError) as error:
        raise ConfigError(
            f"{_shown(archive)}: cannot be listed: {error}. Check the path and its permissions."
        ) from error


def _shown(archive: str) -> str:
    return shown_url(archive) if "://" in archive else archive


def _list_remote(archive: str) -> Listing:
    store = open_store(archive)
    version = store.version("")
    with store.open("", block_bytes=_REMOTE_BLOCK_BYTES) as file:
        listing = _list_tar(archive, file)
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
    # A member that is stored again replaces the earlier one, as when the archive is unpacked.
    last = {member.name: member for member in listing.members}
    listing.members = [replace(member, identity=sidecars.get(member.name)) for member in last.values()]
    return listing


def _add_member(member: tarfile.TarInfo, file: io.BufferedIOBase, listing: Listing, sidecars: Sidecars) -> None:
    """Add the member to the listing if it is a video; add it to `sidecars` if it is metadata."""
    name = safe_relative(member.name)
    base, suffix = split_media_suffix(member.name)
    is_metadata = member.name.endswith(".json")
    if (not suffix and not is_metadata) or base.rpartition("/")[2].startswith("."):
        return
    if name is None:
        listing.refused["the member's name is an absolute path or contains '..' or a NUL"] += 1
    elif not member.isreg() or member.issparse():
        listing.refused["the member is a link, a device or a sparse file"] += 1
    elif is_metadata:
        if member.size <= SIDECAR_BYTES:
            file.seek(member.offset_data)
            sidecars.add(name, file.read(member.size))
    else:
        if member.size:
            file.seek(member.offset_data + member.size - 1)
            if not file.read(1):
                raise DamagedTar(member.offset, f"it ends inside {name!r}")
        listing.members.append(Member(name, member.offset_data, member.size))


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
    if not address.partition("?")[0].endswith(".tar"):
        raise ConfigError(
            f"source wds:{shown}: only a plain .tar can be read in place over the network. Download it and give its "
            "path."
        )
    return address
