"""Sources that fail: every fault of the table ends as its status, and nothing is fetched twice."""

import pytest

from tests.faults.fault_table import EXPECTED, all_rows

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The manifest row in which each fault ended."""
    return all_rows(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "status"), EXPECTED.items(), ids=EXPECTED)
def test_a_fault_ends_in_its_status(fault, status, rows, record_property):
    row = rows[fault]
    record_property("expected", status)
    record_property("seen", row["status"])
    assert row["status"] == status, row["reason"]
    assert bool(row["reason"]) == (status != "ok")
    assert bool(row["members"]) == (status == "ok")
