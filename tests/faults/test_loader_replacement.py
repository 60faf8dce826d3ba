"""skip_bad and exclude_keys in training: others take the places, and every other sample stays where it is."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avdata.load import Dataset, Loader, LoaderConfig, OrderConfig, TrainView, evaluation_config, open_dataset
from avdata.load.order import REPLACEMENTS, epoch_order, replacement_positions
from avmanifest.errors import ConfigError, ShardError

VIEW = TrainView(image_size=8, max_gain_db=6.0)
ORDER = OrderConfig(block_samples=3, window_samples=8)
CONFIG = LoaderConfig(batch_size=1, num_workers=0, seed=11, order=ORDER)
SKIP = replace(CONFIG, skip_bad=True, max_bad_share=0.5)
TOTAL, EPOCHS = 20, 2
DAMAGED = (3, 11)

Sample = tuple[str, bytes]


def damage(root: Path, sample: int) -> None:
    """Zeros over a part of each of the sample's frames."""
    path = root / f"train/{sample // 6:05d}.tar"
    content = bytearray(path.read_bytes())
    for frame in range(5):
        at = content.index(f"clip-{sample:05d}.frame{frame:02d}.jpg".encode()) + 512
        content[at + 100 : at + 200] = bytes(100)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(drawn: Path) -> Dataset:
    return open_dataset(drawn)


