"""Sources that fail: every fault of the table ends as its status, and nothing is fetched twice."""

import errno
import time

import psutil
import pytest

from avdata.prepare.config import DownloadConfig, HttpOptions
from avdata.prepare.download import FetchThread, MediaCache
from avdata.prepare.download.pace import Unlimited
from avdata.prepare.pipeline import ClipTask
from avdata.prepare.sources.http import HttpSource
from avdata.prepare.sources.names import ClipRequest
from avmanifest.errors import StorageError
from avmanifest.layout import ShardName
from tests.faults.fault_table import EXPECTED, all_rows

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The manifest row in which each fault ended."""
    return all_rows(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "status"), EXPECTED.items(), ids=EXPECTED)
def test_a_fault_ends_in_its_status(fault, status, rows, record_property):
    row = rows[fault]
    record_property("expected", status)
    record_property("seen", row["status"])
    assert row["status"] == status, row["reason"]
    assert bool(row["reason"]) == (status != "ok")
    assert bool(row["members"]) == (status == "ok")


class Disk:
    """A fetcher whose folder takes no more."""

    def __call__(self, address, spans, folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))


class Endless:
    """A fetcher that never comes back, and says that it began."""

    def __call__(self, address, spans, folder):
        (folder / "began").touch()
        while True:
            time.sleep(1)


class Source(HttpSource):
    """Addresses of a web server, and a fetcher of the test's own."""

    def __init__(self, fetcher):
        super().__init__("http://127.0.0.1/{id}", HttpOptions())
        self.fetcher = fetcher


def opened(folder, fetcher) -> tuple[FetchThread, ClipTask]:
    """A thread that fetches by the fetcher, and a clip that waits for it."""
    source = Source(fetcher)
    cache = MediaCache(folder, 10**9)
    fetching = FetchThread(DownloadConfig(), [source], {source.name: Unlimited()}, cache, {}, ask_again=False)
    ref = source.locate(ClipRequest("x"))
    task = ClipTask(shard=ShardName("train", 0), place=0, row={"key": "x"}, ref=ref, blocks=folder / "blocks")
    assert fetching.ask(task, ref) is None
    return fetching, task


def test_a_full_disk_stops_the_run_and_no_row_says_so(tmp_path):
    fetching, _ = opened(tmp_path, Disk())
    try:
        assert fetching.wake.poll(60)
        with pytest.raises(StorageError, match=r"ENOSPC.*make room"):
            fetching.take()
    finally:
        fetching.close()


def test_a_run_that_is_stopped_waits_for_no_fetch_and_leaves_its_part(tmp_path):
    fetching, _ = opened(tmp_path, Endless())
    while not list(tmp_path.glob("*.part/began")):
        time.sleep(0.02)
    fetching.close()
    assert fetching_children() == []
    assert list(tmp_path.glob("*.part/began"))
    assert [path.name for path in tmp_path.glob("*.lock")] == ["users.lock"]


def fetching_children() -> list[psutil.Process]:
    """Children of this process that run a fetch: the fork server's, less the server itself."""
    servers = psutil.Process().children()
    return [child for server in servers for child in server.children() if child.status() != psutil.STATUS_ZOMBIE]
