"""One fetch, which runs in a child process, and its result."""

from dataclasses import dataclass, field
from pathlib import Path

from avdata.prepare.commit import storage_errors
from avdata.prepare.sources.remote import FetchedFile, Fetcher, Span
from avdata.prepare.supervise import Crashed, Outcome, Raised, Returned, TimedOut
from avmanifest.errors import DownloadError, MediaError, StorageError
from avmanifest.schema import StatusClass, status_class


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchTask:
    """What a child process is to fetch, and into which folder."""

    fetch_key: str
    fetcher: Fetcher
    address: str = field(repr=False)
    spans: tuple[Span, ...]
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """The result of a fetch: files, or a status of the manifest and its reason.

    A `storage_error` means that the cache's disk failed; the run stops with that error.
    """

    files: tuple[FetchedFile, ...] = ()
    status: str = "ok"
    reason: str = ""
    retry_after_s: float = 0.0  # seconds that the server asks to wait before another attempt
    storage_error: StorageError | None = None

    @property
    def status_class(self) -> StatusClass:
        """Whether the status is permanent, may pass, or is a bug."""
        return status_class(self.status)


def fetch(task: FetchTask) -> FetchResult:
    """Fetch, in a child process. Errors other than MediaError and disk errors are bugs and are not caught."""
    try:
        with storage_errors(task.folder):
            return FetchResult(files=task.fetcher(task.address, task.spans, task.folder))
    except StorageError as error:
        return FetchResult(storage_error=error)
    except MediaError as error:
        # A server's message may hold lone surrogates, which a table cannot store.
        reason = error.message.encode("utf-8", "backslashreplace").decode()
        retry_after_s = error.retry_after_s if isinstance(error, DownloadError) else 0.0
        return FetchResult(status=error.status, reason=reason, retry_after_s=retry_after_s)


def fetch_result(outcome: Outcome[FetchResult]) -> FetchResult:
    """The result of a fetch from the outcome of its child process."""
    match outcome:
        case Returned(end):
            return end
        case Raised(message):
            return FetchResult(status="internal", reason=message)
        case TimedOut(deadline_s):
            return FetchResult(
                status="net_timeout", reason=f"not fetched within {deadline_s:g} s (--download-deadline)"
            )
        case Crashed(exit_code, attempts):
            reason = f"the fetching process died {attempts} times (exit code {exit_code})"
            return FetchResult(status="decode_crash", reason=reason)
