"""Nearest-neighbor probe: how well the features separate classes during training, without fitting anything."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from avdata.load import Batch
from avmodel.distributed import World
from avmodel.inputs import to_inputs
from avmodel.models.family import Family
from avmodel.precision import autocast

CHUNK = 1024  # queries compared at a time


@torch.no_grad()
def nearest_neighbor_probe(
    model: Family, batches: Iterable[Batch], world: World, *, precision: str
) -> dict[str, float]:
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
    return {name: neighbor_accuracy(values, labels) for name, values in features.items()}


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


def neighbor_accuracy(features: Float[Tensor, "n d"], labels: Bool[Tensor, "n c"]) -> float:
    """Percent of labeled samples whose most similar other sample shares a class with them; 0 if none is labeled.

    Similarity is the inner product.
    """
    shared = torch.zeros(len(features), dtype=torch.bool)
    for first in range(0, len(features), CHUNK):
        similarity = features[first : first + CHUNK] @ features.T
        own = torch.arange(len(similarity))
        similarity[own, first + own] = -torch.inf
        nearest = similarity.argmax(dim=1)
        shared[first : first + CHUNK] = (labels[first : first + CHUNK] & labels[nearest]).any(dim=1)
    asked = labels.any(dim=1)
    return 100 * int(shared.sum()) / max(int(asked.sum()), 1)
