"""Failing sources: every fault of the table ends in its status, and nothing is fetched twice."""

import errno
import time

import psutil
import pytest

from avdata.prepare.config import DownloadConfig, HttpOptions
from avdata.prepare.download import FetchThread, MediaCache
from avdata.prepare.download.rate_limit import NoRateLimit
from avdata.prepare.pipeline import ClipTask
from avdata.prepare.sources.http import HttpSource
from avdata.prepare.sources.names import ClipRequest
from avmanifest.errors import StorageError
from avmanifest.layout import ShardName
from tests.faults.source_faults import EXPECTED, all_rows

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


class FullDisk:
    """A fetcher whose disk is full."""

    def __call__(self, address, spans, folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))


class Endless:
    """A fetcher that writes the file `began` and never returns."""

    def __call__(self, address, spans, folder):
        (folder / "began").touch()
        while True:
            time.sleep(1)


class Source(HttpSource):
    """An HTTP source with a fetcher of the test."""

    def __init__(self, fetcher):
        super().__init__("http://127.0.0.1/{id}", HttpOptions())
        self.fetcher = fetcher


def opened(folder, fetcher) -> tuple[FetchThread, ClipTask]:
    """A FetchThread with that fetcher, and a clip that waits for it."""
    source = Source(fetcher)
    cache = MediaCache(folder, 10**9)
    fetching = FetchThread(DownloadConfig(), [source], {source.name: NoRateLimit()}, cache, {}, retry_unavailable=False)
    ref = source.locate(ClipRequest("x"))
    task = ClipTask(shard=ShardName("train", 0), place=0, row={"key": "x"}, ref=ref, blocks=folder / "blocks")
    assert fetching.request(task, ref) is None
    return fetching, task


def test_a_full_disk_stops_the_run_with_a_storage_error(tmp_path):
    fetching, _ = opened(tmp_path, FullDisk())
    try:
        assert fetching.wake.poll(60)
        with pytest.raises(StorageError, match=r"ENOSPC.*make room"):
            fetching.take()
    finally:
        fetching.close()


def test_close_kills_running_fetches_and_keeps_their_part_folders(tmp_path):
    fetching, _ = opened(tmp_path, Endless())
    while not list(tmp_path.glob("*.part/began")):
        time.sleep(0.02)
    fetching.close()
    assert fetching_children() == []
    assert list(tmp_path.glob("*.part/began"))
    assert not list(tmp_path.glob("*.lock"))


def fetching_children() -> list[psutil.Process]:
    """The fork server's children of this process, which run the fetches."""
    servers = psutil.Process().children()
    return [child for server in servers for child in server.children() if child.status() != psutil.STATUS_ZOMBIE]
