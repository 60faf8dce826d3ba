"""The result of a task, results.json: scores, baselines, data, settings and seeds."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from avmanifest.files import replace_text, write_errors
from avmanifest.secrets import shown_content
from avmanifest.wording import counted
from avmodel.bootstrap import Difference, Interval, Sampled, difference, over_seeds, shown_interval

RESULTS_FILE = "results.json"
RESULTS_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric over the seeds."""

    mean: float
    spread: float  # sample standard deviation; 0 for one seed
    values: tuple[float, ...]
    interval: Interval | None = None  # of 95 %, over what was tested and, if there are several, the seeds
    samples: int | None = None  # units that were scored, of the kind `Result.units`; None: a constant or a count
    differences: Mapping[str, Difference] = field(default_factory=dict)  # to baselines, by row
    sampled: Sampled | None = field(default=None, repr=False, compare=False)  # the score in all resamples

    @property
    def noise(self) -> tuple[str, ...]:
        """The baselines that the test does not tell the score from."""
        return tuple(row for row, found in self.differences.items() if found.within_noise)


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
    units: str = "clip"  # what the intervals draw again: clip, or mixture
    files: tuple[str, ...] = ()  # names below the result's folder of what was written
    rule: str = ""  # the headline's, of `avmodel.evaluate.tasks.TASKS`
    said: str = ""  # what `line` has in place of a score, of a task without one

    def line(self) -> str:
        """One line for a paper: the score, its interval and baseline, the task, data and checkpoint."""
        row, metric = self.headline
        score = self.scores[row][metric]
        unit = f" {self.unit}" if self.unit else ""
        test = self.data["test"]
        where = f" where {test['where']!r}" if test.get("where") else ""
        source = str(self.checkpoint.get("sha256", ""))[:12]
        count = test["samples"] if score.samples is None else score.samples
        quoted = self.said or f"{metric} {shown_score(score, unit=unit)}"
        return (
            f"{self.task}, {self.mode}: {quoted} ({'' if self.said else f'{row}; '}"
            f"{test['split']}, subset {test['subset_id']}{where}, n = {count:,}; {self._compared(score)}"
            f"{counted(self.view['windows'], 'window')} of {self.view['window']}, {self._frames()}; "
            f"{counted(len(self.seeds), 'seed')}; "
            f"checkpoint {source}; avkit {version('avkit')})" + (f" [{'; '.join(self.notes)}]" if self.notes else "")
        )

    def _compared(self, score: Score) -> str:
        """The headline's first baseline, and whether the test tells the two apart."""
        row, metric = next(iter(score.differences), None), self.headline[1]
        if row is None:
            return ""
        return f"{row}: {shown_score(self.baselines[row][metric])}, {shown_difference(score.differences[row])}; "

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
            "headline": {"row": self.headline[0], "metric": self.headline[1], "rule": self.rule},
            **rows,
            "mode": self.mode,
            "view": dict(self.view),
            "data": dict(self.data),
            "checkpoint": dict(self.checkpoint),
            "settings": dict(self.settings),
            "seeds": list(self.seeds),
            "notes": list(self.notes),
            "line": self.line(),
            "files": list(self.files),
            "avkit": version("avkit"),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.extra,
        }


def shown_score(score: Score, *, unit: str = "", digits: int = 1) -> str:
    """The score with its spread over seeds and its interval, such as `86.3 ± 0.4 % [82.0, 90.0]`."""
    spread = f" ± {score.spread:.{digits}f}" if len(score.values) > 1 else ""
    return f"{score.mean:.{digits}f}{spread}{unit}{shown_interval(score.interval, digits=digits)}"


def shown_difference(found: Difference, *, digits: int = 1) -> str:
    """The difference to a baseline, and whether it is noise, such as `difference +5.3 [+1.7, +9.0]`."""
    said = f"difference {found.value:+.{digits}f}{shown_interval(found.interval, digits=digits, sign='+')}"
    return f"{said}, within noise" if found.within_noise else said


