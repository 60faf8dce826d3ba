"""The report of wrongly marked tests."""

import pytest

from tests.slowness import SLOW_S, wrongly_marked


def report(name: str, duration: float, *marks: str, when: str = "call", outcome: str = "passed") -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=name,
        location=(name, 0, name),
        keywords=dict.fromkeys(marks, 1),
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=None,
        when=when,  # type: ignore[arg-type]
        duration=duration,
    )


def test_long_tests_without_the_marker_and_short_ones_with_it_are_listed() -> None:
    found = wrongly_marked(
        [
            report("long", SLOW_S + 1),
            report("longer", SLOW_S + 2),
            report("long-marked", SLOW_S + 1, "slow"),
            report("short", 0.1),
            report("short-marked", 0.1, "slow"),
            report("fixture", SLOW_S + 1, when="setup"),
            report("failed", SLOW_S + 1, outcome="failed"),
        ]
    )
    assert [line.rpartition(": ")[2] for line in found] == ["longer", "long", "short-marked"]
    assert "7.0 s without the marker slow" in found[0]
