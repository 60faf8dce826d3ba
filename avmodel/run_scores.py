"""The scores of a run's evaluations, as their files of results have them. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from avmanifest.errors import ManifestError
from avmanifest.parsing import read_json
from avmodel.bootstrap import Difference
from avmodel.evaluate.places import EVALUATIONS
from avmodel.evaluate.result import RESULTS_FILE, shown_difference
from avmodel.reproduce.report import Number, number_in

_ADVICE: Final = "Evaluate again, or remove the file."


@dataclass(frozen=True, slots=True)
class RunScore:
    """A metric of one row of a task's result."""

    task: str
    row: str
    metric: str
    number: Number
    is_headline: bool = False
    beside: str = ""  # the first baseline that it is compared with, and their difference
    test: str = ""  # what was tested: split, subset id and condition; empty: the results do not say

    @property
    def name(self) -> tuple[str, str, str]:
        """What it has in common with the same score of another run."""
        return self.task, self.row, self.metric

    def as_dict(self) -> dict[str, Any]:
        """The score as plain data; NaN is None."""
        return {
            "task": self.task,
            "row": self.row,
            "metric": self.metric,
            "mean": self.number.value if math.isfinite(self.number.value) else None,
            "spread": self.number.spread,
            "interval": None if self.number.interval is None else list(self.number.interval),
            "n": self.number.samples,
            "within_noise": list(self.number.noise),
            "test": self.test or None,
        }


def read_scores(folder: Path) -> tuple[RunScore, ...]:
    """The scores below a run's folder, task by task, each task's headline first.

    Raises ManifestError for a file that does not hold results.
    """
    found: list[RunScore] = []
    for path in sorted((folder / EVALUATIONS).glob(f"*/{RESULTS_FILE}")):
        try:
            found += _scores_of(read_json(path), path.parent.name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ManifestError(
                f"{path}: not a file of results ({type(error).__name__}: {error}). {_ADVICE}"
            ) from error
    return tuple(found)


def _scores_of(result: Mapping[str, Any], task: str) -> list[RunScore]:
    headline = (result["headline"]["row"], result["headline"]["metric"])
    samples = result.get("data", {}).get("test", {}).get("samples")
    found = [
        RunScore(
            task,
            row,
            metric,
            number_in(score, samples=samples),
            (row, metric) == headline,
            _beside(score, metric, result.get("baselines", {})),
            clips_of(result.get("data", {}).get("test", {})),
        )
        for row, metrics in result["scores"].items()
        for metric, score in metrics.items()
    ]
    return sorted(found, key=lambda one: not one.is_headline)


def clips_of(split: Mapping[str, Any]) -> str:
    """The split, subset id and condition of clips that a file of results describes; empty if it has no subset id."""
    if not split.get("subset_id"):
        return ""
    where = f" where {split['where']!r}" if split.get("where") else ""
    return f"{split.get('split', '')}, subset {split['subset_id']}{where}"


def _beside(score: Mapping[str, Any], metric: str, baselines: Mapping[str, Any]) -> str:
    """The score's first baseline and the difference to it; empty without one."""
    for row, found in score.get("differences", {}).items():
        low, high = found["interval"] or (None, None)
        interval = None if low is None or high is None else (float(low), float(high))
        theirs = number_in(baselines[row][metric], samples=None)
        return f"{row}: {theirs}; {shown_difference(Difference(float(found['mean']), interval))}"
    return ""
