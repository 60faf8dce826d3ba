"""Metrics against scikit-learn and torchmetrics, on random and on degenerate inputs."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
    top_k_accuracy_score,
)
from torchmetrics.classification import MultilabelAUROC, MultilabelAveragePrecision

from avmanifest.errors import AvkitError
from avmodel.evaluate.scores import (
    class_accuracy,
    confusion_matrix,
    hit_scores,
    multi_label_class_scores,
    multi_label_scores,
    partner_ranks,
    retrieval_scores,
    single_label_scores,
)


@given(st.integers(1, 60), st.integers(2, 8), st.integers(0, 1000))
def test_accuracies_are_scikit_learns(samples: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, generator=generator)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    found = single_label_scores(logits, labels)
    predicted = logits.argmax(1).numpy()
    assert found["accuracy"] == pytest.approx(100 * accuracy_score(labels.numpy(), predicted))
    with warnings.catch_warnings():  # it warns of classes that are only predicted, and leaves them out as we do
        warnings.simplefilter("ignore")
        balanced = balanced_accuracy_score(labels.numpy(), predicted)
    assert found["class_accuracy"] == pytest.approx(100 * balanced)


def test_a_class_without_samples_has_no_accuracy_and_no_say() -> None:
    logits = torch.eye(3)[[0, 1, 1]]
    labels = torch.tensor([0, 0, 1])
    per_class = class_accuracy(logits, labels)
    assert per_class[:2].tolist() == [50.0, 100.0]
    assert per_class[2].isnan()
    assert single_label_scores(logits, labels)["class_accuracy"] == 75.0


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    logits = torch.eye(3)[[0, 2, 2, 1]]
    assert confusion_matrix(logits, torch.tensor([0, 1, 2, 2])).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]


@pytest.mark.slow
@given(st.integers(4, 60), st.integers(1, 6), st.integers(0, 1000), st.booleans())
def test_average_precision_and_area_are_the_libraries(samples: int, classes: int, seed: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(samples, classes, generator=generator)
    scores = (4 * scores).round() / 4 if ties else scores
    labels = torch.rand(samples, classes, generator=generator) < 0.4
    labels[0], labels[1] = True, False  # both kinds in each class
    found = multi_label_scores(scores, labels)
    truth, predicted = labels.numpy(), scores.numpy()
    assert found["map"] == pytest.approx(100 * average_precision_score(truth, predicted, average="macro"))
    assert found["auc"] == pytest.approx(100 * roc_auc_score(truth, predicted, average="macro"))
    if classes > 1:
        precision = MultilabelAveragePrecision(classes, average="macro", thresholds=None)
        assert found["map"] == pytest.approx(100 * float(precision(scores, labels.long())), abs=1e-3)
        assert found["auc"] == pytest.approx(100 * float(MultilabelAUROC(classes)(scores, labels.long())), abs=1e-3)
    assert found["skipped_classes"] == 0


def test_classes_without_positives_are_skipped_and_counted() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.6, 0.5], [0.4, 0.3, 0.5]])
    labels = torch.tensor([[True, False, True], [False, False, True], [False, False, True]])
    found = multi_label_scores(scores, labels)
    assert found["skipped_classes"] == 1
    assert found["map"] == 100.0  # the first class is ranked right; all samples have the third
    assert found["auc"] == 100.0  # of the first alone: the third has no negatives
    per_class = multi_label_class_scores(scores, labels)
    assert per_class.average_precision.isnan().tolist() == [False, True, False]
    assert per_class.auc.isnan().tolist() == [False, True, True]


def test_d_prime_is_0_for_chance_and_known_for_an_area() -> None:
    labels = torch.tensor([[True], [False], [True], [False]])
    assert multi_label_scores(torch.zeros(4, 1), labels)["d_prime"] == pytest.approx(0, abs=1e-9)
    found = multi_label_scores(torch.tensor([[3.0], [2.0], [1.0], [0.0]]), labels)
    assert found["auc"] == 75.0
    assert found["d_prime"] == pytest.approx(math.sqrt(2) * 0.6744897501960817)


def test_no_positive_at_all_is_no_score() -> None:
    with pytest.raises(AvkitError, match="no class has a positive"):
        multi_label_scores(torch.rand(3, 2), torch.zeros(3, 2, dtype=torch.bool))


def test_a_hit_is_any_of_the_classes() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
    labels = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    assert hit_scores(scores, labels) == {"hit": 50.0}


@given(st.integers(2, 40), st.integers(0, 1000), st.sampled_from([1, 5, 10]))
def test_recall_is_top_k_accuracy_where_nothing_ties(count: int, seed: int, k: int) -> None:
    similarity = torch.randn(count, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = retrieval_scores(partner_ranks(similarity), (k,))
    if k < count:
        expected = (
            top_k_accuracy_score(range(count), similarity.numpy(), k=k, labels=range(count)) if count > 2 else None
        )
        if expected is not None:
            assert found[f"r@{k}"] == pytest.approx(100 * expected)
    else:
        assert found[f"r@{k}"] == 100.0
    assert found["tied"] == 0


def test_ties_count_against_the_model_and_are_counted() -> None:
    assert retrieval_scores(partner_ranks(torch.ones(4, 4))) == {
        "r@1": 0.0, "r@5": 100.0, "r@10": 100.0, "median_rank": 4.0, "tied": 4,
    }  # fmt: skip
    mixed = torch.tensor([[1.0, 0.5, 0.2], [0.3, 0.9, 0.9], [0.0, 0.7, 0.5]])
    ranks = partner_ranks(mixed)
    assert ranks.pessimistic.tolist() == [1, 2, 2]
    assert ranks.tied == 1
    assert retrieval_scores(ranks, (1,)) == {"r@1": pytest.approx(100 / 3), "median_rank": 2.0, "tied": 1}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_refused(bad: float) -> None:
    scores = torch.zeros(3, 3)
    scores[1, 2] = bad
    for metric in (
        lambda: single_label_scores(scores, torch.tensor([0, 1, 2])),
        lambda: multi_label_scores(scores, torch.eye(3, dtype=torch.bool)),
        lambda: hit_scores(scores, torch.eye(3, dtype=torch.bool)),
        lambda: partner_ranks(scores),
    ):
        with pytest.raises(AvkitError, match="1 of 3 predictions are not finite"):
            metric()
