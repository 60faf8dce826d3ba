"""Plain copies of .tar.zst archives, whose members cannot be found without unpacking all that is before them."""

import os
from pathlib import Path
from typing import Final

from avdata.cache import CacheFolder, lock_file
from avdata.unpacking import Unpacked
from avmanifest.errors import ConfigError, StorageError
from avmanifest.files import UNFINISHED, open_descriptor, open_file, sha256_of, unfinished_path

MOST_BYTES: Final = 200 * 10**9  # of all copies; those that no run uses are removed, the oldest first
_SUFFIX: Final = ".unpacked.tar"
_ATTEMPTS: Final = 5
_COPY_BYTES: Final = 1024**2


def unpacked_copy(archive: str, folder: Path, most_bytes: int = MOST_BYTES) -> tuple[Path, int]:
    """The plain copy of a .tar.zst, which is made unless `folder` has it, of this file with its size and time.

    Args:
        archive: Path of the archive.
        folder: Where copies are kept, among other files.
        most_bytes: Size of all copies.

    Returns:
        Its path, and an open descriptor: until it is closed, no process removes the copy.

    Raises:
        ShardError: The archive is damaged. No copy is left.
        StorageError: The copy cannot be written, or is larger than `most_bytes`.
    """
    status = Path(archive).stat()
    identity = f"{os.path.realpath(archive)} {status.st_size} {status.st_mtime_ns}"
    path = folder / f"{sha256_of(os.fsencode(identity))[:32]}{_SUFFIX}"
    copies = CacheFolder(folder, most_bytes, _entry_of)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            claim = copies.claim(path.name, wait=True)
            assert claim is not None, "it was waited for"
            try:
                if not path.exists():
                    _unpack(archive, path, copies)
                descriptor = open_descriptor(path)
            finally:
                copies.unclaim(path.name, claim)
            if lock_file(descriptor, touch_after_ns=0):
                return path, descriptor
            os.close(descriptor)  # another process has just removed it
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder}: {archive} cannot be unpacked there ({error.strerror}). Make room on the disk."
        ) from error
    raise StorageError(f"{path}: removed as fast as it is made. Other runs need the folder; run them one by one.")


def remove_copies(folder: Path) -> None:
    """Remove all copies in a folder, when no run needs them any more."""
    for path in folder.glob(f"*{_SUFFIX}"):
        path.unlink(missing_ok=True)


def _entry_of(name: str) -> str | None:
    """The folder may have files of others."""
    return name if _SUFFIX in name and name.endswith((_SUFFIX, UNFINISHED)) else None


def _unpack(archive: str, path: Path, copies: CacheFolder) -> None:
    part = unfinished_path(path, shared=True)
    try:
        with copies.growing(part) as file, open_file(archive) as packed:
            content = Unpacked(packed, "zstd", archive)
            while chunk := content.read(_COPY_BYTES):
                with copies.changing():
                    if copies.make_room(len(chunk)):
                        raise ConfigError(
                            f"{archive}: its plain copy and those that runs use now take more than "
                            f"{copies.max_bytes} bytes in {copies.root}. Unpack it yourself and use local:FOLDER."
                        )
                file.write(chunk)
            file.flush()
            with copies.changing():
                part.replace(path)
    finally:
        part.unlink(missing_ok=True)
