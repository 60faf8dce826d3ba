"""The number of CPU cores that this process may use."""

import os


def usable_cores() -> int:
    """CPU cores that this process may run on (its affinity mask); all cores on systems without one, such as macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
