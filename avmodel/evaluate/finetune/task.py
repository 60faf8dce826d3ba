"""Fine-tuning: the encoder and linear heads trained together, tested over several windows, or frames, of each clip."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from avmanifest.errors import ConfigError
from avmanifest.wording import counted
from avmodel.evaluate.class_scores import class_report, class_scores, trivial_baselines
from avmodel.evaluate.config import MODES
from avmodel.evaluate.data import (
    Split,
    label_notes,
    only_labeled,
    open_split,
    open_splits,
    relabeled,
    scoring_view,
)
from avmodel.evaluate.evaluation import Evaluation, describe_view
from avmodel.evaluate.features import label_matrix
from avmodel.evaluate.finetune.classifier import Classifier, load_classifier, streams_with_heads
from avmodel.evaluate.finetune.config import FinetuneConfig
from avmodel.evaluate.finetune.training import predict, scores_of, trained
from avmodel.evaluate.heads import ALL, heads_note
from avmodel.evaluate.result import Result, tables
from avmodel.precision import require_precision


def finetune(config: FinetuneConfig, run: Evaluation) -> Result:
    """Train on the training split, test on the test split, once a seed; without config.train, test alone.

    Raises as `open_splits` and `streams_with_heads`; DivergedError for a loss that isn't finite; without config.train
    as `as_it_is`.
    """
    require_precision(config.precision, run.world.device)
    if not config.train:
        return as_it_is(config, run)
    train, test = open_splits(config.data, run.test, run.train)
    said = label_notes(train, test)
    train = only_labeled(train)  # with several labels a sample, one without any would be none of every class
    labels = label_matrix(test.dataset)
    has_label = labels.any(dim=1)
    if config.head_streams is not None:
        for mode in {config.data.mode, *config.missing, *(MODES[1:] if config.mixed else ())}:
            streams_with_heads(run.loaded.model, mode, config.head_streams)  # refuses what leaves a mode without heads

    def tested(one: Evaluation, seed: int, folder: Path) -> dict[str, Float[Tensor, "n c"]]:
        return predictions(config, trained(config, one, train, test, seed, folder), one, test)

    logits = [tested(*one) for one in run.with_seeds(config.seeds)]
    runs = [scores_of(found, labels, has_label, multi_label=test.multi_label) for found in logits]
    trivial = trivial_baselines(label_matrix(train.dataset), labels[has_label], multi_label=test.multi_label)
    random_runs = [
        scores_of(tested(*one), labels, has_label, multi_label=test.multi_label)
        for one in run.with_random_weights(config)
    ]
    return run.result(
        config,
        task="fine-tuning",
        headline=(ALL, "map" if test.multi_label else "accuracy"),
        **tables(runs, trivial, random_runs),
        mode=("finetuned, mixed modality" if config.mixed else f"finetuned, {config.data.mode}")
        + heads_note(config.head_streams),
        view=describe_view(scoring_view(config.data, run.loaded)),
        data={"train": train.described(), "test": test.described()},
        notes=(*train.notes, *test.notes, *said),
        extra=class_report(
            logits[0][ALL][has_label], labels[has_label], test.dataset.classes, multi_label=test.multi_label
        ),
    )


def predictions(
    config: FinetuneConfig, classifier: Classifier, run: Evaluation, test: Split
) -> dict[str, Float[Tensor, "n c"]]:
    """What each head predicts of the test split, with all modalities and with each of config.missing alone."""
    view = scoring_view(config.data, run.loaded)
    found: dict[str, Tensor] = {}
    for mode in (None, *config.missing):
        logits = predict(config, classifier, run, test, view, mode=mode)
        found |= {row if mode is None else f"{row}, {mode} only": x for row, x in logits.items()}
    return found


def as_it_is(config: FinetuneConfig, run: Evaluation) -> Result:
    """Test the fine-tuned classifier that the checkpoint is, on the test split.

    Raises ConfigError for a checkpoint without heads, for a split with other classes or several labels a sample where
    it was tuned for one, and for another data.mode than it was tuned with.
    """
    data, path = config.data, Path(str(run.loaded.origin["path"]))
    classifier, classes = load_classifier(path.parent, run.world.device)
    test = open_split(data, run.test, data.test_split)
    if data.test_labels is not None:
        test = relabeled(data, test)
    if set(classes) != set(test.dataset.classes):
        ours, theirs = set(classes), set(test.dataset.classes)
        raise ConfigError(
            f"{path}: classifies {counted(len(ours), 'class', 'classes')}, {test.name} has {len(theirs)}; only in "
            f"one of them: {', '.join(map(repr, sorted(ours ^ theirs)[:3]))}"
        )
    if test.multi_label and not classifier.multi_label:
        raise ConfigError(
            f"{path}: was tuned for one class a sample, and samples of {test.name} have several. If it was not, "
            "convert it with --several."
        )
    if data.mode != classifier.mode:
        raise ConfigError(
            f"data.mode={data.mode}: {path} was tuned with {classifier.mode}. Set data.mode={classifier.mode}; "
            "missing=audio tests it without images."
        )
    order = torch.tensor([classes.index(name) for name in test.dataset.classes])
    found = {row: x[:, order] for row, x in predictions(config, classifier, run, test).items()}
    labels = label_matrix(test.dataset)
    has_label = labels.any(dim=1)
    labels, scored = labels[has_label], {row: x[has_label] for row, x in found.items()}
    multi_label = classifier.multi_label
    runs = [{row: class_scores(x, labels, multi_label=multi_label) for row, x in scored.items()}]
    chance = trivial_baselines(labels, labels, multi_label=multi_label)["chance"]
    return run.result(
        config,
        task="classification",
        headline=(ALL, "map" if multi_label else "accuracy"),
        **tables(runs, {"chance": chance}, ()),
        mode=f"finetuned before, {classifier.mode}",
        view=describe_view(scoring_view(data, run.loaded)),
        data={"test": test.described()},
        seeds=config.seeds[:1],
        notes=(*test.notes, "tuned before: training clips are not compared with the test's"),
        extra=class_report(scored[ALL], labels, test.dataset.classes, multi_label=multi_label),
    )
