import math

import numpy as np
import pytest

from avmodel.bootstrap import (
    MOST_COUNTS,
    PERCENT,
    Difference,
    Resamples,
    Sampled,
    class_mean_draws,
    constants,
    difference,
    median_draws,
    over_seeds,
    resamples_of,
)


def rows_of(resamples: Resamples, place: int) -> np.ndarray:
    """The units of a resample, each as often as it is drawn."""
    return np.repeat(np.arange(resamples.units), resamples.counts[place])


def test_a_resample_has_as_many_units_as_the_test_and_is_always_the_same() -> None:
    resamples = Resamples(37, resamples=50)
    assert (resamples.counts.sum(axis=1) == 37).all()
    assert np.array_equal(resamples.counts, Resamples(37, resamples=50).counts)
    assert not np.array_equal(resamples.counts, Resamples(37, resamples=50, seed=1).counts)
    assert resamples_of(37) is resamples_of(37)


def test_large_tests_have_fewer_resamples() -> None:
    assert Resamples(MOST_COUNTS // 500).size == 500
    assert Resamples(10**9).size == 100


def test_scores_of_resamples_are_those_of_the_clips_drawn() -> None:
    rng = np.random.default_rng(0)
    labels, right, ranks = rng.integers(0, 7, 40), rng.random(40) < 0.6, rng.integers(1, 12, 40)
    resamples = Resamples(40, resamples=30)
    share = resamples.share(right).draws
    by_class, median = class_mean_draws(resamples, right, labels), median_draws(resamples, ranks)
    assert share is not None
    for place in range(30):
        rows = rows_of(resamples, place)
        assert share[place] == pytest.approx(100 * right[rows].mean())
        of_classes = [right[rows][labels[rows] == one].mean() for one in set(labels[rows].tolist())]
        assert by_class[place] == pytest.approx(100 * np.mean(of_classes), rel=1e-6)
        assert median[place] == np.median(ranks[rows])


def test_the_interval_is_that_of_the_binomial() -> None:
    """Of 300 clips of which 60 % are right: 1.96 standard errors of a share are 5.5 points."""
    low, high = resamples_of(300).share(np.arange(300) % 5 < 3).interval() or (0, 0)
    assert (low, high) == (pytest.approx(54.5, abs=0.6), pytest.approx(65.5, abs=0.6))


def test_it_holds_the_true_score_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = [Resamples(80, resamples=300, seed=one).share(rng.random(80) < 0.7).interval() for one in range(200)]
    held = sum(low <= 70 <= high for low, high in filter(None, found))
    assert 0.89 <= held / 200 <= 0.985


@pytest.mark.parametrize(("count", "low"), [(1, 2.5), (2, 15.81), (300, 98.78)])
def test_all_right_is_the_exact_interval(count: int, low: float) -> None:
    """0.025 ** (1 / n): with a lower true share, n of n are right in less than 2.5 % of tests."""
    resamples = resamples_of(count)
    assert resamples.share(np.ones(count, bool)).interval() == (pytest.approx(low, abs=0.01), 100)
    assert resamples.share(np.zeros(count, bool)).interval() == (0, pytest.approx(100 - low, abs=0.01))


def test_where_resamples_say_nothing_there_is_no_interval() -> None:
    assert resamples_of(1).mean(np.array([3.0])).interval() is None
    assert resamples_of(9).mean(np.full(9, 3.0)).interval() is None
    assert Sampled(50.0).interval() is None
    assert Sampled(math.nan, np.arange(9.0), 9).interval() is None
    assert Sampled(1.0, np.array([math.nan] * 6 + [1.0, 2, 3]), 9).interval() is None


def test_resamples_without_a_score_are_left_out() -> None:
    draws = np.append(np.linspace(40, 60, 900), [math.nan] * 100)
    assert Sampled(50.0, draws, 20, PERCENT).interval() == (pytest.approx(40.5), pytest.approx(59.5))


def test_the_interval_is_around_the_score_though_resamples_lie_higher() -> None:
    """Average precision of resamples is higher, as repeated positives rank beside each other."""
    assert Sampled(50.0, np.linspace(60, 80, 1000), 20).interval() == (pytest.approx(40.5), pytest.approx(59.5))
    assert Sampled(95.0, np.linspace(85, 105, 1000), 20, PERCENT).interval() == (pytest.approx(85.5), 100)


def test_the_interval_has_the_score_where_few_resamples_differ_from_it() -> None:
    """One class is always predicted: the mean over both classes is 50 but where a resample lacks one of them."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    draws = class_mean_draws(resamples_of(6), labels == 0, labels)
    score = Sampled(50.0, draws, 6, PERCENT)
    low, high = score.interval()
    assert low <= 50.0 <= high
    found = difference(score, Sampled(50.0))
    assert (found.value, found.within_noise) == (0.0, True)
    assert Sampled(50.0, np.repeat([50.0, 100.0], [980, 20]), 20, PERCENT).interval() == (pytest.approx(49.0), 50.0)


def test_one_clip_of_a_small_test_is_within_noise() -> None:
    """Without it in a resample there is no difference, which is so in a third of them; their mean is off by chance."""
    for count in range(4, 40):
        resamples = resamples_of(count)
        ours, theirs = np.arange(count) < 1, np.arange(count) < 2
        assert difference(resamples.share(ours), resamples.share(theirs)).within_noise, count


def test_a_difference_is_paired() -> None:
    """Two models that err on the same clips differ by more than noise, where their intervals overlap."""
    resamples = resamples_of(300)
    better, worse = np.arange(300) % 10 < 7, np.arange(300) % 10 < 6
    ours, theirs = resamples.share(better), resamples.share(worse)
    (low, _), (_, high) = ours.interval() or (0, 0), theirs.interval() or (0, 0)
    assert low < high
    found = difference(ours, theirs)
    assert found is not None and found.value == pytest.approx(10) and not found.within_noise
    unlike = difference(ours, resamples.share((np.arange(300) * 7) % 10 < 7))
    assert unlike is not None and unlike.within_noise


def test_a_difference_to_a_constant_is_the_scores_interval_moved() -> None:
    ours = resamples_of(300).share(np.arange(300) % 5 < 3)
    low, high = ours.interval() or (0, 0)
    chance = constants({"accuracy": 12.5})["accuracy"]
    found = difference(ours, chance)
    assert found == Difference(47.5, (pytest.approx(low - 12.5), pytest.approx(high - 12.5)))
    assert difference(chance, chance) == Difference(0.0, None)


@pytest.mark.parametrize(("count", "noise"), [(1, True), (2, True), (5, True), (6, False), (300, False)])
def test_all_right_beside_all_wrong(count: int, noise: bool) -> None:
    """As by the sign test, six clips tell the two apart, and one clip nothing."""
    resamples = resamples_of(count)
    found = difference(resamples.share(np.ones(count, bool)), resamples.share(np.zeros(count, bool)))
    assert found is not None and found.value == 100 and found.within_noise is noise


def test_the_same_predictions_are_within_noise() -> None:
    ours = resamples_of(50).share(np.arange(50) % 2 < 1)
    found = difference(ours, ours)
    assert found is not None and found.value == 0 and found.within_noise


def test_a_score_that_is_not_finite_has_no_difference() -> None:
    assert difference(Sampled(math.nan, np.arange(9.0), 9), Sampled(1.0)) is None
    assert Difference(1.0, None).within_noise


def test_resamples_with_infinite_scores_are_left_out_without_a_warning() -> None:
    """d-prime is infinite where a resample's area is whole. Warnings are errors in tests."""
    draws = np.append(np.linspace(1, 2, 900), [math.inf] * 100)
    ours, theirs = Sampled(1.5, draws, 20), Sampled(0.5, draws - 1, 20)
    found = difference(ours, theirs)
    assert found is not None and found.value == 1 and found.within_noise is False
    assert ours.interval() == (pytest.approx(1.025, abs=0.01), pytest.approx(1.975, abs=0.01))
    whole = over_seeds([ours, theirs], stream=0)
    assert whole.value == 1 and whole.interval() is not None
    assert over_seeds([Sampled(1.0, draws, 20), Sampled(1.0, -draws, 20)], stream=0).interval() is not None


def test_seeds_widen_the_interval_by_their_spread() -> None:
    """Clips alone: +-5.5. Seeds alone: the standard error of their mean, 10 / sqrt(2) points, times 1.96."""
    resamples = resamples_of(300)
    same = resamples.share(np.arange(300) % 5 < 3)
    assert over_seeds([same], stream=0) is same
    assert over_seeds([same, same], stream=0).interval() == pytest.approx(same.interval())
    apart = [same._replace(value=60 + x, draws=np.full(1000, 60.0 + x)) for x in (-10, 10)]
    whole = over_seeds(apart, stream=0)
    assert whole.draws is not None and whole.value == 60
    assert whole.draws.std() == pytest.approx(10, rel=0.1)  # sqrt(200) / sqrt(2)
    other = over_seeds(apart, stream=1)
    assert other.draws is not None and not np.array_equal(whole.draws, other.draws)
    assert over_seeds([Sampled(1.0), Sampled(3.0)], stream=0) == Sampled(2.0)
