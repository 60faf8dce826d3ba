"""Mends a dataset: moves damaged shards to the quarantine for the next `avkit prepare`, and removes stored secrets."""

from collections.abc import Callable, Sequence
from pathlib import Path

from avdata.audit.dataset import AuditDataset, DatasetKind
from avdata.audit.secrets import clean
from avdata.audit.verify import Fault, shards_of
from avdata.prepare.commit import Workspace, publishing, quarantine, storage_errors
from avdata.prepare.operations.swap import settle
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout


def settle_operation(dataset: AuditDataset, note: Callable[[str], None]) -> bool:
    """Finish or undo an operation that was stopped. Returns whether there was one: the dataset is then opened anew.

    Args:
        dataset: A prepared dataset on a local disk.
        note: Receives what was done.

    Raises:
        ConfigError: The dataset is remote, or not a prepared dataset, or an operation is running on it.
        ManifestError: A file cannot be read.
        StorageError: A file cannot be written.
    """
    layout = _local_layout(dataset)
    if not layout.operation.is_dir():
        return False
    with storage_errors(layout.root), publishing(layout):
        settle(layout, note)
    return True


def clean_secrets(dataset: AuditDataset) -> list[str]:
    """Remove the secrets that `avdata.audit.secrets` can remove.

    Args:
        dataset: A prepared dataset on a local disk.

    Returns:
        Names of the files that were rewritten.

    Raises:
        ConfigError: The dataset is remote, or not a prepared dataset.
        ManifestError: A file cannot be read.
        StorageError: A file cannot be written.
    """
    layout = _local_layout(dataset)
    with storage_errors(layout.root), publishing(layout):
        settle(layout, lambda _: None)
        return clean(layout)


def repair(dataset: AuditDataset, faults: Sequence[Fault]) -> list[Path]:
    """Move every shard that has a fault to the dataset's quarantine.

    The manifest is not changed: the same `avkit prepare` command makes the shards again and then a new manifest.

    Args:
        dataset: A prepared dataset on a local disk.
        faults: From `verify`.

    Returns:
        The new folders of the shards.

    Raises:
        ConfigError: The dataset is remote, or not a prepared dataset.
    """
    layout = _local_layout(dataset)
    workspace = Workspace(layout)
    try:
        with workspace.publishing():
            settle(layout, lambda _: None)
            bad = [shard for shard in shards_of(faults) if any(path.exists() for path in layout.files(shard))]
            return [quarantine(layout, shard) for shard in bad]
    finally:
        workspace.close()


def _local_layout(dataset: AuditDataset) -> Layout:
    if dataset.kind is not DatasetKind.DATASET or not dataset.store.is_local:
        raise ConfigError(
            f"{dataset.root}: --repair is for a prepared dataset on this machine. Copy or fetch it again."
        )
    return Layout(Path(dataset.store.base))
