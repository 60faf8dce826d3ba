import math

import numpy as np
import pytest
import torch

from avmanifest.errors import DivergedError
from avmodel.bootstrap import resamples_of
from avmodel.evaluate.class_scores import class_scores, trivial_baselines
from avmodel.evaluate.scores import hit_scores, multi_label_scores, single_label_scores


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(0))


def drawn_rows(place: int) -> list[int]:
    """The clips of a resample of 30."""
    return np.repeat(np.arange(30), resamples_of(30).counts[place]).tolist()


def test_one_label_a_clip(logits: torch.Tensor) -> None:
    labels = torch.eye(5, dtype=torch.bool)[torch.arange(30) % 4]  # no clip has the last class
    found = class_scores(logits, labels, multi_label=False)
    for name, score in found.items():
        assert score.value == single_label_scores(logits, torch.arange(30) % 4)[name]
        assert score.units == 30 and score.draws is not None
        for place in range(20):
            rows = drawn_rows(place)
            expected = single_label_scores(logits[rows], labels[rows].int().argmax(dim=1))[name]
            assert score.draws[place] == pytest.approx(expected, rel=1e-5)


def test_several_labels_a_clip(logits: torch.Tensor) -> None:
    """Some resamples lack a class, one class has no positive at all, and some clips have no label."""
    labels = torch.rand(30, 5, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.05, 0.1, 0.2, 0.3, 0.0])
    found = class_scores(logits, labels, multi_label=True)
    assert found["skipped_classes"].value == 1 and found["skipped_classes"].draws is None
    whole = multi_label_scores(logits, labels) | hit_scores(logits, labels)
    for name in ("map", "auc", "d_prime", "hit"):
        score = found[name]
        assert score.value == pytest.approx(whole[name]) and score.draws is not None
        for place in range(20):
            rows = drawn_rows(place)
            expected = multi_label_scores(logits[rows], labels[rows]) | hit_scores(logits[rows], labels[rows])
            assert score.draws[place] == pytest.approx(expected[name], rel=1e-5), name


def test_all_right_and_one_clip() -> None:
    labels = torch.eye(4, dtype=torch.bool)
    for score in class_scores(labels.float(), labels, multi_label=False).values():
        assert score.interval() == (pytest.approx(100 * 0.025**0.25), 100)
    perfect = class_scores(labels.float(), labels, multi_label=True)
    assert perfect["map"].interval() == (pytest.approx(100 * 0.025**0.25), 100)
    assert math.isinf(perfect["d_prime"].value) and perfect["d_prime"].interval() is None
    one = class_scores(torch.eye(4)[:1], labels[:1], multi_label=False)["accuracy"]
    assert one.interval() == (pytest.approx(2.5), 100)


def test_a_prediction_that_is_not_a_number_is_refused(logits: torch.Tensor) -> None:
    logits[3, 1] = math.nan
    for multi_label in (False, True):
        with pytest.raises(DivergedError):
            class_scores(logits, torch.eye(5, dtype=torch.bool)[torch.arange(30) % 5], multi_label=multi_label)


def test_chance_is_a_constant_and_majority_is_resampled() -> None:
    labels = torch.eye(3, dtype=torch.bool)[torch.tensor([0, 0, 1, 2])]
    trivial = trivial_baselines(labels, labels, multi_label=False)
    assert trivial["chance"]["accuracy"].draws is None
    assert trivial["majority"]["accuracy"].value == 50 and trivial["majority"]["accuracy"].draws is not None
    several = trivial_baselines(labels, labels, multi_label=True)["chance"]
    assert several["map"].value == pytest.approx(100 / 3) and several["map"].interval() is None
