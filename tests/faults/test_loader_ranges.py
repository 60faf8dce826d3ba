"""What the first batches need of large remote shards is read by ranges, checked like everything else."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avdata.load import CacheConfig, Loader, LoaderConfig, TrainView, open_dataset
from avdata.retrying import RetryPolicy
from tests.serving import FileServer, serving
from tests.shards import draw_dataset

VIEW = TrainView(window_s=0.75, image_size=32)
CONFIG = LoaderConfig(batch_size=2, num_workers=2, prefetch_batches=1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("ranges") / "set", 24, 8, seconds=5.0, num_frames=8)


@pytest.fixture
def server(drawn: Path) -> Iterator[FileServer]:
    with serving(drawn) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(root=tmp_path / "cache", ranges_from_bytes=1, retry=RetryPolicy(attempts=1))


def tar_bytes(server: FileServer) -> int:
    return sum(count for path, count in server.sent_bytes.items() if path.endswith(".tar"))


def epoch(loader: Loader) -> list[tuple[tuple[str, ...], bytes, bytes]]:
    return [(b.keys, b.images.tobytes(), b.log_mel.tobytes()) for b in loader.arrays()]


def test_before_the_first_batch_only_what_it_needs_is_read(drawn: Path, server: FileServer, cache: CacheConfig) -> None:
    shards = sum(path.stat().st_size for path in drawn.glob("train/*.tar"))
    loader = Loader(open_dataset(server.url, cache=cache), VIEW, replace(CONFIG, cache=cache))
    with closing(loader.arrays()) as batches:
        next(batches)
        first = tar_bytes(server)
        assert 0 < first < 2 * 60_000, "a frame and the blocks of a window of two samples"
        assert first < shards / 10
        list(batches)
    assert len(list(cache.root.glob("*.shard"))) == 3, "the whole shards came behind"
    sent = tar_bytes(server)
    assert epoch(loader)
    assert tar_bytes(server) == sent, "the next epoch is read from the cache"


def test_ranges_are_read_at_the_same_time_by_more_threads_than_fill_rows(
    server: FileServer, cache: CacheConfig
) -> None:
    dataset, waiting, four = open_dataset(server.url, cache=cache), [], threading.Event()

    def change(path: str, content: bytes) -> bytes:
        if path.endswith(".tar"):
            waiting.append(path)
            if len(waiting) == 4:
                four.set()
            four.wait(10)
        return content

    server.change = change
    config = replace(CONFIG, batch_size=4, num_workers=1, chunk_samples=1, cache=cache)
    with closing(Loader(dataset, VIEW, config).arrays()) as batches:
        next(batches)
    assert four.is_set()
    assert len(waiting) == 8, "a frame and a window of each sample"


def test_batches_are_those_of_the_local_dataset(drawn: Path, server: FileServer, cache: CacheConfig) -> None:
    local = epoch(Loader(open_dataset(drawn), VIEW, CONFIG))
    assert epoch(Loader(open_dataset(server.url, cache=cache), VIEW, replace(CONFIG, cache=cache))) == local
    whole = CacheConfig(root=cache.root.with_name("whole"))
    assert epoch(Loader(open_dataset(server.url, cache=whole), VIEW, replace(CONFIG, cache=whole))) == local


def test_a_server_without_ranges_is_asked_once_by_each_thread_and_the_shards_are_fetched_whole(
    drawn: Path, server: FileServer, cache: CacheConfig
) -> None:
    local = epoch(Loader(open_dataset(drawn), VIEW, CONFIG))
    patient = replace(cache, retry=RetryPolicy(attempts=6, wait_s=100.0))
    dataset = open_dataset(server.url, cache=patient)
    server.tells_size = False
    config = replace(CONFIG, cache=patient, num_workers=4, chunk_samples=1, prefetch_batches=8)
    assert epoch(Loader(dataset, VIEW, config)) == local


@pytest.mark.parametrize("kind", ["damaged", "refused"])
def test_where_a_range_is_wrong_the_whole_shard_is_fetched_and_checked(
    drawn: Path, server: FileServer, cache: CacheConfig, kind: str
) -> None:
    local = epoch(Loader(open_dataset(drawn), VIEW, CONFIG))
    wrong = [path.stat().st_size for path in drawn.glob("train/*.tar")][:1] * 2

    def change(path: str, content: bytes) -> bytes:
        if path.endswith(".tar") and wrong:
            wrong.pop()
            return (np.frombuffer(content, np.uint8) ^ 1).tobytes() if kind == "damaged" else content[:100]
        return content

    dataset = open_dataset(server.url, cache=cache)
    server.change = change
    assert epoch(Loader(dataset, VIEW, replace(CONFIG, cache=cache))) == local
    assert not wrong
