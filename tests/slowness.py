"""Which tests have the wrong marker: `slow` is for those that take longer than a bound.

`make test-fast` runs unit and property tests on every save and leaves out the slow ones: there the bound is one second.
"""

from collections.abc import Iterable
from typing import Any

import pytest

SLOW_S = 5.0
SLOW_OF_FAST_S = 1.0
FAST = ("tests/unit/", "tests/property/")
OWN_MARK = ("slow", "own")


def bound_s(nodeid: str) -> float:
    """Seconds above which a test, or all of a module that is marked, is slow."""
    return SLOW_OF_FAST_S if nodeid.startswith(FAST) else SLOW_S


def note_own_mark(item: Any) -> None:
    """Note on a pytest.Item that the marker `slow` is its own, not its module's. Its reports carry the note."""
    if any(mark.name == "slow" for mark in item.own_markers):
        item.user_properties.append(OWN_MARK)


def wrongly_marked(reports: Iterable[pytest.TestReport]) -> list[str]:
    """A line for each test that took over its bound without the marker, or less than half of it with the marker.

    A test with a module's marker may be short. Such a module has a line if all of its tests together took less than
    half of the bound. Only the test itself counts, not its fixtures. The longest comes first. A busy machine makes
    tests slower, so this is a report and no check.
    """
    found = []
    modules: dict[str, float] = {}
    for report in reports:
        if report.when != "call" or report.outcome != "passed":
            continue
        is_marked = "slow" in report.keywords
        if report.duration > bound_s(report.nodeid) and not is_marked:
            found.append((report.duration, f"{report.duration:.1f} s without the marker slow: {report.nodeid}"))
        elif is_marked and OWN_MARK not in map(tuple, report.user_properties):
            module = report.nodeid.partition("::")[0]
            modules[module] = modules.get(module, 0.0) + report.duration
        elif report.duration < bound_s(report.nodeid) / 2 and is_marked:
            found.append((report.duration, f"{report.duration:.1f} s with the marker slow: {report.nodeid}"))
    for module, duration in modules.items():
        if duration < bound_s(module) / 2:
            found.append((duration, f"{duration:.1f} s in all with the marker slow: {module}"))
    return [line for _, line in sorted(found, reverse=True)]
