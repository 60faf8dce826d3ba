"""What predicted classes score, beside trivial baselines and class by class; for one label a sample or several."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avmodel.bootstrap import PERCENT, Resamples, Sampled, Weights, class_mean_draws, constants, resamples_of
from avmodel.evaluate.rankings import ranking_draws
from avmodel.evaluate.scores import (
    class_accuracy,
    confusion_matrix,
    hit_scores,
    multi_label_class_scores,
    multi_label_scores,
    single_label_scores,
)


def class_scores(logits: Float[Tensor, "n c"], labels: Bool[Tensor, "n c"], *, multi_label: bool) -> dict[str, Sampled]:
    """Accuracies of one label a sample; average precision, area, d-prime and hits of several; resampled."""
    resamples = resamples_of(len(labels))
    if multi_label:
        return _several_labels(resamples, logits, labels)
    classes = labels.int().argmax(dim=1)
    found = single_label_scores(logits, classes)
    right = (logits.argmax(dim=1) == classes).cpu().numpy()
    by_class = class_mean_draws(resamples, right, classes.cpu().numpy())
    return {
        "accuracy": resamples.share(right),
        "class_accuracy": Sampled(found["class_accuracy"], by_class, len(labels), PERCENT),
    }


def _several_labels(
    resamples: Resamples, logits: Float[Tensor, "n c"], labels: Bool[Tensor, "n c"]
) -> dict[str, Sampled]:
    found = multi_label_scores(logits, labels) | hit_scores(logits, labels)
    draws = ranking_draws(resamples, logits.cpu().double().numpy(), labels.cpu().numpy())
    areas = torch.from_numpy(draws.auc / 100).clamp(0, 1)
    d_prime = (math.sqrt(2) * torch.special.ndtri(areas)).numpy()
    has_label = labels.any(dim=1)
    hits = (labels.gather(1, logits.argmax(dim=1, keepdim=True))[:, 0] & has_label).cpu().numpy()
    asked = has_label.cpu().numpy()

    def hit(weights: Weights) -> Float[np.ndarray, " r"]:
        return np.asarray(100 * (weights @ hits) / np.maximum(weights @ asked, 1))

    count = len(labels)
    return {
        "map": Sampled(found["map"], draws.average_precision, count, PERCENT),
        "auc": Sampled(found["auc"], draws.auc, count, PERCENT),
        "d_prime": Sampled(found["d_prime"], d_prime, count),
        "skipped_classes": Sampled(found["skipped_classes"]),
        "hit": Sampled(found["hit"], resamples.of(hit), count, PERCENT),
    }


def trivial_baselines(
    train: Bool[Tensor, "n c"], test: Bool[Tensor, "m c"], *, multi_label: bool
) -> dict[str, dict[str, Sampled]]:
    """Trivial baselines: random guessing (`chance`, in expectation) and training label frequencies (`majority`)."""
    classes = test.shape[1]
    frequencies = train.double().mean(dim=0).expand(len(test), -1)
    majority = class_scores(frequencies, test, multi_label=multi_label)
    if not multi_label:
        share = 100 / classes
        return {"chance": constants({"accuracy": share, "class_accuracy": share}), "majority": majority}
    shares = test.double().mean(dim=0)
    present = shares > 0
    chance = {"map": 100 * float(shares[present].mean()), "auc": 50.0, "d_prime": 0.0}
    hit = 100 * float(test.double().sum(dim=1)[test.any(dim=1)].mean()) / classes
    chance |= {"skipped_classes": float((~present).sum()), "hit": hit}
    return {"chance": constants(chance), "majority": majority}


def class_report(
    logits: Float[Tensor, "n c"], labels: Bool[Tensor, "n c"], classes: Sequence[str], *, multi_label: bool
) -> dict[str, Any]:
    """`per_class`: samples and score (accuracy, or average precision; None where there is none); with one label a
    sample, too, the `confusion` matrix: samples by true class, then by predicted class."""
    if multi_label:
        metric, values = "average_precision", multi_label_class_scores(logits, labels).average_precision
    else:
        metric, values = "accuracy", class_accuracy(logits, labels.int().argmax(dim=1))
    rows = zip(classes, labels.sum(dim=0).tolist(), values.tolist(), strict=True)
    report: dict[str, Any] = {
        "per_class": [
            {"class": name, "samples": count, metric: None if math.isnan(value) else value}
            for name, count, value in rows
        ]
    }
    if not multi_label:
        report["confusion"] = confusion_matrix(logits, labels.int().argmax(dim=1)).tolist()
    return report
