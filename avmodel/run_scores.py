"""The scores of a run's evaluations, as their files of results have them. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from avmanifest.errors import ManifestError
from avmanifest.parsing import read_json
from avmodel.evaluate.places import EVALUATIONS
from avmodel.evaluate.result import RESULTS_FILE
from avmodel.reproduce.report import Number

_ADVICE: Final = "Evaluate again, or remove the file."


@dataclass(frozen=True, slots=True)
class RunScore:
    """A metric of one row of a task's result."""

    task: str
    row: str
    metric: str
    number: Number
    is_headline: bool = False

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
        RunScore(task, row, metric, _number(score, samples), (row, metric) == headline)
        for row, metrics in result["scores"].items()
        for metric, score in metrics.items()
    ]
    return sorted(found, key=lambda one: not one.is_headline)


def _number(score: Mapping[str, Any], samples: int | None) -> Number:
    low, high = score.get("interval") or (None, None)
    return Number(
        value=math.nan if score["mean"] is None else float(score["mean"]),
        spread=float(score["spread"]) if len(score.get("values", ())) > 1 else None,
        interval=None if low is None or high is None else (float(low), float(high)),
        samples=None if samples is None else int(samples),
    )
