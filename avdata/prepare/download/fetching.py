"""The thread that fetches videos with a pool of child processes and hands the results to the main thread.

One lock protects all state. The child processes share none of it.
"""

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from typing import Any, Final

from avdata.prepare.config import DownloadConfig, Supervision
from avdata.prepare.download.breaker import Breaker
from avdata.prepare.download.cache import CachedMedia, MediaCache, Unavailable
from avdata.prepare.download.fetches import FetchResult, FetchTask, fetch, fetch_result
from avdata.prepare.download.queue import PendingFetch, SourceQueue
from avdata.prepare.download.rate_limit import RateLimit
from avdata.prepare.pipeline import ClipTask
from avdata.prepare.sources import RemoteSource
from avdata.prepare.sources.remote import FailedRef, RemoteRef, Span
from avdata.prepare.supervise import NotReady, supervise
from avdata.retrying import RetryPolicy
from avmanifest.schema import StatusClass

PRELOAD: Final = ("avdata.prepare.pipeline", fetch.__module__)
"""Modules that the fork server imports once. Fetching and decoding children share one fork server."""

POLL_S: Final = 60.0  # longest wait without a signal
_ADDRESS_SPACE_BYTES: Final = 64 * 2**30  # JavaScript runtimes reserve far more address space than memory
_RECYCLE_AFTER: Final = 200  # fetches per child process: bounds the memory that yt-dlp may leak
_LOCKED_S: Final = 1.0  # seconds between checks of a video that another run is fetching


