"""Scores of masks, as AVSBench's evaluation counts them (`official`) and as DeepAVFusion's does (`released`).

Both average over frames, not over the pixels of all frames. All scores are in percent. F has beta^2 = 0.3.

Sources: AVSBench (arXiv:2207.05042, arXiv:2301.13190) and DeepAVFusion (arXiv:2312.01017), with their released code.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

BETA2 = 0.3
OFFICIAL_LEVELS = 255  # thresholds of AVSBench's F, from 0 to 1
RELEASED_LEVELS = 256
BACKGROUND = 0


class BinaryFrames(NamedTuple):
    """Counts of binary masks, for each frame."""

    empty: Bool[Tensor, " n"]  # the truth has no foreground
    foreground: Float[Tensor, " n"]  # IoU, at probability 0.5
    background: Float[Tensor, " n"]  # IoU of the pixels outside, at probability 0.5
    no_background: Bool[Tensor, " n"]  # neither the truth nor the prediction has any
    curve: Float[Tensor, "n level"]  # F by threshold, of OFFICIAL_LEVELS
    best_f: Float[Tensor, " n"]  # the highest F of RELEASED_LEVELS thresholds


class ClassFrames(NamedTuple):
    """Counts of class masks, for each frame."""

    iou: Float[Tensor, "n c"]
    f: Float[Tensor, "n c"]
    present: Bool[Tensor, "n c"]  # in the truth or in the prediction
    empty: Bool[Tensor, " n"]  # the truth is background throughout


def binary_frames(probabilities: Float[Tensor, "n h w"], truth: Bool[Tensor, "n h w"]) -> BinaryFrames:
    """The counts of each frame. A pixel is foreground above 0.5."""
    predicted, true = (probabilities > 0.5).flatten(1), truth.flatten(1)
    official, released = (
        f_curve(probabilities, truth, torch.linspace(0, 1, levels, device=truth.device))
        for levels in (OFFICIAL_LEVELS, RELEASED_LEVELS)
    )
    return BinaryFrames(
        empty=~true.any(dim=1),
        foreground=_iou(predicted, true),
        background=_iou(~predicted, ~true),
        no_background=(predicted & true).all(dim=1),
        curve=official,
        best_f=released.amax(dim=1),
    )


def _iou(predicted: Bool[Tensor, "n p"], true: Bool[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Intersection over union; 0 where the union is empty."""
    return (predicted & true).sum(dim=1).double() / (predicted | true).sum(dim=1).clamp(min=1)


def f_curve(
    probabilities: Float[Tensor, "n h w"], truth: Bool[Tensor, "n h w"], thresholds: Float[Tensor, " level"]
) -> Float[Tensor, "n level"]:
    """F of each frame at each of the ascending thresholds; 0 without a true positive."""
    count, levels = len(probabilities), len(thresholds)
    reached = torch.searchsorted(thresholds, probabilities.flatten(1).contiguous(), right=True)
    bins = reached + (levels + 1) * torch.arange(count, device=reached.device)[:, None]

    def at_least(chosen: Int64[Tensor, " k"]) -> Float[Tensor, "n level"]:
        """Number of pixels at or above each threshold."""
        by_level = torch.bincount(chosen, minlength=count * (levels + 1)).reshape(count, -1).double()
        return by_level.flip(1).cumsum(dim=1).flip(1)[:, 1:]

    hit, predicted = at_least(bins[truth.flatten(1)]), at_least(bins.flatten())
    return f_measure(hit, predicted, truth.flatten(1).sum(dim=1, keepdim=True).double())


def f_measure(
    hit: Float[Tensor, "*n"], predicted: Float[Tensor, "*n"], true: Float[Tensor, "*m"]
) -> Float[Tensor, "*n"]:
    """F = (1 + b) P R / (b P + R) for b = beta^2: (1 + b) hit / (b true + predicted), of pixels; 0 for 0 / 0."""
    return (1 + BETA2) * hit / (BETA2 * true + predicted).clamp(min=1e-12)


def official_binary(frames: BinaryFrames, batches: Sequence[int]) -> dict[str, float]:
    """`miou` of the foreground, and `f`: see `official_batches`."""
    return {name: 100 * float(x.mean()) for name, x in official_batches(frames, batches).items()}