@pytest.fixture(scope="module")
def damaged(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = Path(shutil.copytree(drawn, tmp_path_factory.mktemp("damaged") / "set"))
    for sample in DAMAGED:
        damage(root, sample)
    return open_dataset(root)


def read(loader: Loader) -> Iterator[tuple[tuple[int, int], Sample]]:
    """(epoch, position) of each sample of an epoch, and what was read there."""
    for batch in loader.arrays():
        assert len(batch) == loader.config.batch_size
        for row, key in enumerate(batch.keys):
            assert key == loader.dataset.keys[int(batch.sample_ids[row])].as_py()
            assert batch.gain_db is not None
            parts = [batch.images, batch.log_mel, batch.labels, batch.gain_db, batch.window_start_s]
            content = b"".join(np.ascontiguousarray(part[row]).tobytes() for part in parts)
            yield (batch.epoch, int(batch.positions[row])), (key, content)


def epochs(dataset: Dataset, config: LoaderConfig, ranks: int = 1, **start: int) -> dict[tuple[int, int], Sample]:
    """Two epochs of all ranks, or what is left of them from `start` on."""
    found: dict[tuple[int, int], Sample] = {}
    for rank in range(ranks):
        loader = Loader(dataset, VIEW, config, rank=rank, world_size=ranks)
        loader.load_state_dict(loader.state_dict() | start)
        while loader.state.epoch < EPOCHS:
            found.update(read(loader))
    return found


@pytest.fixture(scope="module")
def reference(whole: Dataset) -> dict[tuple[int, int], Sample]:
    return epochs(whole, CONFIG)


@pytest.fixture(scope="module")
def replaced(damaged: Dataset) -> dict[tuple[int, int], Sample]:
    return epochs(damaged, SKIP)


def keys(*samples: int) -> set[str]:
    return {f"clip-{sample:05d}" for sample in samples}


def test_all_other_samples_stay_where_they_are(reference: dict, replaced: dict) -> None:
    assert reference.keys() == replaced.keys()
    moved = {place for place in reference if reference[place] != replaced[place]}
    assert {reference[place][0] for place in moved} == keys(*DAMAGED)
    assert len(moved) == len(DAMAGED) * EPOCHS
    assert not {key for key, _ in replaced.values()} & keys(*DAMAGED)


def test_a_replacement_is_the_first_whole_one_of_the_law(whole: Dataset, reference: dict, replaced: dict) -> None:
    for (epoch, position), (key, _) in reference.items():
        if key in keys(*DAMAGED):
            order = epoch_order(whole.shard_of, 11, epoch, ORDER)
            allowed = replacement_positions(position, TOTAL, 11, epoch, ORDER)
            first = next(sample for sample in order[allowed].tolist() if sample not in DAMAGED)
            assert replaced[epoch, position][0] == f"clip-{first:05d}"


@pytest.mark.parametrize("ranks", [2, 4, 5])
@pytest.mark.parametrize("workers", [0, 3])
def test_ranks_workers_and_batch_sizes_change_nothing(
    damaged: Dataset, replaced: dict, ranks: int, workers: int
) -> None:
    for size in {1, TOTAL // ranks}:
        config = replace(SKIP, batch_size=size, num_workers=workers, chunk_samples=2)
        assert epochs(damaged, config, ranks) == replaced


@pytest.mark.parametrize("position", [1, 7, 13])
def test_a_run_that_stopped_at_the_damage_goes_on_with_skip_bad(
    damaged: Dataset, replaced: dict, position: int
) -> None:
    """The state is that of a loader that does not skip; the number of ranks is another."""
    state = Loader(damaged, VIEW, CONFIG).state_dict() | {"position": position}
    rest = {place: sample for place, sample in replaced.items() if place >= (0, position)}
    loader = Loader(damaged, VIEW, SKIP)
    loader.load_state_dict(state)
    found: dict[tuple[int, int], Sample] = {}
    while loader.state.epoch < EPOCHS:
        found.update(read(loader))
    assert found == rest


def test_without_skip_bad_the_damage_is_raised(damaged: Dataset) -> None:
    with pytest.raises(ShardError, match=r"clip-000(03|11)\.frame\d\d\.jpg: damaged"):
        epochs(damaged, CONFIG)


def test_skipped_samples_are_counted_and_logged_by_key(damaged: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    loader = Loader(damaged, VIEW, replace(SKIP, batch_size=4))
    with caplog.at_level(logging.WARNING):
        batches = list(loader.arrays())
    assert [len(batch) for batch in batches] == [4] * 5
    assert sum(batch.skipped for batch in batches) == 2
    assert (loader.stats.skipped, loader.stats.samples) == (2, 20)
    said = sorted(record.message for record in caplog.records)
    assert len(said) == 2
    for message, sample in zip(said, DAMAGED, strict=True):
        assert f"clip-{sample:05d}.frame" in message
        assert "takes its place" in message
    list(loader.arrays())
    assert loader.stats.skipped == 4


@pytest.mark.parametrize(("share", "stops"), [(0.0, True), (0.01, True), (0.05, True), (0.1, False), (1.0, False)])
def test_the_share_of_damaged_samples_is_bounded(damaged: Dataset, share: float, stops: bool) -> None:
    """2 of 20 are damaged."""
    loader = Loader(damaged, VIEW, replace(SKIP, batch_size=4, max_bad_share=share))
    if not stops:
        assert len(list(loader.arrays())) == 5
        return
    with pytest.raises(
        ShardError, match=rf"[12] of 20 samples of an epoch are damaged, more than data.max_bad_share={share}"
    ):
        list(loader.arrays())


def test_after_a_resume_the_share_is_of_what_is_left(damaged: Dataset) -> None:
    """2 of the 20 are damaged, and 2 of the last 18."""
    config = replace(SKIP, order=OrderConfig(shuffle=False), batch_size=2)
    for share, stops in ((0.1, True), (0.2, False)):
        loader = Loader(damaged, VIEW, replace(config, max_bad_share=share))
        loader.load_state_dict({**loader.state_dict(), "position": 2})
        if not stops:
            assert len(list(loader.arrays())) == 9
            assert len(list(loader.arrays())) == 10
            continue
        with pytest.raises(ShardError, match=r"2 of 18 samples of the rest of an epoch are damaged"):
            list(loader.arrays())
    whole_epoch = Loader(damaged, VIEW, replace(config, max_bad_share=0.1))
    assert len(list(whole_epoch.arrays())) == 10


def test_one_damaged_sample_never_passes_a_share_above_0(drawn: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn, tmp_path / "set"))
    damage(root, 5)
    loader = Loader(open_dataset(root), VIEW, replace(CONFIG, skip_bad=True, max_bad_share=1e-6))
    assert len(list(loader.arrays())) == 20
    assert len(list(loader.arrays())) == 20
    loader = Loader(open_dataset(root), VIEW, replace(CONFIG, skip_bad=True, max_bad_share=0.0))
    with pytest.raises(ShardError, match="1 of 20 samples of an epoch are damaged"):
        list(loader.arrays())


def test_a_shard_that_is_gone_passes_the_share(drawn: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each of its samples is logged by its own key, although the error is the shard's."""
    root = Path(shutil.copytree(drawn, tmp_path / "set"))
    dataset = open_dataset(root)
    (root / "train/00002.tar").unlink()
    with pytest.raises(
        ShardError, match=r"\d of 20 samples of an epoch are damaged, more than data.max_bad_share=0\.05"
    ):
        list(Loader(dataset, VIEW, replace(CONFIG, skip_bad=True)).arrays())
    order = OrderConfig(block_samples=3, window_samples=20)
    found = epochs(dataset, replace(SKIP, order=order))
    assert not {key for key, _ in found.values()} & keys(*range(12, 18))
    assert all(f"skipped: {key}: " in caplog.text for key in keys(*range(12, 18)))


def test_where_nothing_is_whole_the_loader_stops(drawn: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn, tmp_path / "set"))
    dataset = open_dataset(root)
    for path in (root / "train").glob("*.tar"):
        path.unlink()
    with pytest.raises(ShardError, match=r"None of \d+ other samples could take its place"):
        list(Loader(dataset, VIEW, replace(SKIP, max_bad_share=1.0)).arrays())


@pytest.mark.parametrize("excluded", [(3,), (3, 11), tuple(range(7))])
@pytest.mark.parametrize("ranks", [1, 4])
def test_excluded_samples_are_replaced_and_all_others_stay(
    whole: Dataset, reference: dict, excluded: tuple[int, ...], ranks: int
) -> None:
    config = replace(CONFIG, exclude_keys=tuple(keys(*excluded)), order=replace(ORDER, window_samples=20))
    before = epochs(whole, replace(CONFIG, order=config.order))
    found = epochs(whole, config, ranks)
    assert found.keys() == before.keys()
    assert {before[place][0] for place in before if found[place] != before[place]} == keys(*excluded)
    assert not {key for key, _ in found.values()} & keys(*excluded)


def test_excluding_the_damaged_samples_is_as_skipping_them(damaged: Dataset, replaced: dict) -> None:
    """And needs no skip_bad: they are not read."""
    assert epochs(damaged, replace(CONFIG, exclude_keys=tuple(keys(*DAMAGED)))) == replaced


def test_keys_may_be_excluded_at_a_resume(damaged: Dataset, replaced: dict) -> None:
    loader = Loader(damaged, VIEW, replace(CONFIG, exclude_keys=tuple(keys(*DAMAGED))))
    loader.load_state_dict(Loader(damaged, VIEW, CONFIG).state_dict() | {"epoch": 1, "position": 4})
    assert dict(read(loader)) == {place: sample for place, sample in replaced.items() if place >= (1, 4)}


def test_an_unknown_excluded_key_is_said(whole: Dataset, caplog: pytest.LogCaptureFixture, reference: dict) -> None:
    with caplog.at_level(logging.WARNING):
        assert epochs(whole, replace(CONFIG, exclude_keys=("clip-99999", "nope"))) == reference
    assert "exclude_keys: 2 of 2 keys are in no sample, such as 'clip-99999'" in caplog.text


def test_excluding_everything_is_refused(whole: Dataset) -> None:
    with pytest.raises(ConfigError, match="20 of 20 samples are excluded: too many"):
        epochs(whole, replace(CONFIG, exclude_keys=tuple(keys(*range(20)))))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_bad_share": -0.1}, "max_bad_share=-0.1: must be from 0 to 1"),
        ({"max_bad_share": 1.5}, "max_bad_share=1.5: must be from 0 to 1"),
        ({"max_bad_share": float("nan")}, "max_bad_share=nan: must be from 0 to 1"),
        ({"exclude_keys": ("a",), "tail": "pad"}, "exclude_keys replaces samples"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LoaderConfig(**options)


def test_in_evaluation_a_damaged_sample_is_left_out_not_replaced(damaged: Dataset) -> None:
    loader = Loader(damaged, VIEW, evaluation_config(replace(SKIP, batch_size=4)))
    found = [key for batch in loader.arrays() for key in batch.keys]
    assert found == [key for key in damaged.keys.to_pylist() if key not in keys(*DAMAGED)]


@pytest.mark.parametrize("total", [1, 2, 20, 100, 1000])
@pytest.mark.parametrize("window", [1, 7, 64, 16_384])
def test_replacements_lie_in_a_full_window_of_the_epoch(total: int, window: int) -> None:
    config = OrderConfig(window_samples=window)
    for position in {0, total // 2, total - 1}:
        found = replacement_positions(position, total, 3, 5, config)
        assert len(found) == REPLACEMENTS
        assert 0 <= found.min() <= found.max() < total
        assert found.max() - found.min() < window
        assert abs(int(found[0]) - position) < 2 * window
        assert np.array_equal(found, replacement_positions(position, total, 3, 5, config))
    spread = [int(replacement_positions(position, 1000, 0, 0, OrderConfig())[0]) for position in range(1000)]
    assert len(set(spread)) > 550  # 632 by chance
