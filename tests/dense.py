"""Small datasets whose frames have something that sounds: a bright square in one quarter, with its box and its mask."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.evaluating import change_manifest
from tests.shards import CLASSES, draw_dataset

SIZE = (64, 64)
QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column


def quarter(sample: int) -> tuple[int, int]:
    """Where a sample's square is, in all of its frames."""
    return QUARTERS[sample % 4]


def bright_quarter(sample: int, frame: int) -> np.ndarray:
    """A frame that is noisy and dark but for its square."""
    pixels = np.random.default_rng([sample, frame]).integers(0, 60, (*SIZE, 3), np.uint8)
    row, column = quarter(sample)
    pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] += 180
    return pixels


def quarter_mask(sample: int, frame: int) -> np.ndarray:
    """1 + the sample's class in the square."""
    mask = np.zeros(SIZE, np.uint8)
    row, column = quarter(sample)
    mask[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 1 + sample % len(CLASSES)
    return mask


def quarter_box(sample: int) -> list[float]:
    row, column = quarter(sample)
    return [column / 2, row / 2, column / 2 + 0.5, row / 2 + 0.5]


def draw_quarters(root: Path, *, train: int = 16, test: int = 12, masks: bool = True, **sample: Any) -> Path:
    """A training and a test split; the truth is in masks, else in the manifest's boxes of the first frame."""
    options = {"seconds": 1.5, "num_frames": 1, "flac": False, "picture": bright_quarter, **sample}
    if masks:
        options["mask"] = quarter_mask
    for split, count, first in (("train", train, 0), ("test", test, train)):
        draw_dataset(root, count, 8, split=split, first=first, **options)
        if not masks:
            change_manifest(
                root, split, annotations=lambda row, first=first: json.dumps({"boxes": [quarter_box(first + row)]})
            )
    return root
