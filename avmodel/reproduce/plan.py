"""The commands that give the numbers of chosen rows, in order: prepare, pretrain, evaluate, bench."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from avmanifest.errors import ConfigError
from avmanifest.layout import Layout
from avmanifest.names import unknown_name
from avmanifest.settings import override
from avmodel.configs.run import RunConfig
from avmodel.evaluate.result import RESULTS_FILE
from avmodel.evaluate.tasks import task_config
from avmodel.models import family_of
from avmodel.presets import run_config
from avmodel.reproduce.paper import Evaluation, Model, Paper, Source, Table, Tiny, read_tiny

TINY, PAPER = "tiny", "paper"
SCALES: Final = (TINY, PAPER)
DRAWN: Final = "drawn"  # the dataset that stands for all at the scale tiny
_VIDEOS: Final = re.compile(r"(?:local|wds|http):|youtube$")  # begins a --source of prepare
_REMOTE: Final = re.compile(r"[a-z0-9]+://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command."""

    name: str  # such as pretrain/deepavfusion
    words: tuple[str, ...]  # of the command, after avkit
    out: Path  # the folder that it fills, or the file that gets what it prints
    evaluation: str = ""
    model: str = ""

    @property
    def command(self) -> str:
        """The command as it is typed."""
        return shlex.join(("avkit", *self.words))

    @property
    def is_printed(self) -> bool:
        """Whether its result is what it prints."""
        return self.words[0] == "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run for the chosen rows of a paper, and where."""

    paper: Paper
    scale: str
    tables: tuple[Table, ...]
    folder: Path  # of this paper
    steps: tuple[Step, ...]
    missing: tuple[str, ...]  # what has to be given before the commands can be run, a sentence each


class Places:
    """Where the results of a paper's commands are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, model: str) -> Path:
        """The folder of a model's run."""
        return self.folder / "runs" / model

    def evaluation(self, model: str, evaluation: str) -> Path:
        """The folder of an evaluation of that run."""
        return self.run(model) / "evaluations" / evaluation

    def results(self, model: str, evaluation: str) -> Path:
        """The evaluation's results.json."""
        return self.evaluation(model, evaluation) / RESULTS_FILE

    def bench(self, name: str) -> Path:
        """The lines that a benchmark printed."""
        return self.folder / "bench" / f"{name}.jsonl"


def make_plan(
    paper: Paper, tables: Sequence[Table], scale: str, out: Path, data: Mapping[str, str] | None = None
) -> Plan:
    """The commands of these tables' rows, each once.

    Args:
        paper: The paper.
        tables: Of its tables those to run, with the rows to run: `paper.chosen`.
        scale: One of SCALES. tiny: drawn videos and small models; paper: as published.
        out: Folder of everything that is made, in out/PAPER; the drawn dataset is in out/data, for all papers.
        data: At the scale paper where each dataset is: the folder or URL of a prepared one, or a `--source` of
            `avkit prepare`, such as local:videos.

    Raises:
        ConfigError: For an unknown scale, or data that the paper or the scale doesn't take.
    """
    if scale not in SCALES:
        raise ConfigError(unknown_name("scale", scale, SCALES))
    given = dict(data or {})
    if given and scale == TINY:
        raise ConfigError("--data: the scale tiny draws its videos. Leave it out, or give --scale paper.")
    if unknown := [name for name in given if name not in paper.data]:
        raise ConfigError(f"--data {unknown[0]}: not a dataset of {paper.name}; known: {', '.join(paper.data)}")
    builder = _Builder(paper, scale, out, given)
    for table in tables:
        for row in table.rows:
            if not table.columns:
                builder.pretrain(row.model)
            for source in (*row.sources, *(Source(evaluate=name) for name in row.also)):
                builder.add(row.model, source)
    steps = (*builder.prepared.values(), *builder.steps.values())
    return Plan(
        paper=paper,
        scale=scale,
        tables=tuple(tables),
        folder=out / paper.name,
        steps=steps,
        missing=tuple(dict.fromkeys(builder.missing)),
    )


