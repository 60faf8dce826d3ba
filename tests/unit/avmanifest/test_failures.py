"""The failed clips of a dataset: which are shown, what is said of each status, and the file of tracebacks."""

from pathlib import Path

import pyarrow as pa
import pytest

from avmanifest.failures import FAILED_COLUMNS, FailedClip, failed_clips, some_of_each, write_tracebacks
from avmanifest.schema import STATUSES, is_failure

TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in run\nRuntimeError: no more\n'


def clip(number: int, status: str, reason: str = "") -> FailedClip:
    return FailedClip(key=f"k{number:03d}", split="train", video_id=f"v{number}", status=status, reason=reason)


def rows_of(*statuses: str) -> pa.Table:
    rows = [(f"k{n}", "train", f"v{n}", status, None) for n, status in enumerate(statuses)]
    return pa.Table.from_pylist([dict(zip(FAILED_COLUMNS, row, strict=True)) for row in rows])


def test_samples_dropped_and_removed_clips_have_not_failed() -> None:
    statuses = ("ok", "filtered_light", "removed", "media_short", "internal", "from_a_later_version")
    found = list(failed_clips([rows_of(*statuses)]))
    assert [one.status for one in found] == ["media_short", "internal", "from_a_later_version"]
    assert found[0].reason == ""
    assert found[-1].remedy == ""


def test_each_failure_has_a_remedy_of_its_own_kind_and_its_options_come_in_pairs() -> None:
    for name, status in STATUSES.items():
        assert bool(status.remedy) == is_failure(name), name
        assert status.remedy.endswith(".") or not status.remedy, name
        assert len(status.options) % 2 == 0, name
        assert all(option.startswith("--") for option in status.options[::2]), name


def test_of_every_status_some_are_shown() -> None:
    many = [clip(n, "media_short") for n in range(50)] + [clip(n, "internal") for n in range(50, 53)]
    shown = some_of_each([*many, clip(60, "net_dns")])
    assert [one.status for one in shown] == ["media_short"] * 6 + ["internal"] * 3 + ["net_dns"]
    assert [one.key for one in shown[:6]] == [f"k{n:03d}" for n in range(6)]
    assert some_of_each([]) == ()
    assert len(some_of_each(many, most=1)) == 1


@pytest.mark.parametrize(("reason", "last"), [(TRACEBACK, "RuntimeError: no more"), ("", ""), ("\n\n", ""), ("a", "a")])
def test_the_last_line_of_a_traceback_is_the_error(reason: str, last: str) -> None:
    assert clip(0, "internal", reason).last_line == last


def test_tracebacks_are_written_and_removed_when_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "_errors.txt"
    assert write_tracebacks(path, [clip(1, "internal", TRACEBACK), clip(2, "media_short", "short")])
    assert path.read_text() == f"train/k001\n{TRACEBACK}"
    assert write_tracebacks(path, [clip(n, "internal", "x") for n in range(1001)])
    assert path.read_text().endswith("1 more traceback in the column reason of the manifest\n")
    assert not write_tracebacks(path, [clip(2, "media_short", "short")])
    assert not path.exists()
