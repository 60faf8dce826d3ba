"""How well a map of scores points at what sounds: cIoU and its AUC, under all rules that go by that name.

The images are squares of SIDE pixels: boxes are cut to whole pixels of it, maps are enlarged to it.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

SIDE = 224  # pixels
CONSENSUS = 2  # annotators whose boxes make a pixel count in full
ANNOTATED_SIDE = 256  # pixels of the images whose boxes Flickr-SoundNet's annotators drew
SUCCESS = 0.5  # a sample's cIoU from which it counts as found
SUCCESSES = tuple(0.05 * step for step in range(21))
RULES = ("median", "fixed", "adaptive")

Box = Sequence[float | int]  # left, top, right, bottom


def boxes_map(boxes: Sequence[Box]) -> Float[Tensor, "h w"]:
    """1 inside any of the boxes, whose edges are parts of the image's sides; what reaches out of it is cut.

    Source: VGG-SS (arXiv:2104.02691), its released evaluation.
    """
    return _covered([[SIDE * min(max(edge, 0.0), 1.0) for edge in box] for box in boxes]).clamp(max=1)


def consensus_map(boxes: Sequence[Box]) -> Float[Tensor, "h w"]:
    """Boxes of several annotators, whose edges are pixels of ANNOTATED_SIDE: 1 where CONSENSUS of them agree, 1/2
    where one stands alone.

    Source: Senocak et al. (arXiv:1803.03849), as evaluated since.
    """
    return _covered([[SIDE * edge / ANNOTATED_SIDE for edge in box] for box in boxes]).div(CONSENSUS).clamp(max=1)


def _covered(boxes: Sequence[Box]) -> Float[Tensor, "h w"]:
    """How many boxes cover each pixel; their edges, in pixels, are truncated."""
    found = torch.zeros(SIDE, SIDE)
    for box in boxes:
        left, top, right, bottom = (max(int(edge), 0) for edge in box)
        found[top:bottom, left:right] += 1
    return found


def enlarged(scores: Float[Tensor, "b h w"]) -> Float[Tensor, "b side side"]:
    """The maps in SIDE x SIDE pixels, bilinear between the centers of their cells."""
    return F.interpolate(scores.unsqueeze(1), (SIDE, SIDE), mode="bilinear", align_corners=False).squeeze(1)


def unit_range(scores: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Each map from 0 at its least to 1 at its most; 0 everywhere if it is flat."""
    low, high = scores.amin(dim=(1, 2), keepdim=True), scores.amax(dim=(1, 2), keepdim=True)
    return (scores - low) / torch.where(high > low, high - low, 1)


def pointed_at(scores: Float[Tensor, "b h w"], truth: Float[Tensor, "b h w"], rule: str) -> Bool[Tensor, "b h w"]:
    """The pixels that a map of any range says sound; of a flat map none.

    `median`: above the median, the upper of the middle two, as the evaluations released since VGG-SS do, whatever the
    range. `fixed`: above 0.5 of the map's range, the definition of Senocak et al. `adaptive`: the highest pixels, as
    many as have truth, as later evaluations do for sources of unlike sizes; it is told how large the source is.
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
    """Of each image: the truth that was found, by all of the truth and what was found without any. 0 without truth."""
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


def rule_scores(found: Float[Tensor, "b h w"], truth: Float[Tensor, "b side side"]) -> dict[str, Float[Tensor, " b"]]:
    """Each image's cIoU by rule, of maps of any size."""
    large = enlarged(found)
    return {rule: sample_ciou(pointed_at(large, truth, rule), truth) for rule in RULES}


def best_ciou(truth: Float[Tensor, "b h w"]) -> dict[str, Float[Tensor, " b"]]:
    """The most that a map without equal values can have: by the median rule it points at half of the pixels, at best at
    those with the most truth. One that is flat over more than half points at fewer, and can have more.
    """
    pixels = truth.flatten(1)
    ordered = np.partition(pixels.cpu().numpy(), pixels.shape[1] // 2, axis=1)
    half = torch.from_numpy(ordered).to(truth)[:, pixels.shape[1] // 2 :]
    median = half.sum(dim=1) / (pixels.sum(dim=1) + (half == 0).sum(dim=1))
    whole = (pixels.sum(dim=1) > 0).to(truth)
    return {"median": median, "fixed": whole, "adaptive": whole}


def center_prior(side: int = SIDE) -> Float[Tensor, "side side"]:
    """Higher the nearer to the middle of the image."""
    away = torch.arange(side) - (side - 1) / 2
    return -(away[:, None].square() + away[None, :].square()).sqrt()