def official_batches(frames: BinaryFrames, batches: Sequence[int]) -> dict[str, Float[Tensor, " k"]]:
    """`miou` of the foreground, and `f`, of each batch, as shares; the scores are their means.

    A frame with empty ground truth counts with the IoU of its background, and is left out of F. F is the highest point
    of a batch's mean curve. All batches have the same weight.

    Args:
        frames: Counts of all frames.
        batches: Number of frames in each batch, in order.
    """
    iou = torch.where(frames.empty, frames.background, frames.foreground)
    ious, fs = [], []
    parts = zip(*(torch.split(x, list(batches)) for x in (iou, frames.empty, frames.curve)), strict=True)
    for batch_iou, empty, curve in parts:
        ious.append(batch_iou.mean())
        fs.append(curve[~empty].mean(dim=0).amax() if not empty.all() else batch_iou.new_zeros(()))
    return {"miou": torch.stack(ious), "f": torch.stack(fs)}


def released_binary(frames: BinaryFrames) -> dict[str, float]:
    """`miou` of foreground and background, `miou_noBg` of the foreground alone, and `f`, the best of each frame.

    Frames with empty ground truth are left out; all scores are 0 if none is left.
    """
    kept = ~frames.empty
    if not kept.any():
        return {"miou": 0.0, "f": 0.0, "miou_noBg": 0.0}
    foreground = frames.foreground[kept].mean()
    has_background = kept & ~frames.no_background
    classes = [foreground, *([frames.background[has_background].mean()] if has_background.any() else [])]
    return {
        "miou": 100 * float(torch.stack(classes).mean()),
        "f": 100 * float(frames.best_f[kept].mean()),
        "miou_noBg": 100 * float(foreground),
    }


def class_frames(predicted: UInt8[Tensor, "n h w"], truth: UInt8[Tensor, "n h w"], classes: int) -> ClassFrames:
    """The counts of each frame's classes; 0 is the background."""
    count = len(truth)
    base = classes * torch.arange(count, device=truth.device)[:, None]

    def areas(values: Tensor, chosen: Bool[Tensor, "n p"] | None = None) -> Float[Tensor, "n c"]:
        bins = base + values.flatten(1).long()
        return torch.bincount(bins.flatten() if chosen is None else bins[chosen], minlength=count * classes).reshape(
            count, classes
        ).double()  # fmt: skip

    hit = areas(truth, (predicted == truth).flatten(1))
    of_predicted, of_truth = areas(predicted), areas(truth)
    union = of_predicted + of_truth - hit
    return ClassFrames(
        iou=hit / union.clamp(min=1),
        f=f_measure(hit, of_predicted, of_truth),
        present=union > 0,
        empty=(truth == BACKGROUND).flatten(1).all(dim=1),
    )


def official_classes(frames: ClassFrames, padding: ClassFrames | None = None, padded: int = 0) -> dict[str, float]:
    """`miou` and `f`, background included, over all frames, and over `padded` ones like the one of `padding`.

    AVSBench pads clips of 5 frames to 10 with black frames, whose ground truth is background, and counts them too. See
    `class_means`.
    """
    if padding is None or not padded:
        return class_means(frames)
    iou, f, present = (torch.cat([x, y.expand(padded, -1)]) for x, y in zip(frames[:3], padding[:3], strict=True))
    return class_means(ClassFrames(iou, f, present, frames.empty))


def released_classes(frames: ClassFrames) -> dict[str, float]:
    """As `class_means`, over the frames whose ground truth isn't empty."""
    return class_means(ClassFrames(*(x[~frames.empty] for x in frames)))


def class_means(frames: ClassFrames) -> dict[str, float]:
    """`miou`, `f`, and both without the background (`_noBg`): means over classes of means over frames.

    A class's mean is over the frames in whose ground truth or prediction it is. Classes that are in none are left out;
    0 if none is left.
    """
    iou, f, num_frames = class_averages(frames)
    found = {}
    for suffix, first in (("", 0), ("_noBg", 1)):
        kept = num_frames[first:] > 0
        for name, values in (("miou", iou[first:]), ("f", f[first:])):
            found[name + suffix] = 100 * float(values[kept].mean()) if kept.any() else 0.0
    return found


def class_averages(frames: ClassFrames) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"], Int64[Tensor, " c"]]:
    """Mean IoU and F of each class over the frames that have it, and the number of these frames."""
    num_frames = frames.present.sum(dim=0)
    return frames.iou.sum(dim=0) / num_frames.clamp(min=1), frames.f.sum(dim=0) / num_frames.clamp(min=1), num_frames
