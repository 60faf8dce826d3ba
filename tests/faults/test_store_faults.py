"""More than 200 injected faults of the store: nothing is lost, nothing is silently another result, nothing hangs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.fault import Fault
from tests.faults.store_faults import faulty_memory, loader_faults, prepare_faults, trainer_faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "runs", "least"), [(prepare_faults, 8, 70), (loader_faults, 13, 130), (trainer_faults, 4, 4)]
)
def test_requests_that_fail_are_short_slow_or_lie(
    faults: Callable[[Path, range], list[Fault]], runs: int, least: int, tmp_path: Path
) -> None:
    with faulty_memory():
        rows = faults(tmp_path, range(runs))
    assert [row for row in rows if not row.is_good] == []
    assert sum(int(row.tried.split()[0]) for row in rows) >= least
