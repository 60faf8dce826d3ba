"""Nearest-neighbor probe: how well the features separate classes during training, without fitting anything."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from avdata.load import Batch
from avmodel.bootstrap import Sampled, difference, resamples_of, shown_interval
from avmodel.distributed import World
from avmodel.inputs import to_inputs
from avmodel.models.family import Family
from avmodel.precision import autocast

CHUNK = 1024  # queries compared at a time


class ProbeScores(NamedTuple):
    """Percent of the samples with a class whose nearest other sample shares one, resampled over these samples."""

    streams: dict[str, Sampled]  # by each stream's features, and by `all` together
    chance: Sampled  # if the nearest one were any other sample

    @property
    def samples(self) -> int:
        """Number of samples with a class."""
        return self.chance.units or 0

    def noise(self) -> list[str]:
        """The streams that the samples do not tell from chance."""
        found = {name: difference(score, self.chance) for name, score in self.streams.items()}
        return [name for name, one in found.items() if one is None or one.within_noise]

    def record(self) -> dict[str, Any]:
        """The scores by stream, `chance`, the number of samples `n`, and `intervals` of 95 %, as plain data."""
        intervals = {name: score.interval() for name, score in self.streams.items()}
        return {
            **{name: score.value for name, score in self.streams.items()},
            "chance": self.chance.value,
            "n": self.samples,
            "intervals": {name: list(interval) for name, interval in intervals.items() if interval},
        }

    def said(self) -> str:
        """The scores in one line."""
        shown = ", ".join(
            f"{name} {score.value:.1f} %{shown_interval(score.interval())}" for name, score in self.streams.items()
        )
        noise = self.noise()
        of_chance = f"; within noise of chance: {', '.join(noise)}" if noise else ""
        return f"{shown} (n = {self.samples:,}, chance {self.chance.value:.1f} %{of_chance})"


@torch.no_grad()
def nearest_neighbor_probe(model: Family, batches: Iterable[Batch], world: World, *, precision: str) -> ProbeScores:
    """Percent of samples whose nearest other sample shares a class, by each stream's features and by all together.

    Nothing is masked; features are the streams' vectors, compared by cosine; "all" adds the cosines. Samples
    without a class are left out. Every process passes its own batches, and all get the scores of all samples.

    Source: the released code's probe and the paper's figure 3.
    """
    was_training = model.training
    model.eval()
    features, labels = pooled_features(model, batches, world, precision=precision)
    model.train(was_training)
    # The inner product of concatenated features is the sum of their inner products.
    features["all"] = torch.cat(list(features.values()), dim=1)
    asked = labels.any(dim=1)
    hits = {name: neighbor_hits(values, labels)[asked].numpy() for name, values in features.items()}
    return resampled(hits, shares_of_class(labels)[asked].numpy())


def resampled(hits: Mapping[str, Bool[np.ndarray, " n"]], chance: Float[np.ndarray, " n"]) -> ProbeScores:
    """The scores of each stream from what it found of each sample. `chance`: each sample's share of the others.

    They do not depend on the order of the samples, which the number of processes changes.
    """
    order = np.lexsort([chance, *hits.values()])
    resamples = resamples_of(len(chance))
    streams = {name: resamples.share(found[order]) for name, found in hits.items()}
    return ProbeScores(streams, resamples.mean(100 * chance[order]))


def pooled_features(
    model: Family, batches: Iterable[Batch], world: World, *, precision: str
) -> tuple[dict[str, Float[Tensor, "n d"]], Bool[Tensor, "n c"]]:
    """Features of every stream as unit vectors, and the classes, of all processes' samples; on the CPU."""
    rows: list[Tensor] = []
    names: list[str] = []
    for batch in batches:
        with autocast(precision, world.device):
            streams = model.encode(*to_inputs(batch, world.device))
        names = list(streams)
        pooled = [F.normalize(stream.vector, dim=-1) for stream in streams.values()]
        marks = [batch.labels.to(world.device), batch.valid.to(world.device).unsqueeze(1)]
        # Uneven: damaged samples are left out of a batch.
        rows.append(world.gather_uneven(torch.cat([*pooled, *(mark.float() for mark in marks)], dim=1)).cpu())
    table = torch.cat(rows)
    table = table[table[:, -1] > 0]
    width = model.feature_dim
    features = {name: table[:, place * width : (place + 1) * width] for place, name in enumerate(names)}
    return features, table[:, len(names) * width : -1] > 0


def neighbor_hits(features: Float[Tensor, "n d"], labels: Bool[Tensor, "n c"]) -> Bool[Tensor, " n"]:
    """Whether each sample's most similar other sample, by the inner product, shares a class with it."""
    shared = torch.zeros(len(features), dtype=torch.bool)
    for first in range(0, len(features), CHUNK):
        similarity = features[first : first + CHUNK] @ features.T
        own = torch.arange(len(similarity))
        similarity[own, first + own] = -torch.inf
        nearest = similarity.argmax(dim=1)
        shared[first : first + CHUNK] = (labels[first : first + CHUNK] & labels[nearest]).any(dim=1)
    return shared


def shares_of_class(labels: Bool[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """The share of the other samples that have a class of each sample."""
    marks, found = labels.float(), torch.zeros(len(labels), dtype=torch.float64)
    for first in range(0, len(labels), CHUNK):
        rows = marks[first : first + CHUNK]
        found[first : first + CHUNK] = (rows @ marks.T > 0).double().sum(dim=1) - rows.any(dim=1).double()
    return found / max(len(labels) - 1, 1)
