"""How well features tell classes apart while a model trains: the nearest neighbor's label, nothing to fit."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from avdata.load import Batch
from avmodel.distributed import World, autocast
from avmodel.inputs import to_inputs
from avmodel.models.deepavfusion import DeepAVFusion

CHUNK = 1024  # queries compared at a time


@torch.no_grad()
def nearest_neighbor_probe(
    model: DeepAVFusion, batches: Iterable[Batch], world: World, *, precision: str
) -> dict[str, float]:
    """Percent of samples whose nearest other sample shares a class, by image, audio, fusion and all features.

    Nothing is masked; features are means over tokens, compared by cosine; "all" adds the three cosines. Samples
    without a class are not asked about. Every process gives its batches and gets the numbers of all.

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
    model: DeepAVFusion, batches: Iterable[Batch], world: World, *, precision: str
) -> tuple[dict[str, Float[Tensor, "n d"]], Bool[Tensor, "n c"]]:
    """Unit vectors of image, audio and fusion features of all processes' samples, and their classes; on the CPU."""
    rows: list[Tensor] = []
    for batch in batches:
        with autocast(precision, world.device):
            tokens = model.encoder(*to_inputs(batch, world.device))
        pooled = [F.normalize(x.float().mean(dim=1), dim=-1) for x in (tokens.image, tokens.audio, tokens.fusion)]
        marks = [batch.labels.to(world.device), batch.valid.to(world.device).unsqueeze(1)]
        rows.append(world.gather(torch.cat([*pooled, *(mark.float() for mark in marks)], dim=1)).cpu())
    table = torch.cat(rows)
    table = table[table[:, -1] > 0]
    width = model.config.vit.embed_dim
    image, audio, fusion = (table[:, start : start + width] for start in (0, width, 2 * width))
    return {"image": image, "audio": audio, "fusion": fusion}, table[:, 3 * width : -1] > 0


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
