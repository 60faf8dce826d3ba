"""Scores of masks with those of resamples, which draw clips with all their frames, or batches of clips."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avmodel.bootstrap import PERCENT, Sampled, Weights, resamples_of
from avmodel.evaluate.segmentation.scores import (
    BinaryFrames,
    ClassFrames,
    official_batches,
    official_binary,
    official_classes,
    released_binary,
    released_classes,
)


def resampled_official_binary(frames: BinaryFrames, batches: Sequence[int]) -> dict[str, Sampled]:
    """`official_binary`; a unit is a batch."""
    values, resamples = official_binary(frames, batches), resamples_of(len(batches))
    return {
        name: resamples.mean(100 * x.cpu().numpy())._replace(value=values[name], bounds=PERCENT)
        for name, x in official_batches(frames, batches).items()
    }


def resampled_released_binary(frames: BinaryFrames, clips: Sequence[int]) -> dict[str, Sampled]:
    """`released_binary`; a unit is a clip. `clips`: the number of frames of each."""
    kept = ~frames.empty
    backed = kept & ~frames.no_background
    columns = (kept, kept * frames.foreground, kept * frames.best_f, backed, backed * frames.background)
    sums = by_clip(torch.stack([x.double() for x in columns], dim=1), clips)

    def statistics(weights: Weights) -> Float[np.ndarray, "r 3"]:
        count, foreground, best_f, backed_count, background = (weights @ sums).T
        foreground, best_f = foreground / np.maximum(count, 1), best_f / np.maximum(count, 1)
        both = (foreground + background / np.maximum(backed_count, 1)) / 2
        return 100 * np.stack([np.where(backed_count > 0, both, foreground), best_f, foreground], axis=1)

    draws = resamples_of(len(clips)).of(statistics)
    values = released_binary(frames)
    return {
        name: Sampled(values[name], draws[:, place], len(clips), PERCENT)
        for place, name in enumerate(("miou", "f", "miou_noBg"))
    }


def resampled_official_classes(
    frames: ClassFrames, padding: ClassFrames | None, padded: int, clips: Sequence[int]
) -> dict[str, Sampled]:
    """`official_classes`; a unit is a clip, with the frames that fill it up to the longest."""
    values = official_classes(frames, padding, padded)
    filled = None if padding is None or not padded else padding
    return _resampled_classes(values, frames, clips, torch.ones_like(frames.empty), filled)


def resampled_released_classes(frames: ClassFrames, clips: Sequence[int]) -> dict[str, Sampled]:
    """`released_classes`; a unit is a clip."""
    return _resampled_classes(released_classes(frames), frames, clips, ~frames.empty, None)


def _resampled_classes(
    values: dict[str, float],
    frames: ClassFrames,
    clips: Sequence[int],
    kept: Bool[Tensor, " n"],
    padding: ClassFrames | None,
) -> dict[str, Sampled]:
    iou, f, present = (by_clip((x * kept.unsqueeze(1)).double(), clips) for x in frames[:3])
    if padding is not None:
        missing = (max(clips) - np.array(clips))[:, None]
        filler = [x[:1].double().cpu().numpy() for x in padding[:3]]
        iou, f, present = (x + missing * y for x, y in zip((iou, f, present), filler, strict=True))

    def statistics(weights: Weights) -> Float[np.ndarray, "r 4"]:
        count = weights @ present
        found = []
        for sums in (iou, f):
            means = weights @ sums / np.maximum(count, 1)
            found += [
                100 * means[:, first:].sum(axis=1) / np.maximum((count[:, first:] > 0).sum(axis=1), 1)
                for first in (0, 1)
            ]
        return np.stack(found, axis=1)

    draws = resamples_of(len(clips)).of(statistics)
    return {
        name: Sampled(values[name], draws[:, place], len(clips), PERCENT)
        for place, name in enumerate(("miou", "miou_noBg", "f", "f_noBg"))
    }


def by_clip(values: Float[Tensor, "n w"], clips: Sequence[int]) -> Float[np.ndarray, "k w"]:
    """Sums over the frames of each clip."""
    starts = np.concatenate([[0], np.cumsum(clips)[:-1]]).astype(int)
    return np.add.reduceat(values.cpu().numpy(), starts, axis=0)
