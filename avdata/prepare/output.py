"""The place to which a dataset is written: a folder, or a bucket with a local mirror of its small files."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from avdata.prepare.bucket import local_folder, place_of
from avdata.prepare.commit import (
    PUBLISH_LOCK,
    EndedShard,
    Observer,
    Workspace,
    commit_shard,
    is_committed,
    quarantine,
)
from avdata.prepare.mirror import BucketOutput
from avdata.prepare.sources.unpacked import remove_copies
from avdata.retrying import RetryPolicy
from avdata.store import open_writable
from avmanifest.errors import ConfigError
from avmanifest.files import is_unfinished
from avmanifest.layout import Layout, ShardName, is_published
from avmanifest.wording import first_of

_FEW: Final = 3  # foreign files that a message names
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - named to refuse it
_SYSTEM: Final = tuple(
    Path("/", name)
    for name in ("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr/bin", "usr/lib", "usr/sbin")
)
"""Folders of the system, with all below them but what lies below _MEMORY."""
_SHARED: Final = (_MEMORY, *(Path("/", name) for name in ("", "home", "opt", "root", "run", "tmp", "usr", "var")))
"""Folders of many users or programs, in which a folder for a dataset may lie."""


@runtime_checkable
class DatasetOutput(Protocol):
    """A folder or a bucket that holds one dataset.

    The local files that a method names are those of `layout`.
    """

    @property
    def layout(self) -> Layout:
        """Paths of the dataset's small files on this machine."""
        ...

    def check(self) -> None:
        """Raise ConfigError if the place holds files that avkit did not write."""
        ...

    def look(self) -> None:
        """Copy here what is published, and change nothing there: for a run that only looks."""
        ...

    def refresh(self, note: Observer) -> bool:
        """Copy here what other runs published; `note` receives what was repaired. Returns whether anything was new."""
        ...

    def claim(self, path: Path) -> bool:
        """Publish a file unless another run has; then replace the local file by theirs and return False."""
        ...

    def fetch(self, path: Path) -> bool:
        """Copy a published file here; False if it does not exist."""
        ...

    def renew(self, paths: Sequence[Path]) -> None:
        """Publish files, replacing older ones."""
        ...

    def commit(self, shard: EndedShard, workspace: Workspace, observe: Observer) -> dict[str, Any]:
        """Publish a shard unless another run has. Returns the marker of the published shard."""
        ...

    def is_done(self, shard: ShardName, plan_hash: str) -> bool:
        """Whether the shard of this plan is published, by this or another run."""
        ...

    def quarantine(self, shard: ShardName) -> object:
        """Move a damaged shard out of the dataset, marker first, and return its new place.

        The caller holds the publishing lock.
        """
        ...

    def remove(self) -> None:
        """Remove the dataset, dataset.json first: without it the other files are not a dataset."""
        ...

    def clear(self) -> None:
        """Remove temporary files of finished runs; called when every shard of the plan is published."""
        ...

    def naming(self) -> AbstractContextManager[None]:
        """Within this context, errors name the place as the user gave it."""
        ...


