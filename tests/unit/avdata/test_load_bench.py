"""The loader's benchmark: its dataset, and what it makes of a turn's times."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import pytest

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.verify import verify
from avdata.load import Loader, LoaderConfig, TrainView, open_dataset
from avdata.load.bench import LoaderBench, _measured
from avdata.load.bench_data import draw_bench_dataset


@contextmanager
def instant() -> Iterator[Iterator[int]]:
    yield repeat(8)


@pytest.mark.slow
def test_a_turn_shorter_than_a_clock_tick_has_a_rate() -> None:
    turns = [_measured(instant, LoaderBench(samples=8, batch_size=8)) for _ in range(4)]
    assert all(turn.per_core_s > 0 for turn in turns)


@pytest.mark.slow
def test_the_drawn_dataset_is_whole_and_can_be_read(tmp_path: Path) -> None:
    root = draw_bench_dataset(tmp_path / "drawn", 6, 2)
    assert verify(open_audit_dataset(str(root)), deep=True).faults == []
    dataset = open_dataset(root)
    assert all(shard.hashed for shard in dataset.shards)
    for check in (True, False):
        config = LoaderConfig(batch_size=3, num_workers=0, check_members=check)
        assert [len(batch) for batch in Loader(dataset, TrainView(), config).arrays()] == [3, 3]
