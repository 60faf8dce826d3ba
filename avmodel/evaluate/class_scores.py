"""What predicted classes score, beside trivial baselines and class by class; for one label a sample or several."""

import math
from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from avmodel.evaluate.scores import (
    class_accuracy,
    confusion_matrix,
    hit_scores,
    multi_label_class_scores,
    multi_label_scores,
    single_label_scores,
)


def class_scores(logits: Float[Tensor, "n c"], labels: Bool[Tensor, "n c"], *, multi_label: bool) -> dict[str, float]:
    """Accuracies for one label a sample; average precision, area, d-prime and hits for several."""
    if multi_label:
        return multi_label_scores(logits, labels) | hit_scores(logits, labels)
    return single_label_scores(logits, labels.int().argmax(dim=1))


def trivial_baselines(
    train: Bool[Tensor, "n c"], test: Bool[Tensor, "m c"], *, multi_label: bool
) -> dict[str, dict[str, float]]:
    """Trivial baselines: random guessing (`chance`, in expectation) and training label frequencies (`majority`)."""
    classes = test.shape[1]
    frequencies = train.double().mean(dim=0).expand(len(test), -1)
    majority = class_scores(frequencies, test, multi_label=multi_label)
    if not multi_label:
        return {"chance": {"accuracy": 100 / classes, "class_accuracy": 100 / classes}, "majority": majority}
    shares = test.double().mean(dim=0)
    present = shares > 0
    chance = {"map": 100 * float(shares[present].mean()), "auc": 50.0, "d_prime": 0.0}
    hit = 100 * float(test.double().sum(dim=1)[test.any(dim=1)].mean()) / classes
    return {"chance": chance | {"skipped_classes": int((~present).sum()), "hit": hit}, "majority": majority}


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
