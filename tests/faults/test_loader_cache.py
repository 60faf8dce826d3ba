"""The cache of remote shards: servers that fail, disks that fill, files that rot, processes that share it."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from avdata.cache import lock_file, unlock_file
from avdata.load import CacheConfig, Dataset, EvalView, Loader, LoaderConfig, evaluation_config, open_dataset
from avdata.load.cache import Expected, ShardCache
from avdata.retrying import RetryPolicy
from avdata.store import open_store
from avmanifest.errors import ConfigError, ShardError, StorageError
from tests.serving import FileServer, serving

VIEW = EvalView(image_size=8)
KEYS = [f"clip-{number:05d}" for number in range(20)]


@pytest.fixture
def server(drawn: Path) -> Iterator[FileServer]:
    with serving(drawn) as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(root=tmp_path / "cache", retry=RetryPolicy(attempts=3, wait_s=0.0))


@pytest.fixture
def shard_bytes(drawn: Path) -> int:
    return (drawn / "train/00000.tar").stat().st_size


def keys_read(dataset: Dataset, cache: CacheConfig, **options: object) -> list[str]:
    config = replace(evaluation_config(LoaderConfig(batch_size=4, num_workers=2, cache=cache)), **options)  # type: ignore[arg-type]
    return [
        key
        for batch in Loader(dataset, VIEW, config)
        for key, valid in zip(batch.keys, batch.valid, strict=True)
        if valid
    ]


def shards_in(cache: CacheConfig) -> list[Path]:
    return sorted(cache.root.glob("*.shard"))


def tar_requests(server: FileServer) -> list[str]:
    return [path for path in server.requests if path.endswith(".tar")]


def test_every_shard_is_fetched_once_and_the_files_are_the_shards(
    server: FileServer, cache: CacheConfig, drawn: Path
) -> None:
    dataset = open_dataset(server.url, cache=cache)
    assert keys_read(dataset, cache) == KEYS
    assert keys_read(dataset, cache) == KEYS
    assert sorted(tar_requests(server)) == [f"/train/{number:05d}.tar" for number in range(4)]
    assert {path.read_bytes() for path in shards_in(cache)} == {p.read_bytes() for p in drawn.glob("train/*.tar")}
    assert not list(cache.root.glob("*.part"))


def bytes_in(cache: CacheConfig) -> int:
    """What all files take at one moment: sizes and names change under this lock only."""
    with (cache.root / "evict.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(entry.stat().st_size for entry in os.scandir(cache.root) if entry.name.endswith((".shard", ".part")))


@pytest.mark.parametrize("fetch_ahead", [0, 4096])
def test_the_cache_stays_within_its_bound_and_the_data_whole(
    server: FileServer, cache: CacheConfig, shard_bytes: int, fetch_ahead: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache = replace(cache, max_bytes=round(2.5 * shard_bytes))
    dataset = open_dataset(server.url, cache=cache)
    largest = 0
    config = LoaderConfig(batch_size=1, num_workers=1, cache=cache, prefetch_batches=1, fetch_ahead_samples=fetch_ahead)
    loader = Loader(dataset, VIEW, evaluation_config(config))
    seen = []
    try:
        for batch in loader:
            seen += batch.keys
            largest = max(largest, bytes_in(cache))
    except StorageError as error:  # four downloads at once may need more room than there is: then it says so
        assert fetch_ahead and "every file in the cache is being read" in str(error)
        return
    assert seen == KEYS
    assert 0 < largest <= cache.max_bytes


def test_the_longest_unused_file_goes_first_and_its_space_at_once(
    server: FileServer, cache: CacheConfig, shard_bytes: int
) -> None:
    cache = replace(cache, max_bytes=round(2.5 * shard_bytes))
    held = ShardCache(cache)
    urls = [f"{server.url}/train/{number:05d}.tar" for number in range(3)]
    first, second = (held.open(url, Expected()) for url in urls[:2])
    unlock_file(first)
    unlock_file(second)
    again = held.open(urls[0], Expected())  # used once more: the second is older now
    os.close(again)
    third = held.open(urls[2], Expected())
    assert sorted(shards_in(cache)) == sorted(held.path(url, Expected()) for url in (urls[0], urls[2]))
    assert lock_file(first)
    assert not lock_file(second)
    assert os.fstat(second).st_size == 0
    for descriptor in (first, second, third):
        os.close(descriptor)


def test_a_file_that_is_read_is_not_evicted(server: FileServer, cache: CacheConfig, shard_bytes: int) -> None:
    cache = replace(cache, max_bytes=round(1.5 * shard_bytes))
    one, other = ShardCache(cache), ShardCache(cache)
    descriptor = one.open(f"{server.url}/train/00000.tar", Expected())
    with pytest.raises(StorageError, match=r"every file in the cache is being read.*Raise data\.cache_gb"):
        other.open(f"{server.url}/train/00001.tar", Expected())
    assert len(os.pread(descriptor, shard_bytes, 0)) == shard_bytes
    os.close(descriptor)
    os.close(other.open(f"{server.url}/train/00001.tar", Expected()))
    with pytest.raises(ConfigError, match="larger than the whole cache"):
        ShardCache(replace(cache, max_bytes=1000)).open(f"{server.url}/train/00002.tar", Expected())


def test_two_ranks_with_room_for_one_shard_more_than_they_read_do_not_block_each_other(
    server: FileServer, cache: CacheConfig, shard_bytes: int
) -> None:
    """Files that another process has open without reading them are no obstacle."""
    cache = replace(cache, max_bytes=round(2.2 * shard_bytes))
    dataset = open_dataset(server.url, cache=cache)
    config = evaluation_config(LoaderConfig(batch_size=2, num_workers=0, cache=cache, fetch_ahead_samples=0))
    ranks = [iter(Loader(dataset, VIEW, config, rank=rank, world_size=2)) for rank in range(2)]
    seen = [key for batches in zip(*ranks, strict=True) for batch in batches for key in batch.keys]
    assert sorted(seen) == KEYS


def test_a_shard_that_is_fetched_again_is_logged(
    server: FileServer, cache: CacheConfig, shard_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    held = ShardCache(replace(cache, max_bytes=round(1.5 * shard_bytes)))
    for number in (0, 1, 0, 1):
        os.close(held.open(f"{server.url}/train/{number:05d}.tar", Expected()))
    assert [record.message for record in caplog.records if "a second time" in record.message].__len__() == 1


# Servers.


def test_passing_failures_are_waited_out(server: FileServer, cache: CacheConfig, shard_bytes: int) -> None:
    dataset = open_dataset(server.url, cache=cache)
    server.requests.clear()
    server.statuses.extend([503, 503, 500, 429])  # a size and a content are asked for in each attempt
    server.cut_after.extend([1000])
    assert (
        keys_read(
            dataset, replace(cache, retry=RetryPolicy(attempts=4, wait_s=0.0)), num_workers=0, fetch_ahead_samples=0
        )
        == KEYS
    )


def test_small_files_are_asked_for_again_too(server: FileServer, cache: CacheConfig) -> None:
    server.statuses.extend([502, 503])
    assert len(open_dataset(server.url, cache=cache)) == 20
    server.statuses.extend([502, 503, 503])
    with pytest.raises(ShardError, match=r"dataset\.json: cannot be read \(ClientResponseError: 503"):
        open_dataset(server.url, cache=cache)


def test_a_server_that_fails_or_is_gone_says_nothing_of_its_files(drawn: Path, cache: CacheConfig) -> None:
    with serving(drawn) as server:
        store = open_store(server.url, retry=cache.retry)
        assert (store.size("nothing"), server.statuses.extend([503] * 4)) == (None, None)
        assert store.size("dataset.json") == (drawn / "dataset.json").stat().st_size
        server.statuses.extend([503] * 6)
        with pytest.raises(ShardError, match=r"dataset\.json: cannot be read .*503.*3 attempts"):
            store.size("dataset.json")
    with pytest.raises(ShardError, match=r"dataset\.json: cannot be read \(ConnectionRefusedError"):
        store.size("dataset.json")


def test_a_no_is_not_asked_again(server: FileServer, cache: CacheConfig) -> None:
    with pytest.raises(ShardError, match=r"nothing\.tar: cannot be fetched .*Check the address"):
        open_dataset(f"{server.url}/nothing.tar", cache=replace(cache, retry=RetryPolicy(wait_s=1000.0)))
    server.statuses.extend([403])
    with pytest.raises(ShardError, match=r"dataset\.json: cannot be read .*403"):
        open_dataset(server.url, cache=replace(cache, retry=RetryPolicy(wait_s=1000.0)))


def test_what_is_cut_in_every_attempt_is_given_up_with_its_name(
    server: FileServer, cache: CacheConfig, shard_bytes: int
) -> None:
    dataset = open_dataset(server.url, cache=cache)
    server.requests.clear()
    server.tells_size = False
    server.cut_after.extend([shard_bytes // 2] * 20)
    with pytest.raises(ShardError, match=rf"00000\.tar: {shard_bytes // 2} bytes came, expected {shard_bytes}"):
        keys_read(dataset, cache, num_workers=0, fetch_ahead_samples=0)
    assert not list(cache.root.glob("*.part"))


def flipped(path: str, content: bytes) -> bytes:
    """One bit of the second shard is another."""
    if not path.endswith("00001.tar"):
        return content
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


def test_another_checksum_than_the_markers_is_named(server: FileServer, cache: CacheConfig) -> None:
    dataset = open_dataset(server.url, cache=cache)
    server.change = flipped
    with pytest.raises(ShardError, match=r"00001\.tar: sha256 [0-9a-f]{64} came, its marker says [0-9a-f]{64}"):
        keys_read(dataset, cache)
    assert keys_read(dataset, cache, skip_bad=True, max_bad_share=0.3, batch_size=10) == [
        key for key in KEYS if not 6 <= int(key[-5:]) < 12
    ]


def test_a_longer_answer_than_announced_is_not_stored(server: FileServer, cache: CacheConfig, shard_bytes: int) -> None:
    dataset = open_dataset(server.url, cache=cache)
    server.tells_size = False
    server.change = lambda path, content: content * 3
    with pytest.raises(ShardError, match=rf"bytes came, expected {shard_bytes}"):
        keys_read(dataset, cache)
    assert not shards_in(cache)
    assert not list(cache.root.glob(".*.tmp"))


def test_leaving_the_loop_breaks_downloads_off(server: FileServer, cache: CacheConfig) -> None:
    dataset = open_dataset(server.url, cache=cache)
    asked, answer = threading.Event(), threading.Event()

    def stall(path: str, content: bytes) -> bytes:
        if path.endswith(("2.tar", "3.tar")):
            asked.set()
            answer.wait(10)
        return content

    server.change = stall
    cache = replace(cache, retry=RetryPolicy(attempts=5, wait_s=1000.0))
    loader = Loader(dataset, VIEW, evaluation_config(LoaderConfig(batch_size=2, num_workers=1, cache=cache)))
    batches = iter(loader)
    next(batches)
    assert asked.wait(10)
    server.statuses.extend([503] * 20)
    answer.set()
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("avkit")]
    server.statuses.clear()
    assert [key for batch in loader for key in batch.keys] == KEYS[2:]


# Files that rot.


@pytest.mark.parametrize("damage", ["zeros", "cut", "header"])
def test_a_damaged_copy_is_fetched_again(server: FileServer, cache: CacheConfig, damage: str) -> None:
    dataset = open_dataset(server.url, cache=cache)
    assert keys_read(dataset, cache) == KEYS
    server.requests.clear()
    path = shards_in(cache)[1]
    content = path.read_bytes()
    if damage == "zeros":
        path.write_bytes(bytes(len(content)))
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        at = content.index(b".frame02.jpg")
        path.write_bytes(content[: at + 1] + b"X" + content[at + 2 :])
    assert keys_read(dataset, cache) == KEYS
    assert len(tar_requests(server)) == 1
    assert path.read_bytes() == content


def test_a_damaged_copy_and_a_damaged_original_end_with_the_name(server: FileServer, cache: CacheConfig) -> None:
    dataset = open_dataset(server.url, cache=cache)
    assert keys_read(dataset, cache) == KEYS
    server.change = flipped
    for path in shards_in(cache):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ShardError, match=r"00001\.tar: sha256"):
        keys_read(dataset, cache)


# Disks.


def test_a_full_disk_is_an_error_and_leaves_no_file(server: FileServer, cache: CacheConfig) -> None:
    dataset = open_dataset(server.url, cache=cache)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(
            StorageError, match=r"cannot write .*Make room on the disk, or give the cache another folder"
        ):
            keys_read(dataset, cache, skip_bad=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not shards_in(cache)
    assert not list(cache.root.glob("*.part"))
    assert keys_read(dataset, cache) == KEYS


def test_a_cache_that_cannot_be_made_says_so(server: FileServer, cache: CacheConfig, tmp_path: Path) -> None:
    dataset = open_dataset(server.url, cache=cache)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot make the cache folder"):
        keys_read(dataset, replace(cache, root=tmp_path / "file/cache"))


# Processes.

READER = """
import sys
from dataclasses import replace
from pathlib import Path
from avdata.load import CacheConfig, EvalView, Loader, LoaderConfig, evaluation_config, open_dataset
from avdata.retrying import RetryPolicy
url, root, bound, rank = sys.argv[1:]
for name, max_bytes in (("wide", 10**9), ("narrow", int(bound))):
    cache = CacheConfig(root=Path(root) / name, max_bytes=max_bytes,
                        retry=RetryPolicy(attempts=3, wait_s=0.1))
    config = evaluation_config(LoaderConfig(batch_size=2, num_workers=1, prefetch_batches=1, cache=cache,
                                            fetch_ahead_samples=0))
    loader = Loader(open_dataset(url, cache=cache), EvalView(image_size=8), config, rank=int(rank), world_size=2)
    for _ in range(3):
        print(*(key for batch in loader for key, ok in zip(batch.keys, batch.valid) if ok))
    print("done", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_ranks_of_one_machine_share_the_cache(server: FileServer, cache: CacheConfig, shard_bytes: int) -> None:
    """With room for all, each shard is fetched once; with room for what two ranks read, all still ends well."""
    bound = 2 * shard_bytes + 100_000
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", READER, server.url, cache.root, str(bound), str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    told = [[rank.stdout.readline().split() for _ in range(4)][:3] for rank in ranks if rank.stdout]
    assert sorted(tar_requests(server)) == [f"/train/{number:05d}.tar" for number in range(4)]
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write("\n")
        rank.stdin.flush()
    told += [output.split("\n")[:3] for output in (rank.communicate("\n", timeout=120)[0] for rank in ranks)]
    assert [rank.returncode for rank in ranks] == [0, 0]
    for ends in (told[:2], [[line.split() for line in lines] for lines in told[2:]]):  # type: ignore[union-attr]
        for epoch in range(3):
            assert sorted(ends[0][epoch] + ends[1][epoch]) == KEYS
    assert sum(path.stat().st_size for path in (cache.root / "narrow").iterdir()) <= bound
    assert not list(cache.root.rglob("*.part"))


def test_what_a_killed_download_left_makes_room(server: FileServer, cache: CacheConfig, shard_bytes: int) -> None:
    cache = replace(cache, max_bytes=round(1.5 * shard_bytes))
    cache.root.mkdir()
    (cache.root / "0.part").write_bytes(bytes(shard_bytes))
    (cache.root / "0.index.parquet.1.tmp").write_bytes(bytes(1000))
    os.close(ShardCache(cache).open(f"{server.url}/train/00000.tar", Expected()))
    assert not list(cache.root.glob("*.part"))
