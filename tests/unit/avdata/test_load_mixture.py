"""Mixtures of datasets: how they are named, what an epoch has of each, and class-balanced sampling."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avdata.dataset import Dataset, each_frame, select
from avdata.load import (
    Amount,
    EvalView,
    Loader,
    LoaderConfig,
    OrderConfig,
    Part,
    TrainView,
    balanced,
    described_parts,
    evaluation_config,
    is_mixture,
    mix,
    open_dataset,
    open_mixture,
    unite,
)
from avdata.load.mixture import read_entry
from avdata.load.order import mixed_order, sample_counts
from avmanifest.errors import ConfigError
from avmanifest.keys import subset_id
from tests.bare import bare_dataset
from tests.shards import CLASSES, draw_dataset

AUDIOSET = Path(__file__).parents[4] / "shared/data/meta/audioset/balanced_train_segments.csv"
VIEW = TrainView(image_size=8)
CONFIG = LoaderConfig(batch_size=1, num_workers=0, seed=5, order=OrderConfig(block_samples=2, window_samples=4))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("few") / "set"
    return draw_dataset(root, 4, 2, num_frames=1, labels=lambda n: [("rain", "dog barking")[n % 2]])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = draw_dataset(tmp_path_factory.mktemp("many") / "set", 12, 5, first=100, num_frames=1)
    return draw_dataset(root, 2, split="test", first=200, num_frames=1)


def drawn_parts(dataset: Dataset) -> list[tuple[int, int]]:
    return [(part.samples, part.drawn) for part in dataset.parts]


# Names and amounts.


def test_an_amount_is_a_share_repeats_or_a_number_of_samples():
    assert Amount.of(0.7) == Amount.of("0.7") == Amount.of(" +7e-1 ") == Amount("share", 0.7)
    assert Amount.of("2x") == Amount.of("2.0X") == Amount("repeats", 2.0)
    assert Amount.of("5000/epoch") == Amount("samples", 5000.0)
    for text in ("", "half", "x", "2 x", "0.7y", "/epoch", "0x10", "1_0"):
        with pytest.raises(ConfigError, match=r"is no amount of a dataset: give a share such as 0\.7"):
            Amount.of(text)
    for value in (0.0, -0.5, float("nan"), float("inf"), "0", "-1", "nan", "-inf", "0x", "-2x", "0/epoch", "1e999"):
        with pytest.raises(ConfigError, match=r"must be .*above 0"):
            Amount.of(value)
    with pytest.raises(ConfigError, match=r"samples 2.5 .* a whole number above 0"):
        Amount.of("2.5/epoch")


@pytest.mark.parametrize(
    ("text", "source", "amount"),
    [
        ("data/a=0.7", "data/a", Amount("share", 0.7)),
        ("data/a=3x", "data/a", Amount("repeats", 3.0)),
        ("data/a", "data/a", None),
        ("data/year=", "data/year=", None),
        ("data/split=train", "data/split=train", None),
        ("a/{00..19}.tar=100/epoch", "a/{00..19}.tar", Amount("samples", 100.0)),
        ("https://host/a.tar?expires=3600", "https://host/a.tar?expires=3600", None),
        ("https://host/a.tar?v=1&expires=3600", "https://host/a.tar?v=1&expires=3600", None),
        ("https://host/a.tar?expires=3600=0.5", "https://host/a.tar?expires=3600", Amount("share", 0.5)),
        ("=0.5", "=0.5", None),
        ("x" * 5000 + "=2", "x" * 5000, Amount("share", 2.0)),
    ],
)
def test_an_entry_is_a_source_and_its_amount(text: str, source: str, amount: Amount | None) -> None:
    assert read_entry(text) == (source, amount)
    assert is_mixture(["data/b", text]) == (amount is not None)


def test_a_folder_whose_name_ends_like_an_amount_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "year=2020").mkdir()
    assert read_entry(f"{tmp_path}/year=2020") == (f"{tmp_path}/year=2020", None)
    assert read_entry(f"{tmp_path}/year=2020=2x").amount == Amount("repeats", 2.0)
    with pytest.raises(ConfigError, match="'half' is no amount of"):
        read_entry(f"{tmp_path}/year=2020=half")
    with pytest.raises(ConfigError, match=r"year=2020=-1: share -1 of a dataset in a mixture: must be above 0"):
        read_entry(f"{tmp_path}/year=2020=-1")


def test_a_mixture_is_opened_by_name(few: Path, many: Path) -> None:
    shares = open_mixture([f"{few}=0.75", f"{many}=0.25"])
    assert drawn_parts(shares) == [(4, 12), (12, 4)]
    assert [part.name for part in shares.parts] == [str(few), str(many)]
    assert shares.classes == CLASSES
    assert drawn_parts(open_mixture([f"{few}=3", f"{many}=1"], epoch_samples=100)) == [(4, 75), (12, 25)]
    assert drawn_parts(open_mixture([f"{few}=2.5x", str(many)])) == [(4, 10), (12, 12)]
    assert drawn_parts(open_mixture([f"{few}=7/epoch", f"{many}=2x"])) == [(4, 7), (12, 24)]
    assert drawn_parts(open_mixture([str(few), str(many)])) == [(4, 4), (12, 12)]
    assert drawn_parts(open_mixture([str(few), str(many)], epoch_samples=8)) == [(4, 2), (12, 6)]
    shards = open_mixture([f"{few}/train/{{00000..00001}}.tar=1", f"{many}=1"], "train")
    assert drawn_parts(shards) == [(4, 8), (12, 8)]


def test_what_cannot_be_mixed_says_why(few: Path, many: Path, tmp_path: Path) -> None:
    def refused(entries: list[str], match: str, split: str | None = None, **options: int) -> None:
        with pytest.raises(ConfigError, match=match):
            open_mixture(entries, split, **options)

    refused([], "a mixture of no dataset")
    refused([f"{few}=1", f"{few}=2"], "is named twice. Name it once")
    refused([f"{few}=1", f"{few.parent}/./set/=2"], "is named twice. Name it once")
    refused([f"{few}=1", f"{few}/train/00000.tar=2"], "shard .*00000.tar is in two datasets of the mixture")
    refused([f"{few}=1", str(many)], f"{many}: no share, but others have one")
    refused([f"{few}=1", f"{many}=2x"], "shares stand beside repeats or numbers of samples")
    refused([f"{few}=1x", f"{many}=2x"], "repeats and numbers of samples fix the length", epoch_samples=10)
    refused([f"{few}=1", f"{many}=1"], "epoch_samples=0: must be 1 or more", epoch_samples=0)
    refused([f"{few}=1", f"{many}=1000"], f"{few}: no sample of it would be in an epoch of 16")
    refused([f"{few}=1", f"{tmp_path}/absent=1"], "absent: no such folder", "train")
    refused([f"{few}=1", f"{many}=1"], rf"{few}: no split 'test'; known: train", "test")
    without = draw_dataset(tmp_path / "kaldi", 3, first=50, num_frames=1, mel=("kaldi",), flac=False)
    mixed = open_mixture([f"{few}=1", f"{without}=1"])
    with pytest.raises(ConfigError, match=r"kaldi: the view needs 'paper' spectrograms; the shards have kaldi, and no"):
        Loader(mixed, VIEW, CONFIG)
    waves = open_mixture([f"{few}=1", f"{draw_dataset(tmp_path / 'dry', 3, first=60, num_frames=1, flac=False)}=1"])
    with pytest.raises(ConfigError, match="dry: the view needs waveforms and the shards have no audio"):
        Loader(waves, EvalView(image_size=8, waveform=True), CONFIG)
    for change in (balanced, lambda one: select(one, np.ones(16, np.bool_)), lambda one: each_frame(one, masked=False)):
        with pytest.raises(ConfigError, match="then mix them"):
            change(open_mixture([f"{few}=1", f"{many}=1"]))
    with pytest.raises(ConfigError, match="a mixture of a mixture"):
        mix([(open_mixture([f"{few}=1", f"{many}=1"]), 1.0)])


# What an epoch has.


def epoch_keys(loader: Loader) -> list[str]:
    return [key for batch in loader.arrays() for key in batch.keys]


def test_an_epoch_has_its_numbers_and_passes_through_what_it_subsamples(few: Path, many: Path) -> None:
    mixed = open_mixture([f"{few}=0.75", f"{many}=0.25"])
    loader = Loader(mixed, VIEW, CONFIG)
    assert len(loader) == 16
    epochs = [Counter(epoch_keys(loader)) for _ in range(3)]
    for counts in epochs:
        assert [counts[f"clip-{n:05d}"] for n in range(4)] == [3] * 4
    assert sum(epochs, Counter()) == Counter(
        {f"clip-{n:05d}": 9 for n in range(4)} | {f"clip-{n:05d}": 1 for n in range(100, 112)}
    )


def test_ranks_and_positions_share_an_epoch_of_a_mixture(few: Path, many: Path) -> None:
    mixed = open_mixture([f"{few}=2x", f"{many}=7/epoch"])
    assert mixed.epoch_samples == 15
    whole = sorted((int(b.positions[0]), b.keys[0], b.images.tobytes()) for b in Loader(mixed, VIEW, CONFIG).arrays())
    assert [position for position, _, _ in whole] == list(range(15))
    for world, workers, start in ((1, 2, 0), (2, 0, 3), (3, 4, 7), (8, 1, 14), (4, 0, 15)):
        rest = []
        for rank in range(world):
            config = replace(CONFIG, tail="pad", num_workers=workers, batch_size=2)
            loader = Loader(mixed, VIEW, config, rank=rank, world_size=world)
            loader.load_state_dict(loader.state_dict() | {"position": start})
            for batch in loader.arrays():
                rest += [
                    (int(batch.positions[row]), batch.keys[row], batch.images[row : row + 1].tobytes())
                    for row in np.flatnonzero(batch.valid)
                ]
            assert (loader.state.epoch, loader.state.position) == (1, 0)
        assert sorted(rest) == whole[start:]


def test_a_state_belongs_to_its_amounts(few: Path, many: Path) -> None:
    state = Loader(open_mixture([f"{few}=1", f"{many}=1"]), VIEW, CONFIG).state_dict()
    Loader(open_mixture([f"{few}=2", f"{many}=2"]), VIEW, CONFIG).load_state_dict(state)
    for other in (open_mixture([f"{few}=1", f"{many}=2"]), open_dataset([few, many])):
        with pytest.raises(ConfigError, match="Resume with the same samples, weights"):
            Loader(other, VIEW, CONFIG).load_state_dict(state)


def test_evaluation_of_a_mixture_is_part_after_part(few: Path, many: Path) -> None:
    loader = Loader(open_mixture([f"{many}=1x", f"{few}=1x"]), EvalView(image_size=8), evaluation_config(CONFIG))
    assert epoch_keys(loader) == [f"clip-{n:05d}" for n in [*range(100, 112), *range(4)]]


def test_classes_are_reconciled_by_name() -> None:
    one, other = bare_dataset([["dog", "rain"], ["rain"]], name="a"), bare_dataset([["rain"], ["cat"]], name="b")
    mixed = mix([(one, 1.0), (other, 1.0)])
    assert mixed.classes == ("dog", "rain", "cat")
    assert mixed.label_ids.tolist() == [0, 1, 1, 1, 2]
    assert [(part.samples, rows.start, rows.stop) for part, rows in mixed.rows_of_parts()] == [(2, 0, 2), (2, 2, 4)]


def test_a_record_of_the_data_has_the_subset_id_of_each_part(few: Path, many: Path) -> None:
    mixed = mix([(open_dataset(few), "2x"), (open_dataset(many), "1x")], names=["few", "many"])
    first, second = described_parts(mixed)
    shards = [record.pop("shards_sha256") for record in (first, second)]
    assert first == {"name": "few", "subset_id": subset_id(open_dataset(few).keys), "samples": 4, "epoch_samples": 8}
    assert second == {
        "name": "many",
        "subset_id": subset_id(open_dataset(many).keys),
        "samples": 12,
        "epoch_samples": 12,
    }
    assert len({"", *shards}) == 3
    (alone,) = described_parts(open_dataset(few), "f")
    assert alone == {**first, "name": "f", "shards_sha256": shards[0], "epoch_samples": 4}


def test_the_shares_of_100_000_samples() -> None:
    sizes, shares = (40_000, 7_000, 53_000), (0.7, 0.05, 0.25)
    datasets = [bare_dataset([["x"]] * size, name=str(size)) for size in sizes]
    mixed = mix(list(zip(datasets, shares, strict=True)))
    order = mixed_order(mixed.shard_of, mixed.parts, 0, 0, OrderConfig())
    part_of = np.searchsorted(np.cumsum(sizes), order, side="right")
    assert np.bincount(part_of).tolist() == [70_000, 5_000, 25_000]
    of_a_batch = np.stack([np.bincount(batch, minlength=3) for batch in part_of.reshape(-1, 500)])
    assert np.abs(of_a_batch - np.array([350, 25, 125])).max() < 8


# Class-balanced sampling.


def test_the_weights_are_those_of_cav_mae() -> None:
    dataset = balanced(bare_dataset([["dog"], ["dog", "rain"], [], ["rain"], ["dog"]]))
    dog, rain = 1000 / 3.01, 1000 / 2.01
    assert dataset.weights == pytest.approx([dog, dog + rain, dog, rain, dog], rel=1e-12)


def gen_weight_file(labels: list[list[str]]) -> list[float]:
    """The weights of the samples as CAV-MAE's script computes them, label by label."""
    count: dict[str, float] = {}
    for own in labels:
        for label in own:
            count[label] = count.get(label, 0.0) + 1
    weight = {label: 1000.0 / (number + 0.01) for label, number in count.items()}
    return [sum(weight[label] for label in own) for own in labels]


