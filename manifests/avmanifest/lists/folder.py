"""The media files in a folder as a list of clips."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from avmanifest.clipnames import MEDIA_SUFFIXES, printable_name
from avmanifest.errors import ManifestError
from avmanifest.lists.requests import ListFile, list_column, request_table

FOLDER_SPLITS: Final = ("train", "val", "test")
"""Folders directly below the root with these names are splits, not labels."""


def read_folder(list_file: ListFile) -> pa.Table:
    """One clip per media file below a folder, sorted by path. A clip is the whole file.

    video_id is the path below the folder without its suffix; with its suffix if two files differ only in that. The
    split is the first folder of the path if that is train, val or test; otherwise train. The label is the folder that
    contains the file, unless that is the root or the folder of a split. Paths that are not printable are escaped as
    `printable_name` does; the source then refuses the file, and the clip is a row like any other.
    """
    root = list_file.path
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder. Give --list the folder of media.")
    paths = sorted(_media_below(root))
    if not paths:
        raise ManifestError(
            f"{root}: no media files; known suffixes: {' '.join(sorted(MEDIA_SUFFIXES))}. Give a folder that has some, "
            "in it or in folders below it."
        )
    stems = [path.rpartition(".")[0] for path in paths]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    splits, labels = [], []
    for path in paths:
        folders = path.split("/")[:-1]
        split = folders.pop(0) if folders and folders[0] in FOLDER_SPLITS else FOLDER_SPLITS[0]
        splits.append(split)
        labels.append(folders[-1:])
    return request_table(
        list_file,
        lambda row: f"{root / paths[row]}",
        video_id=pa.array([path if stem in shared else stem for path, stem in zip(paths, stems, strict=True)]),
        labels=list_column(labels, pa.string()),
        split=pa.array(splits, pa.string()),
        path=pa.array(paths, pa.string()),
    )


def _media_below(root: Path) -> Iterator[str]:
    """Paths of the media files relative to the root, with slashes. A folder that is linked twice is read once."""
    visited: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            names.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        # Folders before links to folders, so that a linked folder is listed under its own path.
        names[:] = sorted(
            (name for name in names if not name.startswith(".")),
            key=lambda name: (Path(folder, name).is_symlink(), name),
        )
        for name in files:
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in MEDIA_SUFFIXES or not path.is_file():
                continue
            yield printable_name(path.relative_to(root).as_posix())
