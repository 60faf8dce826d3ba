"""Each variation by hand; all of them functions of the numbers they are given."""

import numpy as np
import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.augment import (
    AugmentConfig,
    augment,
    mask_stripe,
    mix,
    mix_shares,
    num_augment_draws,
    roll_columns,
    uniform_noise,
)

ALL = AugmentConfig(roll=20, noise=0.5, mask_bins=3, mask_columns=8)


def mels(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 1, 8, 20, generator=torch.Generator().manual_seed(0))


def draws(count: int = 4) -> torch.Tensor:
    return torch.rand(count, num_augment_draws(ALL), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_without_settings_nothing_changes_and_no_number_is_taken() -> None:
    assert num_augment_draws(AugmentConfig()) == 0
    x = mels()
    assert augment(x, AugmentConfig(), torch.empty(4, 0)) is x


def test_a_sample_is_varied_alike_whoever_its_neighbors_are() -> None:
    x, numbers = mels(), draws()
    varied = augment(x, ALL, numbers)
    for row in range(4):
        assert torch.equal(augment(x[row : row + 1], ALL, numbers[row : row + 1])[0], varied[row])
    assert (varied != x).flatten(1).any(dim=1).all()


def test_rolling_moves_columns_around_the_end() -> None:
    x = mels(3)
    rolled = roll_columns(x, torch.tensor([0, 3, -21]))
    for row, shift in enumerate((0, 3, -21)):
        assert torch.equal(rolled[row], x[row].roll(shift, dims=-1))


def test_rolls_reach_both_ends_of_their_range() -> None:
    x, config = torch.arange(20.0).expand(1000, 1, 1, 20), AugmentConfig(roll=2)
    numbers = torch.rand(1000, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert set(augment(x, config, numbers)[:, 0, 0, 0].tolist()) == {18, 19, 0, 1, 2}


def test_noise_is_splitmix_and_uniform() -> None:
    keys = torch.tensor([0, 12345, 1 << 52])
    noise = uniform_noise(keys, 20_000)
    assert noise.min() >= 0
    assert noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.01
    # SplitMix64 in unsigned arithmetic.
    with np.errstate(over="ignore"):
        bits = np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(12345)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        bits ^= bits >> np.uint64(31)
    assert noise[1, :5].tolist() == ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53).tolist()


def test_noise_has_one_size_a_sample() -> None:
    numbers = draws()
    added = augment(torch.zeros(4, 1, 8, 2000), AugmentConfig(noise=0.5), numbers)
    torch.testing.assert_close(added.flatten(1).amax(dim=1), 0.5 * numbers[:, 1].float(), atol=2e-3, rtol=0)
    assert added.min() >= 0


@pytest.mark.parametrize(("axis", "size"), [(2, 8), (3, 20)])
def test_a_stripe_is_whole_and_within_its_width(axis: int, size: int) -> None:
    count = 500
    width, start = torch.rand(2, count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    filled = mask_stripe(torch.ones(count, 1, 8, 20), axis, 5, width, start, 0.0) == 0
    lines = filled.all(dim=5 - axis)[:, 0]
    assert torch.equal(filled.any(dim=5 - axis)[:, 0], lines)
    assert lines.shape == (count, size)
    assert set(lines.sum(dim=1).tolist()) == set(range(6))
    assert (lines.int().diff(dim=1) == 1).sum(dim=1).max() <= 1
    assert lines[:, 0].any()
    assert lines[:, -1].any()


def test_one_share_rules_sound_picture_and_label() -> None:
    generator = torch.Generator().manual_seed(0)
    waveform, image = torch.randn(3, 100, generator=generator), torch.randn(3, 3, 4, 4, generator=generator)
    partner, share = torch.tensor([1, 2, 0]), torch.tensor([1.0, 0.25, 0.5])
    mixed = mix(waveform, image, torch.eye(3), partner, share)
    assert mixed.targets.tolist() == [[1, 0, 0], [0, 0.25, 0.75], [0.5, 0, 0.5]]
    torch.testing.assert_close(mixed.image[1], 0.25 * image[1] + 0.75 * image[2])
    centered = waveform - waveform.mean(dim=1, keepdim=True)
    torch.testing.assert_close(mixed.waveform[1], 0.25 * centered[1] + 0.75 * centered[2], atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.waveform[0], centered[0], atol=1e-6, rtol=0)


def test_shares_are_beta_around_a_half_or_one() -> None:
    shares = mix_shares(torch.rand(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    mixed = shares[shares < 1]
    assert 0.45 < len(mixed) / 4000 < 0.55
    assert abs(mixed.mean() - 0.5) < 0.01
    assert abs(mixed.var() - 1 / 84) < 0.002  # of Beta(10, 10)


def test_a_setting_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augment\.roll=-1: must be 0 or more"):
        AugmentConfig(roll=-1)
