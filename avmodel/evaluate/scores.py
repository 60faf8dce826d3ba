"""The metrics: what counts as correct, what is left out, and how ties are broken.

All scores but d-prime and ranks are in percent. Predictions that aren't finite are refused.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from avmanifest.errors import ConfigError, DivergedError


def single_label_scores(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> dict[str, float]:
    """`accuracy` over samples and `class_accuracy`, the mean over the classes that have samples.

    The prediction is the largest logit; of equal ones, the first.
    """
    require_finite(logits)
    right = logits.argmax(dim=1) == labels
    per_class = class_accuracy(logits, labels)
    return {
        "accuracy": 100 * float(right.double().mean()),
        "class_accuracy": float(per_class[~per_class.isnan()].mean()),
    }


def class_accuracy(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " c"]:
    """Percent of each class's samples that are predicted correctly; NaN for a class without samples."""
    classes = logits.shape[1]
    right = (logits.argmax(dim=1) == labels).double()
    total = torch.bincount(labels, minlength=classes).double()
    return 100 * torch.bincount(labels, weights=right, minlength=classes) / total


def confusion_matrix(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Int[Tensor, "c c"]:
    """Samples by true class (rows) and predicted class (columns)."""
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes**2).reshape(classes, classes)


class ClassScores(NamedTuple):
    """Scores of each class, in percent; NaN for a skipped class."""

    average_precision: Float[Tensor, " c"]
    auc: Float[Tensor, " c"]


def multi_label_class_scores(scores: Float[Tensor, "n c"], labels: Bool[Tensor, "n c"]) -> ClassScores:
    """Average precision and area under the ROC curve of each class, in percent.

    Average precision is the step-wise sum of precision times gained recall, not interpolated. Without
    positives both are NaN, without negatives the area is.
    """
    require_finite(scores)
    precisions, areas = [], []
    for column in range(scores.shape[1]):
        truth, predicted = labels[:, column].cpu().numpy(), scores[:, column].cpu().double().numpy()
        precisions.append(100 * float(average_precision_score(truth, predicted)) if truth.any() else math.nan)
        areas.append(100 * float(roc_auc_score(truth, predicted)) if truth.any() and not truth.all() else math.nan)
    return ClassScores(torch.tensor(precisions, dtype=torch.float64), torch.tensor(areas, dtype=torch.float64))


def multi_label_scores(scores: Float[Tensor, "n c"], labels: Bool[Tensor, "n c"]) -> dict[str, float]:
    """`map`, `auc`, `d_prime` over the classes that have them; `skipped_classes` counts those without positives.

    d-prime is sqrt(2) times the normal quantile of the mean area, as in AudioSet's papers.
    """
    found = multi_label_class_scores(scores, labels)
    if bool(found.average_precision.isnan().all()):
        raise ConfigError(
            "no class has a positive sample, so average precision is undefined. Evaluate labeled samples."
        )
    auc = float(found.auc[~found.auc.isnan()].mean()) if not bool(found.auc.isnan().all()) else math.nan
    return {
        "map": float(found.average_precision[~found.average_precision.isnan()].mean()),
        "auc": auc,
        "d_prime": math.sqrt(2) * float(torch.special.ndtri(torch.tensor(auc / 100, dtype=torch.float64))),
        "skipped_classes": int(found.average_precision.isnan().sum()),
    }


def hit_scores(scores: Float[Tensor, "n c"], labels: Bool[Tensor, "n c"]) -> dict[str, float]:
    """`hit`: percent of samples whose best class is one of their classes; samples without a class are left out."""
    require_finite(scores)
    has_label = labels.any(dim=1)
    hit = labels.gather(1, scores.argmax(dim=1, keepdim=True))[:, 0]
    return {"hit": 100 * int((hit & has_label).sum()) / max(int(has_label.sum()), 1)}


class Ranks(NamedTuple):
    """Rank of each query's partner among all candidates."""

    pessimistic: Int[Tensor, " n"]  # from 1; candidates that tie with the partner rank before it
    tied: int  # queries whose partner ties with another candidate


def partner_ranks(similarity: Float[Tensor, "n n"]) -> Ranks:
    """Ranks of the diagonal: query i is row i, its partner candidate i."""
    require_finite(similarity)
    own = similarity.diagonal().unsqueeze(1)
    at_least = (similarity >= own).sum(dim=1)
    above = (similarity > own).sum(dim=1)
    return Ranks(at_least, int((at_least - above > 1).sum()))


def retrieval_scores(ranks: Ranks, at: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """`r@k`: percent of queries whose partner is among the first k; `median_rank`; `tied`: queries with a tie."""
    found = ranks.pessimistic
    scores = {f"r@{k}": 100 * float((found <= k).double().mean()) for k in at}
    return scores | {"median_rank": float(found.double().quantile(0.5)), "tied": ranks.tied}


def require_finite(scores: Float[Tensor, "n m"]) -> None:
    """Raise DivergedError for a prediction that is infinite or not a number: it has no rank."""
    bad = int((~torch.isfinite(scores)).any(dim=1).sum())
    if bad:
        raise DivergedError(
            f"{bad} of {len(scores)} predictions are not finite: the model or its head has diverged. Lower the "
            "learning rate."
        )
