"""Shards that go bad, views that cannot be served, loops that are left: the loader stops with a name, and cleanly."""

import contextlib
import gc
import logging
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avdata.load import Dataset, EvalView, Loader, LoaderConfig, TrainView, evaluation_config, open_dataset
from avdata.load.batch import BufferPool
from avmanifest.errors import ConfigError, ShardError

VIEW = EvalView(image_size=8)
CONFIG = evaluation_config(LoaderConfig(batch_size=4, num_workers=2, chunk_samples=1))
KEYS = [f"clip-{number:05d}" for number in range(20)]


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """A dataset that may be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / "set"))


def damage_image(root: Path, sample: int) -> None:
    """Zeros over the middle frame of a sample."""
    path = root / f"train/{sample // 6:05d}.tar"
    content = bytearray(path.read_bytes())
    at = content.index(f"clip-{sample:05d}.frame02.jpg".encode()) + 512
    content[at : at + 300] = bytes(300)
    path.write_bytes(content)


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("avkit")]


def open_files(root: Path) -> list[str]:
    """Files below a folder that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return [path for path in found if path.startswith(str(root))]


@pytest.mark.parametrize("workers", [0, 3])
def test_a_bad_sample_stops_the_epoch_after_the_batches_before_it(root: Path, workers: int) -> None:
    damage_image(root, 9)
    loader = Loader(open_dataset(root), VIEW, replace(CONFIG, num_workers=workers, prefetch_batches=8))
    seen: list[str] = []
    with pytest.raises(ShardError, match=r"train/00001\.tar: clip-00009\.frame02\.jpg: damaged: its 677 bytes"):
        for batch in loader:
            seen += batch.keys
    assert seen == KEYS[:8]
    assert loader.state.position == 8
    assert own_threads() == []


def test_bad_samples_are_skipped_counted_and_logged_and_never_replaced(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for sample in (0, 9, 10, 19):
        damage_image(root, sample)
    loader = Loader(open_dataset(root), VIEW, replace(CONFIG, skip_bad=True, max_bad_share=0.2))
    with caplog.at_level(logging.WARNING):
        batches = list(loader)
    assert [len(batch) for batch in batches] == [3, 4, 2, 4, 3]
    assert [key for batch in batches for key in batch.keys] == [k for k in KEYS if int(k[-2:]) not in (0, 9, 10, 19)]
    for batch in batches:
        red = batch.images[:, 0].float().mean((1, 2))
        assert (red - batch.sample_ids * 8).abs().max() < 4
        assert batch.positions.tolist() == batch.sample_ids.tolist() == [int(key[-5:]) for key in batch.keys]
        assert len(batch.labels) == len(batch.valid) == len(batch.log_mel) == len(batch.window_start_s) == len(batch)
    assert (loader.stats.skipped, loader.stats.samples) == (4, 16)
    assert sum("skipped: " in record.message and "clip-000" in record.message for record in caplog.records) == 4
    assert loader.state.epoch == 1


def test_a_batch_without_a_good_sample_stops_even_then(root: Path) -> None:
    for sample in range(4, 8):
        damage_image(root, sample)
    loader = Loader(open_dataset(root), VIEW, replace(CONFIG, skip_bad=True, max_bad_share=0.2))
    with pytest.raises(ShardError, match=r"no sample of a batch of 4 is whole; the first: .*clip-00004"):
        list(loader)


@pytest.mark.parametrize("how", ["cut", "gone", "longer", "other", "zeros"])
def test_a_shard_that_goes_bad_mid_epoch_is_named_or_skipped(root: Path, how: str) -> None:
    dataset = open_dataset(root)
    loaders = [
        Loader(
            dataset,
            VIEW,
            replace(CONFIG, skip_bad=skip, max_bad_share=0.3, batch_size=10, prefetch_batches=1, num_workers=0),
        )
        for skip in (False, True)
    ]
    epochs = [iter(loader) for loader in loaders]
    seen = [list(next(epoch).keys) for epoch in epochs]
    path = root / "train/00002.tar"
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "gone":
        path.unlink()
    elif how == "longer":
        path.write_bytes(content + bytes(512))
    elif how == "other":
        path.write_bytes((root / "train/00001.tar").read_bytes())
    else:
        path.write_bytes(bytes(len(content)))
    with pytest.raises(ShardError, match=r"train/00002\.tar"):
        next(epochs[0])
    seen[1] += next(epochs[1]).keys
    assert seen[1] == KEYS[:12] + KEYS[18:]
    assert loaders[1].stats.skipped == 6


def test_a_shard_cut_while_it_is_open_is_named(root: Path) -> None:
    loader = Loader(open_dataset(root), VIEW, replace(CONFIG, batch_size=3, prefetch_batches=1, num_workers=0))
    batches = iter(loader)
    next(batches)
    with (root / "train/00000.tar").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ShardError, match=r"00000\.tar: truncated at byte 5000, before the end of clip-00003\."):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_nothing_is_left_running_or_open_however_the_loop_ends(root: Path, workers: int) -> None:
    loader = Loader(open_dataset(root), TrainView(image_size=8), LoaderConfig(batch_size=2, num_workers=workers))
    for _ in loader:
        assert len(own_threads()) <= workers
        break
    assert own_threads() == []
    assert open_files(root) == []
    with pytest.raises(ZeroDivisionError):
        try:
            for _ in loader:
                1 / 0  # noqa: B018
        finally:
            gc.collect()
    gc.collect()
    assert own_threads() == []
    batches = iter(loader)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert own_threads() == []
    list(loader)
    assert own_threads() == []
    assert open_files(root) == []


