"""Scores by class of prompted segmentation, against each pixel counted as the definition says."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from avmodel.evaluate.localization.prompted import LEVELS, packed, prompted_scores, unpacked
from avmodel.evaluate.localization.scores import SIDE, enlarged

LABELS = torch.tensor([[True, False], [True, False], [False, True], [True, True]])


@pytest.fixture(scope="module")
def boxes() -> torch.Tensor:
    """Four truths, in another place each."""
    truth = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    for place in range(4):
        truth[place, 20 * place : 20 * place + 50 + 30 * place, 60:160] = True
    return truth


def test_truth_is_packed_without_loss() -> None:
    truth = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.7
    numbers = packed(truth / 2)  # an annotator's half counts
    assert numbers.dtype == torch.float32
    assert torch.equal(unpacked(numbers), truth)


def test_a_class_is_scored_over_all_pixels_of_its_clips(boxes: torch.Tensor) -> None:
    maps = torch.randn(4, 7, 7, generator=torch.Generator().manual_seed(1))
    found = prompted_scores(maps, boxes, LABELS)
    precisions, ious = [], []
    for column in LABELS.T:
        values, truth = enlarged(maps[column]).numpy(), boxes[column].numpy()
        precisions.append(average_precision_score(truth.ravel(), values.ravel()))
        ious.append(
            max(
                ((values > level) & truth).sum() / ((values > level) | truth).sum()
                for level in np.linspace(values.min(), values.max(), LEVELS)
            )
        )
    assert found["map"].value == pytest.approx(100 * np.mean(precisions))
    assert found["miou"].value == pytest.approx(100 * np.mean(ious), abs=0.01)
    assert found["skipped_classes"].value == 0
    for name in ("map", "miou"):
        draws = found[name].draws
        assert draws is not None
        assert abs(float(draws.mean()) - found[name].value) < 3  # of bins of pixels, and of resamples
        low, high = found[name].interval() or (0, 0)
        assert low < found[name].value < high


def test_maps_equal_to_the_truth_are_perfect_and_their_opposite_is_not(boxes: torch.Tensor) -> None:
    right = prompted_scores(boxes.float(), boxes, LABELS)
    assert (right["map"].value, right["miou"].value) == (pytest.approx(100), pytest.approx(100))
    assert right["map"].draws is not None
    assert np.allclose(right["map"].draws, 100)
    wrong = prompted_scores(-boxes.float(), boxes, LABELS)
    assert wrong["map"].value < 100 * float(boxes.float().mean()) + 20
    assert wrong["miou"].value < 40


def test_classes_without_a_sounding_pixel_are_skipped(boxes: torch.Tensor) -> None:
    silent = boxes.clone()
    silent[LABELS[:, 1]] = False
    found = prompted_scores(silent.float(), silent, LABELS)
    assert (found["map"].value, found["skipped_classes"].value) == (pytest.approx(100), 1)
    assert prompted_scores(silent.float(), torch.zeros_like(silent), LABELS) == {}
    assert prompted_scores(silent.float(), silent, torch.zeros_like(LABELS)) == {}
