from pathlib import Path

import numpy as np

from avdata.load import open_dataset
from tests.digits import NAMES, SECONDS, SIDE, TEST, draw_digits, handwritten, picture, sound


def test_pictures_and_sounds_are_functions_of_the_sample_and_differ() -> None:
    assert np.array_equal(picture(3, 1), picture(3, 1))
    assert not np.array_equal(picture(3, 0), picture(3, 1))
    assert picture(0, 0).shape == (SIDE, SIDE, 3)
    first, second = (sound(sample, SECONDS) for sample in (0, 1))
    assert np.array_equal(first, sound(0, SECONDS))
    assert not np.array_equal(first, second)
    assert 0.2 < np.abs(first).max() <= 1


def test_both_splits_have_all_ten_classes_and_no_sample_in_common(tmp_path: Path) -> None:
    pixels, digits = handwritten()
    assert len(pixels) == 1797
    assert len(np.unique(pixels.reshape(len(pixels), -1), axis=0)) == len(pixels)
    assert set(digits[: len(digits) - TEST]) == set(digits[-TEST:]) == set(range(10))
    root = draw_digits(tmp_path, num_train=12, num_test=6)
    train, test = (open_dataset(root, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (12, 6)
    assert train.classes == test.classes == NAMES
    assert not set(train.keys.to_pylist()) & set(test.keys.to_pylist())
    assert [NAMES[digit] for digit in digits[:12]] == [train[row].labels[0] for row in range(12)]
