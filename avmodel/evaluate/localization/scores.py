"""Scores of localization maps: cIoU and its AUC, by each of the rules with that name.

Images are squares of SIDE pixels: boxes are truncated to whole pixels, maps are enlarged to it.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from avmodel.bootstrap import PERCENT, Sampled, resamples_of
from avmodel.evaluate.localization.config import RULES

SIDE = 224  # pixels
CONSENSUS = 2  # annotators whose boxes give a pixel the weight 1
ANNOTATED_SIDE = 256  # pixels of the images on which Flickr-SoundNet's boxes were drawn
SUCCESS = 0.5  # least cIoU of a successful sample
SUCCESSES = tuple(0.05 * step for step in range(21))

Box = Sequence[float | int]  # left, top, right, bottom


def boxes_map(boxes: Sequence[Box]) -> Float[Tensor, "h w"]:
    """1 inside any of the boxes. Edges are shares of the image's sides; boxes are clipped to the image.

    Source: VGG-SS (arXiv:2104.02691), its released evaluation.
    """
    return _covered([[SIDE * min(max(edge, 0.0), 1.0) for edge in box] for box in boxes]).clamp(max=1)


def consensus_map(boxes: Sequence[Box]) -> Float[Tensor, "h w"]:
    """1 where the boxes of CONSENSUS annotators overlap, 1/2 inside a single box. Edges are pixels of ANNOTATED_SIDE.

    Source: Senocak et al. (arXiv:1803.03849), as evaluated since.
    """
    return _covered([[SIDE * edge / ANNOTATED_SIDE for edge in box] for box in boxes]).div(CONSENSUS).clamp(max=1)


def _covered(boxes: Sequence[Box]) -> Float[Tensor, "h w"]:
    """Number of boxes that cover each pixel; edges are truncated to whole pixels."""
    found = torch.zeros(SIDE, SIDE)
    for box in boxes:
        left, top, right, bottom = (max(int(edge), 0) for edge in box)
        found[top:bottom, left:right] += 1
    return found


def enlarged(scores: Float[Tensor, "b h w"]) -> Float[Tensor, "b side side"]:
    """The maps in SIDE x SIDE pixels, bilinear between the centers of their cells."""
    return F.interpolate(scores.unsqueeze(1), (SIDE, SIDE), mode="bilinear", align_corners=False).squeeze(1)


def unit_range(scores: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Each map scaled to 0..1; 0 everywhere if it is flat."""
    low, high = scores.amin(dim=(1, 2), keepdim=True), scores.amax(dim=(1, 2), keepdim=True)
    return (scores - low) / torch.where(high > low, high - low, 1)


def pointed_at(scores: Float[Tensor, "b h w"], truth: Float[Tensor, "b h w"], rule: str) -> Bool[Tensor, "b h w"]:
    """The pixels that a map of any range selects; a flat map selects none.

    Args:
        scores: The maps.
        truth: Ground truth; read by the rule adaptive only.
        rule: `median`: above the median (the upper of the middle two), as the evaluations released since VGG-SS.
            `fixed`: above 0.5 of the map's range, the definition of Senocak et al. `adaptive`: the highest pixels, as
            many as the ground truth has, as later evaluations do. The map then need not find the source's size.
    """
    if rule == "fixed":
        return unit_range(scores) > 0.5
    pixels = scores.flatten(1)
    if rule == "adaptive":
        sounding = (truth.flatten(1) > 0).sum(dim=1, keepdim=True)
        least = pixels.sort(dim=1, descending=True).values.gather(1, (sounding - 1).clamp(min=0))
        found = (pixels >= least) & (sounding > 0) & (pixels.amax(dim=1) > pixels.amin(dim=1)).unsqueeze(1)
        return found.reshape(scores.shape)
    middle = np.partition(pixels.cpu().numpy(), pixels.shape[1] // 2, axis=1)[:, pixels.shape[1] // 2]
    return scores > torch.from_numpy(middle).to(scores)[:, None, None]


def sample_ciou(found: Bool[Tensor, "b h w"], truth: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """cIoU of each image: selected truth / (all truth + selected pixels without truth); 0 without truth."""
    pixels, pointed = truth.flatten(1), found.flatten(1)
    hit: Tensor = torch.linalg.vecdot(pixels, pointed.to(pixels))
    whole = pixels.sum(dim=1) + (pointed & (pixels == 0)).sum(dim=1)
    return hit / torch.where(whole > 0, whole, 1)


def ciou_scores(values: Float[Tensor, " n"]) -> dict[str, float]:
    """`ciou`, the share of images of SUCCESS or more, and `auc`, the area under that share from 0 to 1, in percent."""
    shares = torch.stack([(values.double() >= threshold).double().mean() for threshold in SUCCESSES])
    share = (values >= SUCCESS).double().mean()
    area = torch.trapezoid(shares, torch.tensor(SUCCESSES, dtype=torch.float64))
    return {"ciou": 100 * float(share), "auc": 100 * float(area)}


def resampled_ciou(values: Float[Tensor, " n"]) -> dict[str, Sampled]:
    """`ciou_scores` with those of resamples of the images."""
    found, each = ciou_scores(values), values.double().cpu().numpy()
    resamples = resamples_of(len(each))
    # The area is a mean over images, too: of the area under each image's own step from success to failure.
    reached = (each[:, None] >= np.array(SUCCESSES)).astype(np.float64)
    areas = np.asarray(100 * np.trapezoid(reached, SUCCESSES, axis=1))
    auc = resamples.mean(areas)._replace(value=found["auc"], bounds=PERCENT)
    return {"ciou": resamples.share((values >= SUCCESS).cpu().numpy()), "auc": auc}


def rule_scores(found: Float[Tensor, "b h w"], truth: Float[Tensor, "b side side"]) -> dict[str, Float[Tensor, " b"]]:
    """Each image's cIoU by rule, of maps of any size."""
    large = enlarged(found)
    return {rule: sample_ciou(pointed_at(large, truth, rule), truth) for rule in RULES}


def best_ciou(truth: Float[Tensor, "b h w"]) -> dict[str, Float[Tensor, " b"]]:
    """The highest cIoU, by rule, of a map without equal values.

    By the median rule such a map selects half of the pixels, at best those with the most truth. A map that is flat over
    more than half of its pixels selects fewer, and can score higher.
    """
    pixels = truth.flatten(1)
    ordered = np.partition(pixels.cpu().numpy(), pixels.shape[1] // 2, axis=1)
    half = torch.from_numpy(ordered).to(truth)[:, pixels.shape[1] // 2 :]
    median = half.sum(dim=1) / (pixels.sum(dim=1) + (half == 0).sum(dim=1))
    whole = (pixels.sum(dim=1) > 0).to(truth)
    return {"median": median, "fixed": whole, "adaptive": whole}


def center_prior(side: int = SIDE) -> Float[Tensor, "side side"]:
    """A map that rises towards the middle of the image."""
    away = torch.arange(side) - (side - 1) / 2
    return -(away[:, None].square() + away[None, :].square()).sqrt()
