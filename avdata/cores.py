"""How many workers this process should start."""

import os


def usable_cores() -> int:
    """Cores this process may run on; where the system does not tell (macOS), all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
