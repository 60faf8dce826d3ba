"""Carry out an operation on a dataset: check its shards, build the new ones aside, exchange the files."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import pyarrow as pa

from avdata.prepare.commit import Observer, Workspace, disk_errors, storage_errors
from avdata.prepare.description import encoded_description
from avdata.prepare.operations.build import Edit, NewShard, Prepared, build_shards, folder_of
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.operations.swap import Swap, claimed, finish, is_resumed, settle, staged
from avmanifest.errors import ConfigError
from avmanifest.files import flush, read_file, remove, replace_bytes, sha256_of
from avmanifest.layout import Layout, ShardName
from avmanifest.records import columns_of_description
from avmanifest.secrets import shown_url
from avmanifest.table import write_table

_NOT_IN_A_STORE: Final = (
    "an object store cannot exchange several files at once, so readers would find a mixture. Copy the dataset with "
    "`avkit export URL --to FOLDER`, change the copy, and export it back to the same URL, which replaces the older "
    "state."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an operation makes of a dataset."""

    description: Mapping[str, Any]  # the new dataset.json, without the operation's entry in its history
    shards: tuple[NewShard, ...]
    edit: Edit = StoredClip.kept
    gone: tuple[ShardName, ...] = ()  # shards that the dataset will have no more
    plan: tuple[pa.Table, ...] | None = None  # parts of the new plan; None: the plan stays
    forget: bool = False  # also remove quarantined shards, fetched media and what stopped runs left


@runtime_checkable
class Asked(Protocol):
    """What `avkit dataset` was asked to do. It stands in the history of the dataset that comes of it."""

    @property
    def name(self) -> str:
        """Its name on the command line."""
        ...

    def settings(self) -> dict[str, Any]:
        """What was asked for, as JSON holds it."""
        ...


@runtime_checkable
class Operation(Asked, Protocol):
    """One kind of change."""

    @property
    def versions(self) -> tuple[int, ...]:
        """The format versions of datasets that it can change."""
        ...

    def changes(self, dataset: Prepared, note: Observer) -> Changes | None:
        """What to change; None if the dataset is already as asked for. Raises ConfigError if it cannot be done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The result of an operation."""

    operation: str
    root: str
    changed: bool  # False: the dataset already was as asked for
    num_shards: int = 0  # built, by this run or by earlier ones of the same command
    num_clips: int = 0  # of these shards, failed ones included
    bytes_read: int = 0  # tars that were checked, and read again to build the new ones
    bytes_written: int = 0  # tars

    def as_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return asdict(self)


def run_operation(
    root: str | Path,
    operation: Operation,
    *,
    num_workers: int = 1,
    observe: Observer = lambda _: None,
    note: Observer = lambda _: None,
) -> Done:
    """Change a dataset in place. Run again after a kill, it goes on; the bytes do not depend on workers or kills.

    Args:
        root: Folder of the dataset.
        operation: What to do.
        num_workers: Processes that build shards.
        observe: Receives the name of every step.
        note: Receives messages for the user.

    Raises:
        ConfigError: It is not a prepared dataset on this machine, the operation cannot be done on it, or another run
            or operation is at work there.
        ShardError: A shard is damaged.
        ManifestError: A file of the dataset cannot be read.
        StorageError: A file cannot be written.
    """
    layout = Layout(folder_of(root, _NOT_IN_A_STORE))
    with disk_errors(layout.root), ExitStack() as closing:
        workspace = Workspace(layout)
        closing.callback(workspace.close)
        with storage_errors(layout.root), workspace.publishing():
            if layout.swap.exists():
                settle(layout, note)
            dataset = Prepared.read(layout, operation.versions)
            changes = operation.changes(dataset, note)
            before = sha256_of(read_file(layout.dataset_json))
            settings = operation.settings()
            words = _words(operation.name, settings)
            request = {"operation": words, "before": before, "settings": settings}
            if changes is None or not is_resumed(layout, request):
                settle(layout, note)
            if changes is None:
                return Done(operation=words, root=shown_url(str(layout.root)), changed=False)
            if others := workspace.others(keep=not changes.forget):
                raise ConfigError(f"{layout.root}: another run is writing here ({others[0]}). End it first.")
            closing.enter_context(claimed(layout, request))
        entry = {"operation": operation.name, **settings, "plan_hash": changes.description["plan_hash"]}
        history = [*dataset.description.get("operations", []), entry | {"before": before}]
        described = encoded_description({**changes.description, "operations": history})
        done = _build(dataset, changes, words, num_workers, observe)
        with storage_errors(layout.root):
            _stage_rest(layout, changes, described)
            swap = Swap(
                operation=words,
                shards=tuple(new.shard for new in changes.shards),
                gone=changes.gone,
                num_parts=None if changes.plan is None else len(changes.plan),
                forget=changes.forget,
            )
            flush(layout.operation)
            with workspace.publishing():
                replace_bytes(layout.swap, swap.to_bytes(), durable=True)
                observe("all files made")
                finish(layout, observe)
    return done


def _words(name: str, settings: Mapping[str, Any]) -> str:
    """An operation for messages: `add-mel released`; a number with its name, `reshard shard_size=100`."""
    shown = {name: value for name, value in settings.items() if not name.endswith("sha256")}
    return " ".join([name, *(f"{name}={value}" if type(value) is int else str(value) for name, value in shown.items())])


def settle_dataset(root: str | Path, note: Observer) -> None:
    """Finish or undo an operation that was stopped. Raises as run_operation does."""
    layout = Layout(folder_of(root, _NOT_IN_A_STORE))
    workspace = Workspace(layout)
    try:
        with storage_errors(layout.root), workspace.publishing():
            settle(layout, note)
    finally:
        workspace.close()


def _build(dataset: Prepared, changes: Changes, words: str, num_workers: int, observe: Observer) -> Done:
    """Build the new shards in the operation's folder."""
    layout = dataset.layout
    built = build_shards(
        [dataset],
        staged(layout),
        changes.shards,
        changes.edit,
        plan_hash=str(changes.description["plan_hash"]),
        columns=columns_of_description(changes.description, layout.dataset_json),
        num_workers=num_workers,
        observe=observe,
    )
    return Done(operation=words, root=shown_url(str(layout.root)), changed=True, **asdict(built))


def _stage_rest(layout: Layout, changes: Changes, described: bytes) -> None:
    """Write the new plan and dataset.json into the operation's folder."""
    new = staged(layout)
    new.plan_part(0).parent.mkdir(exist_ok=True)
    for part, table in enumerate(changes.plan or ()):
        remove(new.plan_part(part))
        write_table(table, new.plan_part(part))
    replace_bytes(new.dataset_json, described)
