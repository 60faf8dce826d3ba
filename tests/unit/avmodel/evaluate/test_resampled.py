"""Scores of resamples, beside the metric of the frames, images and mixtures that each resample has."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from avmodel import bootstrap
from avmodel.bootstrap import Sampled
from avmodel.evaluate.localization.scores import ciou_scores, resampled_ciou
from avmodel.evaluate.segmentation.resampled import (
    resampled_official_binary,
    resampled_official_classes,
    resampled_released_binary,
    resampled_released_classes,
)
from avmodel.evaluate.segmentation.scores import (
    BinaryFrames,
    ClassFrames,
    official_binary,
    official_classes,
    released_binary,
    released_classes,
)
from avmodel.evaluate.separation.task import mean_scores

CLIPS = [1, 3, 2, 3, 1, 2, 3]  # frames of each
STARTS = np.cumsum([0, *CLIPS])
FEW = 30  # resamples that are compared


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def compare(found: dict[str, Sampled], units: int, metric: Callable[[list[int]], dict[str, float]]) -> None:
    """The scores and their first resamples are those of `metric` of the units, as often as they are drawn."""
    counts = bootstrap.resamples_of(units).counts
    for name, score in found.items():
        assert score.value == pytest.approx(metric(list(range(units)))[name])
        assert score.units == units and score.draws is not None
        for place in range(FEW):
            units_drawn = np.repeat(np.arange(units), counts[place]).tolist()
            assert score.draws[place] == pytest.approx(metric(units_drawn)[name], rel=1e-5), (name, place)


def frames_of(units: list[int]) -> Tensor:
    return torch.cat([torch.arange(STARTS[one], STARTS[one + 1]) for one in units])


def binary(generator: torch.Generator) -> BinaryFrames:
    count = sum(CLIPS)
    foreground, background, best_f = torch.rand(3, count, generator=generator, dtype=torch.float64)
    return BinaryFrames(
        empty=torch.arange(count) % 4 == 0,
        foreground=foreground,
        background=background,
        no_background=torch.arange(count) % 5 == 1,
        curve=torch.rand(count, 255, generator=generator, dtype=torch.float64),
        best_f=best_f,
    )


def classes(generator: torch.Generator) -> ClassFrames:
    count = sum(CLIPS)
    present = torch.rand(count, 4, generator=generator) < 0.4
    iou, f = torch.rand(2, count, 4, generator=generator, dtype=torch.float64) * present
    return ClassFrames(iou, f, present, torch.arange(count) % 6 == 2)


def test_binary_masks(generator: torch.Generator) -> None:
    frames = binary(generator)

    def official(units: list[int]) -> dict[str, float]:
        rows = frames_of(units)
        return official_binary(BinaryFrames(*(x[rows] for x in frames)), [CLIPS[one] for one in units])

    def released(units: list[int]) -> dict[str, float]:
        return released_binary(BinaryFrames(*(x[frames_of(units)] for x in frames)))

    compare(resampled_official_binary(frames, CLIPS), len(CLIPS), official)
    compare(resampled_released_binary(frames, CLIPS), len(CLIPS), released)


def test_masks_of_classes(generator: torch.Generator) -> None:
    """Clips of fewer frames are filled up, in each resample as often as they are drawn."""
    frames, filler = classes(generator), ClassFrames(*(x[:1] for x in classes(generator)))

    def official(units: list[int]) -> dict[str, float]:
        padded = sum(max(CLIPS) - CLIPS[one] for one in units)
        return official_classes(ClassFrames(*(x[frames_of(units)] for x in frames)), filler, padded)

    def released(units: list[int]) -> dict[str, float]:
        return released_classes(ClassFrames(*(x[frames_of(units)] for x in frames)))

    padded = sum(max(CLIPS) - one for one in CLIPS)
    compare(resampled_official_classes(frames, filler, padded, CLIPS), len(CLIPS), official)
    compare(resampled_released_classes(frames, CLIPS), len(CLIPS), released)


def test_images_of_localization(generator: torch.Generator) -> None:
    values = torch.rand(20, generator=generator)
    compare(resampled_ciou(values), 20, lambda units: ciou_scores(values[units]))


def test_mixtures_of_separation(generator: torch.Generator) -> None:
    values, untouched = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64)

    def metric(units: list[int]) -> dict[str, float]:
        means = dict(zip(("sdr", "sir", "sar"), values[units].mean(dim=0).tolist(), strict=True))
        return means | {"sdr_gain": means["sdr"] - float(untouched[units, 0].mean())}

    found = mean_scores(values, untouched)
    compare(found, 12, metric)
    low, high = found["sdr"].interval() or (0, 0)
    assert low < found["sdr"].value < high


def test_frames_that_are_all_empty_have_the_score_0() -> None:
    frames = binary(torch.Generator().manual_seed(0))._replace(empty=torch.ones(sum(CLIPS), dtype=torch.bool))
    for score in resampled_released_binary(frames, CLIPS).values():
        assert score.value == 0
        assert score.interval() == (0, pytest.approx(100 * (1 - 0.025 ** (1 / 7))))