class _Builder:
    """Collects the steps of a plan."""

    def __init__(self, paper: Paper, scale: str, out: Path, given: Mapping[str, str]) -> None:
        self.paper, self.scale, self.out, self.given = paper, scale, out, given
        self.places = Places(out / paper.name)
        self.tiny: Tiny | None = read_tiny() if scale == TINY else None
        self.prepared: dict[str, Step] = {}
        self.steps: dict[str, Step] = {}
        self.missing: list[str] = []

    def add(self, model: str, source: Source) -> None:
        """The commands that a number needs."""
        if source.cannot or source.setting:
            return
        if source.bench:
            self._bench(source.bench)
        elif source.measure != "parameters_m":
            self.pretrain(model)
            if source.evaluate:
                self._evaluate(model, source.evaluate)

    def pretrain(self, name: str) -> None:
        """The command that trains the model."""
        model = self.paper.models[name]
        config, settings = pretrain_config(name, model, self.tiny)
        datasets = [word for each in model.data for word in ("--data", self._data(each))]
        if self.tiny is not None:  # all data are one
            datasets = datasets[:2]
        self._require_weights(config)
        out = self.places.run(name)
        words = ("pretrain", model.preset or name, *datasets, *_set(settings), "--out", str(out))
        self._step(Step(name=f"pretrain/{name}", words=words, out=out, model=name))

    def _evaluate(self, model: str, name: str) -> None:
        evaluation = self.paper.evaluations[name]
        out = self.places.evaluation(model, name)
        settings = evaluate_settings(evaluation, self.tiny)
        config = override(task_config(evaluation.task, evaluation.preset or None), settings)
        boxes = getattr(config, "boxes", None)
        if boxes is not None and not Path(boxes).is_dir():
            self.missing.append(
                f"{boxes}: no such folder of annotations, which {evaluation.data} has beside its videos"
            )
        words = (
            *("evaluate", evaluation.task, str(self.places.run(model)), "--data", self._data(evaluation.data)),
            *(("--train", self._data(evaluation.train)) if evaluation.train else ()),
            *(("--preset", evaluation.preset) if evaluation.preset else ()),
            *_set(settings),
            *("--out", str(out)),
        )
        self._step(Step(name=f"evaluate/{model}/{name}", words=words, out=out, model=model, evaluation=name))

    def _bench(self, name: str) -> None:
        more = self.tiny.bench.get(name, ()) if self.tiny is not None else ()
        words = ("bench", *self.paper.benches[name].command, *more, "--json")
        self._step(Step(name=f"bench/{name}", words=words, out=self.places.bench(name)))

    def _step(self, step: Step) -> None:
        self.steps.setdefault(step.name, step)

    def _data(self, name: str) -> str:
        """Where the dataset is, with the command that makes it, or what has to be given."""
        if self.tiny is not None:
            return self._prepare(DRAWN, self.tiny.prepare)
        place, data = self.given.get(name), self.paper.data[name]
        recipe = (data.recipe, *data.options)
        if place is None:
            self.missing.append(
                f"--data {name}=PATH: the folder of the dataset that `{shlex.join(('avkit', 'prepare', *recipe))} "
                f"--source ... --out PATH` makes; or --data {name}=local:VIDEOS, to have it made"
            )
            place = "local:VIDEOS"
        if _VIDEOS.match(place):
            return self._prepare(name, (data.recipe, "--source", place, *data.options))
        if not _REMOTE.match(place) and not Layout(Path(place)).dataset_json.is_file():
            self.missing.append(f"--data {name}={place}: no prepared dataset is there (no dataset.json)")
        return place

    def _prepare(self, name: str, words: Sequence[str]) -> str:
        out = (self.out if self.scale == TINY else self.places.folder) / "data" / name
        step = Step(name=f"prepare/{name}", words=("prepare", *words, "--out", str(out)), out=out)
        self.prepared.setdefault(step.name, step)
        return str(out)

    def _require_weights(self, config: RunConfig) -> None:
        for path in (config.image_weights, config.audio_weights):
            if path is not None and not Path(path).exists():
                self.missing.append(f"{path}: no such file of published weights; docs/reproduce says where it is from")


def pretrain_config(name: str, model: Model, tiny: Tiny | None) -> tuple[RunConfig, tuple[str, ...]]:
    """The config of a model's run, and the settings that make it from its preset.

    Raises ConfigError for a preset or a setting that doesn't exist.
    """
    config = run_config(model.preset or name)
    settings = model.set
    if tiny is not None:
        settings += tiny.pretrain["all"] + tiny.pretrain.get(family_of(config.model), ())
    return override(config, settings), settings


def evaluate_settings(evaluation: Evaluation, tiny: Tiny | None) -> tuple[str, ...]:
    """The settings of an evaluation beside its preset."""
    changes = () if tiny is None else tiny.evaluate["all"] + tiny.evaluate.get(evaluation.task, ())
    return evaluation.set + changes


def _set(settings: Sequence[str]) -> Iterator[str]:
    return (word for setting in settings for word in ("--set", setting))
