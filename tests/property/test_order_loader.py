"""Laws of the loader: which sample comes where, on any number of ranks and workers, from any position."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avdata.load import (
    Batch,
    Dataset,
    EvalView,
    Loader,
    LoaderConfig,
    LoaderState,
    OrderConfig,
    TrainView,
    balanced,
    evaluation_config,
    mix,
    open_dataset,
    select,
)
from avmanifest.errors import CheckpointError, ConfigError

TOTAL = 20
WORLDS = (1, 2, 3, 8)
VIEW = TrainView(image_size=8, max_gain_db=6.0)
CONFIG = LoaderConfig(batch_size=2, num_workers=0, seed=11, order=OrderConfig(block_samples=3, window_samples=8))


@pytest.fixture(scope="module")
def dataset(drawn: Path) -> Dataset:
    return open_dataset(drawn)


def samples(batch: Batch) -> list[tuple[int, str, bytes]]:
    """Each valid sample of a batch: its position, its key and everything that was drawn and read for it."""
    assert batch.gain_db is not None
    rows = []
    for row in batch.valid.nonzero().flatten().tolist():
        parts = [batch.images, batch.log_mel, batch.labels, batch.gain_db, batch.window_start_s, batch.frame_time_s]
        content = b"".join(part[row].contiguous().numpy().tobytes() for part in parts)
        rows.append((int(batch.positions[row]), batch.keys[row], content))
    return rows


def epoch_of(loader: Loader) -> list[tuple[int, str, bytes]]:
    return [sample for batch in loader for sample in samples(batch)]


@pytest.fixture(scope="module")
def reference(dataset: Dataset) -> list[list[tuple[int, str, bytes]]]:
    """Two epochs, by position, of one rank without workers."""
    loader = Loader(dataset, VIEW, replace(CONFIG, batch_size=1))
    return [sorted(epoch_of(loader)) for _ in range(2)]


def test_an_epoch_has_every_sample_once_and_the_next_one_differs(reference: list) -> None:
    first, second = ([key for _, key, _ in epoch] for epoch in reference)
    assert sorted(first) == sorted(second) == [f"clip-{number:05d}" for number in range(TOTAL)]
    assert first != second
    content = [{key: data for _, key, data in epoch} for epoch in reference]
    assert sum(content[0][key] == content[1][key] for key in content[0]) == 0


@pytest.mark.parametrize("tail", ["drop", "pad"])
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_and_workers_together_hand_out_the_one_order(
    dataset: Dataset, reference: list, world: int, workers: int, tail: str
) -> None:
    config = replace(CONFIG, num_workers=workers, tail=tail, chunk_samples=1)
    loaders = [Loader(dataset, VIEW, config, rank=rank, world_size=world) for rank in range(world)]
    batches = [list(loader) for loader in loaders]
    assert len({len(own) for own in batches}) == 1
    assert all(len(batch) == 2 for own in batches for batch in own)
    found = [sample for own in batches for batch in own for sample in samples(batch)]
    expected = TOTAL // (2 * world) * 2 * world if tail == "drop" else TOTAL
    assert sorted(found) == reference[0][:expected]
    assert all(loader.state.epoch == 1 and loader.state.position == 0 for loader in loaders)


def test_padding_repeats_the_epochs_start_and_says_so(dataset: Dataset) -> None:
    loaders = [Loader(dataset, VIEW, replace(CONFIG, tail="pad"), rank=rank, world_size=8) for rank in range(8)]
    last = [list(loader)[-1] for loader in loaders]
    places = torch.stack([batch.positions for batch in last]).T.flatten()
    assert places.tolist() == [*range(16, 20), *range(12)]
    assert torch.stack([batch.valid for batch in last]).T.flatten().tolist() == [True] * 4 + [False] * 12


def test_more_ranks_than_samples_still_agree_on_the_number_of_batches(dataset: Dataset) -> None:
    for tail, count in (("drop", 0), ("pad", 1)):
        config = replace(CONFIG, batch_size=64, tail=tail)
        loaders = [Loader(dataset, VIEW, config, rank=rank, world_size=3) for rank in range(3)]
        batches = [list(loader) for loader in loaders]
        assert [len(own) for own in batches] == [count] * 3
    assert sum(int(batch.valid.sum()) for own in batches for batch in own) == TOTAL


@pytest.fixture(scope="module")
def small(drawn: Path) -> tuple[Dataset, list[tuple[int, str, bytes]]]:
    """Eleven samples, and their epoch by position."""
    dataset = open_dataset([drawn / "train/00003.tar", drawn / "train/00001.tar", drawn / "train/00002.tar"])
    dataset = select(dataset, np.arange(len(dataset)) < 11)
    return dataset, sorted(epoch_of(Loader(dataset, VIEW, replace(CONFIG, batch_size=1))))


@pytest.mark.parametrize("position", range(12))
def test_from_every_position_the_rest_is_the_same_on_any_number_of_ranks(small: tuple, position: int) -> None:
    dataset, whole = small
    assert len(whole) == 11
    state = LoaderState(epoch=0, position=position, seed=11, plan_hash=Loader(dataset, VIEW, CONFIG).state.plan_hash)
    for world in WORLDS:
        config = replace(CONFIG, tail="pad", batch_size=1 + position % 3, num_workers=(0, 1, 4)[(position + world) % 3])
        rest = []
        for rank in range(world):
            loader = Loader(dataset, VIEW, config, rank=rank, world_size=world)
            loader.load_state_dict(json.loads(json.dumps(state.as_dict())))
            assert loader.state == state
            rest.extend(epoch_of(loader))
            assert (loader.state.epoch, loader.state.position) == (1, 0)
        assert sorted(rest) == whole[position:]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_the_state_follows_what_was_handed_out_not_what_was_read_ahead(
    dataset: Dataset, reference: list, workers: int
) -> None:
    """A run that changes its number of ranks twice within an epoch sees each sample once."""
    config = replace(CONFIG, num_workers=workers, prefetch_batches=8, batch_size=1, tail="pad")
    seen: list = []
    state: dict | None = None
    for world, steps in ((2, 3), (3, 2), (1, 99)):
        loaders = [Loader(dataset, VIEW, config, rank=rank, world_size=world) for rank in range(world)]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        for _, batches in zip(range(steps), zip(*loaders, strict=True), strict=False):
            seen.extend(sample for batch in batches for sample in samples(batch))
        states = [loader.state_dict() for loader in loaders]
        assert all(one == states[0] for one in states)
        state = states[0]
    assert sorted(seen) == reference[0]
    assert (state["epoch"], state["position"]) == (1, 0)


def test_a_loop_that_was_broken_off_goes_on_in_the_same_loader(dataset: Dataset, reference: list) -> None:
    loader = Loader(dataset, VIEW, replace(CONFIG, num_workers=2))
    seen = []
    for _ in range(3):
        for batch in loader:
            seen.extend(samples(batch))
            break
    assert len(loader) == TOTAL // 2 - 3
    assert sorted(seen + epoch_of(loader)) == reference[0]
    assert epoch_of(loader) == reference[1]
    loader.set_epoch(0)
    assert sorted(epoch_of(loader)) == reference[0]
    loader.set_epoch(1)
    assert loader.state.position == 0
    assert sorted(epoch_of(loader)) == reference[1]


def test_setting_the_current_epoch_keeps_the_place(dataset: Dataset) -> None:
    loader = Loader(dataset, VIEW, CONFIG)
    next(iter(loader))
    loader.set_epoch(0)
    assert loader.state.position == 2


def test_batch_size_does_not_change_the_order(dataset: Dataset, reference: list) -> None:
    for batch_size in (3, 7, 20):
        loader = Loader(dataset, VIEW, replace(CONFIG, batch_size=batch_size, tail="pad", chunk_samples=2))
        assert sorted(epoch_of(loader)) == reference[0]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 12},
        {"order": OrderConfig(block_samples=4, window_samples=8)},
        {"order": OrderConfig(block_samples=3, window_samples=9)},
        {"order": replace(CONFIG.order, shuffle=False)},
        {"class_balanced": True},
    ],
)
def test_a_state_of_another_order_is_refused(dataset: Dataset, change: dict) -> None:
    state = Loader(dataset, VIEW, replace(CONFIG, **change)).state_dict()
    with pytest.raises(ConfigError, match="Resume with the same samples, weights"):
        Loader(dataset, VIEW, CONFIG).load_state_dict(state)


def test_a_state_of_other_data_is_refused(dataset: Dataset, drawn: Path) -> None:
    state = Loader(dataset, VIEW, CONFIG).state_dict()
    other = open_dataset([drawn / "train/00001.tar", drawn / "train/00000.tar"])
    with pytest.raises(ConfigError, match="the loader state has seed 11, plan"):
        Loader(other, VIEW, CONFIG).load_state_dict(state)
    with pytest.raises(CheckpointError, match="at sample 21 of 20"):
        Loader(dataset, VIEW, CONFIG).load_state_dict(state | {"position": 21})


def test_the_same_shards_named_otherwise_are_the_same_data(dataset: Dataset, drawn: Path) -> None:
    other = open_dataset(f"file://{drawn}/train/{{00000..00003}}.tar")
    assert Loader(other, VIEW, CONFIG).state == Loader(dataset, VIEW, CONFIG).state


def test_rare_classes_come_as_often_as_frequent_ones(tmp_path: Path) -> None:
    from tests.shards import CLASSES, draw_dataset

    root = draw_dataset(
        tmp_path / "set",
        16,
        8,
        num_frames=1,
        flac=False,
        labels=lambda n: [CLASSES[0] if n < 14 else CLASSES[1 + n % 2]],
    )
    dataset = open_dataset(root)
    loader = Loader(dataset, VIEW, replace(CONFIG, class_balanced=True, batch_size=16))
    counts = np.zeros(3)
    for _ in range(30):
        counts += sum(batch.labels.sum(0).numpy() for batch in loader)
    assert counts.sum() == 16 * 30
    assert counts / counts.sum() == pytest.approx(np.full(3, 1 / 3), abs=0.04)
    with pytest.raises(ConfigError, match="balance the parts, then mix them"):
        Loader(mix([(dataset, 1.0)]), VIEW, replace(CONFIG, class_balanced=True))
    with pytest.raises(ConfigError, match="needs labels"):
        balanced(replace(dataset, label_ids=np.zeros(0, np.int64), label_start=np.zeros(17, np.int64)))


def test_evaluation_has_the_datasets_order_and_every_sample(dataset: Dataset) -> None:
    config = evaluation_config(replace(CONFIG, class_balanced=True, batch_size=3, num_workers=2))
    view = EvalView(image_size=8)
    loaders = [Loader(dataset, view, config, rank=rank, world_size=3) for rank in range(3)]
    batches = [batch for loader in loaders for batch in loader]
    found = sorted(
        (int(place), key)
        for batch in batches
        for place, key, valid in zip(batch.positions, batch.keys, batch.valid, strict=True)
        if valid
    )
    assert found == [(number, f"clip-{number:05d}") for number in range(TOTAL)]
