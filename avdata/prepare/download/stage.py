"""The download stage: takes clip tasks, fetches their media, yields each task when its media are on disk.

The main thread decodes the clips whose media have arrived while a second thread fetches ahead. Clips of one video share
one fetch. If a source fails to give a clip, the next source is tried.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from avdata.prepare.download.cache import CachedMedia
from avdata.prepare.download.fetches import FetchResult
from avdata.prepare.download.fetching import POLL_S, FetchThread
from avdata.prepare.pipeline import ClipTask
from avdata.prepare.sources import Ref
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.remote import FailedRef, RemoteRef, combine_failures
from avdata.prepare.supervise import NotReady
from avmanifest.layout import ShardName


class DownloadStage:
    """The download stage of one run. All methods are called from the main thread. Call `close` at the end.

    Args:
        fetching: The thread that fetches.
        find_next: Given a request and a source's name, where a later source has the clip; None if none has.
        look_ahead: How many clips may be in fetching, or fetched and not yet decoded.
        note: Receives messages for the user.
    """

    def __init__(
        self,
        fetching: FetchThread,
        find_next: Callable[[ClipRequest, str], Ref | None],
        look_ahead: int,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._fetching = fetching
        self._find_next = find_next
        self._look_ahead = look_ahead
        self._note = note
        self._ready: deque[ClipTask] = deque()
        self._num_waiting = 0
        self._trails: defaultdict[str, list[FailedRef]] = defaultdict(
            list
        )  # by clip: the failures so far, one per source
        self._shard_keys: defaultdict[ShardName, dict[str, str]] = defaultdict(dict)  # clip -> fetch key

    @property
    def wake(self) -> Connection:
        """A pipe that is readable when the media of a clip may have arrived."""
        return self._fetching.wake

    @property
    def stopped(self) -> dict[str, FailedRef]:
        """The sources that were stopped, each with the failure that its clips get."""
        return self._fetching.stopped

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Counts and state of each source by name; see FetchThread.snapshot."""
        return self._fetching.snapshot()

    def follow(self, tasks: Iterator[ClipTask]) -> Iterator[ClipTask | NotReady]:
        """Yield each clip once its media are on disk or all its sources failed; NotReady while there is none.

        Raises:
            StorageError: The cache's disk failed. Any other error of the fetching thread is raised here, too.
        """
        exhausted = False
        while True:
            self._settle()
            while not exhausted and len(self._ready) + self._num_waiting < self._look_ahead:
                task = next(tasks, None)
                exhausted = task is None
                if task is not None:
                    self._admit(task)
            if self._ready:
                yield self._ready.popleft()
            elif exhausted and not self._num_waiting:
                return
            else:
                yield NotReady(POLL_S)

    def clip_ended(self, task: ClipTask, status: str) -> None:
        """Count a clip as decoded, or as failed with the status."""
        if key := self._shard_keys[task.shard].get(task.row["key"]):
            self._fetching.decoded(key, corrupt=status == "media_corrupt")

    def shard_ended(self, shard: ShardName) -> None:
        """Count the shard's clips as committed: this run no longer needs their media."""
        for key in self._shard_keys.pop(shard, {}).values():
            self._fetching.committed(key)

    def close(self) -> None:
        """Stop the fetching thread and its child processes."""
        self._fetching.close()

    def _admit(self, task: ClipTask) -> None:
        """Accept a clip: it is ready at once if its media are local or cached, else its media are fetched."""
        ref = task.ref
        if not isinstance(ref, RemoteRef):
            self._ready.append(task)
            return
        self._shard_keys[task.shard][task.row["key"]] = ref.fetch_key
        result = self._fetching.request(task, ref)
        if result is None:
            self._num_waiting += 1
        else:
            self._arrived(task, ref, result)

    def _settle(self) -> None:
        """Handle the fetches that have ended, and pass on messages for the user."""
        settled, news = self._fetching.take()
        for text in news:
            self._note(text)
        for pending, result in settled:
            self._num_waiting -= len(pending.tasks)
            for task in pending.tasks:
                assert isinstance(task.ref, RemoteRef), "only remote clips wait"
                self._arrived(task, task.ref, result)

    def _arrived(self, task: ClipTask, ref: RemoteRef, result: CachedMedia | FetchResult) -> None:
        """Make the clip ready, or, if the fetch failed, try the next source."""
        if isinstance(result, CachedMedia):
            self._ready.append(replace(task, ref=result.media_for(ref)))
            self._trails.pop(task.row["key"], None)
            return
        self._shard_keys[task.shard].pop(task.row["key"])
        self._fetching.decoded(ref.fetch_key)
        self._fetching.committed(ref.fetch_key)
        trail = self._trails[task.row["key"]]
        trail.append(FailedRef(status=result.status, reason=result.reason, source=ref.source, name=ref.name))
        other = self._find_next(ref.request, ref.source)
        if other is None:
            other = combine_failures(self._trails.pop(task.row["key"]))
        self._admit(replace(task, ref=other))
