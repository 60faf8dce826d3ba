"""Trivial baselines of segmentation: masks that don't depend on the frame."""

import torch
from jaxtyping import Float
from torch import Tensor

from avmodel.evaluate.data import ordered_loader
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.localization.scores import center_prior, unit_range
from avmodel.evaluate.segmentation.config import SegmentationConfig
from avmodel.evaluate.segmentation.counts import MaskedFrames, Method
from avmodel.evaluate.segmentation.scores import BACKGROUND
from avmodel.evaluate.segmentation.segmenter import frames_of, outputs_of, test_view
from avmodel.evaluate.truth import masks_of


def constant(probabilities: Float[Tensor, "c h w"]) -> Method:
    """A method that gives the same probabilities for every frame."""
    return lambda batch: probabilities.to(batch.images.device).expand(len(batch), -1, -1, -1)


def mean_mask(config: SegmentationConfig, run: Evaluation, train: MaskedFrames) -> Float[Tensor, "c h w"]:
    """Share of the training frames in which each pixel is foreground, or has each class."""
    world = run.world
    frames, tables = frames_of(train.clips), train.labeled[: len(train.labeled) // config.repeats]
    view = test_view(config, run.loaded)
    outputs = outputs_of(frames.dataset.classes if config.target == "classes" else ())
    total = torch.zeros(outputs, view.image_size, view.image_size, dtype=torch.float64)
    count = 0
    for batch in ordered_loader(config.data, frames, view, world, batch_size=config.feature_batch_size, seed=0):
        truth = masks_of(batch, tables)[batch.valid]
        count += len(truth)
        for value in range(outputs):
            total[value] += (truth == (value if outputs > 1 else 1)).sum(dim=0)
    summed = world.mean(torch.cat([total.flatten(), torch.tensor([float(count)])]).to(world.device)).cpu()
    return (summed[:-1] / summed[-1].clamp(min=1e-9)).reshape(total.shape).float()


def baseline_masks(mean: Float[Tensor, "c h w"]) -> dict[str, Float[Tensor, "c h w"]]:
    """Trivial baseline masks, by name, from the mean mask of the training frames.

    With several classes, the foreground is the most frequent class of the training frames.
    """
    prior = unit_range(center_prior(mean.shape[1]).unsqueeze(0))
    if len(mean) == 1:
        return {
            "all background": torch.zeros_like(mean),
            "all foreground": torch.ones_like(mean),
            "center prior": prior,
            "mean training mask": mean,
        }
    common = 1 + int(mean[1:].sum(dim=(1, 2)).argmax())

    def of(foreground: Float[Tensor, "1 h w"]) -> Float[Tensor, "c h w"]:
        found = torch.zeros_like(mean)
        found[BACKGROUND], found[common] = 1 - foreground[0], foreground[0]
        return found

    return {
        "all background": of(torch.zeros_like(prior)),
        "all foreground": of(torch.ones_like(prior)),
        "center prior": of(prior),
        "mean training mask": mean,
    }
