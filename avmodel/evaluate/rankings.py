"""Average precision and area under the ROC curve of resampled tests, as means over classes.

Of tests up to MOST_EXACT numbers each resample is ranked anew. Of larger ones the scores of resamples are the
first-order expansion in the weights of the clips (the infinitesimal jackknife; Efron and Tibshirani, "An Introduction
to the Bootstrap", 1993, section 22.1), which needs one ranking of each class in place of a thousand.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from avmodel.bootstrap import CHUNK, Resamples

MOST_EXACT = 20_000_000  # clips times classes times resamples


class RankingDraws(NamedTuple):
    """Scores of each resample in percent, NaN where it has none."""

    average_precision: Float[np.ndarray, " r"]
    auc: Float[np.ndarray, " r"]


class Ranked(NamedTuple):
    """The clips of a class by falling score; clips of equal score are one group."""

    order: Int64[np.ndarray, " n"]
    truth: Bool[np.ndarray, " n"]  # in this order, as all that follows
    first: Int64[np.ndarray, " n"]  # place of the first clip of each clip's group
    end: Int64[np.ndarray, " n"]  # one after the last


def ranking_draws(
    resamples: Resamples,
    scores: Float[np.ndarray, "n c"],
    labels: Bool[np.ndarray, "n c"],
    *,
    most_exact: int = MOST_EXACT,
) -> RankingDraws:
    """Mean average precision and mean area of each resample, over the classes that have them in the resample.

    A class without positives in a resample is left out of it, and without negatives out of its area.
    """
    ranked = [_ranked(scores[:, one], labels[:, one]) for one in np.flatnonzero(labels.any(axis=0))]
    exact = labels.size * resamples.size <= most_exact
    return _exact(resamples, ranked) if exact else _first_order(resamples, ranked)


def _ranked(scores: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> Ranked:
    order = np.argsort(-scores)
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.append(starts, len(ordered)))
    return Ranked(order, truth[order], np.repeat(starts, sizes), np.repeat(starts + sizes, sizes))


def _exact(resamples: Resamples, ranked: list[Ranked]) -> RankingDraws:
    totals = np.zeros((4, resamples.size))  # sums over classes of AP, their number; the same of the area
    step = max(CHUNK // max(resamples.units, 1), 1)
    for begin in range(0, resamples.size, step):
        counts = np.ascontiguousarray(resamples.counts[begin : begin + step].T)
        for one in ranked:
            precision, area = _exact_class(one, counts)
            for place, found in ((0, precision), (2, area)):
                has = np.isfinite(found)
                totals[place, begin : begin + step] += np.where(has, found, 0)
                totals[place + 1, begin : begin + step] += has
    with np.errstate(invalid="ignore", divide="ignore"):
        return RankingDraws(100 * totals[0] / totals[1], 100 * totals[2] / totals[3])


def _exact_class(
    one: Ranked, counts: np.ndarray
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:  # shares, NaN where there is none
    taken = counts[one.order].astype(np.int32)
    every = np.concatenate([np.zeros((1, taken.shape[1]), np.int32), np.cumsum(taken, axis=0, dtype=np.int32)])
    own = taken[one.truth]
    hits = np.concatenate([np.zeros((1, own.shape[1]), np.int32), np.cumsum(own, axis=0, dtype=np.int32)])
    before = np.concatenate([[0], np.cumsum(one.truth)])  # of positives, to look up `hits` by place
    first, end = one.first[one.truth], one.end[one.truth]
    hits_end, hits_first = hits[before[end]].astype(np.float64), hits[before[first]]
    positives, total = hits[-1].astype(np.float64), every[-1]
    negatives = total - positives
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(own > 0, own * hits_end / every[end], 0).sum(axis=0) / positives
        lower = total - every[end] - (positives - hits_end)  # negatives with a smaller score
        tied = (every[end] - every[first]) - (hits_end - hits_first)
        area = (own * (lower + tied / 2)).sum(axis=0) / (positives * negatives)
    return precision, area


def _first_order(resamples: Resamples, ranked: list[Ranked]) -> RankingDraws:
    found = []
    for slopes_of in (_precision_slopes, _area_slopes):
        influence, values = np.zeros(resamples.units), []
        for one in ranked:
            value, slopes = slopes_of(one)
            if math.isfinite(value):
                values.append(value)
                influence[one.order] += slopes
        if not values:
            found.append(np.full(resamples.size, np.nan))
            continue
        slope, value = (100 * influence / len(values)).astype(np.float32), 100 * float(np.mean(values))
        # The slopes sum to 0: scores don't change if all clips are repeated equally often.
        found.append(value + resamples.of(lambda weights, slope=slope: weights @ slope))  # type: ignore[misc]
    return RankingDraws(*found)


def _precision_slopes(one: Ranked) -> tuple[float, Float[np.ndarray, " n"]]:
    """Average precision, and its derivative by the weight of each clip, in the ranking's order."""
    truth = one.truth.astype(np.float64)
    hits, ends = np.cumsum(truth)[one.end - 1], one.end.astype(np.float64)
    positives = truth.sum()
    value = float((truth * hits / ends).sum() / positives)

    def from_here(each: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Sums over each clip's group and all groups after it."""
        return np.asarray(np.cumsum(each[::-1])[::-1][one.first])

    gained, lost = from_here(truth / ends), from_here(truth * hits / ends**2)
    return value, (truth * (hits / ends + gained - value) - lost) / positives


def _area_slopes(one: Ranked) -> tuple[float, Float[np.ndarray, " n"]]:
    """The area under the ROC curve, and its derivative by the weight of each clip; NaN without negatives."""
    truth = one.truth.astype(np.float64)
    positives, count = truth.sum(), len(truth)
    negatives = count - positives
    if not negatives:
        return math.nan, np.zeros(count)
    hits = np.concatenate([[0.0], np.cumsum(truth)])
    above = hits[one.first] + (hits[one.end] - hits[one.first]) / 2  # positives, of the same score by half
    misses = np.arange(count + 1) - hits
    below = negatives - misses[one.end] + (misses[one.end] - misses[one.first]) / 2  # negatives
    value = float((truth * below).sum() / (positives * negatives))
    slopes = np.where(one.truth, below / (positives * negatives) - value / positives, 0.0)
    return value, slopes + np.where(one.truth, 0.0, above / (positives * negatives) - value / negatives)
