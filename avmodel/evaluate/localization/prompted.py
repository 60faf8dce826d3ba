"""Scores of segmentation that is prompted by sound: the maps of all clips of a class are ranked, or cut, together.

A class's average precision is over all pixels of its clips. Its IoU is that of all its pixels above one threshold, the
best of LEVELS between the lowest and the highest value of its maps: chosen on the test itself, as released.

Source: DenseAV (arXiv:2406.05629), sound prompted semantic segmentation, and its released code ("basic").
"""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score
from torch import Tensor

from avmodel.bootstrap import PERCENT, Sampled, Weights, resamples_of
from avmodel.evaluate.localization.scores import SIDE, enlarged

LEVELS = 20
BINS = 200  # of a class's values, equally full: resampled average precision ranks bins in place of pixels
BITS = 16  # pixels of one number of `packed`


def packed(truth: Float[Tensor, "b side side"]) -> Float[Tensor, "b w"]:
    """Which pixels sound, BITS of them as one number."""
    bits = rearrange((truth > 0).float(), "b h (w n) -> b (h w) n", n=BITS)
    numbers: Tensor = bits @ torch.pow(2.0, torch.arange(BITS, device=truth.device))
    return numbers


def unpacked(numbers: Float[Tensor, "b w"]) -> Bool[Tensor, "b side side"]:
    """The pixels that `packed` took."""
    bits = numbers.long().unsqueeze(2) >> torch.arange(BITS)
    return (bits & 1).bool().reshape(-1, SIDE, SIDE)


class ClassCounts(NamedTuple):
    """What the scores of a class are computed from, and the scores without resamples, from 0 to 1."""

    clips: Bool[np.ndarray, " n"]
    ap: float
    iou: float
    overlap: Float[np.ndarray, "m levels"]  # pixels above each threshold that sound
    union: Float[np.ndarray, "m levels"]  # that are above it or sound
    sounding: Float[np.ndarray, "m bins"]  # sounding pixels, the highest values first
    pixels: Float[np.ndarray, "m bins"]


def class_counts(
    maps: Float[Tensor, "m r c"], truth: Bool[Tensor, "m side side"], clips: Bool[np.ndarray, " n"]
) -> ClassCounts:
    """Of a class with sounding pixels; `clips`: which of all clips are the m ones."""
    values, true = enlarged(maps).flatten(1), truth.flatten(1)
    levels = torch.linspace(float(values.min()), float(values.max()), LEVELS)
    above = [values > level for level in levels]
    overlap = torch.stack([(found & true).sum(dim=1) for found in above], dim=1).double().numpy()
    union = torch.stack([(found | true).sum(dim=1) for found in above], dim=1).double().numpy()
    ranked = values.flatten().sort().values
    edges = ranked[torch.linspace(0, len(ranked) - 1, BINS + 1).long()[1:-1]]
    place = BINS - 1 - torch.bucketize(values, edges, right=True)
    sounding, pixels = (
        torch.zeros(len(values), BINS).scatter_add(1, place, x.float()).double().numpy()
        for x in (true, torch.ones_like(true))
    )
    ap = float(average_precision_score(true.flatten().numpy(), values.flatten().numpy()))
    return ClassCounts(clips, ap, float(_best_iou(overlap.sum(0), union.sum(0))), overlap, union, sounding, pixels)


def prompted_scores(
    maps: Float[Tensor, "n r c"], truth: Bool[Tensor, "n side side"], labels: Bool[Tensor, "n k"]
) -> dict[str, Sampled]:
    """`map` and `miou`, means over classes in percent, and the classes without a sounding pixel, which are skipped.

    A clip with several labels counts in each. Resamples draw clips; their average precision is that of BINS values.
    """
    sounds = truth.flatten(1).any(dim=1)
    classes = [column for column in labels.T if bool(column.any())]
    counts = [
        class_counts(maps[column], truth[column], column.numpy()) for column in classes if bool((column & sounds).any())
    ]
    if not counts:
        return {}

    def statistics(weights: Weights) -> Float[np.ndarray, "r 2"]:
        found = np.stack([_resampled(weights[:, one.clips], one) for one in counts], axis=2)
        with np.errstate(invalid="ignore"):
            has = np.isfinite(found)
            means = np.where(has, found, 0).sum(axis=2) / has.sum(axis=2)
        return np.asarray(100 * means)

    draws = resamples_of(len(maps)).of(statistics, per_unit=2)
    scores = {
        name: Sampled(100 * float(np.mean(values)), draws[:, place], len(maps), PERCENT)
        for place, (name, values) in enumerate(
            {"map": [one.ap for one in counts], "miou": [one.iou for one in counts]}.items()
        )
    }
    return scores | {"skipped_classes": Sampled(float(len(classes) - len(counts)))}


def _resampled(weights: Weights, one: ClassCounts) -> Float[np.ndarray, "r 2"]:
    """Average precision and IoU of a class in each resample; NaN where it has no sounding pixel."""
    sounding, pixels = weights @ one.sounding, weights @ one.pixels
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = sounding.cumsum(axis=1) / np.maximum(pixels.cumsum(axis=1), 1)
        total = sounding.sum(axis=1)
        ap = (sounding * precision).sum(axis=1) / total
        iou = np.where(total > 0, _best_iou(weights @ one.overlap, weights @ one.union), np.nan)
    return np.stack([ap, iou], axis=1)


def _best_iou(overlap: Float[np.ndarray, "*r levels"], union: Float[np.ndarray, "*r levels"]) -> np.ndarray:
    return np.asarray((overlap / np.maximum(union, 1)).max(axis=-1))
