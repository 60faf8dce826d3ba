"""The parts of the download stage: cache, pace, breaker, queue."""

import contextlib
import math
import os
from collections import Counter
from dataclasses import replace

import pytest

from avdata.prepare.config import BreakerConfig, parse_rate
from avdata.prepare.download.breaker import Breaker
from avdata.prepare.download.cache import Held, MediaCache, Verdict
from avdata.prepare.download.fetches import FetchEnd
from avdata.prepare.download.pace import BURST, FilePace, Unlimited, machine_pace
from avdata.prepare.download.queue import SourceQueue, Want
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.remote import FailedRef, FetchedFile, RemoteRef, said_of_all
from avmanifest.errors import ConfigError

REF = RemoteRef(
    address="https://host/x", fetch_key="x", is_clip=False, source="s", name="x", request=ClipRequest("x", 30.0, 40.0)
)


class Asked:
    """A source that is only asked for its name."""

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


def test_media_are_there_once_they_are_whole(tmp_path, opened):
    cache = opened()
    assert cache.find("k") is None
    (cache.part("k") / "body").write_bytes(b"me")
    assert cache.find("k") is None, "a part is no media"
    held = put(cache, "k")
    assert held == cache.find("k") == opened().find("k")
    assert not (tmp_path / "k.part").exists()
    (tmp_path / "k.0").write_bytes(b"med")
    assert cache.find("k") is None, "another size than its record says"


def test_the_oldest_media_make_room_but_none_that_a_clip_waits_for(tmp_path, opened):
    cache = opened(12)
    for number, key in enumerate("abc"):
        put(cache, key)
        os.utime(tmp_path / f"{key}.json", (number, number))
    assert cache.make_room(keep={"a"}, needed_later={"b"}) == 0
    assert [cache.find(key) is not None for key in "abc"] == [True, True, False]
    assert cache.make_room(keep={"a", "b"}, needed_later=set()) == 0
    put(cache, "d")
    assert cache.make_room(keep={"a", "b", "d"}, needed_later=set()) == 3
    assert cache.make_room(keep={"a", "d"}, needed_later={"b"}) == 0
    assert cache.find("b") is None


def test_a_run_leaves_what_others_fetched_while_they_live(tmp_path, opened):
    other = opened(1)
    put(other, "theirs")
    mine = opened(1)
    put(mine, "mine")
    assert mine.make_room(set(), set()) > 0
    assert (mine.find("theirs") is not None, mine.find("mine")) == (True, None)
    other.close()
    assert mine.make_room(set(), set()) == 0
    assert mine.find("theirs") is None


def test_one_run_at_a_time_fetches_a_video(tmp_path, opened):
    one, two = opened(1), opened(1)
    lock = one.lock("k")
    assert lock is not None
    assert two.lock("k") is None
    one.unlock("k", lock)
    again = two.lock("k")
    assert again is not None
    two.unlock("k", again)
    assert not list(tmp_path.glob("*.lock.*")) and not (tmp_path / "k.lock").exists()


def test_what_is_gone_is_remembered_for_a_week(tmp_path, opened):
    cache = opened(1)
    cache.condemn("k", Verdict("unavailable_removed", "gone"))
    assert cache.find("k") == Verdict("unavailable_removed", "gone")
    assert cache.find("k", verdicts=False) is None
    os.utime(tmp_path / "k.json", (0, 0))
    assert cache.find("k") is None


@pytest.mark.parametrize("record", [b"", b"[]", b'{"status": "ok"}', b'{"status":"ok","reason":"","files":[{}]}'])
def test_a_record_that_is_none_counts_as_nothing(record, tmp_path, opened):
    (tmp_path / "k.json").write_bytes(record)
    assert opened(1).find("k") is None


