"""Files of tensors, read without running code from them."""

import argparse
import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from avmanifest.errors import CheckpointError, ConfigError
from avmanifest.files import open_file
from avmodel.checkpoint import read_weights as read_checked


def require_file(path: Path) -> None:
    """Raise ConfigError unless a file of weights can be there."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder. Give a file of weights. A run of avkit needs no conversion.")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")


def md5_of_file(path: Path) -> str:
    """The MD5 of a file: the only published hash of some released weights."""
    with open_file(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


TORCH_SUFFIXES: Final = (".pth", ".pt")
"""Of files that torch wrote, as releases are."""

CONTAINERS: Final = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts store weights, one in another too."""

_COMPILED: Final = re.compile(r"(?:(?<=\.)|\A)_orig_mod\.")  # also inside of a name: a part of the model was compiled
_PREFIXES: Final = re.compile(r"\A(?:(?:module|model)\.)+")
_SCALAR = np.float64(0).__reduce__()[0]  # numpy's function that makes a scalar from its bytes
_SAFE_TYPES: Final[list[Any]] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What training scripts store beside the weights: their arguments and best scores. These types hold values, no code."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch file, under the names of the bare model.

    Weights may stand at the top of the file or in CONTAINERS. The prefixes of wrappers (`module.` of data parallel
    training, `_orig_mod.` of torch.compile, `model.` of training frameworks) are removed in any nesting.

    Raises ConfigError for a missing file or one without weights, for one that would have to run code to be read, and
    for names that are equal without their prefixes; CheckpointError for a damaged file of weights.
    """
    require_file(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = read_checked(path)[0]
        else:
            _refuse_bomb(path)
            with torch.serialization.safe_globals(_SAFE_TYPES):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not is_torch_file(path):
            raise ConfigError(f"{path}: neither a torch file nor .safetensors (a Git LFS pointer?)") from error
        raise ConfigError(
            f"{path}: holds Python objects whose loading would run code from the file, which avkit never does. "
            "Take a file of tensors only, or re-save its state dict as .safetensors where you trust it. "
            f"({str(error).partition(chr(10))[0]})"
        ) from error
    except (ConfigError, CheckpointError):
        raise
    # A damaged file can raise any error in the reader: IndexError, AssertionError, struct.error.
    except Exception as error:
        kind = CheckpointError if is_torch_file(path) else ConfigError
        raise kind(f"{path}: no readable weights ({error})") from error
    for _ in CONTAINERS:  # a file may contain itself
        inner = [content[key] for key in CONTAINERS if _is_table(content.get(key))] if _is_table(content) else []
        content = inner[0] if inner else content
    if not _is_table(content) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"{path}: no state dict at its top, nor under {', '.join(CONTAINERS)}")
    return _unwrapped(content, path)


def _is_table(content: Any) -> bool:
    return isinstance(content, dict) and len(content) > 0


def _unwrapped(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights without the prefixes of wrappers."""
    found: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}
    for name, tensor in weights.items():
        ours = _PREFIXES.sub("", _COMPILED.sub("", str(name)))
        if ours in found:
            raise ConfigError(
                f"{path}: {theirs[ours]!r} and {name!r} are both {ours!r} without the prefixes of wrappers. "
                "Save the state dict of one model."
            )
        found[ours], theirs[ours] = tensor, str(name)
    return found


def _refuse_bomb(path: Path) -> None:
    """Raise ConfigError for a zip whose content is larger than itself: torch stores tensors without compression."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ConfigError(
                f"{path}: {path.stat().st_size:,} bytes that unpack to {unpacked:,}; torch writes no such"
            )


def is_torch_file(path: Path) -> bool:
    """Whether the file begins like a zip archive or a pickle, the formats of torch."""
    with open_file(path) as file:
        return file.read(2).startswith((b"PK", b"\x80"))
