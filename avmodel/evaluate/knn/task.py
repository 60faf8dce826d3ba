"""Nearest neighbors: scores of features without any training."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from avmanifest.errors import ConfigError
from avmanifest.wording import counted
from avmodel.bootstrap import Sampled
from avmodel.evaluate.class_scores import class_report, class_scores, trivial_baselines
from avmodel.evaluate.data import label_notes, open_split, open_splits, scoring_view
from avmodel.evaluate.evaluation import Evaluation, describe_view, labeled_samples
from avmodel.evaluate.features import Features
from avmodel.evaluate.heads import ALL
from avmodel.evaluate.knn.config import KnnConfig
from avmodel.evaluate.result import Result, tables

CHUNK = 1024  # queries compared at a time
TEMPERATURE = 0.07  # of the weights of several neighbors, as in DINO (arXiv:2104.14294)


def knn(config: KnnConfig, run: Evaluation) -> Result:
    """Score the classes of each test clip's neighbors, by the features of each stream and of all (the sum of cosines).

    Features are means over tokens and windows, nothing masked. Raises as `open_splits`, and ConfigError for a
    gallery of fewer than k clips.
    """
    data = config.data
    if config.gallery == "train":
        train, test = open_splits(data, run.test, run.train)
    else:
        train = test = open_split(data, run.test, data.test_split)
    view = scoring_view(data, run.loaded)

    def neighbors_of(one: Evaluation) -> tuple[dict[str, Float[Tensor, "n c"]], Features, Features]:
        queries = labeled_samples(one.features(config, test, view))
        gallery = queries if train is test else labeled_samples(one.features(config, train, view))
        return neighbor_votes(queries, gallery, config.k, exclude_self=train is test), queries, gallery

    def scores_of(votes: Mapping[str, Float[Tensor, "n c"]]) -> dict[str, dict[str, Sampled]]:
        return {row: class_scores(x, queries.labels, multi_label=test.multi_label) for row, x in votes.items()}

    votes, queries, gallery = neighbors_of(run)
    scores = scores_of(votes)
    trivial = trivial_baselines(gallery.labels, queries.labels, multi_label=test.multi_label)
    random_runs = [scores_of(neighbors_of(one)[0]) for one, *_ in run.with_random_weights(config)]
    return run.result(
        config,
        task=f"{counted(config.k, 'nearest neighbor')}, {config.gallery}",
        headline=(ALL, "map" if test.multi_label else "accuracy"),
        **tables([scores], trivial, random_runs),
        mode=f"frozen, {data.mode}",
        view=describe_view(view),
        data={"gallery": train.described(), "test": test.described()},
        notes=(*(() if train is test else train.notes), *test.notes, *label_notes(train, test)),
        extra=class_report(votes[ALL], queries.labels, test.dataset.classes, multi_label=test.multi_label),
    )


def neighbor_votes(
    queries: Features, gallery: Features, k: int, *, exclude_self: bool
) -> dict[str, Float[Tensor, "n c"]]:
    """For each query and class, the weights of its k nearest of that class; by stream, and by all cosines added.

    `exclude_self`: query i is not its own neighbor, gallery i. One neighbor votes with its similarity, shifted to be
    positive, so that several classes of one neighbor rank alike and queries can be ranked by class.
    """
    if len(gallery) - exclude_self < k:
        raise ConfigError(f"k={k}: the gallery has {counted(len(gallery), 'clip')}. Ask for fewer neighbors.")
    unit = [unit_vectors(features.values) for features in (queries, gallery)]
    return {
        row: _votes(unit[0][row], unit[1][row], gallery.labels, k, exclude_self=exclude_self, streams=streams)
        for row, streams in [*((name, 1) for name in queries.values), (ALL, len(queries.values))]
    }


def unit_vectors(values: Mapping[str, Float[Tensor, "n _"]]) -> dict[str, Float[Tensor, "n _"]]:
    """Each stream's vectors at length 1, and all side by side, whose inner products are the sums of the cosines."""
    unit = {name: F.normalize(x, dim=1) for name, x in values.items()}
    return {**unit, ALL: torch.cat(list(unit.values()), dim=1)}


def _votes(
    queries: Float[Tensor, "n d"],
    gallery: Float[Tensor, "m d"],
    labels: Bool[Tensor, "m c"],
    k: int,
    *,
    exclude_self: bool,
    streams: int,
) -> Float[Tensor, "n c"]:
    votes = []
    for first in range(0, len(queries), CHUNK):
        similarity = queries[first : first + CHUNK] @ gallery.T
        if exclude_self:
            own = torch.arange(len(similarity))
            similarity[own, first + own] = -torch.inf
        nearest, place = similarity.topk(k, dim=1)
        weights = (nearest / streams / TEMPERATURE).exp() if k > 1 else nearest / streams + 1 + 1e-6
        votes.append(torch.einsum("nk,nkc->nc", weights, labels[place].float()))
    return torch.cat(votes)
