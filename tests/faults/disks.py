"""Simulated disks that are full or fail, and a process that has no open file left."""

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def full_disk(file_bytes: int) -> Iterator[None]:
    """Limit the size of files to `file_bytes`: larger writes fail with the operating system's error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@contextmanager
def no_more_files() -> Iterator[None]:
    """Every attempt to open a file fails: the limit of open files is below the number of those that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # standard input, output and error are open
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class FailingDisk:
    """The n-th change of a file below a folder fails in this process: opening for writing, renaming, making a folder.

    Attributes:
        passed: Number of changes so far.
        failed: The change that failed; empty if there were fewer.
    """

    _active: "FailingDisk | None" = None
    _is_watching = False

    def __init__(self, folder: Path, fatal: int, code: int = errno.ENOSPC) -> None:
        self.passed = 0
        self.failed = ""
        self._folder, self._fatal, self._code = str(folder), fatal, code

    def __enter__(self) -> "FailingDisk":
        if not FailingDisk._is_watching:
            FailingDisk._is_watching = True
            sys.addaudithook(_watch)  # cannot be removed
        FailingDisk._active = self
        return self

    def __exit__(self, *_: object) -> None:
        FailingDisk._active = None

    def change(self, name: str, path: Any) -> None:
        if self.failed or not isinstance(path, str | os.PathLike) or not str(path).startswith(self._folder):
            return
        self.passed += 1
        if self.passed == self._fatal:
            self.failed = f"{name} {Path(path).name}"
            raise OSError(self._code, os.strerror(self._code), str(path))


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    disk = FailingDisk._active
    if disk is None:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            disk.change("open", path)
    elif event in ("os.rename", "os.mkdir", "os.link"):
        disk.change(event, arguments[0])
