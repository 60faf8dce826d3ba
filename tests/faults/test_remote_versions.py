"""Remote files that are replaced while they are read or later, and servers that send too slowly."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from avdata.load import CacheConfig, Dataset, EvalView, Loader, LoaderConfig, evaluation_config, open_dataset
from avdata.load.reader import ShardReader
from avdata.members import MemberMap
from avdata.prepare.sources import open_source
from avdata.prepare.sources.media import open_media_file
from avdata.prepare.sources.names import ClipRequest
from avdata.remote_file import Version, version_of
from avdata.retrying import RetryPolicy
from avdata.store import Download, open_store
from avmanifest.errors import DownloadError, ShardError
from tests.buckets import s3_server, use_s3
from tests.serving import FileServer, serving

NUM_SAMPLES = 240
LABELLED = MemberMap(label="cls")


def tar_of(content: str, size: int = 3000) -> bytes:
    """A tar of another tool. All members of all samples have the same content, so a mixture can be told."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(NUM_SAMPLES):
            for suffix, member in (("cls", content.encode()), ("frame00.jpg", content.encode() * size)):
                info = tarfile.TarInfo(f"{number:05d}.{suffix}")
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    return file.getvalue()


OLD, NEW = tar_of("o"), tar_of("n")
assert len(OLD) == len(NEW)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/a.tar").write_bytes(OLD)
    with serving(tmp_path / "site") as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(root=tmp_path / "cache", retry=RetryPolicy(attempts=4, wait_s=0.0))


def etag(content: bytes) -> dict[str, str]:
    return {"ETag": f'"{content[:2000].count(b"o")}"'}


def weak(content: bytes) -> dict[str, str]:
    """A weak ETag that stays the same, and the time of the change."""
    return {"ETag": 'W/"1"', "Last-Modified": f"Sun, 01 Nov 2026 00:00:0{int(content == NEW)} GMT"}


def modified(content: bytes) -> dict[str, str]:
    return {"Last-Modified": weak(content)["Last-Modified"]}


def publish(server: FileServer, content: bytes, headers: Callable[[bytes], dict[str, str]]) -> None:
    server.change = lambda path, _: content
    server.headers = lambda path: headers(content)


def classes_of(cache: CacheConfig, url: str) -> tuple[str, ...]:
    return open_dataset(f"{url}/a.tar", members=LABELLED, cache=cache).classes


def shard_requests(server: FileServer) -> int:
    return sum(path == "/a.tar" for path in server.requests)


@pytest.mark.parametrize("headers", [etag, weak, modified, lambda content: {}], ids=["etag", "weak", "time", "none"])
@pytest.mark.parametrize("after", range(4))
def test_a_shard_that_is_replaced_between_two_requests_is_one_version(
    server: FileServer, cache: CacheConfig, headers: Callable[[bytes], dict[str, str]], after: int
) -> None:
    asked = [0]

    def current(path: str) -> bytes:
        return OLD if asked[0] <= after else NEW

    def count(path: str) -> dict[str, str]:
        asked[0] += path == "/a.tar"
        return headers(current(path))

    server.headers = count
    server.change = lambda path, _: current(path)
    assert classes_of(cache, server.url) in (("o",), ("n",))
    shard = next(cache.root.glob("*.shard")).read_bytes()
    assert shard in (OLD, NEW)


