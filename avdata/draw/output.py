"""Writes drawn files to the disk."""

from pathlib import Path

from avmanifest.files import replace_bytes, write_errors


def write_drawing(path: Path, content: bytes, *, what: str, remedy: str) -> Path:
    """Write a file, whole or not at all. A missing folder is created.

    Args:
        path: The file to write.
        content: Its bytes.
        what: "picture" or "page", for the error message.
        remedy: A sentence that says what to do if the file cannot be written.

    Raises:
        StorageError: The file cannot be written.
    """
    with write_errors(path, remedy, said=f"{what} not written"):
        replace_bytes(path, content)
    return path
