"""Linear probe: what a linear classifier reads out of frozen features."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from timm.optim.lars import Lars
from torch import Tensor

from avmanifest.wording import counted
from avmodel.bootstrap import Sampled
from avmodel.configs.optim import REFERENCE_BATCH
from avmodel.evaluate.class_scores import class_report, class_scores, trivial_baselines
from avmodel.evaluate.data import Split, label_notes, one_view, open_splits, scoring_view, varied_view
from avmodel.evaluate.evaluation import Evaluation, describe_view, labeled_samples, seeded
from avmodel.evaluate.features import Features, label_matrix
from avmodel.evaluate.finetune.classifier import streams_with_heads
from avmodel.evaluate.heads import ALL, Heads, classification_loss, heads_note
from avmodel.evaluate.linear_probe.config import FEW_CLIPS_PRESET, LinearProbeConfig
from avmodel.evaluate.result import Result, tables
from avmodel.optim import schedule

LARS_MOMENTUM, LARS_TRUST = 0.9, 1e-3
STEPS_ORDER = 1  # stream of the heads' shuffles


class Probed(NamedTuple):
    """One seed's test logits by row, and the truth."""

    logits: dict[str, Float[Tensor, "n c"]]
    labels: Bool[Tensor, "n c"]

    def scores(self, *, multi_label: bool) -> dict[str, dict[str, Sampled]]:
        return {row: class_scores(x, self.labels, multi_label=multi_label) for row, x in self.logits.items()}


def linear_probe(config: LinearProbeConfig, run: Evaluation) -> Result:
    """Train heads on the frozen features of the training split, score them on the test split.

    The prediction of several windows is the mean of their logits; the heads being affine, that is the logits of the
    mean feature. Raises as `open_splits` and `streams_with_heads`.
    """
    train, test = open_splits(config.data, run.test, run.train)
    probes = [probe(config, run, train, test, seed) for seed in config.seeds]
    runs = [probed.scores(multi_label=test.multi_label) for probed in probes]
    seen_as = scoring_view(config.data, run.loaded)
    labels = probes[0].labels
    trivial = trivial_baselines(label_matrix(train.dataset), labels, multi_label=test.multi_label)
    random_runs = [
        probe(config, one, train, test, seed).scores(multi_label=test.multi_label)
        for one, seed, _ in run.with_random_weights(config)
    ]
    return run.result(
        config,
        task="linear probe",
        headline=(ALL, "map" if test.multi_label else "accuracy"),
        **tables(runs, trivial, random_runs),
        mode=f"frozen, {config.data.mode}{heads_note(config.head_streams)}",
        view=describe_view(seen_as),
        data={"train": train.described(), "test": test.described()},
        notes=(*train.notes, *test.notes, *label_notes(train, test), *few_steps(config, len(train.dataset))),
        extra=class_report(probes[0].logits[ALL], labels, test.dataset.classes, multi_label=test.multi_label),
    )


def few_steps(config: LinearProbeConfig, samples: int) -> tuple[str, ...]:
    """A note if the heads take so few steps on this many samples that they hardly leave their random start."""
    steps = config.few_steps(samples)
    if steps is None:
        return ()
    few = f"the heads took only {counted(steps, 'step')} on {counted(samples, 'training clip')}"
    return (f"{few}: --preset {FEW_CLIPS_PRESET} says more",)


def probe(config: LinearProbeConfig, run: Evaluation, train: Split, test: Split, seed: int) -> Probed:
    """Heads trained from one seed, and their test logits."""
    data, loaded = config.data, run.loaded
    if config.train_views:
        view = varied_view(config, loaded)
        views = [labeled_samples(run.features(config, train, view, epoch=epoch)) for epoch in range(config.train_views)]
    else:
        views = [labeled_samples(run.features(config, train, one_view(data, loaded)))]
    streams = streams_with_heads(loaded.model, data.mode, config.head_streams)
    views = [Features(x.keys, {name: x.values[name] for name in streams}, x.labels) for x in views]
    tested = labeled_samples(run.features(config, test, scoring_view(data, loaded)))
    heads = train_heads(config, views, seed, multi_label=train.multi_label, device=run.world.device)
    with torch.no_grad():
        logits = heads.eval().cpu()(tested.values)
    return Probed(logits, tested.labels)