def plain_score(score: Score) -> dict[str, Any]:
    """The score as plain data; NaN and infinity are None. `n`, `interval` and `differences` as `Score` has them."""
    mean, spread, *values = (v if math.isfinite(v) else None for v in (score.mean, score.spread, *score.values))
    plain: dict[str, Any] = {"mean": mean, "spread": spread, "values": values}
    if score.samples is not None:
        plain |= {"n": score.samples, "interval": None if score.interval is None else list(score.interval)}
    if score.differences:
        plain["differences"] = {
            row: {
                "mean": found.value,
                "interval": None if found.interval is None else list(found.interval),
                "within_noise": found.within_noise,
            }
            for row, found in score.differences.items()
        }
    return plain


Scores = Mapping[str, Sampled]  # of one run, by metric


def scored(runs: Sequence[Scores], *, stream: int = 0) -> dict[str, Score]:
    """Scores by metric, from those of each seed. `stream`: see `over_seeds`."""
    found = {}
    for name in runs[0]:
        whole = over_seeds([run[name] for run in runs], stream=stream)
        values = tuple(float(run[name].value) for run in runs)
        variance = sum((value - whole.value) ** 2 for value in values) / max(len(values) - 1, 1)
        found[name] = Score(
            mean=float(whole.value),
            spread=math.sqrt(variance),
            values=values,
            interval=whole.interval(),
            samples=None if whole.draws is None else whole.units,
            sampled=whole,
        )
    return found


def score_rows(
    runs: Sequence[Mapping[str, Scores]], prefix: str = "", *, stream: int = 0
) -> dict[str, dict[str, Score]]:
    """Scores by row and metric, from the rows of each seed's run; empty without runs. `prefix` is put before rows."""
    return {prefix + row: scored([run[row] for run in runs], stream=stream) for row in (runs[0] if runs else ())}


RANDOM_PREFIX = "random weights, "
RANDOM_STREAM = 1  # random weights are other runs than the model's


def compared(
    scores: Mapping[str, Mapping[str, Score]],
    baselines: Mapping[str, Mapping[str, Score]],
    pairs: Callable[[str, str], bool],
) -> dict[str, dict[str, Score]]:
    """The scores with their paired differences to baselines.

    Args:
        scores: By row and metric.
        baselines: The same; the first one of a row that `pairs` is the one that the result's line quotes.
        pairs: Whether a row of scores is compared with a row of baselines.
    """
    return {
        row: {
            metric: replace(score, differences=dict(_differences(row, metric, score, baselines, pairs)))
            for metric, score in metrics.items()
        }
        for row, metrics in scores.items()
    }


def _differences(
    row: str,
    metric: str,
    score: Score,
    baselines: Mapping[str, Mapping[str, Score]],
    pairs: Callable[[str, str], bool],
) -> Iterator[tuple[str, Difference]]:
    for other, metrics in baselines.items():
        theirs = metrics.get(metric)
        if theirs is None or score.sampled is None or theirs.sampled is None or not pairs(row, other):
            continue
        if (score.samples is not None) and (found := difference(score.sampled, theirs.sampled)) is not None:
            yield other, found


def tables(
    runs: Sequence[Mapping[str, Scores]],
    trivial: Mapping[str, Scores],
    random_runs: Sequence[Mapping[str, Scores]],
    pairs: Callable[[str, str], bool] | None = None,
) -> dict[str, dict[str, dict[str, Score]]]:
    """`scores` and `baselines` of a Result, from the rows of each seed's run, compared.

    Args:
        runs: Of the model.
        trivial: Rows of baselines without a model.
        random_runs: As `runs`, of random weights; their rows get the prefix RANDOM_PREFIX.
        pairs: Which row of the model is compared with which trivial row; None: each with all. With the same row of
            random weights each is.
    """
    drawn = score_rows(random_runs, RANDOM_PREFIX, stream=RANDOM_STREAM)
    plain = score_rows([trivial])

    def paired(row: str, other: str) -> bool:
        return other == RANDOM_PREFIX + row if other in drawn else pairs is None or pairs(row, other)

    scores = score_rows(runs)
    return {"scores": compared(scores, drawn | plain, paired), "baselines": plain | drawn}


def write_result(result: Result, folder: Path) -> Path:
    """Write results.json, whole or not at all. Raises StorageError if it can't be written."""
    path = folder / RESULTS_FILE
    with write_errors(path):
        replace_text(path, json.dumps(shown_content(result.as_dict()), indent=1, ensure_ascii=False) + "\n")
    return path
