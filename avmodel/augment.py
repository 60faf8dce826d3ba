"""Data augmentation of log-mels, waveforms and images on the device. Every random number is an argument.

Time roll, noise and SpecAug act on log-mels; `mix` on waveforms and pictures together, before a log-mel is made.

Source: CAV-MAE (arXiv:2210.07839) and its released code; SpecAug: arXiv:1904.08779.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from avmodel.configs.augment import AugmentConfig

GOLDEN, MIX = -0x61C8864680B583EB, (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # SplitMix64's constants, signed
BITS = 53


def num_augment_draws(config: AugmentConfig) -> int:
    """Random numbers in [0, 1) for each sample: roll, size and key of the noise, widths and starts of two stripes."""
    return 7 if config != AugmentConfig() else 0


def augment(
    log_mel: Float[Tensor, "b 1 mel t"], config: AugmentConfig, draws: Float[Tensor, "b n"]
) -> Float[Tensor, "b 1 mel t"]:
    """Augment log-mels by the `num_augment_draws` random numbers of each sample.

    The order is SpecAug, noise, roll, as released, so that the time stripe may wrap around the end.
    """
    if not num_augment_draws(config):
        return log_mel
    roll, size, key, *stripes = draws.to(log_mel.device).unbind(dim=1)
    log_mel = mask_stripe(log_mel, 2, config.mask_bins, stripes[0], stripes[1], config.mask_value)
    log_mel = mask_stripe(log_mel, 3, config.mask_columns, stripes[2], stripes[3], config.mask_value)
    if config.noise:
        noise = uniform_noise((key * 2.0**BITS).long(), math.prod(log_mel.shape[1:])).reshape(log_mel.shape)
        log_mel = log_mel + noise.to(log_mel.dtype) * (config.noise * size.to(log_mel.dtype)).view(-1, 1, 1, 1)
    if config.roll:
        shifts = (roll * (2 * config.roll + 1)).long() - config.roll
        log_mel = roll_columns(log_mel, shifts)
    return log_mel


def roll_columns(log_mel: Float[Tensor, "b 1 mel t"], shifts: Int64[Tensor, " b"]) -> Float[Tensor, "b 1 mel t"]:
    """Each spectrogram rolled by `shifts` columns to later times, around the end."""
    columns = log_mel.shape[-1]
    source = (torch.arange(columns, device=log_mel.device) - shifts.to(log_mel.device).unsqueeze(1)) % columns
    return log_mel.gather(3, source[:, None, None, :].expand_as(log_mel))


def mask_stripe(
    log_mel: Float[Tensor, "b 1 mel t"],
    axis: int,
    most: int,
    width: Float[Tensor, " b"],
    start: Float[Tensor, " b"],
    value: float,
) -> Float[Tensor, "b 1 mel t"]:
    """Fill one stripe across `axis` with `value`, 0 to `most` wide, by random numbers in [0, 1)."""
    if not most:
        return log_mel
    size = log_mel.shape[axis]
    widths = (width * (min(most, size) + 1)).long()
    starts = (start * (size - widths + 1)).long()
    place = torch.arange(size, device=log_mel.device)
    filled = (place >= starts.unsqueeze(1)) & (place < (starts + widths).unsqueeze(1))
    return log_mel.masked_fill(filled[:, None, :, None] if axis == 2 else filled[:, None, None, :], value)


def uniform_noise(keys: Int64[Tensor, " b"], count: int) -> Float[Tensor, "b n"]:
    """`count` numbers in [0, 1) for each key, float64; the same on every device.

    SplitMix64, as `avdata.load.order.random_bits`, in signed integers that wrap around.
    """
    bits = keys.unsqueeze(1) + torch.arange(1, count + 1, device=keys.device) * GOLDEN
    for shift, factor in zip((30, 27), MIX, strict=True):
        bits = (bits ^ _shifted(bits, shift)) * factor
    return _shifted(bits ^ _shifted(bits, 31), 64 - BITS).double() * 2.0**-BITS


def _shifted(bits: Int64[Tensor, "b n"], by: int) -> Int64[Tensor, "b n"]:
    """Logical right shift."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


class Mixed(NamedTuple):
    """A mixture of samples with others of their batch."""

    waveform: Float[Tensor, "b n"]
    image: Float[Tensor, "b 3 h w"]
    targets: Float[Tensor, "b c"]


def mix(
    waveform: Float[Tensor, "b n"],
    image: Float[Tensor, "b 3 h w"],
    targets: Float[Tensor, "b c"],
    partner: Int64[Tensor, " b"],
    share: Float[Tensor, " b"],
) -> Mixed:
    """Mixup of both modalities: `share` of each sample, the rest of its `partner` in the batch; 1 changes nothing.

    Sound, image and label have the same share; AVSiam's release draws the image's separately. Waveforms are centered
    before and after, as released; shares come from `mix_shares`.
    """
    sound = waveform - waveform.mean(dim=1, keepdim=True)
    sound = blended(sound, partner, share)
    return Mixed(
        sound - sound.mean(dim=1, keepdim=True), blended(image, partner, share), blended(targets, partner, share)
    )


def mix_shares(draws: Float[Tensor, "b 2"], *, probability: float = 0.5, alpha: float = 10.0) -> Float[Tensor, " b"]:
    """Shares for `mix` from two numbers in [0, 1) of each sample: Beta(alpha, alpha) with that probability, else 1."""
    from scipy.stats import beta  # noqa: PLC0415  # takes seconds, which only runs that mix need

    drawn = torch.from_numpy(beta.ppf(draws[:, 1].double().cpu().numpy(), alpha, alpha)).to(draws)
    return torch.where(draws[:, 0] < probability, drawn, 1.0)


def blended(
    x: Float[Tensor, "b *d"], partner: Int64[Tensor, " b"], share: Float[Tensor, " b"]
) -> Float[Tensor, "b *d"]:
    """`share` of each row, the rest of its partner's."""
    weight = share.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return weight * x + (1 - weight) * x[partner]
