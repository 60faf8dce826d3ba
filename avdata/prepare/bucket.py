"""Outputs by name: a folder on this machine or in an object store."""

import os
import re
from pathlib import Path
from typing import Final

from fsspec.implementations.local import LocalFileSystem

from avdata.store import Store, open_writable
from avdata.urls import hub_repository, local_path

_CHAINED: Final = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*::")


def place_of(word: str | Path) -> str | Path:
    """The folder or URL of a name that a user gave: `hf:USER/NAME` is a dataset repository of the hub.

    Raises ConfigError for another name that begins with `hf:`.
    """
    if isinstance(word, Path):
        return word
    repository = hub_repository(word)
    return word if repository is None else f"hf://datasets/{repository[0]}"


def local_folder(out: str | Path) -> Path | None:
    """The local folder of an output; None for the URL of a remote one."""
    if isinstance(out, Path):
        return local_path(str(out))
    return None if _CHAINED.match(out) else local_path(out)


def open_place(place: str | Path) -> Store:
    """The files of a local folder or of a URL. Raises as open_writable."""
    place = place_of(place)
    folder = local_folder(place)
    if folder is None:
        return open_writable(str(place))
    return Store(str(folder), LocalFileSystem(), os.path.realpath(folder))  # Path.resolve() fails at a loop of links
