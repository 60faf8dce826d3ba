"""Which clips a page holds: drawn by a seed over the whole manifest, flagged ones among them, and said."""

import numpy as np
import pytest

from avdata.audit.choice import all_rows, choose, drawn
from avdata.audit.dataset import open_audit_dataset
from tests.shards import draw_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("choice") / "set"
    draw_dataset(
        root, 20, 10, num_frames=1, seconds=1.0, flags=lambda n: {"silent": n in (3, 4)}, failed=[0, 7], flac=False
    )
    return open_audit_dataset(str(root))


def chosen(dataset, **sizes):
    return choose(
        all_rows(dataset), dataset, **({"num_samples": 8, "num_whole": 4, "most_failures": 9, "seed": 0} | sizes)
    )


def test_samples_are_spread_and_flagged_ones_are_among_them(dataset):
    choice = chosen(dataset)
    assert {3, 4} <= set(choice.samples.tolist())
    assert len(choice.samples) == len(set(choice.samples.tolist())) == 8
    assert set(choice.whole.tolist()) <= set(choice.samples.tolist())
    assert choice.failed.tolist() == [0, 7]
    assert choice.rows.tolist() == sorted([0, 7, *choice.samples.tolist()])
    assert choice.said() == (
        "8 of 18 samples, drawn with seed 0 (one of each of 8 equal stretches of the manifest; up to a quarter of "
        "samples with a flag); 4, drawn of them likewise, with all frames and sound, the others as thumbnails. "
        "All 2 clips without a sample."
    )


def test_a_draw_is_repeated_by_its_seed_alone(dataset):
    assert chosen(dataset, seed=5).samples.tolist() == chosen(dataset, seed=5).samples.tolist()
    draws = {tuple(chosen(dataset, seed=seed).samples.tolist()) for seed in range(8)}
    assert len(draws) > 3


def test_all_is_said_where_all_is_there(dataset):
    assert chosen(dataset, num_samples=100, num_whole=100).said() == "All 18 samples. All 2 clips without a sample."
    assert chosen(dataset, most_failures=1).said().endswith("The first 1 of 2 clips without a sample.")
    assert chosen(dataset, num_samples=0, num_whole=0).said().startswith("0 of 18 samples")


@pytest.mark.parametrize("count", [0, 1, 3, 50, 999, 1000, 2000])
def test_one_of_each_stretch(count):
    places = np.arange(1000)
    found = drawn(places, np.zeros(1000, bool), count, 3)
    assert len(found) == min(count, 1000)
    assert len(np.unique(found)) == len(found)
    if 1 < count < 1000:
        assert np.diff(found).max() <= 2 * np.ceil(1000 / count)