@pytest.mark.skipif(not AUDIOSET.is_file(), reason="the real lists are not beside this checkout")
def test_audiosets_balanced_list_is_weighted_as_cav_mae_weighs_it() -> None:
    with AUDIOSET.open() as lines:
        rows = list(csv.reader((line for line in lines if not line.startswith("#")), skipinitialspace=True))
    labels = [row[3].split(",") for row in rows]
    assert len(labels) == 22_160
    dataset = balanced(bare_dataset(labels))
    theirs = np.array(gen_weight_file(labels))
    assert dataset.weights == pytest.approx(theirs, rel=1e-12)
    counts = np.sum([sample_counts(dataset.weights, 0, epoch) for epoch in range(100)], axis=0)
    expected = 100 * len(labels) * theirs / theirs.sum()
    assert np.abs(counts - expected).max() < 100
    of_class = np.bincount(dataset.label_ids, weights=np.repeat(counts, np.diff(dataset.label_start)))
    wanted = np.bincount(dataset.label_ids, weights=np.repeat(expected, np.diff(dataset.label_start)))
    assert of_class / wanted == pytest.approx(1, abs=0.03)


def test_balanced_parts_keep_the_shares_of_a_mixture() -> None:
    skewed = bare_dataset([["rare"] if n < 10 else ["common"] for n in range(1000)], name="a")
    plain = bare_dataset([["other"]] * 500, name="b")
    mixed = mix([(balanced(skewed), 0.5), (plain, 0.5)], epoch_samples=4000)
    assert mixed.parts == (Part("0", 1000, 2000), Part("1", 500, 2000))
    order = mixed_order(mixed.shard_of, mixed.parts, 3, 1, OrderConfig(), mixed.weights)
    assert np.bincount(mixed.label_ids[order]).tolist() == pytest.approx([1000, 1000, 2000], abs=15)
    assert np.bincount(order, minlength=1500)[1000:].tolist() == [4] * 500
    assert unite([mixed]).parts == ()
