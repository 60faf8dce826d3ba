"""A folder of media files as a list of clips."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from avmanifest.clipnames import MEDIA_SUFFIXES
from avmanifest.errors import ManifestError
from avmanifest.lists.requests import ListFile, list_column, request_table, undecodable

FOLDER_SPLITS: Final = ("train", "val", "test")
"""First folders of these names are splits, not labels."""


def read_folder(list_file: ListFile, *, labels_from_parent: bool = True) -> pa.Table:
    """One clip per media file below a folder, sorted by path: the whole file, from 0 to its end.

    video_id is the path below the folder without its suffix (with it where two files differ in nothing
    else). The split is the first folder if that is train, val or test, else train. The label is the folder
    that holds the file, unless that is the root or the split's.
    """
    root = list_file.path
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder")
    paths = sorted(_media_below(root))
    if not paths:
        raise ManifestError(f"{root}: no media files in it; looked for {' '.join(sorted(MEDIA_SUFFIXES))}")
    stems = [path.rpartition(".")[0] for path in paths]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    splits, labels = [], []
    for path in paths:
        folders = path.split("/")[:-1]
        split = folders.pop(0) if folders and folders[0] in FOLDER_SPLITS else FOLDER_SPLITS[0]
        splits.append(split)
        labels.append(folders[-1:] if labels_from_parent else [])
    return request_table(
        list_file,
        lambda row: f"{root / paths[row]}",
        video_id=pa.array([path if stem in shared else stem for path, stem in zip(paths, stems, strict=True)]),
        labels=list_column(labels, pa.string()),
        split=pa.array(splits, pa.string()),
        path=pa.array(paths, pa.string()),
    )


def _media_below(root: Path) -> Iterator[str]:
    """Paths of the media files below the root, with /; a folder reached twice is read once."""
    visited: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            names.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        # Folders before links to folders: what a link reaches a second time keeps its real name.
        names[:] = sorted(
            (name for name in names if not name.startswith(".")),
            key=lambda name: (Path(folder, name).is_symlink(), name),
        )
        for name in files:
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in MEDIA_SUFFIXES or not path.is_file():
                continue
            relative = path.relative_to(root).as_posix()
            if not relative.isprintable() or undecodable([relative]):
                raise ManifestError(f"{root}: the file name {relative!r} is no printable UTF-8 text. Rename the file.")
            yield relative
