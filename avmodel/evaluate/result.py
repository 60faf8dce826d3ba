"""The result of a task, results.json: scores, baselines, data, settings and seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from avmanifest.errors import StorageError
from avmanifest.files import replace_text
from avmanifest.secrets import shown_content

RESULTS_FILE = "results.json"
RESULTS_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric over the seeds."""

    mean: float
    spread: float  # sample standard deviation; 0 for one seed
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a task. Its rows are the heads, streams or directions that are compared, and the baselines."""

    task: str
    headline: tuple[str, str]  # row and metric that `line` quotes
    unit: str  # of the headline: %, or none
    scores: Mapping[str, Mapping[str, Score]]  # row -> metric
    baselines: Mapping[str, Mapping[str, Score]]  # name of a row -> metric
    mode: str  # how the modalities were used: finetuned-audio-visual, ...
    view: Mapping[str, Any]  # profile, window, number of windows and frames
    data: Mapping[str, Any]  # splits, subset ids, numbers of samples
    checkpoint: Mapping[str, Any]
    settings: Mapping[str, Any]
    seeds: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()  # leaks, other labels, skipped classes
    extra: Mapping[str, Any] = field(default_factory=dict)  # of the task: ranks, curves, confusions

    def line(self) -> str:
        """One line for a paper: the score, its spread, the task, data and checkpoint."""
        row, metric = self.headline
        score = self.scores[row][metric]
        spread = f" ± {score.spread:.1f}" if len(score.values) > 1 else ""
        unit = f" {self.unit}" if self.unit else ""
        test = self.data["test"]
        where = f" where {test['where']!r}" if test.get("where") else ""
        source = str(self.checkpoint.get("sha256", ""))[:12]
        return (
            f"{self.task}, {self.mode}: {metric} {score.mean:.1f}{spread}{unit} ({row}; "
            f"{test['split']}, subset {test['subset_id']}{where}, n = {test['samples']:,}; "
            f"{self.view['windows']} window(s) of {self.view['window']}, {self._frames()}; {len(self.seeds)} seed(s); "
            f"checkpoint {source}; avkit {version('avkit')})" + (f" [{'; '.join(self.notes)}]" if self.notes else "")
        )

    def _frames(self) -> str:
        """The frames of a clip that were used, and how each became square."""
        count, fit = self.view.get("frames", 1), self.view.get("fit")
        which = "the middle frame" if count == 1 else f"{count} frames"
        return f"{which} ({fit})" if fit else which

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data; NaN and infinity are None."""
        rows = {
            kind: {row: {name: plain_score(score) for name, score in metrics.items()} for row, metrics in table.items()}
            for kind, table in (("scores", self.scores), ("baselines", self.baselines))
        }
        return {
            "results_version": RESULTS_VERSION,
            "task": self.task,
            "headline": {"row": self.headline[0], "metric": self.headline[1]},
            **rows,
            "mode": self.mode,
            "view": dict(self.view),
            "data": dict(self.data),
            "checkpoint": dict(self.checkpoint),
            "settings": dict(self.settings),
            "seeds": list(self.seeds),
            "notes": list(self.notes),
            "line": self.line(),
            "avkit": version("avkit"),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.extra,
        }


def plain_score(score: Score) -> dict[str, Any]:
    """The score as plain data; NaN and infinity are None."""
    mean, spread, *values = (v if math.isfinite(v) else None for v in (score.mean, score.spread, *score.values))
    return {"mean": mean, "spread": spread, "values": values}


def scored(runs: list[Mapping[str, float]]) -> dict[str, Score]:
    """Scores by metric, from those of each seed."""
    found = {}
    for name in runs[0]:
        values = tuple(float(run[name]) for run in runs)
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
        found[name] = Score(mean=mean, spread=math.sqrt(variance), values=values)
    return found


def score_rows(runs: Sequence[Mapping[str, Mapping[str, float]]], prefix: str = "") -> dict[str, dict[str, Score]]:
    """Scores by row and metric, from the rows of each seed's run; empty without runs. `prefix` is put before rows."""
    return {prefix + row: scored([run[row] for run in runs]) for row in (runs[0] if runs else ())}


def write_result(result: Result, folder: Path) -> Path:
    """Write results.json, whole or not at all. Raises StorageError if it can't be written."""
    path = folder / RESULTS_FILE
    try:
        replace_text(path, json.dumps(shown_content(result.as_dict()), indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise StorageError(f"{path}: not written ({error.strerror}). Free space, or give another --out.") from error
    return path
