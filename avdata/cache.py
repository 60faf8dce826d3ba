"""A folder of cached files with a size limit that several processes share. Shards and fetched media are kept in one.

One entry is one main file, and for media further files beside it. Three locks (flock) are all there is:

- Whoever uses an entry holds a shared lock on its main file: `lock_file`.
- Whoever makes an entry holds NAME.lock alone (`claim`) and renames the files to their names at the end.
- Names and sizes in the folder change only under evict.lock (`changing`), so every process counts the same files.

Of the entries that are not in use, the least recently used is removed first. A main file is truncated as well, so
that its space is free at once: a process that has it open without a lock learns from `lock_file` that it is gone.
"""

import contextlib
import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import IO, BinaryIO, Final

_TOUCH_NS: Final = 60 * 10**9  # update the access time of a file in use at most this often


class CacheFolder:
    """The entries of a folder, and the rule by which they are locked and removed.

    Args:
        root: The folder; it has to exist before any method is called.
        max_bytes: Size of all entries above which `make_room` removes some.
        entry_of: The name of the main file of the entry to which a file belongs; None for a file of no entry.
    """

    def __init__(self, root: Path, max_bytes: int, entry_of: Callable[[str], str | None]) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._entry_of = entry_of

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """The sole right to change names and sizes in the folder."""
        with (self.root / "evict.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def claim(self, name: str, *, wait: bool) -> BinaryIO | None:
        """Take the sole right to make an entry, until `unclaim`. None if another has it and `wait` is False."""
        path = self.root / f"{name}.lock"
        while True:
            lock = path.open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                    return lock
            except FileNotFoundError:
                pass
            except BlockingIOError:
                lock.close()
                return None
            lock.close()  # its last owner has removed the file meanwhile

    def unclaim(self, name: str, lock: BinaryIO) -> None:
        """Give up the right that `claim` gave."""
        (self.root / f"{name}.lock").unlink(missing_ok=True)
        lock.close()

    @contextlib.contextmanager
    def growing(self, part: Path) -> Iterator[IO[bytes]]:
        """Create a file that no process removes while it is written."""
        with contextlib.ExitStack() as stack:
            with self.changing():
                file = stack.enter_context(part.open("xb"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def make_room(self, num_bytes: int = 0, last: Container[str] = ()) -> int:
        """Remove unused entries until `num_bytes` more fit. Only within `changing`.

        Args:
            num_bytes: Size of what is about to be written.
            last: Names of main files that are removed after all others.

        Returns:
            Bytes by which the limit would still be exceeded.
        """
        files: defaultdict[str, list[Path]] = defaultdict(list)
        sizes: defaultdict[str, int] = defaultdict(int)
        used_ns: dict[str, int] = {}
        for file in os.scandir(self.root):
            if (entry := self._entry_of(file.name)) is not None:
                with contextlib.suppress(FileNotFoundError):
                    stat = file.stat()
                    sizes[entry] += stat.st_size
                    files[entry].append(Path(file.path))
                    if file.name == entry:
                        used_ns[entry] = stat.st_atime_ns
        excess = sum(sizes.values()) + num_bytes - self.max_bytes
        for entry in sorted(files, key=lambda entry: (entry in last, used_ns.get(entry, 0))):
            if excess <= 0:
                break
            if _remove_unused(self.root / entry, files[entry]):
                excess -= sizes[entry]
        return max(excess, 0)


def lock_file(descriptor: int, *, touch_after_ns: int = _TOUCH_NS) -> bool:
    """Lock a cached file against removal until `unlock_file` or until it is closed.

    Args:
        descriptor: The open main file of an entry.
        touch_after_ns: Update the access time if it is older than this, in nanoseconds.

    Returns:
        False if the file has already been removed.
    """
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    stat = os.fstat(descriptor)
    now = time.time_ns()
    if stat.st_nlink and now - stat.st_atime_ns > touch_after_ns:
        with contextlib.suppress(PermissionError):  # the file belongs to another user
            os.utime(descriptor, ns=(now, stat.st_mtime_ns))
    return stat.st_nlink > 0


def unlock_file(descriptor: int) -> None:
    """Allow the removal of a file that stays open."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _remove_unused(main: Path, files: list[Path]) -> bool:
    """Remove an unlocked entry: the main file first, because it describes the others."""
    try:
        with main.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            main.unlink()
            file.truncate(0)
    except FileNotFoundError:
        pass  # removed meanwhile, or the rest of a killed process
    except (BlockingIOError, PermissionError):
        return False
    for path in files:
        path.unlink(missing_ok=True)
    return True
