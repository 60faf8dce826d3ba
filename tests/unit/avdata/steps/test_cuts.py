"""Cuts between shots."""

from collections.abc import Iterator

import numpy as np
import pytest

from avdata.prepare.steps.cuts import cut_times, longest_shot_s


def shots(*lengths: int, fps: float = 25.0, start_s: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
    """Frames of shots of so many frames. Each shows a picture of its own that moves a little."""
    number = 0
    for shot, length in enumerate(lengths):
        picture = np.random.default_rng(shot).integers(0, 255, (6, 8, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        for step in range(length):
            yield start_s + number / fps, np.roll(picture, step // 4, axis=1)
            number += 1


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_a_cut_at_1_s_is_found_at_1_s(detector: str) -> None:
    assert cut_times(shots(25, 50), detector) == [1.0]
    assert cut_times(shots(25, 50, 40, start_s=0.02), detector) == pytest.approx([1.02, 3.02])


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_a_video_without_a_cut_has_none(detector: str) -> None:
    assert cut_times(shots(75), detector) == []
    assert cut_times(iter(()), detector) == []


def test_frames_may_come_at_any_times() -> None:
    uneven = [(time_s**2, image) for time_s, image in shots(25, 50)]
    assert cut_times(uneven, "adaptive") == [1.0]
    late = [(time_s + 600.0, image) for time_s, image in shots(25, 50)]
    assert cut_times(late, "content") == [601.0]


def test_the_longest_shot_lies_between_cuts_or_ends() -> None:
    assert longest_shot_s([1.0, 3.5], 5.0) == 2.5
    assert longest_shot_s([1.0], 5.0) == 4.0
    assert longest_shot_s([], 5.0) == 5.0
