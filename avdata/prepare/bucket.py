"""Outputs: what a user's word names, a folder on this machine or one in an object store."""

import re
from pathlib import Path
from typing import Final

from fsspec.implementations.local import LocalFileSystem

from avdata.store import Store, open_writable
from avdata.urls import local_path
from avmanifest.errors import ConfigError

_HF_REPO: Final = re.compile(r"hf:(?!//)([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
_CHAINED: Final = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*::")


def place_of(word: str | Path) -> str | Path:
    """The folder or URL that a user's word names: `hf:USER/NAME` is a dataset repository of the hub.

    Raises ConfigError for another word that begins with `hf:`.
    """
    if isinstance(word, Path):
        return word
    if match := _HF_REPO.fullmatch(word):
        return f"hf://datasets/{match[1]}"
    if word.startswith("hf:") and not word.startswith("hf://"):
        raise ConfigError(f"{word!r}: a repository is written hf:USER/NAME")
    return word


def local_folder(out: str | Path) -> Path | None:
    """The folder that an output names; None if it is the URL of a folder elsewhere."""
    if isinstance(out, Path):
        return out
    return None if _CHAINED.match(out) else local_path(out)


def open_place(place: str | Path) -> Store:
    """The files of a folder on this machine, or of a URL. Errors as for open_writable."""
    place = place_of(place)
    folder = local_folder(place)
    if folder is None:
        return open_writable(str(place))
    return Store(str(folder), LocalFileSystem(), str(folder.resolve()))
