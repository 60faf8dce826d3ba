"""Shares of black and of uniform frames."""

import cv2
import numpy as np
import pytest

from avdata.prepare.steps.plain import black_share, uniform_share

RNG = np.random.default_rng(0)
BLACK = RNG.integers(0, 20, (48, 64, 3)).astype(np.uint8)  # with the noise of a camera
GRAY = np.clip(RNG.normal(128, 2, (48, 64, 3)), 0, 255).astype(np.uint8)
RAMP = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)


def test_the_black_share_counts_black_frames() -> None:
    assert black_share([BLACK, GRAY, RAMP, BLACK], 25.0) == 0.5
    assert black_share([GRAY, RAMP], 25.0) == 0.0


def test_a_small_light_in_the_dark_is_not_black() -> None:
    lit = BLACK.copy()
    lit[10:30, 10:30] = 200
    assert black_share([lit, BLACK], 25.0) == 0.5


def test_the_uniform_share_counts_frames_of_one_color() -> None:
    red_and_green = np.zeros((48, 64, 3), np.uint8)
    red_and_green[:, :32, 0], red_and_green[:, 32:, 1] = 149, 76  # the same shade of gray
    assert np.ptp(cv2.cvtColor(red_and_green, cv2.COLOR_RGB2GRAY)) <= 1
    assert uniform_share([GRAY, BLACK, RAMP, red_and_green], 3.0) == 0.5


@pytest.mark.parametrize("share", [lambda: black_share([], 25.0), lambda: uniform_share([], 3.0)])
def test_no_frames_have_a_share_of_0(share) -> None:  # type: ignore[no-untyped-def]
    assert share() == 0.0