@dataclass(frozen=True, slots=True)
class FolderOutput:
    """A folder on this machine or on a shared file system. All runs see the same files."""

    layout: Layout

    def check(self) -> None:
        """Raise ConfigError for a file, a link to nothing, a folder of the system, or one with files but no dataset."""
        layout = self.layout
        root = layout.root
        if root.exists() and not root.is_dir():
            raise ConfigError(f"{root}: is a file. Give --out a folder.")
        for path in (root, *root.parents):
            if path.is_symlink() and not path.exists():
                raise ConfigError(
                    f"{path}: is a symbolic link to {path.readlink()}, which is not there. Make that folder, or give "
                    "--out another one."
                )
        if layout.dataset_json.exists():
            return
        if _is_of_system(root):
            raise ConfigError(f"{root}: is a folder of the system or of all your files. Give --out a new folder.")
        foreign = sorted(path.name for path in root.iterdir() if not self._is_ours(path)) if root.exists() else []
        if foreign:
            few = first_of(list(map(repr, foreign)), _FEW)
            raise ConfigError(
                f"{root}: holds files that avkit did not write: {few}. Give --out a new or an empty folder."
            )

    def _is_ours(self, path: Path) -> bool:
        """Whether avkit makes such an entry: a run that was stopped early, or a dataset that lost its dataset.json."""
        layout = self.layout
        plan = layout.plan_part(0).parent
        if path == plan:
            return path.is_dir() and all(map(_is_of_plan, path.iterdir()))
        own = {layout.temporary, layout.operation, layout.quarantine, layout.media, layout.tracebacks}
        has_begun = bool(layout.plan_parts()) or (layout.temporary / PUBLISH_LOCK).exists() or any(layout.splits())
        if has_begun:
            own |= {layout.card, layout.croissant, layout.energon, layout.manifest("train").parent}
        # An --overwrite that was stopped leaves files of shards without their markers.
        is_split = has_begun and path.is_dir() and all(self._is_of_shard(child) for child in path.iterdir())
        return path in own or is_unfinished(path.name) or is_split or bool(layout.shards(path.name))

    def _is_of_shard(self, path: Path) -> bool:
        """Whether a file in a folder has the name of a shard's file."""
        return is_published(self.layout.name(path)) or is_unfinished(path.name)

    def look(self) -> None:
        """Do nothing: the files are local."""

    def refresh(self, note: Observer) -> bool:
        """Always False: the files are local."""
        del note
        return False

    def claim(self, path: Path) -> bool:
        """Always True: the file was written with the publishing lock held."""
        del path
        return True

    def fetch(self, path: Path) -> bool:
        """Whether the file exists."""
        return path.exists()

    def renew(self, paths: Sequence[Path]) -> None:
        """Do nothing: the files are in place."""

    def commit(self, shard: EndedShard, workspace: Workspace, observe: Observer) -> dict[str, Any]:
        """See commit_shard."""
        return commit_shard(self.layout, shard, workspace, observe)

    def is_done(self, shard: ShardName, plan_hash: str) -> bool:
        """Whether the shard exists, agrees with its marker and is of this plan."""
        return is_committed(self.layout, shard, plan_hash)

    def quarantine(self, shard: ShardName) -> Path:
        """Move the shard's files into a new folder, which is returned."""
        return quarantine(self.layout, shard)

    def remove(self) -> None:
        """Remove what avkit wrote below the root."""
        layout = self.layout
        layout.dataset_json.unlink(missing_ok=True)
        for split in layout.splits():
            for shard in layout.shards(split):
                for path in reversed(layout.files(shard)):
                    path.unlink(missing_ok=True)
        for path in (layout.card, layout.croissant, layout.tracebacks):
            path.unlink(missing_ok=True)
        for folder in (layout.energon, layout.quarantine):
            if folder.exists():
                shutil.rmtree(folder)

    def clear(self) -> None:
        """Remove plain copies of archives. Each run removes its own workspace."""
        remove_copies(self.layout.temporary)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Do nothing: errors name the folder already."""
        yield


def _is_of_plan(path: Path) -> bool:
    """Whether a run writes such an entry of the folder of the plan."""
    return path.name == "lists" or path.name.startswith("part-") or is_unfinished(path.name)


def _is_of_system(folder: Path) -> bool:
    """Whether a folder belongs to the system, or holds all files of users: no dataset is written there."""
    real = Path(os.path.realpath(folder))
    with contextlib.suppress(RuntimeError):  # a user without a home
        if real == Path(os.path.realpath(Path.home())):
            return True
    is_within = any(real.is_relative_to(top) for top in _SYSTEM)
    return real in _SHARED or (is_within and not real.is_relative_to(_MEMORY))


def open_output(out: str | Path, patience: RetryPolicy | None = None) -> DatasetOutput:
    """Open the output that `--out` names.

    Args:
        out: A folder, or the URL of one in an object store.
        patience: Retries of requests to the store.

    Raises:
        ConfigError: The URL's protocol cannot be written, or its package is missing.
    """
    out = place_of(out)
    folder = local_folder(out)
    return FolderOutput(Layout(folder)) if folder is not None else BucketOutput.open(open_writable(str(out), patience))
