"""Compares the index of each split with the manifest and the markers that it should be made from."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Final

from avdata.audit.dataset import AuditDataset
from avdata.index import Index, IndexOf, StaleIndex, origin_of
from avdata.index_writing import build_index
from avdata.members import written_members
from avdata.store import Store
from avmanifest.errors import AvkitError, ManifestError
from avmanifest.layout import ShardName
from avmanifest.records import MarkerFacts

_COPY_BYTES: Final = 1 << 20


def index_faults(dataset: AuditDataset) -> list[tuple[str, str]]:
    """What is wrong with the indexes of a prepared dataset, by file.

    An index may be missing or of another manifest: readers make another then. One can be whole by its hashes and still
    not say what the manifest says, so it is made anew and compared, if manifest and markers allow it: what is wrong
    with them is found elsewhere.
    """
    found = []
    for split in dataset.splits:
        name = f"manifest/{split}.avidx"
        if dataset.store.size(name) is not None and (problem := _problem(dataset, split, name)):
            found.append((name, f"{problem}. Remove it, or run the same prepare again"))
    return found


def _problem(dataset: AuditDataset, split: str, name: str) -> str:
    store = dataset.store
    manifest = store.content(f"manifest/{split}.parquet")
    with tempfile.TemporaryFile() as stored, tempfile.TemporaryFile() as made:
        with contextlib.closing(store.open(name)) as file:
            shutil.copyfileobj(file, stored, _COPY_BYTES)
        stored.flush()
        try:
            held = Index(stored.fileno(), store.at(name))
        except StaleIndex:
            return ""
        except ManifestError as error:
            return str(error)
        with contextlib.suppress(StaleIndex, AvkitError, KeyError, TypeError):
            # A time or a version, which may have been copied.
            changed = str(dict(held.header.get("origin") or {}).get("changed", ""))
            index_of = IndexOf(
                root=store.root,
                split=split,
                origin=origin_of(lambda start, size: manifest[start : start + size], len(manifest), changed),
                classes=dataset.description["labels"],
                members=written_members(dataset.description, store.at("dataset.json")),
            )
            held.require(index_of)
            folder = Path(tempfile.gettempdir())
            build_index(index_of, io.BytesIO(manifest), partial(_markers, store, index_of), made, folder)
            if not _are_equal(stored, made):
                return "it does not have the places that the manifest and the markers give"
        return ""


def _markers(store: Store, index_of: IndexOf, names: Sequence[ShardName]) -> Iterator[MarkerFacts | None]:
    for name in names:
        yield index_of.facts(name, store.read(f"{name}_stats.json"))


def _are_equal(first: IO[bytes], second: IO[bytes]) -> bool:
    first.seek(0)
    second.seek(0)
    while True:
        content = first.read(_COPY_BYTES)
        if content != second.read(_COPY_BYTES):
            return False
        if not content:
            return True
