"""Damaged shards put out of the way, so that the same prepare makes them again."""

from collections.abc import Sequence
from pathlib import Path

from avdata.audit.dataset import AuditDataset, DatasetKind
from avdata.audit.verify import Fault, shards_of
from avdata.prepare.commit import Workspace, quarantine
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout


def repair(dataset: AuditDataset, faults: Sequence[Fault]) -> list[Path]:
    """Move every shard that has a fault to the dataset's quarantine; the folders that hold them now.

    The manifest is left as it is: the same `avkit prepare` makes the shards again, and it. Raises ConfigError for what
    cannot be made again: shards or a manifest alone, a dataset on another machine.
    """
    if dataset.kind is not DatasetKind.DATASET or not dataset.store.is_local:
        raise ConfigError(
            f"{dataset.root}: --repair is for a prepared dataset on this machine. Copy or fetch it again."
        )
    layout = Layout(Path(dataset.store.base))
    workspace = Workspace(layout)
    try:
        with workspace.publishing():
            bad = [shard for shard in shards_of(faults) if any(path.exists() for path in layout.files(shard))]
            return [quarantine(layout, shard) for shard in bad]
    finally:
        workspace.close()
