"""Exchange a dataset's files for those that an operation has made. A kill at any moment is finished or undone.

An operation makes its files in the folder `_operation` and holds a lock there while it runs. When all of them are on
the disk and verified, it writes `swap.json`, which names them. A run that was killed before that is undone by the next
command that writes, a later one is finished: each step of the exchange can be repeated.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from avdata.prepare.card import write_catalog
from avdata.prepare.catalog import coverage, failures, merge_manifest, write_index
from avdata.prepare.commit import Observer
from avdata.prepare.description import read_description, recipe_of, sample_of
from avdata.prepare.operations.pending import alive_lock, is_running, request_file, stopped_operation
from avdata.prepare.sources.unpacked import remove_copies
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.failures import write_tracebacks
from avmanifest.files import flush, read_file, remove, remove_unfinished, replace_bytes
from avmanifest.layout import Layout, ShardName, shard_of_marker
from avmanifest.parsing import parse_object

_ADVICE: Final = "Restore the dataset from a copy, or prepare it with --overwrite."


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """What is exchanged. The new files are in `_operation`, at the paths that they will have in the dataset."""

    operation: str  # for messages, such as `add-mel released`
    shards: tuple[ShardName, ...]  # new, or in place of the shards of these names
    gone: tuple[ShardName, ...] = ()  # shards that the dataset has no more
    num_parts: int | None = None  # of the new plan; None: the plan stays
    forget: bool = False  # also remove quarantined shards, fetched media and copies of archives

    def to_bytes(self) -> bytes:
        """As `swap.json` holds it."""
        shards, gone = ([f"{shard}_stats.json" for shard in names] for names in (self.shards, self.gone))
        fields = {"operation": self.operation, "shards": shards, "gone": gone, "num_parts": self.num_parts}
        return json.dumps(fields | {"forget": self.forget}).encode()

    @classmethod
    def parse(cls, content: bytes, where: Path) -> "Swap":
        """The content of a `swap.json`. Raises ManifestError for anything else."""
        fields = parse_object(content, where, ManifestError, _ADVICE)
        names = [fields.get("shards"), fields.get("gone")]
        num_parts = fields.get("num_parts")
        if not (
            isinstance(fields.get("operation"), str)
            and all(isinstance(group, list) and all(isinstance(name, str) for name in group) for group in names)
            and (num_parts is None or (type(num_parts) is int and num_parts > 0))
            and isinstance(fields.get("forget"), bool)
        ):
            raise ManifestError(f"{where}: not what an operation of avkit writes. {_ADVICE}")
        shards, gone = (tuple(map(shard_of_marker, group)) for group in names if group is not None)
        if None in shards or None in gone:
            raise ManifestError(f"{where}: names files that are not shards. {_ADVICE}")
        return cls(
            operation=fields["operation"],
            shards=tuple(filter(None, shards)),
            gone=tuple(filter(None, gone)),
            num_parts=num_parts,
            forget=fields["forget"],
        )


def staged(layout: Layout) -> Layout:
    """The paths of an operation's new files."""
    return Layout(layout.operation)


def settle(layout: Layout, note: Observer) -> None:
    """Finish an operation that was stopped while it exchanged files; undo one that was stopped before.

    The caller holds the publishing lock.

    Raises:
        ConfigError: An operation is running.
        ManifestError: A file of the dataset cannot be read.
        OSError: A file cannot be written.
    """
    if not layout.operation.is_dir():
        return
    what = stopped_operation(layout)
    if is_running(layout):
        raise ConfigError(f"{layout.root}: {what} is running. Wait until it has ended.")
    if layout.swap.exists():
        finish(layout)
        note(f"{layout.root}: finished {what}, which had been stopped")
    else:
        remove(layout.operation)
        note(f"{layout.root}: undid {what}, which had been stopped before it changed anything")


@contextlib.contextmanager
def claimed(layout: Layout, request: Mapping[str, Any]) -> Iterator[None]:
    """Hold the sole right to operate on the dataset. What an earlier run with the same request has made is kept.

    The caller holds the publishing lock on entering, and has called `settle` if another request was stopped.
    """
    layout.operation.mkdir(exist_ok=True)
    with alive_lock(layout).open("ab") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        replace_bytes(request_file(layout), _encoded(request), durable=True)
        yield


def is_resumed(layout: Layout, request: Mapping[str, Any]) -> bool:
    """Whether a run with this request was stopped before it exchanged files."""
    path = request_file(layout)
    return (
        path.exists() and not layout.swap.exists() and read_file(path) == _encoded(request) and not is_running(layout)
    )


def _encoded(request: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(request), sort_keys=True).encode()


def finish(layout: Layout, observe: Observer = lambda _: None) -> None:
    """Exchange the files that `swap.json` names, and write manifest and catalog.

    The caller holds the publishing lock. Every step may have been done by a run that was killed.

    Raises:
        ManifestError: A file of the dataset cannot be read.
        OSError: A file cannot be written.
    """
    swap, new = Swap.parse(read_file(layout.swap), layout.swap), staged(layout)
    description = read_description(new)
    for shard in swap.gone:
        for path in reversed(layout.files(shard)):
            path.unlink(missing_ok=True)
    for shard in swap.shards:
        _exchange(new.files(shard), layout.files(shard))
        observe(f"{shard}: exchanged")
    if swap.num_parts is not None:
        _exchange_plan(new, layout, swap.num_parts)
    for folder in {path.parent for shard in (*swap.shards, *swap.gone) for path in layout.files(shard)}:
        if folder.is_dir():
            flush(folder, recursive=False)
    if swap.forget:
        remove(layout.quarantine)
        remove(layout.media)
        remove_copies(layout.temporary)
        remove_unfinished(layout.temporary)
    replace_bytes(layout.dataset_json, read_file(new.dataset_json), durable=True)
    merge_manifest(layout)
    write_tracebacks(layout.tracebacks, failures(layout))
    splits = coverage(layout)
    write_catalog(layout, recipe_of(description), sample_of(description), splits)
    for split in splits:
        write_index(layout, split, description)
    observe("catalog written")
    layout.swap.unlink()
    remove(layout.operation)


def _exchange(sources: tuple[Path, ...], targets: tuple[Path, ...]) -> None:
    """Give a shard's new files their places: the old marker goes first, the new one comes last.

    A disk that lost power may know of the last renaming and not of the first.
    """
    if sources[-1].exists():
        targets[-1].unlink(missing_ok=True)
    for source, target in zip(sources, targets, strict=True):
        if source.exists():
            target.parent.mkdir(exist_ok=True)
            source.replace(target)


def _exchange_plan(new: Layout, layout: Layout, num_parts: int) -> None:
    """Give the new plan's parts their places, and remove further parts of the old one."""
    for path in layout.plan_parts()[num_parts:]:
        path.unlink()
    for part in range(num_parts):
        if new.plan_part(part).exists():
            new.plan_part(part).replace(layout.plan_part(part))
    flush(layout.plan_part(0).parent, recursive=False)
