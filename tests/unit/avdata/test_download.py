"""The parts of the download stage: cache, rate limit, breaker, queue."""

import contextlib
import math
import os
from collections import Counter
from dataclasses import replace

import pytest

from avdata.prepare.config import BreakerConfig, parse_rate
from avdata.prepare.download.breaker import Breaker
from avdata.prepare.download.cache import CachedMedia, MediaCache, Unavailable
from avdata.prepare.download.fetches import FetchResult
from avdata.prepare.download.queue import PendingFetch, SourceQueue
from avdata.prepare.download.rate_limit import BURST, FileRateLimit, NoRateLimit, machine_rate_limit
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.remote import FailedRef, FetchedFile, RemoteRef, combine_failures
from avmanifest.errors import ConfigError
from avmanifest.secrets import Url

REF = RemoteRef(
    address=Url("https://host/x"),
    fetch_key="x",
    is_clip=False,
    source="s",
    name="x",
    request=ClipRequest("x", 30.0, 40.0),
)


class NamedSource:
    """A source that has a name and fetches nothing."""

    name = "s"
    rate_per_hour = None
    proxy = None
    probes = False
    remedy = ""

    def __init__(self):
        self.problems: list[str] = []
        self.refused: Counter[str] = Counter()

    def fetcher(self, address, spans, folder):
        raise AssertionError("nothing is fetched here")

    def locate(self, request):
        return None

    def preflight(self):
        return []


WHOLE = (FetchedFile("body"),)


@pytest.fixture
def opened(tmp_path):
    """Opens caches of one folder, and closes them."""
    with contextlib.ExitStack() as stack:
        yield lambda limit_bytes=10**9: stack.enter_context(contextlib.closing(MediaCache(tmp_path, limit_bytes)))


def put(cache, key, content=b"media", files=WHOLE):
    for file in files:
        (cache.part(key) / file.name).write_bytes(content)
    return cache.publish(key, tuple(files))


def test_media_are_cached_only_when_complete(tmp_path, opened):
    cache = opened()
    assert cache.find("k") is None
    (cache.part("k") / "body").write_bytes(b"me")
    assert cache.find("k") is None, "a part folder does not count as media"
    held = put(cache, "k")
    assert held == cache.find("k") == opened().find("k")
    assert not (tmp_path / "k.part").exists()
    (tmp_path / "k.0").write_bytes(b"med")
    assert cache.find("k") is None, "the size differs from the record"


