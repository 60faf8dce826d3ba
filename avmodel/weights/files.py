"""Files of tensors, read without running code from them."""

import argparse
import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from avmanifest.errors import ConfigError
from avmanifest.files import open_file


def md5_of_file(path: Path) -> str:
    """The MD5 of a file: for some released weights no other hash is published."""
    with open_file(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file's `state_dict`, `model` or top level.

    Raises ConfigError for a missing or broken file, and for one that would have to run code to be read.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            _refuse_bomb(path)
            # Training scripts store their arguments beside the weights; a Namespace holds values, no code.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not is_torch_file(path):
            raise ConfigError(f"{path}: neither a torch file nor .safetensors (a Git LFS pointer?)") from error
        raise ConfigError(
            f"{path}: holds Python objects whose loading would run code from the file, which avkit never does. "
            "Take a file of tensors only, or re-save its state dict as .safetensors where you trust it. "
            f"({str(error).partition(chr(10))[0]})"
        ) from error
    except ConfigError:
        raise
    # The reader of a damaged file stumbles in whatever way the damage has it: IndexError, AssertionError, struct.error.
    except Exception as error:
        raise ConfigError(f"{path}: no readable weights ({error})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ConfigError(f"{path}: no state dict at its top, nor under 'state_dict' or 'model'")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


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
    """Whether the file begins like a zip archive or like a pickle, as torch has written them."""
    with open_file(path) as file:
        return file.read(2).startswith((b"PK", b"\x80"))