class FetchThread:
    """Fetches the videos of one run in a thread that starts with the first request. Call `close` at the end.

    `wake` is a pipe that is readable when `take` has something new.

    Args:
        config: Workers, attempts, deadlines and the breaker's limits.
        sources: The remote sources.
        rate_limits: The limit of each source, by its name.
        cache: Where fetched media are kept; closed by `close`.
        spans: For each video of which the plan has several clips, the spans of all of them.
        retry_unavailable: Whether videos that the cache records as unavailable are tried again.
    """

    def __init__(
        self,
        config: DownloadConfig,
        sources: Sequence[RemoteSource],
        rate_limits: Mapping[str, RateLimit],
        cache: MediaCache,
        spans: Mapping[str, Sequence[Span]],
        *,
        retry_unavailable: bool,
    ) -> None:
        self.wake, self._wake_sender = Pipe(duplex=False)
        self._fetch_wake, self._fetch_sender = Pipe(duplex=False)
        self._config = config
        self._cache = cache
        self._spans = spans
        self._retry_unavailable = retry_unavailable
        self._queues = {
            source.name: SourceQueue(
                source,
                rate_limits[source.name],
                Breaker(config.breaker, probe=source.probes),
                config.attempts,
                RetryPolicy(attempts=config.attempts, wait_s=config.backoff_s, jitter=0.5).delay_s,
            )
            for source in sources
        }
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._pending: dict[str, PendingFetch] = {}  # by fetch key: waiting or being fetched
        self._failed: dict[str, FetchResult] = {}  # this run's failures by fetch key: not tried twice
        self._settled: list[tuple[PendingFetch, CachedMedia | FetchResult]] = []
        self._news: list[str] = []
        self._failure: BaseException | None = None
        self._undecoded: Counter[str] = Counter()  # clips by fetch key
        self._uncommitted: Counter[str] = Counter()
        self._corrupt: set[str] = set()
        self._reported_full = False

    def request(self, task: ClipTask, ref: RemoteRef) -> CachedMedia | FetchResult | None:
        """Request the media of a clip.

        Returns:
            The media if they are cached, or the failure if it is known; else None: the clip is returned by `take`
            when its fetch has ended.
        """
        key, queue = ref.fetch_key, self._queues[ref.source]
        with self._lock:
            if key not in self._uncommitted:
                num_clips = 1 if ref.is_clip else len(self._spans.get(ref.request.video_id, ())) or 1
                self._uncommitted[key] = self._undecoded[key] = num_clips
            result = self._known_result(ref)
            if result is not None:
                return result
            if queue.breaker.stopped:
                return _stopped_result(queue)
            if key in self._pending:
                pending = self._pending[key]
                pending.tasks.append(task)
                pending.spans = tuple(sorted({*pending.spans, ref.span}, key=str))
            else:
                spans = {*self._spans.get(ref.request.video_id, ()), ref.span}
                self._pending[key] = PendingFetch(ref, tuple(sorted(spans, key=str)), [task])
                queue.waiting.append(self._pending[key])
            if self._thread is None:
                self._begin()
        _signal(self._fetch_wake, self._fetch_sender)
        return None

    def take(self) -> tuple[list[tuple[PendingFetch, CachedMedia | FetchResult]], list[str]]:
        """The fetches that ended since the last call, and messages for the user. Raises the error of the thread."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            settled, self._settled = self._settled, []
            news, self._news = self._news, []
        return settled, news

    def decoded(self, key: str, *, corrupt: bool = False) -> None:
        """Count one clip of the media as decoded; only a resume after a kill would need them for it again.

        Corrupt media are removed from the cache after the last clip, so that a retry fetches them again.
        """
        with self._lock:
            if corrupt:
                self._corrupt.add(key)
            self._count_down(self._undecoded, key)
            if key in self._undecoded:
                return
            if key in self._corrupt:
                self._corrupt.remove(key)
                self._cache.remove(key)
            self._cache.release(key)

    def committed(self, key: str) -> None:
        """Count one clip of the media as committed in a shard."""
        with self._lock:
            self._count_down(self._uncommitted, key)

    def close(self) -> None:
        """Kill the child processes and end the thread. Partly fetched files stay in the cache for the next run."""
        self._fetch_sender.close()
        if self._thread is not None:
            self._thread.join()
        self._cache.close()
        for end in (self.wake, self._wake_sender, self._fetch_wake):
            end.close()

    @property
    def stopped(self) -> dict[str, FailedRef]:
        """The sources that were stopped, each with the failure that its clips get."""
        return {name: _stopped_ref(queue) for name, queue in self._queues.items() if queue.breaker.stopped}

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """By source: fetches waiting, running and done, bytes, seconds left of a pause, last refusal."""
        now = time.monotonic()
        with self._lock:
            return {
                name: {
                    "waiting": len(queue.waiting),
                    "fetching": queue.num_running,
                    "fetched": queue.num_fetched,
                    "bytes": queue.num_bytes,
                    "paused_s": round(queue.breaker.paused_s(now), 1),
                    "stopped": queue.breaker.stopped,
                    "refusal": queue.breaker.last_refusal,
                }
                for name, queue in self._queues.items()
            }

    def _known_result(self, ref: RemoteRef) -> CachedMedia | FetchResult | None:
        """The media or failure from this run or the cache. The caller holds the lock."""
        if ref.fetch_key in self._failed:
            return self._failed[ref.fetch_key]
        cached = self._cache.find(ref.fetch_key, use_unavailable=not self._retry_unavailable)
        if isinstance(cached, Unavailable):
            return FetchResult(status=cached.status, reason=cached.reason)
        if cached is not None and not ref.is_clip and not cached.needs_no_fetch(ref.span):
            return None  # it holds only sections for other clips
        return cached

    def _count_down(self, counter: Counter[str], key: str) -> None:
        """Subtract one; drop the key at 0. The caller holds the lock."""
        counter[key] -= 1
        if counter[key] <= 0:
            del counter[key]

    def _begin(self) -> None:
        for queue in self._queues.values():
            self._news += queue.source.preflight()
        self._thread = threading.Thread(target=self._run, name="download", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        how = Supervision(
            num_workers=self._config.num_workers,
            deadline_s=self._config.deadline_s,
            memory_bytes=_ADDRESS_SPACE_BYTES,
            recycle_after=_RECYCLE_AFTER,
            attempts=1,  # the queue makes further ones, after a pause
        )
        fetching = supervise(fetch, self._fetches(), how, preload=PRELOAD, wake=self._fetch_wake)
        try:
            with contextlib.closing(fetching):
                for task, outcome in fetching:
                    self._ended(task, fetch_result(outcome))
        except BaseException as error:
            with self._lock:
                self._failure = error
        finally:
            with self._lock:
                for key, pending in self._pending.items():
                    if pending.lock is not None:
                        self._cache.unlock(key, pending.lock)
            _signal(self.wake, self._wake_sender)

    def _fetches(self) -> Iterator[FetchTask | NotReady]:
        """Yield the next fetch that may start, or NotReady. Endless."""
        while True:
            with self._lock:
                task, wait_s = self._next_fetch()
            yield task or NotReady(min(wait_s, POLL_S))

    def _next_fetch(self) -> tuple[FetchTask | None, float]:
        """A fetch that may start, or None and the seconds to wait. The caller holds the lock."""
        now = time.monotonic()
        soonest_s = math.inf
        for queue in self._queues.values():
            pending, wait_s = queue.pop_ready(now)
            while pending is not None:
                key = pending.ref.fetch_key
                pending.lock = self._cache.lock(key)
                cached = self._cache.find(key, use_unavailable=False) if pending.lock is not None else None
                if pending.lock is None:
                    queue.postpone(pending, now + _LOCKED_S)
                elif isinstance(cached, CachedMedia) and all(
                    pending.ref.is_clip or cached.needs_no_fetch(span) for span in pending.spans
                ):
                    queue.withdraw()  # another run has fetched it
                    self._done(pending, cached)
                else:
                    return self._task_of(queue, pending), 0.0
                pending, wait_s = queue.pop_ready(now)
            soonest_s = min(soonest_s, wait_s)
        return None, soonest_s

    def _task_of(self, queue: SourceQueue, pending: PendingFetch) -> FetchTask:
        return FetchTask(
            fetch_key=pending.ref.fetch_key,
            fetcher=queue.source.fetcher,
            address=pending.ref.address.secret,
            spans=pending.spans,
            folder=self._cache.part(pending.ref.fetch_key),
        )

    def _ended(self, task: FetchTask, result: FetchResult) -> None:
        """Handle the end of a fetch. Raises its storage_error."""
        if result.storage_error is not None:
            raise result.storage_error
        with self._lock:
            pending = self._pending[task.fetch_key]
            queue = self._queues[pending.ref.source]
            first = not queue.num_fetched and queue.breaker.num_pauses == 0
            again, tripped = queue.ended(pending, result, time.monotonic())
            held: CachedMedia | None = None
            if result.status == "ok":
                held = self._cache.publish(task.fetch_key, result.files)
                queue.num_fetched += 1
                queue.num_bytes += sum(path.stat().st_size for path, _ in held.files)
                if first:
                    self._news.append(f"{pending.ref.source}: the first video is here ({pending.ref.name})")
                self._make_room()
            elif result.status.startswith("unavailable_"):
                self._cache.record_unavailable(task.fetch_key, Unavailable(result.status, result.reason))
            elif result.status_class is StatusClass.PERMANENT:
                self._cache.drop_part(task.fetch_key)
            if tripped:
                self._report_refusal(queue)
            if again:
                assert pending.lock is not None, "it was held for the fetch"
                self._cache.unlock(task.fetch_key, pending.lock)
                pending.lock = None
            else:
                self._done(pending, held or result)
            if queue.breaker.stopped:
                for other in queue.clear():
                    self._done(other, _stopped_result(queue))

    def _done(self, pending: PendingFetch, result: CachedMedia | FetchResult) -> None:
        """Pass the clips and their result to `take`. The caller holds the lock."""
        key = pending.ref.fetch_key
        if pending.lock is not None:
            self._cache.unlock(key, pending.lock)
            pending.lock = None
        del self._pending[key]
        if isinstance(result, FetchResult):
            self._failed[key] = result
        self._settled.append((pending, result))
        _signal(self.wake, self._wake_sender)

    def _make_room(self) -> None:
        excess = self._cache.make_room(self._uncommitted)
        if excess and not self._reported_full:
            self._reported_full = True
            self._news.append(
                f"the cache is {excess / 1e9:.1f} GB above --cache-gb {self._config.cache_gb:g}: "
                "clips that are not decoded yet need these media, so they are kept"
            )

    def _report_refusal(self, queue: SourceQueue) -> None:
        name, breaker = queue.source.name, queue.breaker
        if breaker.stopped:
            what = f"{name} is stopped for this run after {breaker.num_pauses} pauses"
        else:
            what = f"{name} is paused for {breaker.paused_s(time.monotonic()):,.0f} s"
        self._news.append(f"{what}: {breaker.last_status}: {breaker.last_refusal}. {queue.source.remedy}")
        _signal(self.wake, self._wake_sender)


def _stopped_ref(queue: SourceQueue) -> FailedRef:
    """The failure that the clips of a stopped source get."""
    name, breaker = queue.source.name, queue.breaker
    reason = f"{name} was stopped for this run after repeated refusals: {breaker.last_refusal}"
    return FailedRef(status=breaker.last_status, reason=reason, source=name, name="")


def _stopped_result(queue: SourceQueue) -> FetchResult:
    ref = _stopped_ref(queue)
    return FetchResult(status=ref.status, reason=ref.reason)


def _signal(receiver: Any, sender: Any) -> None:
    """Make the pipe readable, unless it is readable already."""
    if not receiver.poll():
        sender.send_bytes(b".")
