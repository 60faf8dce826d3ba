"""The table's rows of unusual inputs; those of media are tests in tests/unit/avdata/test_decode_clocks.py."""

from pathlib import Path

from tests.faults.kinds import list_rows, message_rows, name_rows, weight_rows


def test_what_is_unusual_and_right_is_read_for_what_it_is(tmp_path: Path) -> None:
    rows = [*name_rows(tmp_path), *list_rows(tmp_path), *weight_rows(tmp_path), *message_rows()]
    assert len(rows) > 40
    assert [row for row in rows if not row.is_good] == []
