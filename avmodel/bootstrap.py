"""95 % intervals of scores, by the bootstrap: what was tested is drawn again, with replacement, and scored again.

A resample is the number of times that each tested unit (a clip, a mixture) is in it. All scores of a test have the same
resamples, so that the difference of two of them is paired. `scipy.stats.bootstrap` is as quick for a mean, but draws
anew for each score, ranks anew for each resample, and takes seconds to import.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 14.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

LEVEL = 0.95
RESAMPLES = 1000
LEAST_RESAMPLES = 100  # of tests so large that RESAMPLES of them are more than MOST_COUNTS numbers
MOST_COUNTS = 200_000_000
CHUNK = 1 << 20  # numbers that a statistic gets at once
SEED = 0
TAIL = (1 - LEVEL) / 2
CHANCE = 4.0  # standard errors of the mean of the resamples by which it may differ from the score by chance
PERCENT = (0.0, 100.0)

Weights = Float[np.ndarray, "r n"]  # of each unit in each resample
Interval = tuple[float, float]


class Resamples:
    """Resamples of `units` tested units: functions of their number and the seed alone."""

    def __init__(self, units: int, *, resamples: int = RESAMPLES, seed: int = SEED) -> None:
        self.units = units
        self.size = min(resamples, max(MOST_COUNTS // max(units, 1), LEAST_RESAMPLES))
        self.seed = seed

    @cached_property
    def counts(self) -> UInt8[np.ndarray, "r n"]:
        """How often each unit is in each resample."""
        rng = np.random.default_rng(self.seed)
        found = np.zeros((self.size, self.units), np.uint8)
        for row in found:
            row[:] = np.bincount(rng.integers(0, self.units, self.units), minlength=self.units)
        return found

    def of(self, statistic: Callable[[Weights], Float[np.ndarray, " r"]], *, per_unit: int = 1) -> np.ndarray:
        """The statistic of each resample, which it computes from the weights of some resamples at a time.

        Args:
            statistic: Scores by the weights of the units.
            per_unit: Numbers that the statistic keeps for each weight, to bound its memory.
        """
        step = max(CHUNK // max(self.units * per_unit, 1), 1)
        parts = [statistic(self.counts[row : row + step].astype(np.float32)) for row in range(0, self.size, step)]
        return np.concatenate(parts).astype(np.float64)

    def mean(self, values: Float[np.ndarray, " n"]) -> "Sampled":
        """The mean of a number of each unit; of none, 0 without resamples."""
        values = np.asarray(values, np.float64)
        if not self.units:
            return Sampled(0.0, None, 0)
        return Sampled(float(values.mean()), self.of(lambda weights: weights @ values / self.units), self.units)

    def share(self, hits: Bool[np.ndarray, " n"]) -> "Sampled":
        """The percentage of units of which something is true."""
        return self.mean(100 * np.asarray(hits, np.float64))._replace(bounds=PERCENT)


@lru_cache(maxsize=2)
def resamples_of(units: int) -> Resamples:
    """The resamples of a test of so many units: always the same."""
    return Resamples(units)


class Sampled(NamedTuple):
    """A score and the same score of each resample."""

    value: float
    draws: Float[np.ndarray, " r"] | None = None  # NaN where a resample has no score; None: a constant
    units: int | None = None  # number of units that were scored
    bounds: tuple[float, float] = (-math.inf, math.inf)  # that no score can exceed

    def interval(self) -> Interval | None:
        """The 95 % interval; None of a constant, of a score that is not finite, and if all resamples have one score.

        It has the quantiles of the resamples. If these lie higher or lower than the score by more than their number
        explains, they are moved so that their mean is the score: repeated units raise average precision, and classes
        that a resample lacks move means over classes. Moved by chance, one clip of a small test would be more than
        noise. It has the score itself, too, from which the move leads away where most resamples have the same one.

        If all resamples score `bounds`' end, as where every clip is right, the resamples say nothing and the exact
        binomial interval of such a test is given.
        """
        if self.draws is None or not math.isfinite(self.value):
            return None
        kept = self.draws[np.isfinite(self.draws)]
        if 2 * len(kept) < len(self.draws):
            return None
        if np.ptp(kept) < 1e-9:
            return self._at_a_bound()
        bias = float(kept.mean()) - self.value
        if abs(bias) <= CHANCE * float(kept.std()) / math.sqrt(len(kept)):
            bias = 0.0
        low, high = np.quantile(kept - bias, (TAIL, 1 - TAIL)).tolist()
        return max(min(low, self.value), self.bounds[0]), min(max(high, self.value), self.bounds[1])

    def _at_a_bound(self) -> Interval | None:
        low, high = self.bounds
        if not (self.units and math.isfinite(low) and math.isfinite(high)):
            return None
        reach = (high - low) * (1 - TAIL ** (1 / self.units))
        if abs(self.value - low) < 1e-9:
            return low, low + reach
        return (high - reach, high) if abs(self.value - high) < 1e-9 else None


class Difference(NamedTuple):
    """How much higher a score is than a baseline's."""

    value: float
    interval: Interval | None  # of the paired difference; None: there is none

    @property
    def within_noise(self) -> bool:
        """Whether the interval contains 0, or there is none: the test does not tell the two apart."""
        return self.interval is None or self.interval[0] <= 0 <= self.interval[1]


