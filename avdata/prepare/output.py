"""Where a dataset is written: a folder, or a bucket behind a mirror. What a run asks of either."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from avdata.prepare.bucket import local_folder, open_bucket, place_of
from avdata.prepare.commit import Observer, Segment, Workspace, commit_shard, marker_problem, quarantine, read_stats
from avdata.prepare.mirror import BucketOutput
from avdata.retrying import RetryPolicy
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout, ShardName


@runtime_checkable
class Output(Protocol):
    """A dataset's place."""

    @property
    def layout(self) -> Layout:
        """The dataset's small files on this machine, whatever the place."""
        ...

    def check(self) -> None:
        """Raise ConfigError for a place that holds what avkit did not make."""
        ...

    def refresh(self, note: Observer) -> bool:
        """Bring here what other runs published, and tell of what had to be mended; whether there was anything new."""
        ...

    def claim(self, path: Path) -> bool:
        """Publish a file of `layout` unless another run did before: then theirs takes its place, and False."""
        ...

    def fetch(self, path: Path) -> bool:
        """Bring another run's file of `layout` here; whether there is one."""
        ...

    def renew(self, paths: Sequence[Path]) -> None:
        """Publish files of `layout` over older ones."""
        ...

    def commit(
        self, shard: ShardName, segments: Sequence[Segment], workspace: Workspace, plan_hash: str, observe: Observer
    ) -> dict[str, Any]:
        """Publish a shard unless another run did before; the marker of the one that is there now."""
        ...

    def is_done(self, shard: ShardName, plan_hash: str) -> bool:
        """Whether another run has published the shard meanwhile."""
        ...

    def quarantine(self, shard: ShardName) -> object:
        """Put a damaged shard away, marker first; where it is now. Called with the publishing lock held."""
        ...

    def remove(self) -> None:
        """Remove the dataset, its description first: without that nothing of the rest counts."""
        ...

    def clear(self) -> None:
        """Remove what finished runs may have left; called when every shard of the plan is there."""
        ...

    def naming(self) -> AbstractContextManager[None]:
        """Have errors name the place as the user wrote it."""
        ...


@dataclass(frozen=True, slots=True)
class FolderOutput:
    """A folder on this machine, or one that several machines share. Runs see one another's files at once."""

    layout: Layout

    def check(self) -> None:
        """Raise ConfigError for a file, or a folder with other files."""
        root = self.layout.root
        if root.exists() and not root.is_dir():
            raise ConfigError(f"{root}: is a file. Give --out a folder.")
        if not root.exists():
            return
        ours = (self.layout.dataset_json, self.layout.plan_part(0).parent, self.layout.temporary)
        if not any(path.exists() for path in ours) and any(root.iterdir()):
            raise ConfigError(f"{root}: holds files that avkit did not make. Give --out a new or an empty folder.")

    def refresh(self, note: Observer) -> bool:
        """Never anything new: the files are here."""
        del note
        return False

    def claim(self, path: Path) -> bool:
        """Always ours: it was written with the publishing lock held."""
        del path
        return True

    def fetch(self, path: Path) -> bool:
        """Whether the file is there."""
        return path.exists()

    def renew(self, paths: Sequence[Path]) -> None:
        """Nothing to do."""

    def commit(
        self, shard: ShardName, segments: Sequence[Segment], workspace: Workspace, plan_hash: str, observe: Observer
    ) -> dict[str, Any]:
        """See commit_shard."""
        return commit_shard(self.layout, shard, segments, workspace, plan_hash, observe)

    def is_done(self, shard: ShardName, plan_hash: str) -> bool:
        """Whether there is a true marker of the plan."""
        return marker_problem(self.layout, shard) is None and read_stats(self.layout, shard)["plan_hash"] == plan_hash

    def quarantine(self, shard: ShardName) -> Path:
        """The folder that holds the shard now."""
        return quarantine(self.layout, shard)

    def remove(self) -> None:
        """Remove what prepare made below the root."""
        layout = self.layout
        layout.dataset_json.unlink(missing_ok=True)
        for split in layout.splits():
            for shard in layout.shards(split):
                for path in reversed(layout.files(shard)):
                    path.unlink(missing_ok=True)
        for path in (layout.card, layout.croissant):
            path.unlink(missing_ok=True)
        for folder in (layout.energon, layout.quarantine):
            if folder.exists():
                shutil.rmtree(folder)

    def clear(self) -> None:
        """Nothing to do: a workspace goes with its run."""

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Errors name the folder anyway."""
        yield


def open_output(out: str | Path, patience: RetryPolicy | None = None) -> Output:
    """The output that `--out` names. Raises ConfigError for a URL that cannot be written."""
    out = place_of(out)
    folder = local_folder(out)
    return FolderOutput(Layout(folder)) if folder is not None else BucketOutput.open(open_bucket(str(out), patience))
