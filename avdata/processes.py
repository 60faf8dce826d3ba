"""The memory of processes, for benchmarks."""

import contextlib
from collections.abc import Iterable

import psutil


def memory_of(processes: Iterable[psutil.Process]) -> int:
    """Memory in bytes of those of the processes that still run. Shared memory counts once (PSS)."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total


def memory_of_tree(root: psutil.Process) -> int:
    """The memory of a process and its children. Raises NoSuchProcess if it has ended."""
    return memory_of([root, *root.children(recursive=True)])
