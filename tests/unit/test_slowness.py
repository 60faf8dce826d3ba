"""The report of wrongly marked tests."""

from types import SimpleNamespace

import pytest

from tests.slowness import OWN_MARK, SLOW_OF_FAST_S, SLOW_S, note_own_mark, wrongly_marked


def report(
    name: str, duration: float, *marks: str, when: str = "call", outcome: str = "passed", is_own: bool = True
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=name,
        location=(name, 0, name),
        keywords=dict.fromkeys(marks, 1),
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=None,
        when=when,  # type: ignore[arg-type]
        duration=duration,
        user_properties=[OWN_MARK] if is_own and marks else [],
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
            report("slow_module.py::long", SLOW_S + 1, "slow", is_own=False),
            report("slow_module.py::short", 0.1, "slow", is_own=False),
            report("quick_module.py::short", 0.2, "slow", is_own=False),
            report("quick_module.py::other", 0.2, "slow", is_own=False),
        ]
    )
    assert [line.rpartition(": ")[2] for line in found] == ["longer", "long", "quick_module.py", "short-marked"]
    assert "7.0 s without the marker slow" in found[0]


def test_unit_and_property_tests_are_slow_earlier() -> None:
    long, short = SLOW_OF_FAST_S + 0.1, SLOW_OF_FAST_S / 2 + 0.1
    found = wrongly_marked(
        [
            report("tests/unit/test_a.py::long", long),
            report("tests/property/test_a.py::long", long),
            report("tests/unit/test_a.py::marked", short, "slow"),
            report("tests/unit/test_b.py::marked", short, "slow", is_own=False),
            report("tests/faults/test_a.py::unmarked", long),
            report("tests/faults/test_a.py::marked", long, "slow"),
        ]
    )
    assert [line.rpartition(": ")[2] for line in found] == [
        "tests/unit/test_a.py::long",
        "tests/property/test_a.py::long",
        "tests/faults/test_a.py::marked",
    ]


@pytest.mark.parametrize(("marks", "noted"), [([pytest.mark.slow.mark], [OWN_MARK]), ([], [])])
def test_only_a_marker_of_the_test_itself_is_noted(marks: list[pytest.Mark], noted: list[tuple[str, str]]) -> None:
    item = SimpleNamespace(own_markers=marks, user_properties=[])  # a module's marker is not among these
    note_own_mark(item)
    assert item.user_properties == noted
