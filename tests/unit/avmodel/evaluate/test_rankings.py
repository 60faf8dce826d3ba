import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from avmodel.bootstrap import Resamples
from avmodel.evaluate.rankings import ranking_draws


def drawn(count: int, classes: int, *, share: float, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels; positives score higher."""
    rng = np.random.default_rng(0)
    labels = rng.random((count, classes)) < share
    scores = rng.normal(size=(count, classes)) + labels
    return np.round(scores, 0 if ties else 9), labels


@pytest.mark.parametrize("ties", [False, True])
def test_each_resample_is_ranked_as_scikit_learn_does(ties: bool) -> None:
    """Classes without positives in a resample are left out of it; those without negatives, of its area."""
    scores, labels = drawn(24, 6, share=0.12, ties=ties)
    labels[:, 5] = True
    labels[:3, 5] = False
    resamples = Resamples(24, resamples=25)
    found = ranking_draws(resamples, scores, labels)
    lacking = 0
    for place in range(25):
        rows = np.repeat(np.arange(24), resamples.counts[place])
        truth, predicted = labels[rows], scores[rows]
        has = [one for one in range(6) if truth[:, one].any()]
        both = [one for one in has if not truth[:, one].all()]
        lacking += len(has) < labels.any(axis=0).sum()
        precision = np.mean([average_precision_score(truth[:, one], predicted[:, one]) for one in has])
        assert found.average_precision[place] == pytest.approx(100 * precision)
        area = np.mean([roc_auc_score(truth[:, one], predicted[:, one]) for one in both])
        assert found.auc[place] == pytest.approx(100 * area)
    assert lacking


def test_a_resample_without_any_positive_has_no_score() -> None:
    labels = np.zeros((6, 2), bool)
    labels[0, 0] = True
    resamples = Resamples(6, resamples=40)
    found = ranking_draws(resamples, np.arange(12.0).reshape(6, 2), labels)
    assert np.array_equal(np.isnan(found.average_precision), resamples.counts[:, 0] == 0)


@pytest.mark.parametrize("ties", [False, True])
def test_the_expansion_is_the_derivative(ties: bool) -> None:
    """By the weight of each clip, beside differences of scikit-learn's weighted scores."""
    scores, labels = drawn(40, 1, share=0.3, ties=ties)
    weights = np.ones((40, 40), np.uint8) + np.eye(40, dtype=np.uint8)  # a resample: one clip twice
    resamples = Resamples(40, resamples=40)
    resamples.__dict__["counts"] = weights
    found = ranking_draws(resamples, scores, labels, most_exact=0)
    for metric, draws in ((average_precision_score, found.average_precision), (roc_auc_score, found.auc)):
        value, step = metric(labels[:, 0], scores[:, 0]), 1e-6
        for clip in range(40):
            moved = metric(labels[:, 0], scores[:, 0], sample_weight=1 + step * np.eye(40)[clip])
            assert draws[clip] / 100 - value == pytest.approx((moved - value) / step, abs=2e-4)


def test_of_many_clips_the_expansion_is_as_wide() -> None:
    scores, labels = drawn(800, 8, share=0.08, ties=False)
    resamples = Resamples(800, resamples=500)
    exact, quick = (ranking_draws(resamples, scores, labels, most_exact=most) for most in (10**12, 0))
    for ours, theirs in zip(quick, exact, strict=True):
        assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
        assert np.corrcoef(ours, theirs)[0, 1] > 0.97
