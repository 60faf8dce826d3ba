"""What every task is given: the loaded model, the data, and where its results go."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avdata.load import View
from avmodel.distributed import World
from avmodel.evaluate.config import EvalConfig, Progress
from avmodel.evaluate.data import Split
from avmodel.evaluate.features import Extraction, Features, kept_features
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.scores import (
    class_accuracy,
    confusion_matrix,
    hit_scores,
    multi_label_class_scores,
    multi_label_scores,
    single_label_scores,
)
from avmodel.inputs import Source

FEATURES = "features"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation under way."""

    loaded: LoadedModel
    test: Source
    train: Source | None  # None: another split of the test's folder
    out: Path
    world: World
    progress: Progress | None = None

    def of(self, loaded: LoadedModel) -> "Evaluation":
        """The same evaluation of another model."""
        return replace(self, loaded=loaded)

    def features(
        self,
        config: EvalConfig,
        split: Split,
        view: View,
        *,
        mode: str | None = None,
        seed: int = 0,
        epoch: int = 0,
    ) -> Features:
        """Features of a split, kept beside the results of all tasks; `mode` None: the config's."""
        job = Extraction(
            loaded=self.loaded,
            split=split,
            view=view,
            data=config.data,
            mode=mode or config.data.mode,
            batch_size=config.feature_batch_size,
            precision=config.precision,
            seed=seed,
            epoch=epoch,
        )
        return kept_features(job, self.out.parent / FEATURES, self.world, self.progress)


def class_scores(logits: Float[Tensor, "n c"], labels: Bool[Tensor, "n c"], *, multi_label: bool) -> dict[str, float]:
    """Accuracies for one label a sample; average precision, area, d-prime and hits for several."""
    if multi_label:
        return multi_label_scores(logits, labels) | hit_scores(logits, labels)
    return single_label_scores(logits, labels.int().argmax(dim=1))


def trivial_baselines(
    train: Bool[Tensor, "n c"], test: Bool[Tensor, "m c"], *, multi_label: bool
) -> dict[str, dict[str, float]]:
    """What knowing nothing scores (`chance`, in expectation) and what the training labels alone do (`majority`)."""
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


def labeled(features: Features) -> Features:
    """Only the samples that have a class."""
    keep = features.labels.any(dim=1)
    keys = [key for key, kept in zip(features.keys, keep.tolist(), strict=True) if kept]
    return Features(keys, {name: x[keep] for name, x in features.values.items()}, features.labels[keep])


def seen(view: View) -> dict[str, Any]:
    """What a result says of a view."""
    windows = view.num_windows or 1
    return {
        "profile": view.profile,
        "window": "the whole clip" if view.window_s is None else f"{view.window_s:g} s",
        "columns": view.num_columns,
        "windows": windows,
        "frames": view.num_images or 1,
        "image_size": view.image_size,
    }


def settings_of(config: EvalConfig) -> Mapping[str, Any]:
    """The config as a result keeps it."""
    return asdict(config)


def seeded(seed: int, *numbers: int) -> torch.Generator:
    """A CPU generator that is a function of the numbers."""
    state = seed
    for number in numbers:
        state = (state * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(state)
