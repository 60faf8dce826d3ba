"""Finds the index of a split: beside its manifest, or in the cache; makes it where there is none."""

import contextlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from avdata.cache import lock_file
from avdata.index import Index, IndexOf, Origin, StaleIndex, checked_index, local_origin, origin_of
from avdata.index_writing import build_index
from avdata.load.cache import CacheConfig, claimed, read_contents, read_small
from avdata.members import MemberMap
from avdata.remote_file import NoRanges
from avdata.store import Store, missing, open_store
from avdata.urls import local_path
from avmanifest.errors import ManifestError, ShardError
from avmanifest.files import open_descriptor, replacing, sha256_of
from avmanifest.layout import Layout, ShardName
from avmanifest.parsing import metadata_of
from avmanifest.records import MarkerFacts
from avmanifest.secrets import identity as url_identity
from avmanifest.secrets import shown_url

_LOG: Final = logging.getLogger(__name__)
_TOGETHER: Final = 4096  # markers that are read at a time
_KEPT_FROM: Final = 1 << 20  # bytes of a manifest: the index of a smaller one is made in milliseconds, and not kept


def find_index(root: str, split: str, classes: Sequence[str], members: MemberMap, cache: CacheConfig) -> Index | None:
    """Open the index of a split, made now if there is none of the present manifest. None: there is no manifest.

    An index that has to be made is kept beside the manifest, or in the cache if the dataset is remote or read-only.
    One that is damaged is made again.

    Args:
        root: Folder or URL of a prepared dataset.
        split: Name of the split.
        classes: The classes of its dataset.json.
        members: The members that avkit writes, with the profile of the first log-mel.
        cache: Where indexes of remote datasets are kept; credentials and retries.

    Raises:
        ManifestError: The manifest is damaged or does not match its shards.
        ShardError: A marker is damaged, or the store cannot be read.
        ConfigError: The split has no sample.
    """
    path = local_path(root)
    origin = _local_origin(path, split) if path is not None else _remote_origin(root, split, cache)
    if origin is None:
        return None
    index_of = IndexOf(root=root, split=split, origin=origin, classes=classes, members=members)
    identity = f"{url_identity(root)}\n{split}\n{origin}"
    kept = cache.root / f"{sha256_of(identity)[:40]}.avidx"
    if path is None:
        return _cached(kept, index_of) or _fetched_or_made(kept, index_of, cache)
    beside, manifest = Layout(path).sample_index(split), Layout(path).manifest(split)
    if index := _opened(beside, index_of) or _cached(kept, index_of):
        return index
    if origin.num_bytes < _KEPT_FROM:
        return _made(index_of, manifest, [], cache)
    with claimed(kept.stem, cache):  # one process of a node makes it, the others wait
        index = _opened(beside, index_of) or _cached(kept, index_of)
        return index or _made(index_of, manifest, [beside, kept], cache)


def _local_origin(root: Path, split: str) -> Origin | None:
    manifest = Layout(root).manifest(split)
    return local_origin(manifest) if manifest.exists() else None


def _remote_origin(root: str, split: str, cache: CacheConfig) -> Origin | None:
    """The origin for a remote manifest, by a question for its version and one for its end. Offline: as last time."""

    def ask(store: Store) -> bytes | None:
        if store.size("") is None:
            return None
        version = store.version("")
        if version.size is None:
            return None
        return json.dumps(origin_of(partial(_range_of, store), version.size, version.tag)._asdict()).encode()

    content = read_small(f"{root}/manifest/{split}.parquet", cache, "origin", ask)
    try:
        return None if content is None else Origin(**metadata_of(content))
    except TypeError:
        return None


def _range_of(store: Store, start: int, size: int) -> bytes:
    """Some bytes of a file; of a server that sends files only as a whole, cut from the whole."""
    try:
        return store.read_range("", start, size)
    except ShardError as error:
        if not isinstance(error.__cause__, NoRanges):
            raise
        return store.content("")[start : start + size]


def _fetched_or_made(kept: Path, index_of: IndexOf, cache: CacheConfig) -> Index:
    with claimed(kept.stem, cache):
        if index := _cached(kept, index_of):
            return index
        if not cache.offline:
            store = open_store(f"{index_of.root}/manifest/{index_of.split}.avidx", cache.storage_options, cache.retry)
            try:
                with replacing(kept, shared=True) as unfinished:
                    store.download("", unfinished)
            except OSError as error:
                _LOG.warning("%s: cannot be written (%s); the index is made for this run alone", kept, error.strerror)
            except ShardError as error:
                if not missing(error):
                    raise
            else:
                if index := _cached(kept, index_of):
                    return index
        content = read_small(index_of.manifest, cache)
        if content is None:
            raise ManifestError(f"{index_of.shown}: was removed while it was read. Run the same command again.")
        changed = index_of.origin.changed
        if origin_of(lambda start, size: content[start : start + size], len(content), changed) != index_of.origin:
            raise ManifestError(f"{index_of.manifest}: was replaced while it was read. Run the same command again.")
        return _made(index_of, io.BytesIO(content), [kept], cache)


def _made(index_of: IndexOf, manifest: Path | io.BytesIO, targets: Sequence[Path], cache: CacheConfig) -> Index:
    """Make the index as the first of these files that can be written; without any, as one that only this run sees."""

    def markers(names: Sequence[ShardName]) -> Iterator[MarkerFacts | None]:
        for first in range(0, len(names), _TOGETHER):
            some = names[first : first + _TOGETHER]
            contents = read_contents([f"{index_of.root}/{name}_stats.json" for name in some], cache)
            yield from map(index_of.facts, some, contents)

    for target in targets:
        with contextlib.suppress(OSError):
            with replacing(target, shared=True) as unfinished, unfinished.open("xb") as file:
                build_index(index_of, manifest, markers, file, target.parent)
            if index := _opened(target, index_of, lock=target.parent == cache.root):
                return index
    with tempfile.TemporaryFile() as unnamed:
        build_index(index_of, manifest, markers, unnamed, Path(tempfile.gettempdir()))
        return Index(unnamed.fileno(), f"index of {shown_url(index_of.root)}", check=False)


def _cached(path: Path, index_of: IndexOf) -> Index | None:
    return _opened(path, index_of, lock=True)


def _opened(path: Path, index_of: IndexOf, *, lock: bool = False) -> Index | None:
    """An index if it is there and whole, and of this manifest. With `lock`, the cache does not remove it while used."""
    try:
        descriptor = open_descriptor(path)
        try:  # the mapping holds a copy of the descriptor, and with it the lock
            return checked_index(descriptor, str(path), index_of) if not lock or lock_file(descriptor) else None
        finally:
            os.close(descriptor)
    except (OSError, StaleIndex):
        return None
    except ManifestError as error:
        _LOG.warning("%s; it is made again", error)
        return None
