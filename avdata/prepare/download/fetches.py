"""One fetch in a child of its own, and what its end means."""

from dataclasses import dataclass
from pathlib import Path

from avdata.prepare.commit import storage_errors
from avdata.prepare.sources.remote import FetchedFile, Fetcher, Span
from avdata.prepare.supervise import Crashed, Outcome, Raised, Returned, TimedOut
from avmanifest.errors import DownloadError, MediaError, StorageError
from avmanifest.schema import StatusClass, status_class


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchTask:
    """What a child is to fetch, and where to."""

    fetch_key: str
    fetcher: Fetcher
    address: str
    spans: tuple[Span, ...]
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchEnd:
    """How a fetch ended: with files, or with a status of the manifest.

    With a `storage_error` it did not end: the cache refused its bytes.
    """

    files: tuple[FetchedFile, ...] = ()
    status: str = "ok"
    reason: str = ""
    retry_after_s: float = 0.0
    storage_error: StorageError | None = None

    @property
    def status_class(self) -> StatusClass:
        """What the status means for a retry."""
        return status_class(self.status)


def fetch(task: FetchTask) -> FetchEnd:
    """Fetch, in a child. What is neither the network's, the server's nor the disk's fault is a bug and stays one."""
    try:
        with storage_errors(task.folder):
            return FetchEnd(files=task.fetcher(task.address, task.spans, task.folder))
    except StorageError as error:
        return FetchEnd(storage_error=error)
    except MediaError as error:
        # A server's words, in whatever encoding: a table can store only text.
        reason = error.message.encode("utf-8", "backslashreplace").decode()
        retry_after_s = error.retry_after_s if isinstance(error, DownloadError) else 0.0
        return FetchEnd(status=error.status, reason=reason, retry_after_s=retry_after_s)


def end_of(outcome: Outcome[FetchEnd]) -> FetchEnd:
    """The fetch's end, however its child ended."""
    match outcome:
        case Returned(end):
            return end
        case Raised(message):
            return FetchEnd(status="internal", reason=message)
        case TimedOut(deadline_s):
            return FetchEnd(status="net_timeout", reason=f"not fetched within {deadline_s:g} s (--download-deadline)")
        case Crashed(exit_code, attempts):
            reason = f"the fetching process died {attempts} times (exit code {exit_code})"
            return FetchEnd(status="decode_crash", reason=reason)
