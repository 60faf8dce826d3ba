"""Drawn files on the disk."""

from contextlib import suppress
from pathlib import Path

from avmanifest.errors import StorageError


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
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise StorageError(f"{path}: {what} not written ({error.strerror}). {remedy}") from error
    return path
