"""Make a new dataset from the clips of prepared ones. It is made aside, and gets its name when it is whole.

The folder aside is `.NAME.unfinished`, next to the new one. A run that was killed leaves it; the next run of the same
command goes on with its shards, any other with the same target empties it.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from avdata.prepare.bucket import local_folder, place_of
from avdata.prepare.card import write_catalog
from avdata.prepare.catalog import coverage, merge_manifest, write_index
from avdata.prepare.commit import Observer, disk_errors, storage_errors
from avdata.prepare.description import encoded_description, recipe_of, sample_of
from avdata.prepare.operations.build import Edit, NewShard, Prepared, build_shards, folder_of
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.operations.pending import pending
from avdata.prepare.operations.run import Asked, Done
from avdata.prepare.plan import Plan, freeze
from avmanifest.errors import ConfigError
from avmanifest.files import flush, read_file, remove, replace_bytes, sha256_of
from avmanifest.keys import subset_id
from avmanifest.layout import Layout
from avmanifest.records import columns_of_description
from avmanifest.schema import CLIP_SCHEMA, FORMAT_VERSION
from avmanifest.secrets import shown_url
from avmanifest.table import read_table

_LOCK: Final = "publish.lock"
_REQUEST: Final = "request.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """What the new dataset is."""

    description: Mapping[str, Any]  # its dataset.json, without a history
    plan: Plan
    shards: tuple[NewShard, ...]
    edit: Edit = StoredClip.kept


@runtime_checkable
class Derivation(Asked, Protocol):
    """One way to make a dataset from others."""

    def derived(self, datasets: Sequence[Prepared], note: Observer) -> Derived:
        """What to make. Raises ConfigError if it cannot be made."""
        ...


def derive_dataset(
    sources: Sequence[str | Path],
    out: str | Path,
    derivation: Derivation,
    *,
    num_workers: int = 1,
    observe: Observer = lambda _: None,
    note: Observer = lambda _: None,
) -> Done:
    """Make a new dataset. The bytes do not depend on workers, or on runs that were killed.

    Args:
        sources: Folders of prepared datasets.
        out: The new folder, which does not exist.
        derivation: How to make it.
        num_workers: Processes that build shards.
        observe: Receives the name of every step.
        note: Receives messages for the user.

    Raises:
        ConfigError: A source is no finished dataset on this machine, `out` exists or is no place for it, or the dataset
            cannot be made.
        ShardError: A shard of a source is damaged.
        ManifestError: A file of a source cannot be read.
        StorageError: A file cannot be written.
    """
    away = "is not on this machine. Copy it first: avkit export URL --to FOLDER"
    layouts = [Layout(Path(os.path.realpath(folder_of(source, away)))) for source in sources]
    target = _target(out, [layout.root for layout in layouts])
    datasets = [_finished(layout) for layout in layouts]
    derived = derivation.derived(datasets, note)
    settings = {"operation": derivation.name, **derivation.settings()}
    plan_hash = str(derived.description["plan_hash"])
    entry = settings | {"plan_hash": plan_hash, "from": [_provenance(dataset) for dataset in datasets]}
    described = encoded_description({**derived.description, "operations": [entry]})
    with disk_errors(target.parent), _aside(target, _request(datasets, described)) as layout:
        built = build_shards(
            datasets,
            layout,
            derived.shards,
            derived.edit,
            plan_hash=plan_hash,
            columns=columns_of_description(derived.description, layout.dataset_json),
            num_workers=num_workers,
            observe=observe,
        )
        with storage_errors(layout.root):
            layout.plan_part(0).parent.mkdir(exist_ok=True)
            freeze(derived.plan, layout.plan_part(0))
            replace_bytes(layout.dataset_json, described, durable=True)
            merge_manifest(layout)
            splits = coverage(layout)
            write_catalog(layout, recipe_of(derived.description), sample_of(derived.description), splits)
            for split in splits:
                write_index(layout, split, derived.description)
            flush(layout.root)
            layout.root.rename(target)
            flush(target.parent, recursive=False)
            remove(Layout(target).temporary / _REQUEST)
    observe("dataset written")
    return Done(operation=derivation.name, root=str(target), changed=True, **asdict(built))


def _finished(layout: Layout) -> Prepared:
    """A dataset of which all shards exist, and that no operation is changing."""
    if what := pending(layout):
        raise ConfigError(f"{layout.root}: {what}. Wait for it, or run avkit dataset settle {layout.root}")
    dataset = Prepared.read(layout, (FORMAT_VERSION,))
    dataset.require_whole()
    return dataset


def _target(out: str | Path, sources: Sequence[Path]) -> Path:
    """The folder to make. Raises ConfigError if it exists, or is no place for a dataset."""
    folder = local_folder(place_of(out))
    if folder is None:
        raise ConfigError(
            f"{shown_url(str(out))}: a dataset is made in a folder of this machine. Give --to a folder, then run avkit "
            "export FOLDER --to URL"
        )
    target = Path(os.path.realpath(folder))
    if os.path.lexists(folder):
        raise ConfigError(f"{folder}: exists already. Give --to a new folder.")
    for source in sources:
        if target.is_relative_to(source):
            raise ConfigError(f"{folder}: is inside the dataset {source}. Give --to a folder elsewhere.")
    return target


def _provenance(dataset: Prepared) -> dict[str, Any]:
    """What the new dataset's history says of a dataset that it was made from: no paths, which may be private."""
    layout, keys = dataset.layout, []
    for split in layout.splits():
        rows = read_table(layout.manifest(split), CLIP_SCHEMA, ["key", "status"])
        keys.append(rows.filter(pc.equal(rows.column("status"), "ok")).column("key"))
    chunks = [chunk for column in keys for chunk in column.chunks]
    return {
        "recipe": str(dataset.description["recipe"].get("name", "")),
        "subset_id": subset_id(pa.chunked_array(chunks, pa.string())),
        "plan_hash": dataset.description["plan_hash"],
        "dataset_json_sha256": sha256_of(read_file(layout.dataset_json)),
        "operations": dataset.description.get("operations", []),
    }