@pytest.mark.parametrize("headers", [etag, weak, modified], ids=["etag", "weak", "time"])
def test_a_shard_that_is_replaced_within_an_answer_is_read_again(
    server: FileServer, cache: CacheConfig, headers: Callable[[bytes], dict[str, str]]
) -> None:
    """As of a server that writes into the file that it is sending: old headers, and half of each version."""
    mixed = OLD[: len(OLD) // 2] + NEW[len(OLD) // 2 :]
    server.headers = lambda path: headers(NEW if shard_requests(server) > 1 else OLD)

    def change(path: str, _: bytes) -> bytes:
        if shard_requests(server) == 1:
            server.headers = lambda path: headers(NEW)
            return mixed
        return NEW

    server.change = change
    assert classes_of(cache, server.url) == ("n",)
    assert next(cache.root.glob("*.shard")).read_bytes() == NEW


def test_a_server_that_names_the_version_beside_content_only(server: FileServer, cache: CacheConfig) -> None:
    server.tells_version_early = False
    publish(server, OLD, etag)
    assert classes_of(cache, server.url) == ("o",)
    publish(server, NEW, etag)
    assert classes_of(cache, server.url) == ("n",)


def test_a_shard_that_is_replaced_in_every_answer_is_refused(server: FileServer, cache: CacheConfig) -> None:
    turn = [0]

    def next_headers(path: str) -> dict[str, str]:
        turn[0] += 1
        return {"ETag": f'"{turn[0]}"'}

    server.headers = next_headers
    server.change = lambda path, _: tar_of(str(turn[0] % 10), 10)
    with pytest.raises(ShardError, match="was replaced while it was read"):
        classes_of(cache, server.url)
    assert not list(cache.root.glob("*.shard"))


def test_a_server_that_names_a_new_version_in_every_answer_of_equal_bytes_is_read(
    server: FileServer, cache: CacheConfig, caplog: pytest.LogCaptureFixture
) -> None:
    turn = [0]

    def next_headers(path: str) -> dict[str, str]:
        turn[0] += 1
        return {"ETag": f'"{turn[0]}"'}

    server.headers = next_headers
    assert classes_of(cache, server.url) == ("o",)
    assert any("another version in each answer" in record.message for record in caplog.records)
    server.requests.clear()
    assert classes_of(cache, server.url) == ("o",)
    assert shard_requests(server) == 0


@pytest.mark.parametrize("headers", [etag, weak, modified], ids=["etag", "weak", "time"])
def test_a_later_replacement_is_seen_and_an_unchanged_shard_is_not_fetched_again(
    server: FileServer, cache: CacheConfig, headers: Callable[[bytes], dict[str, str]]
) -> None:
    publish(server, OLD, headers)
    assert classes_of(cache, server.url) == ("o",)
    server.requests.clear()
    assert classes_of(cache, server.url) == ("o",)
    assert shard_requests(server) == 0
    publish(server, NEW, headers)
    assert classes_of(cache, server.url) == ("n",)
    assert shard_requests(server) == 1


def test_a_server_without_versions_is_named_once_and_another_size_is_seen(
    server: FileServer, cache: CacheConfig, caplog: pytest.LogCaptureFixture
) -> None:
    publish(server, OLD, lambda content: {})
    assert classes_of(cache, server.url) == ("o",)
    assert classes_of(cache, server.url) == ("o",)
    assert sum("no ETag or time that can be compared" in record.message for record in caplog.records) == 1
    publish(server, tar_of("n", 3001 * 2), lambda content: {})
    assert classes_of(cache, server.url) == ("n",)


def test_a_shard_that_is_replaced_during_a_run_ends_it(server: FileServer, cache: CacheConfig) -> None:
    """The index that the run made is of the old shard."""
    publish(server, OLD, etag)
    dataset = open_dataset(f"{server.url}/a.tar", members=LABELLED, cache=cache)
    publish(server, NEW, etag)
    next(cache.root.glob("*.shard")).unlink()
    with pytest.raises(ShardError, match=r"a\.tar: sha256 .* came, when this run began it was .*begin a new run"):
        ShardReader(dataset.shards, cache).acquire(0)


def loader_of(dataset: Dataset, cache: CacheConfig) -> Loader:
    return Loader(dataset, EvalView(image_size=8), evaluation_config(LoaderConfig(batch_size=4, cache=cache)))


def test_a_prepared_dataset_and_foreign_shards_are_read_offline(
    drawn: Path, server: FileServer, cache: CacheConfig
) -> None:
    offline = replace(cache, offline=True)
    with serving(drawn) as prepared:
        url = prepared.url
        keys = [key for batch in loader_of(open_dataset(url, cache=cache), cache) for key in batch.keys]
    with pytest.raises(ShardError, match="cannot be read"):
        open_dataset(url, cache=replace(cache, retry=RetryPolicy(attempts=1)))
    assert [key for batch in loader_of(open_dataset(url, cache=offline), offline) for key in batch.keys] == keys
    publish(server, OLD, etag)
    with pytest.raises(ShardError, match=r"is not in the cache .*Run once without"):
        classes_of(offline, server.url)
    assert classes_of(cache, server.url) == ("o",)
    server.statuses.extend([503] * 99)
    server.requests.clear()
    assert classes_of(offline, server.url) == ("o",)
    assert server.requests == []
    server.statuses.clear()
    server.statuses.extend([404, *[503] * 99])
    with pytest.raises(ShardError, match=r"503.*data\.offline=true"):
        classes_of(cache, server.url)


# Other stores.


def test_a_replaced_shard_in_memory_is_seen(tmp_path: Path, cache: CacheConfig) -> None:
    memory = fsspec.filesystem("memory")
    for content, name in ((OLD, "o"), (OLD, "o"), (NEW, "n")):
        memory.pipe_file(f"/{tmp_path.name}/a.tar", content)
        assert classes_of(cache, f"memory://{tmp_path.name}") == (name,)


@pytest.mark.network
def test_a_replaced_shard_in_s3_is_seen(tmp_path: Path, cache: CacheConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as port:
        url = use_s3(monkeypatch, f"http://127.0.0.1:{port}", tmp_path / "home")
        writer = fsspec.filesystem("s3", skip_instance_cache=True)
        for content, name in ((OLD, "o"), (OLD, "o"), (NEW, "n")):
            writer.pipe_file(f"{url}/a.tar", content)
            assert classes_of(cache, url) == (name,)
        store = open_store(f"{url}/a.tar")
        with Download(store, "") as download:
            download.read(1000)
            writer.pipe_file(f"{url}/a.tar", OLD)
            with pytest.raises(ShardError, match=r"412|was replaced|changed"):
                while download.read(1 << 20):
                    pass
                download.unchanged()


class Hub(MemoryFileSystem):
    """Says the hash of each file, as the Hugging Face hub does: that of OLD."""

    cachable = False

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {**super().info(path, **kwargs), "lfs": {"sha256": hashlib.sha256(OLD).hexdigest()}, "blob_id": "b"}


def test_a_hash_that_the_store_says_is_compared(tmp_path: Path, cache: CacheConfig) -> None:
    fsspec.register_implementation("memory", Hub, clobber=True)
    try:
        memory = fsspec.filesystem("memory")
        memory.pipe_file(f"/{tmp_path.name}/a.tar", OLD)
        assert classes_of(cache, f"memory://{tmp_path.name}") == ("o",)
        memory.pipe_file(f"/{tmp_path.name}/a.tar", NEW)
        with pytest.raises(ShardError, match="came, the store says"):
            classes_of(replace(cache, root=tmp_path / "other"), f"memory://{tmp_path.name}")
    finally:
        fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"size": 3, "ETag": '"a"', "LastModified": "now"}, Version(3, 'etag "a"')),
        ({"size": 3, "ETag": 'W/"a"', "Last-Modified": "now"}, Version(3, 'etag W/"a", last-modified now')),
        ({"size": 3, "generation": "17", "etag": "x", "mtime": 1}, Version(3, "etag x")),
        ({"size": 0, "blob_id": "b1", "lfs": None}, Version(0, "blob_id b1")),
        ({"size": 3, "blob_id": "b1", "lfs": {"sha256": "f" * 64}}, Version(3, "blob_id b1", "f" * 64)),
        ({"size": None, "name": "x"}, Version(None, "")),
    ],
)
def test_stores_say_versions_in_words_of_their_own(info: dict[str, object], version: Version) -> None:
    assert version_of(info) == version


