"""Every row about secrets in the fault table has what it should."""

import pytest

from tests.faults.secret_faults import secret_faults


@pytest.mark.slow
@pytest.mark.network
def test_no_secret_is_shown_led_away_or_left(tmp_path):
    rows = list(secret_faults(tmp_path))
    assert [row for row in rows if not row.is_good] == []
    assert len(rows) > 20
