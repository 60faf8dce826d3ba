"""Drawn files on the disk."""

from pathlib import Path

from avmanifest.errors import StorageError
from avmanifest.files import replace_bytes


def write_drawing(path: Path, content: bytes, *, what: str, remedy: str) -> Path:
    """Write a file so that it appears whole or not at all; its folder is made where it is missing.

    Args:
        path: Where the file is to stand.
        content: Its bytes.
        what: "picture" or "page", for the message.
        remedy: What to do if it cannot be written, as a sentence.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        replace_bytes(path, content)
    except OSError as error:
        raise StorageError(f"{path}: {what} not written ({error.strerror}). {remedy}") from error
    return path
