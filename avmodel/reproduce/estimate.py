"""Hours and memory of a plan's commands, estimated from the operations and the weights of their models.

An estimate, not a measurement: operations of the encoder by torch's count, at SHARE of the card's matrix rate. The
decoders of segmentation and separation, the heads, loading and tests of single windows are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from avmanifest.errors import ConfigError
from avmanifest.settings import override
from avmodel.costs import count_flop, state_memory_mb
from avmodel.evaluate.tasks import task_config
from avmodel.memory import estimate_memory
from avmodel.reproduce.paper import Paper
from avmodel.reproduce.plan import Step, evaluate_settings, pretrain_config

CARD: Final = "H100"
RATES: Final = {"bfloat16": 989e12, "float32": 67e12}  # operations per second, dense, of the SXM card's data sheet
CARDS: Final = 8  # beside one
SHARE: Final = 0.4  # of that rate that a step reaches
BACKWARD: Final = 3  # operations of a training step over those of its forward pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a command costs."""

    step: Step
    hours: float  # on one card
    state_gb: float  # weights, gradients and the optimizer's moments on each card; 0: not a training

    def hours_on(self, cards: int) -> float:
        """Hours on so many cards, if each does an equal part."""
        return self.hours / cards


def costs_of(paper: Paper, steps: Sequence[Step]) -> Iterator[Cost]:
    """The costs of the pretrainings and evaluations among these steps, as published: at the scale paper."""
    for step in steps:
        if step.words[0] == "pretrain":
            yield _pretraining(paper, step)
        elif step.words[0] == "evaluate":
            yield _evaluation(paper, step)


def card_gb(paper: Paper, step: Step, cards: int) -> float | None:
    """Memory of a pretraining on each of so many cards, with the activations of its micro-step, by an estimate.

    None if its batch doesn't divide among them.
    """
    config, _ = pretrain_config(step.model, paper.models[step.model], None)
    if config.batch_size % cards:
        return None
    return estimate_memory(config, cards).total / 1e9


def _pretraining(paper: Paper, step: Step) -> Cost:
    model = paper.models[step.model]
    config, _ = pretrain_config(step.model, model, None)
    samples = config.data.epoch_samples or sum(paper.data[name].samples for name in model.data)
    total = samples * config.epochs if config.steps is None else config.steps * config.batch_size
    return Cost(
        step=step,
        hours=total * count_flop(config.model) / _rate(config.precision) / 3600,
        state_gb=state_memory_mb(config.model) / 1000,
    )


def _evaluation(paper: Paper, step: Step) -> Cost:
    """Passes over the training clips, trained or encoded once a view, and twice where random weights are evaluated."""
    evaluation = paper.evaluations[step.evaluation]
    model, _ = pretrain_config(step.model, paper.models[step.model], None)
    config: Any = override(task_config(evaluation.task, evaluation.preset or None), evaluate_settings(evaluation, None))
    samples = evaluation.samples or paper.data[evaluation.train or evaluation.data].samples
    trains = hasattr(config, "optim") and getattr(config, "supervised", True) and getattr(config, "tuned", True)
    repeats = getattr(config, "repeats", 1)
    passes = BACKWARD * config.epochs * repeats if trains else getattr(config, "train_views", 1)
    times = len(config.seeds) if trains else 1
    times += times if config.random_weights else 0
    flop = passes * times * samples * count_flop(model.model, encode=True)
    return Cost(
        step=step,
        hours=flop / _rate(config.precision) / 3600,
        state_gb=state_memory_mb(model.model) / 1000 if trains else 0.0,
    )


def _rate(precision: str) -> float:
    name = "bfloat16" if precision.startswith("bfloat16") or precision == "float16" else "float32"
    if precision not in (name, "bfloat16-residual", "float16"):
        raise ConfigError(f"no rate is known for precision {precision!r}; known: {', '.join(RATES)}")
    return SHARE * RATES[name]