def _request(datasets: Sequence[Prepared], described: bytes) -> bytes:
    """What tells a run from others with the same target: the new dataset, and all bytes that it is made from."""
    markers = {
        str(dataset.layout.root): sha256_of(
            b"".join(read_file(dataset.layout.stats(planned.shard)) for planned in dataset.shards)
        )
        for dataset in datasets
    }
    return json.dumps({"described": sha256_of(described), "markers": markers}, sort_keys=True).encode()


@contextlib.contextmanager
def _aside(target: Path, request: bytes) -> Iterator[Layout]:
    """The folder in which the dataset is made. A lock in it is held, which is part of the dataset's folder later."""
    layout = Layout(target.with_name(f".{target.name}.unfinished"))
    kept = layout.temporary / _REQUEST
    is_ours = not layout.root.exists() or kept.is_file() or {path.name for path in layout.root.iterdir()} <= {"_tmp"}
    if layout.root.is_symlink() or not is_ours:
        raise ConfigError(f"{layout.root}: is needed for the unfinished dataset, and holds other files. Move it.")
    with storage_errors(target.parent):
        layout.temporary.mkdir(parents=True, exist_ok=True)
        lock = (layout.temporary / _LOCK).open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{target}: another run is making it. Wait until it has ended.") from error
        if os.path.lexists(target):
            raise ConfigError(f"{target}: exists already. Give --to a new folder.")
        with storage_errors(layout.root):
            if not (kept.is_file() and read_file(kept) == request):
                for path in [*layout.root.iterdir(), *layout.temporary.iterdir()]:
                    if path not in (layout.temporary, layout.temporary / _LOCK, kept):
                        remove(path)
                replace_bytes(kept, request, durable=True)
        yield layout
