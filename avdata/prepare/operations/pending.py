"""Whether an operation on a dataset is running, or was stopped before its end."""

from pathlib import Path

from avdata.prepare.commit import is_abandoned
from avmanifest.errors import ManifestError
from avmanifest.files import read_file
from avmanifest.layout import Layout
from avmanifest.parsing import parse_object


def alive_lock(layout: Layout) -> Path:
    """The file that a running operation holds locked."""
    return layout.operation / "alive.lock"


def request_file(layout: Layout) -> Path:
    """The file that says what is being done."""
    return layout.operation / "request.json"


def is_running(layout: Layout) -> bool:
    """Whether an operation is running on the dataset."""
    return layout.operation.is_dir() and not is_abandoned(alive_lock(layout))


def pending(layout: Layout) -> str:
    """What an operation that was stopped, or is running, left to do, in words; empty if there is nothing."""
    if not layout.operation.is_dir():
        return ""
    what = stopped_operation(layout)
    if is_running(layout):
        return f"{what} is running"
    if layout.swap.exists():
        return f"{what} was stopped while it exchanged files; `avkit dataset settle` finishes it"
    return f"{what} was stopped before it changed the dataset; the same command goes on, any other undoes it"


def stopped_operation(layout: Layout) -> str:
    """The operation whose files lie in `_operation`, in words."""
    try:
        fields = parse_object(read_file(request_file(layout)), request_file(layout), ManifestError)
    except (OSError, ManifestError):
        return "an operation"
    return str(fields.get("operation", "an operation"))
