"""Which tests have the wrong marker: `slow` is for those over five seconds, and `make test-fast` leaves them out."""

from collections.abc import Iterable

import pytest

SLOW_S = 5.0


def wrongly_marked(reports: Iterable[pytest.TestReport]) -> list[str]:
    """A line for each test that took over SLOW_S without the marker, or less than half of it with the marker.

    Only the test itself counts, not its fixtures. The longest comes first. A busy machine makes tests slower, so this
    is a report and no check.
    """
    found = []
    for report in reports:
        if report.when != "call" or report.outcome != "passed":
            continue
        is_marked = "slow" in report.keywords
        if report.duration > SLOW_S and not is_marked:
            found.append((report.duration, f"{report.duration:.1f} s without the marker slow: {report.nodeid}"))
        elif report.duration < SLOW_S / 2 and is_marked:
            found.append((report.duration, f"{report.duration:.1f} s with the marker slow: {report.nodeid}"))
    return [line for _, line in sorted(found, reverse=True)]