def test_make_room_removes_the_least_recently_used_and_nothing_in_use(tmp_path, opened):
    size = sum(path.stat().st_size for path in tmp_path.iterdir()) if put(opened(1), "a") else 0
    cache = opened(2 * size + size // 2)
    for number, key in enumerate("abc"):
        put(cache, key)
        if key != "a":
            cache.release(key)
        os.utime(tmp_path / f"{key}.json", (number, number))
    assert cache.make_room(needed_later={"b"}) == 0
    assert kept(tmp_path) == ["a", "b"]
    put(cache, "d")
    assert cache.make_room() == 0
    assert kept(tmp_path) == ["a", "d"], "b is the only one that is not in use"
    put(cache, "e")
    assert cache.make_room() == size - size // 2
    assert kept(tmp_path) == ["a", "d", "e"]
    cache.release("d")
    assert cache.make_room() == 0
    assert kept(tmp_path) == ["a", "e"]


def kept(folder):
    return sorted(path.stem for path in folder.glob("*.json"))


def test_a_run_removes_no_media_that_another_run_uses(tmp_path, opened):
    other = opened(1)
    put(other, "theirs")
    mine = opened(1)
    put(mine, "mine")
    mine.release("mine")
    assert mine.make_room() > 0
    assert kept(tmp_path) == ["theirs"]
    assert mine.find("theirs") is not None
    mine.release("theirs")
    other.close()
    assert mine.make_room() == 0
    assert not kept(tmp_path)


def test_files_without_a_record_make_room(tmp_path, opened):
    cache = opened(10)
    (tmp_path / "lost.0").write_bytes(bytes(100))
    assert cache.make_room() == 0
    assert not (tmp_path / "lost.0").exists()


def test_only_one_run_at_a_time_holds_the_lock_of_a_key(tmp_path, opened):
    first, second = opened(1), opened(1)
    lock = first.lock("k")
    assert lock is not None
    assert second.lock("k") is None
    first.unlock("k", lock)
    lock = second.lock("k")
    assert lock is not None
    second.unlock("k", lock)
    assert not list(tmp_path.glob("*.lock.*")) and not (tmp_path / "k.lock").exists()


def test_an_unavailable_video_is_recorded_for_a_week(tmp_path, opened):
    cache = opened(1)
    cache.record_unavailable("k", Unavailable("unavailable_removed", "gone"))
    assert cache.find("k") == Unavailable("unavailable_removed", "gone")
    assert cache.find("k", use_unavailable=False) is None
    os.utime(tmp_path / "k.json", (0, 0))
    assert cache.find("k") is None


@pytest.mark.parametrize("record", [b"", b"[]", b'{"status": "ok"}', b'{"status":"ok","reason":"","files":[{}]}'])
def test_an_invalid_record_counts_as_not_cached(record, tmp_path, opened):
    (tmp_path / "k.json").write_bytes(record)
    assert opened(1).find("k") is None


def test_a_clip_gets_the_section_that_holds_it(opened):
    files = (FetchedFile("a", 24.0, (25.0, 45.0), 250.0), FetchedFile("b", 95.0, (95.0, 220.0), 250.0))
    held = put(opened(), "k", files=files)
    assert isinstance(held, CachedMedia)
    assert held.media_for(REF).starts_at_s == 24.0
    late = replace(REF, request=ClipRequest("x", 200.0, 210.0))
    assert held.media_for(late).starts_at_s == 95.0
    between = held.media_for(replace(REF, request=ClipRequest("x", 60.0, 70.0)))
    assert isinstance(between, FailedRef) and between.status == "media_window"
    spans = [(30.0, 40.0), (60.0, 70.0), (200.0, None), (300.0, 310.0)]
    assert [held.needs_no_fetch(span) for span in spans] == [True, False, False, True], (
        "the last lies past the video's end"
    )


@pytest.mark.parametrize(("text", "per_hour"), [("250/h", 250), ("2/s", 7200), ("10/min", 600), ("2400/d", 100)])
def test_rates_are_read(text, per_hour):
    assert parse_rate(text) == per_hour


@pytest.mark.parametrize("text", ["250", "0/h", "-1/h", "1/year", ""])
def test_invalid_rates_are_refused(text):
    with pytest.raises(ConfigError, match="250/h"):
        parse_rate(text)


def test_a_rate_limit_is_shared_through_its_file(tmp_path):
    rate_limits = [FileRateLimit(tmp_path / "pace", 1.0) for _ in range(2)]
    waits = [rate_limits[number % 2].take() for number in range(BURST + 2)]
    assert waits[:BURST] == [0.0] * BURST
    assert all(3500 < wait <= 3600 for wait in waits[BURST:])
    (tmp_path / "pace").write_text("rubbish")
    assert rate_limits[0].take() == 0.0


def test_without_a_rate_there_is_no_limit(tmp_path):
    assert isinstance(machine_rate_limit("http", None, None, tmp_path), NoRateLimit)
    assert machine_rate_limit("youtube", None, 100.0, tmp_path).take() == 0.0


def test_a_breaker_pauses_longer_each_time_then_stops():
    breaker = Breaker(BreakerConfig(threshold=3, first_pause_s=10.0, growth=3.0, max_pauses=2))

    def refused(now):
        breaker.began()
        return breaker.refused(now, "blocked_bot", "no")

    assert [refused(0.0) for _ in range(3)] == [False, False, True]
    assert breaker.wait_s(0.0) == 10.0
    assert breaker.wait_s(11.0) == 0.0
    assert refused(11.0), "the probe after a pause"
    assert breaker.wait_s(11.0) == 30.0
    assert refused(50.0)
    assert breaker.stopped
    assert breaker.wait_s(1e9) == math.inf


def test_a_breaker_allows_one_probe_and_resets_when_it_succeeds():
    breaker = Breaker(BreakerConfig(threshold=1, first_pause_s=10.0), probe=True)
    breaker.began()
    assert breaker.wait_s(0.0) == math.inf
    breaker.refused(0.0, "blocked_rate", "no", retry_after_s=99.0)
    assert breaker.wait_s(0.0) == 99.0, "as the server asks"
    breaker.began()
    breaker.answered()
    assert (breaker.wait_s(100.0), breaker.num_pauses) == (0.0, 0)


def queue(attempts=3, threshold=1000):
    breaker = Breaker(BreakerConfig(threshold=threshold, first_pause_s=10.0))
    result = SourceQueue(
        NamedSource(), NoRateLimit(), breaker, attempts, float
    )  # waits as many seconds as attempts were made
    result.waiting.append(PendingFetch(REF, (), []))
    return result


def test_a_transient_failure_is_tried_again_with_growing_waits_until_attempts_run_out():
    source_queue = queue()
    now, waits = 0.0, []
    while True:
        pending, _ = source_queue.pop_ready(now)
        again, _ = source_queue.ended(pending, FetchResult(status="net_timeout", reason=""), now)
        if not again:
            break
        assert source_queue.pop_ready(now)[0] is None
        waits.append(source_queue.pop_ready(now)[1])
        now += waits[-1]
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("status", ["ok", "unavailable_removed", "internal"])
def test_a_permanent_status_is_not_tried_again(status):
    source_queue = queue()
    pending, _ = source_queue.pop_ready(0.0)
    assert source_queue.ended(pending, FetchResult(status=status, reason=""), 0.0) == (False, False)


def test_a_refusal_that_pauses_the_source_does_not_count_as_an_attempt():
    source_queue = queue(attempts=1, threshold=1)
    pending, _ = source_queue.pop_ready(0.0)
    assert source_queue.ended(pending, FetchResult(status="blocked_bot", reason="no"), 0.0) == (True, True)
    assert source_queue.pop_ready(0.0) == (None, 10.0)
    assert source_queue.pop_ready(11.0)[0] is pending


def test_of_several_failures_a_transient_one_gives_the_status():
    gone = FailedRef(status="unavailable_removed", reason="gone", source="a", name="x")
    slow = FailedRef(status="net_timeout", reason="slow", source="b", name="x")
    both = combine_failures([gone, slow])
    assert (both.status, both.source) == ("net_timeout", "b")
    assert both.reason == "a: unavailable_removed: gone; b: net_timeout: slow"
    assert combine_failures([gone]) == gone