def test_a_clip_gets_the_section_that_holds_it(opened):
    files = (FetchedFile("a", 24.0, (25.0, 45.0), 250.0), FetchedFile("b", 95.0, (95.0, 220.0), 250.0))
    held = put(opened(), "k", files=files)
    assert isinstance(held, Held)
    assert held.media_for(REF).starts_at_s == 24.0
    late = replace(REF, request=ClipRequest("x", 200.0, 210.0))
    assert held.media_for(late).starts_at_s == 95.0
    between = held.media_for(replace(REF, request=ClipRequest("x", 60.0, 70.0)))
    assert isinstance(between, FailedRef) and between.status == "media_window"
    asked = [(30.0, 40.0), (60.0, 70.0), (200.0, None), (300.0, 310.0)]
    assert [held.settles(span) for span in asked] == [True, False, False, True], "the last lies past the video's end"


@pytest.mark.parametrize(("text", "per_hour"), [("250/h", 250), ("2/s", 7200), ("10/min", 600), ("2400/d", 100)])
def test_rates_are_read(text, per_hour):
    assert parse_rate(text) == per_hour


@pytest.mark.parametrize("text", ["250", "0/h", "-1/h", "1/year", ""])
def test_rates_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="250/h"):
        parse_rate(text)


def test_a_budget_is_one_for_all_who_share_its_file(tmp_path):
    paces = [FilePace(tmp_path / "pace", 1.0) for _ in range(2)]
    waits = [paces[number % 2].take() for number in range(BURST + 2)]
    assert waits[:BURST] == [0.0] * BURST
    assert all(3500 < wait <= 3600 for wait in waits[BURST:])
    (tmp_path / "pace").write_text("rubbish")
    assert paces[0].take() == 0.0


def test_without_a_rate_there_is_no_budget(tmp_path):
    assert isinstance(machine_pace("http", None, None, tmp_path), Unlimited)
    assert machine_pace("youtube", None, 100.0, tmp_path).take() == 0.0


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


def test_a_breaker_lets_one_probe_out_and_forgets_when_it_comes_back():
    breaker = Breaker(BreakerConfig(threshold=1, first_pause_s=10.0), probe=True)
    breaker.began()
    assert breaker.wait_s(0.0) == math.inf
    breaker.refused(0.0, "blocked_rate", "no", retry_after_s=99.0)
    assert breaker.wait_s(0.0) == 99.0, "the server's own word"
    breaker.began()
    breaker.answered()
    assert (breaker.wait_s(100.0), breaker.num_pauses) == (0.0, 0)


def queue(attempts=3, threshold=1000):
    breaker = Breaker(BreakerConfig(threshold=threshold, first_pause_s=10.0))
    made = SourceQueue(Asked(), Unlimited(), breaker, attempts, float)  # waits as many seconds as attempts were made
    made.waiting.append(Want(REF, (), []))
    return made


def test_what_may_pass_is_tried_again_later_and_not_for_ever():
    one = queue()
    now, waits = 0.0, []
    while True:
        want, _ = one.next_at(now)
        again, _ = one.ended(want, FetchEnd(status="net_timeout", reason=""), now)
        if not again:
            break
        assert one.next_at(now)[0] is None
        waits.append(one.next_at(now)[1])
        now += waits[-1]
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("status", ["ok", "unavailable_removed", "internal"])
def test_what_will_not_pass_is_not_tried_again(status):
    one = queue()
    want, _ = one.next_at(0.0)
    assert one.ended(want, FetchEnd(status=status, reason=""), 0.0) == (False, False)


def test_a_refusal_that_pauses_the_source_is_no_attempt():
    one = queue(attempts=1, threshold=1)
    want, _ = one.next_at(0.0)
    assert one.ended(want, FetchEnd(status="blocked_bot", reason="no"), 0.0) == (True, True)
    assert one.next_at(0.0) == (None, 10.0)
    assert one.next_at(11.0)[0] is want


def test_of_several_sources_words_those_that_may_pass_come_first():
    gone = FailedRef(status="unavailable_removed", reason="gone", source="a", name="x")
    slow = FailedRef(status="net_timeout", reason="slow", source="b", name="x")
    both = said_of_all([gone, slow])
    assert (both.status, both.source) == ("net_timeout", "b")
    assert both.reason == "a: unavailable_removed: gone; b: net_timeout: slow"
    assert said_of_all([gone]) == gone