def train_heads(
    config: LinearProbeConfig, views: Sequence[Features], seed: int, *, multi_label: bool, device: torch.device
) -> Heads:
    """Heads after all epochs, or of lbfgs, those whose loss over all views is least."""
    first = views[0]
    torch.manual_seed(seed)
    heads = Heads({name: x.shape[1] for name, x in first.values.items()}, first.labels.shape[1], normalize=True).to(
        device
    )
    if config.optimizer == "lbfgs":
        solve(config, heads, views, multi_label=multi_label, device=device)
    else:
        take_steps(config, heads, views, seed, multi_label=multi_label, device=device)
    return heads


def take_steps(
    config: LinearProbeConfig,
    heads: Heads,
    views: Sequence[Features],
    seed: int,
    *,
    multi_label: bool,
    device: torch.device,
) -> None:
    """Train the heads: epoch e takes view e of the samples, in an order drawn from (seed, e)."""
    size = min(config.batch_size, len(views[0]))
    optimizer = make_heads_optimizer(config, heads)
    steps = config.epochs * (len(views[0]) // size)
    peak = config.base_lr * size / REFERENCE_BATCH
    done = 0
    for epoch in range(config.epochs):
        view = views[epoch % len(views)]
        order = torch.randperm(len(view), generator=seeded(seed, STEPS_ORDER, epoch))
        for rows in torch.split(order[: len(view) // size * size], size):
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(done / steps, config.warmup, config.drops)
            logits = heads({name: x[rows].to(device) for name, x in view.values.items()})
            loss = heads_loss(config, logits, view.labels[rows].to(device), multi_label=multi_label)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            done += 1


def solve(
    config: LinearProbeConfig, heads: Heads, views: Sequence[Features], *, multi_label: bool, device: torch.device
) -> None:
    """Minimize the loss over all views, plus weight_decay / 2 times the squared norm of the weights, by L-BFGS.

    The batch norms become the mean and deviation of each feature over all views.
    """
    values = {name: torch.cat([view.values[name] for view in views]).to(device) for name in views[0].values}
    labels = torch.cat([view.labels for view in views]).to(device)
    for name, x in values.items():
        norm = heads.norms[name]
        assert isinstance(norm, torch.nn.BatchNorm1d)
        norm.momentum = None  # the running statistics are then those of all that was seen
        norm(x)
    heads.eval()
    weights = [p for p in heads.parameters() if p.ndim > 1]
    optimizer = torch.optim.LBFGS(heads.parameters(), max_iter=config.epochs, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        penalty = torch.stack([weight.square().sum() for weight in weights]).sum() * config.weight_decay / 2
        loss = heads_loss(config, heads(values), labels, multi_label=multi_label) + penalty
        torch.autograd.backward(loss)
        return loss.item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def heads_loss(
    config: LinearProbeConfig,
    logits: Mapping[str, Float[Tensor, "b c"]],
    labels: Bool[Tensor, "b c"],
    *,
    multi_label: bool,
) -> Float[Tensor, ""]:
    """What is minimized, without weight decay: the loss of the mean of the logits, or the sum of all heads' losses."""
    minimized = [ALL] if config.head_loss == "mean" else [name for name in logits if name != ALL]
    losses = [
        classification_loss(logits[name], labels.float(), multi_label=multi_label, smoothing=config.smoothing)
        for name in minimized
    ]
    return torch.stack(losses).sum()


def make_heads_optimizer(config: LinearProbeConfig, heads: Heads) -> torch.optim.Optimizer:
    """LARS, whose trust ratio leaves biases alone, or AdamW: the optimizers that take steps."""
    weights = [p for p in heads.parameters() if p.ndim > 1]
    biases = [p for p in heads.parameters() if p.ndim == 1]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            [{"params": weights, "weight_decay": config.weight_decay}, {"params": biases, "weight_decay": 0.0}], lr=0.0
        )
    groups = [
        {"params": weights, "weight_decay": config.weight_decay, "always_adapt": True},
        {"params": biases, "weight_decay": 0.0, "always_adapt": False},
    ]
    return Lars(groups, lr=0.0, momentum=LARS_MOMENTUM, trust_coeff=LARS_TRUST)