def difference(score: Sampled, baseline: Sampled) -> Difference | None:
    """The paired difference of two scores of the same resamples; None if one is not finite.

    If it is the same in all resamples, the interval is from the ends of both intervals.
    """
    value = score.value - baseline.value
    if not math.isfinite(value):
        return None
    if score.draws is not None and baseline.draws is not None and len(score.draws) == len(baseline.draws):
        span = score.bounds[1] - score.bounds[0]
        with np.errstate(invalid="ignore"):  # of two infinite scores, which the interval leaves out
            kept = score.draws - baseline.draws
        own = Sampled(value, kept, score.units, (-span, span)).interval()
        if own is not None and np.ptp(kept[np.isfinite(kept)]) >= 1e-9:
            return Difference(value, own)
    ours, theirs = score.interval(), baseline.interval()
    if baseline.draws is None:
        theirs = (baseline.value, baseline.value)
    if score.draws is None:
        ours = (score.value, score.value)
    if ours is None or theirs is None or (score.draws is None and baseline.draws is None):
        return Difference(value, None)
    return Difference(value, (ours[0] - theirs[1], ours[1] - theirs[0]))


def over_seeds(runs: Sequence[Sampled], *, stream: int) -> Sampled:
    """The mean over runs of several seeds, of which resamples draw both the units and the runs.

    The deviations of the drawn runs are enlarged by sqrt(s / (s - 1)), without which those of few runs are too small.
    `stream` numbers the draws: rows whose runs have nothing to do with each other have different ones.
    """
    if len(runs) == 1:
        return runs[0]
    value = sum(run.value for run in runs) / len(runs)
    first = runs[0]
    draws = [run.draws for run in runs if run.draws is not None]
    if len(draws) < len(runs):
        return first._replace(value=value, draws=None)
    table = np.stack(draws)
    rng = np.random.default_rng([SEED, 1 + stream])
    drawn = rng.integers(0, len(runs), table.shape)
    with np.errstate(invalid="ignore"):  # of infinite scores, which the interval leaves out
        middle = table.mean(axis=0)
        moved = np.take_along_axis(table - middle, drawn, axis=0).mean(axis=0)
        return first._replace(value=value, draws=middle + math.sqrt(len(runs) / (len(runs) - 1)) * moved)


def shown_interval(interval: Interval | None, *, digits: int = 1, sign: str = "") -> str:
    """The interval with a blank before it; empty for None."""
    return "" if interval is None else f" [{interval[0]:{sign}.{digits}f}, {interval[1]:{sign}.{digits}f}]"


def class_mean_draws(
    resamples: Resamples, right: Bool[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]
) -> Float[np.ndarray, " r"]:
    """Percent right of each class of each resample, as the mean over the classes that the resample has."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    hits = right[order].astype(np.float32)

    def statistic(weights: Weights) -> Float[np.ndarray, " r"]:
        ordered = weights[:, order]
        total, hit = (np.add.reduceat(x, starts, axis=1) for x in (ordered, ordered * hits))
        seen = total > 0
        shares = np.where(seen, hit / np.maximum(total, 1), 0).sum(axis=1)
        return np.asarray(100 * shares / np.maximum(seen.sum(axis=1), 1))

    return resamples.of(statistic, per_unit=2)


def median_draws(resamples: Resamples, values: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " r"]:
    """The median of each resample; of an even number, the mean of the middle two."""
    order = np.argsort(values, kind="stable")
    ordered, half = np.asarray(values, np.float64)[order], (resamples.units - 1) / 2

    def statistic(weights: Weights) -> Float[np.ndarray, " r"]:
        reached = np.cumsum(weights[:, order], axis=1)
        places = [(reached <= place).sum(axis=1) for place in (math.floor(half), math.ceil(half))]
        return np.asarray((ordered[places[0]] + ordered[places[1]]) / 2)

    return resamples.of(statistic)


def constants(values: Mapping[str, float]) -> dict[str, Sampled]:
    """Scores that depend on no test, such as those of chance."""
    return {name: Sampled(float(value)) for name, value in values.items()}
