"""Prints the table of faults: what was wrong, what was tried, what should come of it, what came.

python -m tests.faults.fault_table [GROUP ...]     exits with 1 if a row has something else than expected
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.faults.bit_faults import bit_faults
from tests.faults.checkpoint_faults import checkpoint_faults
from tests.faults.disk_faults import disk_faults
from tests.faults.fault import Fault
from tests.faults.fuzz.runner import mutant_faults
from tests.faults.hostile_files import hostile_faults
from tests.faults.kinds import kind_rows
from tests.faults.secret_faults import secret_faults
from tests.faults.source_faults import source_faults
from tests.faults.store_faults import store_faults

# A group's function gets an empty folder.
GROUPS: dict[str, Callable[[Path], Iterator[Fault]]] = {
    "bits": bit_faults,
    "checkpoints": checkpoint_faults,
    "disks": disk_faults,
    "secrets": secret_faults,
    "sources": source_faults,
    "store": store_faults,
    "hostile": hostile_faults,
    "mutants": mutant_faults,
    "kinds": kind_rows,
}


def print_table(names: Sequence[str]) -> int:
    """Print the rows of the named groups as they come. Returns 1 if one has something else than expected."""
    if unknown := set(names) - GROUPS.keys():
        sys.exit(f"unknown groups {sorted(unknown)}; known: {', '.join(GROUPS)}")
    bad = 0
    print("| group | fault | tried | expected | seen |\n|---|---|---|---|---|", flush=True)
    for name in names or GROUPS:
        with tempfile.TemporaryDirectory() as folder:
            for row in GROUPS[name](Path(folder)):
                cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in (name, *row))
                print(f"| {' | '.join(cells)} |{'' if row.is_good else '  <-- unexpected'}", flush=True)
                bad += not row.is_good
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(print_table(sys.argv[1:]))