def test_epochs_leave_no_buffers_threads_or_files_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a batch's size are used again: their number does not grow from epoch to epoch."""
    view = TrainView(image_size=16, waveform=True)
    loader = Loader(open_dataset(root), view, LoaderConfig(batch_size=4, num_workers=2, prefetch_batches=3))
    made = []
    for _ in range(6):
        for batch in loader:
            assert len(batch) == 4
        del batch
        gc.collect()
        pool = loader._pool
        made.append(sorted((size, id(memory)) for size, free in pool._free.items() for memory in free))
    assert made[-1]
    most = len(view.arrays) * (3 + 2)
    assert all(len(one) <= most for one in made)
    assert len({identity for one in made for _, identity in one}) <= most
    assert loader._memories.qsize() <= 2
    assert own_threads() == []
    assert open_files(root) == []


def test_a_batch_that_is_kept_is_not_written_over(root: Path) -> None:
    loader = Loader(open_dataset(root), TrainView(image_size=16), LoaderConfig(batch_size=2, num_workers=2))
    kept = [(batch, batch.images.clone(), batch.log_mel[0].clone(), batch.log_mel[0]) for batch in loader]
    for _ in loader:
        pass
    for batch, images, first, part in kept:
        assert batch.images.equal(images)
        assert part.equal(first)
    parts = [part for *_, part in kept]
    copies = [part.clone() for part in parts]
    del kept, batch, images, first, part
    for _ in range(2):
        for _ in loader:
            pass
    assert all(part.equal(copy) for part, copy in zip(parts, copies, strict=True))


def test_memory_comes_back_when_the_last_view_of_it_goes() -> None:
    pool = BufferPool()
    array = pool.take((4, 8), np.float32)
    address = array.ctypes.data
    view = array[1:, ::2].T
    del array
    assert pool.take((4, 8), np.float32).ctypes.data != address
    del view
    assert address in {pool.take((32,), np.float32).ctypes.data for _ in range(1)} | {
        memory.ctypes.data for free in pool._free.values() for memory in free
    }


def test_samples_without_frames_are_damage(root: Path) -> None:
    dataset = open_dataset(root)
    bare = replace(dataset, frame_start=dataset.frame_start * 0)
    with pytest.raises(ShardError, match=r"clip-00000: no frame is stored"):
        next(iter(Loader(bare, VIEW, CONFIG)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size=0: must be 1 or more"),
        ({"num_workers": -1}, "num_workers=-1: must be 0 or more"),
        ({"prefetch_batches": 0}, "prefetch_batches=0"),
        ({"chunk_samples": 0}, "chunk_samples=0"),
        ({"fetch_ahead_samples": -1}, "fetch_ahead_samples=-1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LoaderConfig(**options)


def test_stats_have_the_waiting_time_and_the_time_of_the_workers(root: Path) -> None:
    dataset: Dataset = open_dataset(root)
    loader = Loader(dataset, EvalView(profile="released", image_size=8), CONFIG)
    assert loader.stats.wait_share == 0
    list(loader)
    stats = loader.stats
    assert (stats.batches, stats.samples) == (5, 20)
    assert stats.worker_s > 0
    assert 0 < stats.waited_s <= stats.elapsed_s
    assert 0 < stats.wait_share <= 1