def test_only_what_both_say_is_compared() -> None:
    assert not Version(None, "").differs(Version(3, "x"))
    assert not Version(3, "").differs(Version(3, "x"))
    assert Version(0, "").differs(Version(3, ""))
    assert Version(3, "y").differs(Version(3, "x"))
    assert Version(3, "x", "a").differs(Version(3, "x", "b"))


# Archives of videos.


@pytest.mark.parametrize("headers", [etag, modified], ids=["etag", "time"])
def test_an_archive_that_is_replaced_after_it_was_listed_gives_no_clip(
    server: FileServer, headers: Callable[[bytes], dict[str, str]]
) -> None:
    def archive(content: bytes) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            info = tarfile.TarInfo("aaaaaaaaaaa_000030.mp4")
            info.size = 5000
            tar.addfile(info, io.BytesIO(content * 5000))
        return file.getvalue()

    publish(server, archive(b"o"), lambda content: headers(OLD))
    source = open_source(f"wds:{server.url}/a.tar")
    ref = source.locate(ClipRequest("aaaaaaaaaaa", 30.0, 40.0))
    with open_media_file(ref) as file:
        assert file.read() == b"o" * 5000
    publish(server, archive(b"n"), lambda content: headers(NEW))
    with pytest.raises(DownloadError, match="was replaced while it was read"):
        open_media_file(ref)


# Slow servers.


@pytest.mark.parametrize("limits", [{"attempt_s": 0.5}, {"total_s": 0.5}], ids=["attempt", "total"])
@pytest.mark.parametrize("what", ["shard", "small file", "range", "archive"])
def test_a_server_that_trickles_is_given_up(
    server: FileServer, cache: CacheConfig, what: str, limits: dict[str, float]
) -> None:
    retry = RetryPolicy(attempts=1, **limits)  # type: ignore[arg-type]
    server.drip_s = 0.05
    with pytest.raises(ShardError, match=r"a\.tar: cannot be .*no answer in"):
        if what == "shard":
            classes_of(replace(cache, retry=retry), server.url)
        elif what == "small file":
            open_store(f"{server.url}/a.tar", retry=retry).content("")
        elif what == "range":
            open_store(f"{server.url}/a.tar", retry=retry).read_range("", 0, 1000)
        else:
            open_store(f"{server.url}/a.tar", retry=retry).open("").read(1000)


def test_a_slow_server_that_keeps_up_is_waited_for(server: FileServer) -> None:
    """The limit of an attempt grows with what has come."""
    (server.root / "b").write_bytes(bytes(range(40)))
    server.drip_s = 0.01
    policy = RetryPolicy(attempts=1, attempt_s=60.0)
    with Download(open_store(f"{server.url}/b", retry=policy), "") as download:
        assert b"".join(iter(lambda: download.read(7), b"")) == bytes(range(40))
