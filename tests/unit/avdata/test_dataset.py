"""Datasets as arrays."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from avdata.dataset import Fingerprint, select, take
from avdata.load import balanced, open_dataset
from tests.shards import draw_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(draw_dataset(tmp_path_factory.mktemp("set"), 9, 4, seconds=1.0, num_frames=1, flac=False))


def by_hand(dataset) -> str:
    weights = b"" if dataset.weights is None else dataset.weights.tobytes()
    lines = "".join(f"{key}\n" for key in dataset.keys.to_pylist()).encode()
    return hashlib.sha256(lines + dataset.shard_of.astype(np.int64).tobytes() + weights).hexdigest()


def test_the_fingerprint_is_of_keys_shards_and_weights(dataset):
    narrow = replace(dataset, shard_of=dataset.shard_of.astype(np.uint16))
    for one in (dataset, narrow, take(dataset, np.arange(2, 9))):
        assert one.fingerprint() == by_hand(one)
    weighted = balanced(replace(dataset, classes=("a",), label_ids=np.zeros(9, np.int64), label_start=np.arange(10)))
    assert weighted.fingerprint() == by_hand(weighted) != by_hand(dataset)


def test_a_known_fingerprint_is_that_of_its_own_arrays_only(dataset):
    known = replace(dataset, known=Fingerprint(dataset.keys, dataset.shard_of, "f" * 64))
    assert known.fingerprint() == "f" * 64
    part = select(known, np.arange(9) < 5)
    assert part.fingerprint() == by_hand(part)
    assert replace(known, weights=np.ones(9)).fingerprint() == by_hand(replace(dataset, weights=np.ones(9)))
