"""One row of the fault table: what was wrong, what was tried with it, what should come of it, and what came."""

from typing import NamedTuple


class Fault(NamedTuple):
    """A fault, and what came of it. The table fails where `seen` is not `expected`."""

    fault: str  # what was wrong, and where: "http: stalled socket", "marker: a null"
    tried: str  # the command or function that met it, and how often if more than once
    expected: str  # the manifest status, the type of the error, or what else should come
    seen: str

    @property
    def is_good(self) -> bool:
        """Whether what came is what should."""
        return self.seen == self.expected
