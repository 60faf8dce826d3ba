"""The training of a classifier: all of a pretrained model and linear heads, and their predictions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from avdata.load import Batch, ClipView
from avmanifest.errors import ConfigError, ShardError
from avmanifest.wording import counted
from avmodel.augment import augment, num_augment_draws
from avmodel.bootstrap import Sampled
from avmodel.distributed import World
from avmodel.evaluate.class_scores import class_scores
from avmodel.evaluate.data import Split, one_view, ordered_loader, varied_view
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.features import eval_inputs, gathered_parts, label_matrix
from avmodel.evaluate.finetune.classifier import (
    Classifier,
    freeze_unused,
    load_classifier,
    require_joint,
    save_classifier,
)
from avmodel.evaluate.finetune.config import FinetuneConfig
from avmodel.evaluate.finetune.mixup import mixed_batch, paired
from avmodel.evaluate.heads import ALL, class_weights, classification_loss, label_shares
from avmodel.evaluate.loaded import with_settings
from avmodel.evaluate.training import Training, tuned_optimizer
from avmodel.evaluate.training import train as train_module
from avmodel.fit import Moment
from avmodel.inputs import reading_notes
from avmodel.metrics import JsonLines
from avmodel.precision import autocast

MIXUP, MIXED, AUGMENT = 1, 3, 5  # ids of random number sequences
# Settings that training doesn't know.
TEST_ONLY = ("missing", "average", "test_every", "data.windows", "data.frames", "data.test_labels")


def trained(config: FinetuneConfig, run: Evaluation, train: Split, test: Split, seed: int, folder: Path) -> Classifier:
    """The classifier after all epochs, in evaluation mode; see `avmodel.evaluate.training.train`."""
    world, multi_label = run.world, train.multi_label
    view = replace(varied_view(config, run.loaded), waveform=config.mixup_of == "waveform")
    shares = label_shares(label_matrix(train.dataset)).to(world.device)
    weights = class_weights(shares) if config.class_weights == "inverse-share" else None
    if weights is not None and not multi_label:
        raise ConfigError(
            f"class_weights={config.class_weights}: in {train.name} each sample has one label, whose loss is one "
            "number over all classes. Set class_weights=none."
        )
    smoothing = config.multi_label_smoothing if multi_label else config.smoothing

    def build() -> Classifier:
        model = with_settings(run.loaded, drop_path=config.drop_path).model
        classifier = Classifier(
            model,
            len(train.dataset.classes),
            config.data.mode,
            multi_label=multi_label,
            heads=config.heads,
            head_norm=config.head_norm,
            mixed=config.mixed,
            head_streams=config.head_streams,
        ).to(world.device)
        require_joint(config, model)
        if config.prior_bias:
            classifier.heads.start_from_shares(shares)
        freeze_unused(classifier)
        return classifier

    def loss(forward: nn.Module, batch: Batch, moment: Moment) -> Float[Tensor, ""]:
        pairing = paired(len(batch), config.mixup, config.mixup_probability, moment.chance(MIXUP))
        (image, log_mel), targets = mixed_batch(batch, world.device, pairing, config.mixup_of)
        draws = moment.chance(AUGMENT).random((len(batch), num_augment_draws(config.augment)))
        log_mel = augment(log_mel, config.augment, torch.from_numpy(draws))
        with autocast(config.precision, world.device):
            logits = forward(image, log_mel, step_modality(config, seed, moment.step))[ALL].float()
        return classification_loss(logits, targets, multi_label=multi_label, smoothing=smoothing, weights=weights)

    def save(classifier: Classifier, done: int, state: Mapping[str, Any]) -> None:
        save_classifier(folder, classifier, train.dataset.classes, done, state, reading_notes(view))

    def test_now(classifier: Classifier, epoch: int, done: int) -> None:
        if config.test_every is not None and epoch % config.test_every == 0 and epoch < config.epochs:
            logits = predict(config, classifier, run, test, one_view(config.data, run.loaded))
            report(logits, test, done, folder, world)

    training = Training(
        name="fine-tuning",
        view=view,
        build=build,
        optimizer=lambda classifier: finetune_optimizer(classifier, config),
        loss=loss,
        save=save,
        load=lambda classifier, path: classifier.load_state_dict(load_classifier(path, world.device)[0].state_dict()),
        test_only=TEST_ONLY,
        splits={"train": train, "test": test},
        class_balanced=config.class_balanced,
        averaged_epochs=config.averaged_epochs,
        parts=config.mixed,
        after_epoch=test_now,
    )
    return train_module(config, run, training, seed, folder)


def finetune_optimizer(classifier: Classifier, config: FinetuneConfig) -> torch.optim.Optimizer:
    """The optimizer, whose rates fall from the heads down, layer by layer; heads and joint layers have factors."""
    scaled = {} if config.joint_lr == 1 else dict.fromkeys(classifier.model.joint_names, config.joint_lr)
    return tuned_optimizer(classifier.model, classifier.heads, config.optim, head_scale=config.head_lr, scaled=scaled)


def step_modality(config: FinetuneConfig, seed: int, step: int) -> str | None:
    """The only modality that a step of mixed fine-tuning uses; None: both. The same on all processes."""
    if not config.mixed:
        return None
    draw = np.random.default_rng([seed, MIXED, step]).random()
    return None if draw > 0.5 else "audio" if draw < 0.25 else "image"


def predict(
    config: FinetuneConfig,
    classifier: Classifier,
    run: Evaluation,
    test: Split,
    view: ClipView,
    *,
    mode: str | None = None,
) -> dict[str, Float[Tensor, "n c"]]:
    """Logits, or probabilities, of each test sample, in the dataset's order, averaged over its windows or frames."""
    world = run.world
    size = max(config.feature_batch_size // (view.num_images or 1), 1)
    loader = ordered_loader(config.data, test, view, world, batch_size=size, seed=0)

    @torch.no_grad()
    def logits_of(batch: Batch) -> dict[str, Float[Tensor, "b c"]]:
        with autocast(config.precision, world.device):
            logits = classifier(*eval_inputs(batch, world.device), mode)
        scores = {row: x.float() for row, x in logits.items()}
        if config.average == "probabilities":
            scores = {row: classifier.probabilities(x) for row, x in scores.items()}
        elif config.average == "sigmoids":
            scores = {row: x.sigmoid() for row, x in scores.items()}
        return {row: x.reshape(len(batch), -1, x.shape[1]).mean(dim=1) for row, x in scores.items()}

    was_training = classifier.training
    classifier.eval()
    found = gathered_parts(loader, world, logits_of)
    classifier.train(was_training)
    if missing := len(test.dataset) - len(found.pop("index")):
        damaged = counted(missing, "sample is", "samples are")
        raise ShardError(f"{test.name}: {damaged} damaged. Leave them out, or repair.")
    return found


def scores_of(
    logits: Mapping[str, Float[Tensor, "n c"]],
    labels: Bool[Tensor, "n c"],
    has_label: Bool[Tensor, " n"],
    *,
    multi_label: bool,
) -> dict[str, dict[str, Sampled]]:
    """Scores of each row over the samples that have a class."""
    return {row: class_scores(x[has_label], labels[has_label], multi_label=multi_label) for row, x in logits.items()}


def report(logits: Mapping[str, Float[Tensor, "n c"]], test: Split, done: int, folder: Path, world: World) -> None:
    """A line of tests.jsonl with what one window of each test clip gives, the number of clips, and 95 % intervals."""
    if not world.is_main:
        return
    labels = label_matrix(test.dataset)
    scores = scores_of(logits, labels, labels.any(dim=1), multi_label=test.multi_label)
    log = JsonLines(folder / "tests.jsonl", last_step=done - 1)
    found = {f"{row}.{name}": score for row, metrics in scores.items() for name, score in metrics.items()}
    intervals = {name: score.interval() for name, score in found.items()}
    log.write(
        {"step": done, "n": int(labels.any(dim=1).sum()), **{name: score.value for name, score in found.items()}}
        | {"intervals": {name: list(interval) for name, interval in intervals.items() if interval}}
    )
    log.close()
