"""The thread that fetches: it keeps a few child processes at work, and tells the thread that decodes what came.

Everything here is behind one lock; only what the children do is not.
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
from avdata.prepare.download.cache import Held, MediaCache, Verdict
from avdata.prepare.download.fetches import FetchEnd, FetchTask, end_of, fetch
from avdata.prepare.download.pace import Pace
from avdata.prepare.download.queue import SourceQueue, Want
from avdata.prepare.pipeline import ClipTask
from avdata.prepare.sources import RemoteSource
from avdata.prepare.sources.remote import FailedRef, RemoteRef, Span
from avdata.prepare.supervise import Later, supervise
from avdata.retrying import RetryPolicy
from avmanifest.schema import StatusClass

PRELOAD: Final = ("avdata.prepare.pipeline", fetch.__module__)
"""What the server that forks the children imports: one server serves both kinds, whichever comes first."""

ASK_AGAIN_S: Final = 60.0  # with nothing to wake us before
_ADDRESS_SPACE_BYTES: Final = 64 * 2**30  # a JavaScript runtime reserves far more than it uses
_RECYCLE_AFTER: Final = 200  # fetches: yt-dlp is not made to run for weeks
_LOCKED_S: Final = 1.0  # between looks at a video that another run is fetching


class FetchThread:
    """Fetches the videos of one run. `wake` is readable when there is news for the thread that decodes.

    `spans` lists, for videos of which the plan has several clips, all of them. `ask_again` asks once more for what
    was said to be gone. Close it at the end.
    """

    def __init__(
        self,
        config: DownloadConfig,
        sources: Sequence[RemoteSource],
        paces: Mapping[str, Pace],
        cache: MediaCache,
        spans: Mapping[str, Sequence[Span]],
        *,
        ask_again: bool,
    ) -> None:
        self.wake, self._wake_sender = Pipe(duplex=False)
        self._fetch_wake, self._fetch_sender = Pipe(duplex=False)
        self._config = config
        self._cache = cache
        self._spans = spans
        self._ask_again = ask_again
        self._queues = {
            source.name: SourceQueue(
                source,
                paces[source.name],
                Breaker(config.breaker, probe=source.probes),
                config.attempts,
                RetryPolicy(attempts=config.attempts, wait_s=config.backoff_s, jitter=0.5).delay_s,
            )
            for source in sources
        }
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._wants: dict[str, Want] = {}  # by fetch key: waiting or being fetched
        self._ends: dict[str, FetchEnd] = {}  # this run's failures by fetch key: not asked twice
        self._settled: list[tuple[Want, Held | FetchEnd]] = []
        self._news: list[str] = []
        self._failure: BaseException | None = None
        self._undecoded: Counter[str] = Counter()  # clips by fetch key
        self._uncommitted: Counter[str] = Counter()
        self._corrupt: set[str] = set()
        self._told_full = False

    def ask(self, task: ClipTask, ref: RemoteRef) -> Held | FetchEnd | None:
        """What is known already of the clip's media; None: they will be fetched, and the clip comes out of `take`."""
        key, queue = ref.fetch_key, self._queues[ref.source]
        with self._lock:
            if key not in self._uncommitted:
                num_clips = 1 if ref.is_clip else len(self._spans.get(ref.request.video_id, ())) or 1
                self._uncommitted[key] = self._undecoded[key] = num_clips
            known = self._known(ref)
            if known is not None:
                return known
            if queue.breaker.stopped:
                return _stopped_end(queue)
            if key in self._wants:
                want = self._wants[key]
                want.tasks.append(task)
                want.spans = tuple(sorted({*want.spans, ref.span}, key=str))
            else:
                spans = {*self._spans.get(ref.request.video_id, ()), ref.span}
                self._wants[key] = Want(ref, tuple(sorted(spans, key=str)), [task])
                queue.waiting.append(self._wants[key])
            if self._thread is None:
                self._begin()
        _signal(self._fetch_wake, self._fetch_sender)
        return None

    def take(self) -> tuple[list[tuple[Want, Held | FetchEnd]], list[str]]:
        """What was settled since the last call, and news for the user. Raises what broke the thread."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            settled, self._settled = self._settled, []
            news, self._news = self._news, []
        return settled, news

    def decoded(self, key: str, *, corrupt: bool = False) -> None:
        """One clip less waits for the media: only a resume after a kill would want them for it.

        Media that were corrupt go with the last clip that waits for them, so that a retry fetches them anew.
        """
        with self._lock:
            if corrupt:
                self._corrupt.add(key)
            self._count_down(self._undecoded, key)
            if key in self._corrupt and key not in self._undecoded:
                self._corrupt.remove(key)
                self._cache.forget(key)

    def committed(self, key: str) -> None:
        """One clip of the media is safe in a shard."""
        with self._lock:
            self._count_down(self._uncommitted, key)

    def close(self) -> None:
        """End the fetching; the children die, what they have of a file stays for the next run."""
        self._fetch_sender.close()
        if self._thread is not None:
            self._thread.join()
        self._cache.close()
        for end in (self.wake, self._wake_sender, self._fetch_wake):
            end.close()

    @property
    def stopped(self) -> dict[str, FailedRef]:
        """Sources that were given up, and why, in the form in which their clips fail."""
        return {name: _stopped_ref(queue) for name, queue in self._queues.items() if queue.breaker.stopped}

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """How each source comes along, as plain data."""
        now = time.monotonic()
        with self._lock:
            return {
                name: {
                    "waiting": len(queue.waiting),
                    "fetching": queue.num_out,
                    "fetched": queue.num_fetched,
                    "bytes": queue.num_bytes,
                    "paused_s": round(queue.breaker.paused_s(now), 1),
                    "stopped": queue.breaker.stopped,
                    "refusal": queue.breaker.last_refusal,
                }
                for name, queue in self._queues.items()
            }

    def _known(self, ref: RemoteRef) -> Held | FetchEnd | None:
        """What this run or an earlier one knows of the media. Called with the lock."""
        if ref.fetch_key in self._ends:
            return self._ends[ref.fetch_key]
        found = self._cache.find(ref.fetch_key, verdicts=not self._ask_again)
        if isinstance(found, Verdict):
            return FetchEnd(status=found.status, reason=found.reason)
        if found is not None and not ref.is_clip and not found.settles(ref.span):
            return None  # sections of other clips
        return found

    def _count_down(self, counter: Counter[str], key: str) -> None:
        """Called with the lock."""
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
        )
        fetching = supervise(fetch, self._fetches(), how, preload=PRELOAD, wake=self._fetch_wake)
        try:
            with contextlib.closing(fetching):
                for task, outcome in fetching:
                    self._ended(task, end_of(outcome))
        except BaseException as error:
            with self._lock:
                self._failure = error
        finally:
            with self._lock:
                for key, want in self._wants.items():
                    if want.lock is not None:
                        self._cache.unlock(key, want.lock)
            _signal(self.wake, self._wake_sender)

    def _fetches(self) -> Iterator[FetchTask | Later]:
        """The next fetch that may begin, or Later; never ends by itself."""
        while True:
            with self._lock:
                found, wait_s = self._next_fetch()
            yield found or Later(min(wait_s, ASK_AGAIN_S))

    def _next_fetch(self) -> tuple[FetchTask | None, float]:
        """Called with the lock."""
        now = time.monotonic()
        soonest_s = math.inf
        for queue in self._queues.values():
            want, wait_s = queue.next_at(now)
            while want is not None:
                key = want.ref.fetch_key
                want.lock = self._cache.lock(key)
                found = self._cache.find(key, verdicts=False) if want.lock is not None else None
                if want.lock is None:
                    queue.postponed(want, now + _LOCKED_S)
                elif isinstance(found, Held) and all(want.ref.is_clip or found.settles(span) for span in want.spans):
                    queue.withdrawn()  # another run brought it
                    self._done(want, found)
                else:
                    return self._task_of(queue, want), 0.0
                want, wait_s = queue.next_at(now)
            soonest_s = min(soonest_s, wait_s)
        return None, soonest_s

    def _task_of(self, queue: SourceQueue, want: Want) -> FetchTask:
        return FetchTask(
            fetch_key=want.ref.fetch_key,
            fetcher=queue.source.fetcher,
            address=want.ref.address,
            spans=want.spans,
            folder=self._cache.part(want.ref.fetch_key),
        )

    def _ended(self, task: FetchTask, end: FetchEnd) -> None:
        """A fetch came back."""
        if end.storage_error is not None:
            raise end.storage_error
        with self._lock:
            want = self._wants[task.fetch_key]
            queue = self._queues[want.ref.source]
            first = not queue.num_fetched and queue.breaker.num_pauses == 0
            again, tripped = queue.ended(want, end, time.monotonic())
            held: Held | None = None
            if end.status == "ok":
                held = self._cache.publish(task.fetch_key, end.files)
                queue.num_fetched += 1
                queue.num_bytes += sum(path.stat().st_size for path, _ in held.files)
                if first:
                    self._news.append(f"{want.ref.source}: the first video is here ({want.ref.name})")
                self._make_room()
            elif end.status.startswith("unavailable_"):
                self._cache.condemn(task.fetch_key, Verdict(end.status, end.reason))
            elif end.status_class is StatusClass.PERMANENT:
                self._cache.drop_part(task.fetch_key)
            if tripped:
                self._tell_refusal(queue)
            if again:
                assert want.lock is not None, "it was held for the fetch"
                self._cache.unlock(task.fetch_key, want.lock)
                want.lock = None
            else:
                self._done(want, held or end)
            if queue.breaker.stopped:
                for other in queue.give_up():
                    self._done(other, _stopped_end(queue))

    def _done(self, want: Want, end: Held | FetchEnd) -> None:
        """Hand the clips over. Called with the lock."""
        key = want.ref.fetch_key
        if want.lock is not None:
            self._cache.unlock(key, want.lock)
            want.lock = None
        del self._wants[key]
        if isinstance(end, FetchEnd):
            self._ends[key] = end
        self._settled.append((want, end))
        _signal(self.wake, self._wake_sender)

    def _make_room(self) -> None:
        excess = self._cache.make_room(set(self._undecoded), set(self._uncommitted))
        if excess and not self._told_full:
            self._told_full = True
            self._news.append(
                f"the media that clips still wait for are {excess / 1e9:.1f} GB more than --cache-gb "
                f"{self._config.cache_gb:g} allows; they are kept"
            )

    def _tell_refusal(self, queue: SourceQueue) -> None:
        name, breaker = queue.source.name, queue.breaker
        if breaker.stopped:
            what = f"{name} is given up after {breaker.num_pauses} pauses"
        else:
            what = f"{name} is left alone for {breaker.paused_s(time.monotonic()):,.0f} s"
        self._news.append(f"{what}: {breaker.last_status}: {breaker.last_refusal}. {queue.source.remedy}")
        _signal(self.wake, self._wake_sender)


def _stopped_ref(queue: SourceQueue) -> FailedRef:
    """How the clips of a source that was given up end."""
    name, breaker = queue.source.name, queue.breaker
    reason = f"{name} was given up after it refused again and again: {breaker.last_refusal}"
    return FailedRef(status=breaker.last_status, reason=reason, source=name, name="")


def _stopped_end(queue: SourceQueue) -> FetchEnd:
    ref = _stopped_ref(queue)
    return FetchEnd(status=ref.status, reason=ref.reason)


def _signal(receiver: Any, sender: Any) -> None:
    """Wake whoever waits for the pipe. A word that nobody has read yet is enough."""
    if not receiver.poll():
        sender.send_bytes(b".")
