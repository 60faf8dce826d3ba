"""Scores of masks, against libraries where those define the same and against plain loops where only papers do."""

import numpy as np
import pytest
import torch
from sklearn.metrics import fbeta_score, jaccard_score
from torch import Tensor
from torchmetrics.classification import BinaryJaccardIndex, MulticlassFBetaScore, MulticlassJaccardIndex

from avmodel.evaluate.segmentation.scores import (
    BETA2,
    OFFICIAL_LEVELS,
    RELEASED_LEVELS,
    binary_frames,
    class_averages,
    class_frames,
    f_curve,
    official_binary,
    official_classes,
    released_binary,
    released_classes,
)

BETA = BETA2**0.5


def drawn(count: int, *, empty: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities and the masks they are of; the first `empty` masks have nothing."""
    generator = torch.Generator().manual_seed(seed)
    share = 0.1 + 0.8 * torch.rand(count, 1, 1, generator=generator)
    truth = torch.rand(count, 12, 10, generator=generator) < share
    truth[:empty] = False
    noise = torch.rand(count, 12, 10, generator=generator)
    return 0.6 * noise + 0.4 * truth, truth


def test_foreground_iou_is_that_of_the_libraries() -> None:
    probabilities, truth = drawn(6)
    found = official_binary(binary_frames(probabilities, truth), [1] * 6)
    judge = BinaryJaccardIndex()
    each = [float(judge(p, t)) for p, t in zip(probabilities, truth, strict=True)]
    assert found["miou"] == pytest.approx(100 * np.mean(each))
    plain = [jaccard_score(t.flatten(), p.flatten() > 0.5) for p, t in zip(probabilities, truth, strict=True)]
    assert found["miou"] == pytest.approx(100 * np.mean(plain))


@pytest.mark.parametrize("levels", [OFFICIAL_LEVELS, RELEASED_LEVELS])
def test_f_by_threshold_is_that_of_scikit_learn(levels: int) -> None:
    probabilities, truth = drawn(2)
    probabilities[0, 0, :3] = torch.tensor([0.0, 1.0, 0.5])
    thresholds = torch.linspace(0, 1, levels)
    found = f_curve(probabilities, truth, thresholds)
    for place in range(0, levels, 17):
        for frame in range(2):
            expected = fbeta_score(
                truth[frame].flatten(),
                (probabilities[frame] >= thresholds[place]).flatten(),
                beta=BETA,
                zero_division=0,
            )
            assert found[frame, place] == pytest.approx(expected)


def test_an_empty_truth_counts_with_its_background_and_not_in_f() -> None:
    probabilities, truth = drawn(3, empty=1)
    frames = binary_frames(probabilities, truth)
    outside = float((probabilities[0] <= 0.5).double().mean())
    inside = official_binary(binary_frames(probabilities[1:], truth[1:]), [2])
    found = official_binary(frames, [3])
    assert found["miou"] == pytest.approx((100 * outside + 2 * inside["miou"]) / 3)
    assert found["f"] == pytest.approx(inside["f"])
    assert released_binary(frames)["miou_noBg"] == pytest.approx(inside["miou"])


def test_official_f_depends_on_the_batches() -> None:
    probabilities, truth = drawn(4)
    frames = binary_frames(probabilities, truth)
    one, each = official_binary(frames, [4]), official_binary(frames, [1, 1, 1, 1])
    assert one["miou"] == pytest.approx(each["miou"])
    assert one["f"] < each["f"]
    assert each["f"] == pytest.approx(100 * float(frames.curve.amax(dim=1).mean()))
    uneven = official_binary(frames, [3, 1])
    assert uneven["miou"] == pytest.approx(50 * float(frames.foreground[:3].mean() + frames.foreground[3]))
    assert official_binary(binary_frames(*drawn(2, empty=2)), [2])["f"] == 0.0


def test_the_released_mean_of_two_classes_hides_a_foreground_that_the_official_one_has() -> None:
    truth = torch.zeros(3, 20, 20, dtype=torch.bool)
    truth[:, 5:15, 5:15] = True
    probabilities = torch.zeros(3, 20, 20)
    probabilities[:, 5:15, 6:16] = 0.9
    frames = binary_frames(probabilities, truth)
    official, released = official_binary(frames, [3]), released_binary(frames)
    assert released["miou_noBg"] == pytest.approx(official["miou"]) == pytest.approx(100 * 90 / 110)
    assert released["miou"] == pytest.approx(50 * (90 / 110 + 290 / 310))


@pytest.mark.parametrize(("value", "iou", "released"), [(0.0, 0.0, 25.0), (1.0, 50.0, 25.0)])
def test_masks_of_nothing_and_of_everything(value: float, iou: float, released: float) -> None:
    truth = torch.zeros(2, 8, 8, dtype=torch.bool)
    truth[:, :4] = True
    frames = binary_frames(torch.full((2, 8, 8), value), truth)
    assert official_binary(frames, [2])["miou"] == pytest.approx(iou)
    assert released_binary(frames)["miou"] == pytest.approx(released)
    # At threshold 0 everything is foreground, whatever the probabilities.
    assert official_binary(frames, [2])["f"] == pytest.approx(100 * 1.3 * 0.5 / (0.3 * 0.5 + 1))


def test_frames_without_any_background_leave_it_out() -> None:
    truth = torch.ones(2, 4, 4, dtype=torch.bool)
    assert released_binary(binary_frames(torch.ones(2, 4, 4), truth)) == {"miou": 100, "f": 100, "miou_noBg": 100}
    nothing = torch.zeros(2, 4, 4, dtype=torch.bool)
    frames = binary_frames(torch.zeros(2, 4, 4), nothing)
    assert official_binary(frames, [2])["miou"] == 100
    assert released_binary(frames) == {"miou": 0.0, "f": 0.0, "miou_noBg": 0.0}


def test_classes_of_one_frame_are_those_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(0, 4, (1, 16, 16), generator=generator).to(torch.uint8)
    guessed = torch.randint(0, 4, (1, 16, 16), generator=generator).to(torch.uint8)
    predicted = torch.where(torch.rand(1, 16, 16, generator=generator) < 0.5, truth, guessed)
    iou, f, seen = class_averages(class_frames(predicted, truth, 5))
    assert seen.tolist() == [1, 1, 1, 1, 0]
    flat = predicted.flatten().long(), truth.flatten().long()
    assert iou[:4] == pytest.approx(MulticlassJaccardIndex(4, average="none")(*flat), abs=1e-6)
    assert f[:4] == pytest.approx(MulticlassFBetaScore(BETA, 4, average="none")(*flat), abs=1e-6)


def test_a_class_counts_in_the_frames_that_have_it() -> None:
    truth = torch.zeros(3, 2, 2, dtype=torch.uint8)
    truth[0], truth[1, 0] = 2, 1
    predicted = truth.clone()
    predicted[1] = 1  # half of it right
    predicted[2, 0, 0] = 2  # of a frame of background
    frames = class_frames(predicted, truth, 4)
    official, released = official_classes(frames), released_classes(frames)
    background, first, second = (0 + 3 / 4) / 2, 1 / 2, (1 + 0) / 2
    assert official["miou"] == pytest.approx(100 * (background + first + second) / 3)
    assert official["miou_noBg"] == pytest.approx(100 * (first + second) / 2)
    assert released["miou"] == pytest.approx(100 * (0 + 1 / 2 + 1) / 3)
    assert official["f_noBg"] == pytest.approx(100 * (1.3 * 2 / (0.3 * 2 + 4) + 1 / 2) / 2)


def test_frames_that_fill_a_clip_up_count_officially() -> None:
    black = torch.zeros(1, 2, 2, dtype=torch.uint8)
    truth = black.clone()
    truth[0, 0] = 1
    wrong = black.clone()
    wrong[0, 0, 0] = 2
    frames = class_frames(truth, truth, 3)
    assert official_classes(frames)["miou"] == 100
    found = official_classes(frames, class_frames(wrong, black, 3), padded=4)
    assert found["miou"] == pytest.approx(100 * ((1 + 4 * 3 / 4) / 5 + 1 + 0) / 3)
    same = official_classes(class_frames(torch.cat([truth, *[wrong] * 4]), torch.cat([truth, *[black] * 4]), 3))
    assert found == pytest.approx(same)
    assert released_classes(frames)["miou"] == 100
