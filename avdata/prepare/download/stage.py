"""Clips in, the same clips with their media on disk out, in the order in which the media arrive.

The thread that decodes goes on with whatever has arrived, while another one fetches ahead of it. Clips of one video
wait for one fetch. What a source does not have is asked of the next one.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from avdata.prepare.download.cache import Held
from avdata.prepare.download.fetches import FetchEnd
from avdata.prepare.download.fetching import ASK_AGAIN_S, FetchThread
from avdata.prepare.pipeline import ClipTask
from avdata.prepare.sources import Ref
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.remote import FailedRef, RemoteRef, said_of_all
from avdata.prepare.supervise import Later
from avmanifest.layout import ShardName


class DownloadStage:
    """The stage of one run, all of it in the thread that decodes. Close it at the end.

    `find_next` gives where the source after the named one has a request. `look_ahead` is how many clips may be on
    their way, or here and undecoded.
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
        self._trails: defaultdict[str, list[FailedRef]] = defaultdict(list)  # by clip: what the sources said so far
        self._shard_keys: defaultdict[ShardName, dict[str, str]] = defaultdict(dict)  # clip -> fetch key

    @property
    def wake(self) -> Connection:
        """Readable when a clip may have become ready."""
        return self._fetching.wake

    @property
    def stopped(self) -> dict[str, FailedRef]:
        """Sources that were given up, and why, in the form in which their clips fail."""
        return self._fetching.stopped

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """How each source comes along, as plain data."""
        return self._fetching.snapshot()

    def follow(self, tasks: Iterator[ClipTask]) -> Iterator[ClipTask | Later]:
        """The clips that can be decoded now, each once; Later when none can. Raises what broke the fetching."""
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
                yield Later(ASK_AGAIN_S)

    def clip_ended(self, task: ClipTask, status: str) -> None:
        """The clip was decoded, or failed."""
        if key := self._shard_keys[task.shard].get(task.row["key"]):
            self._fetching.decoded(key, corrupt=status == "media_corrupt")

    def shard_ended(self, shard: ShardName) -> None:
        """The shard is safe: nobody needs its clips' media any more."""
        for key in self._shard_keys.pop(shard, {}).values():
            self._fetching.committed(key)

    def close(self) -> None:
        """End the fetching."""
        self._fetching.close()

    def _admit(self, task: ClipTask) -> None:
        """A clip whose media may have to be fetched."""
        ref = task.ref
        if not isinstance(ref, RemoteRef):
            self._ready.append(task)
            return
        self._shard_keys[task.shard][task.row["key"]] = ref.fetch_key
        known = self._fetching.ask(task, ref)
        if known is None:
            self._num_waiting += 1
        else:
            self._arrived(task, ref, known)

    def _settle(self) -> None:
        """Take over what was fetched, and tell what the user should know."""
        settled, news = self._fetching.take()
        for text in news:
            self._note(text)
        for want, end in settled:
            self._num_waiting -= len(want.tasks)
            for task in want.tasks:
                assert isinstance(task.ref, RemoteRef), "others don't wait"
                self._arrived(task, task.ref, end)

    def _arrived(self, task: ClipTask, ref: RemoteRef, end: Held | FetchEnd) -> None:
        """The clip's media are here, or its source does not have them: then the next one is asked."""
        if isinstance(end, Held):
            self._ready.append(replace(task, ref=end.media_for(ref)))
            self._trails.pop(task.row["key"], None)
            return
        self._shard_keys[task.shard].pop(task.row["key"])
        self._fetching.decoded(ref.fetch_key)
        self._fetching.committed(ref.fetch_key)
        trail = self._trails[task.row["key"]]
        trail.append(FailedRef(status=end.status, reason=end.reason, source=ref.source, name=ref.name))
        other = self._find_next(ref.request, ref.source)
        if other is None:
            other = said_of_all(self._trails.pop(task.row["key"]))
        self._admit(replace(task, ref=other))
