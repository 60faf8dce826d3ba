"""Kinds of separation masks: how sources are mixed, the target masks, and how a mask separates a mixture.

Source: DeepAVFusion's released code (`released`); "The Sound of Pixels" (ECCV 2018) for `sop`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from avdata.profiles import MelProfile
from avdata.torch_melspec import mel_filters
from avmanifest.errors import ConfigError
from avmodel.evaluate.separation.config import SOUND_OF_PIXELS, TARGETS
from avmodel.evaluate.separation.spectra import leading_frames, power_of, spectra_of, waveform_of

WEIGHTS = (1e-3, 10.0)  # least and greatest weight of a mask cell in the loss


class Masks(ABC):
    """A kind of masks for mixtures of 16 kHz waveforms of one length."""

    size: tuple[int, int]  # rows and columns of a mask
    sample_rate: int  # Hz, of separated and scored waveforms

    def mix(self, sources: Float[Tensor, "b s n"]) -> Float[Tensor, "b n"]:
        """The mixture of the sources."""
        return sources.sum(dim=1)

    def references(self, sources: Float[Tensor, "b s n"]) -> Float[Tensor, "b s m"]:
        """The sources that estimates are scored against, at `sample_rate`."""
        return sources

    @abstractmethod
    def targets(self, sources: Float[Tensor, "b s n"]) -> tuple[Float[Tensor, "b s h w"], Float[Tensor, "b 1 h w"]]:
        """The target mask of each source, from 0 to 1, and the loss weight of each cell."""

    @abstractmethod
    def separate(self, masks: Float[Tensor, "b s h w"], mixture: Float[Tensor, "b n"]) -> Float[Tensor, "b s m"]:
        """The waveforms that the masks separate from a mixture."""


class Powers(NamedTuple):
    """Mel powers: of each source, of all others together, and of the mixture."""

    source: Float[Tensor, "b s mel t"]
    others: Float[Tensor, "b s mel t"]
    mixture: Float[Tensor, "b 1 mel t"]


class Kind(NamedTuple):
    """A kind of mask on mel powers."""

    target: Callable[[Powers], Float[Tensor, "b s mel t"]]
    binary: bool = False  # cells above 0.5 pass unchanged, the others are set to 0
    exact: bool = True  # a mask of ones returns the mixture; False: edge bins and the last frames are lost


def ratio_to_mixture(power: Powers) -> Float[Tensor, "b s mel t"]:
    """S / (S + M), as released: 0.5, not 1, where a source is alone."""
    return (power.source / (power.source + power.mixture + 1e-5)).clamp(0, 1)


def ratio_to_all(power: Powers) -> Float[Tensor, "b s mel t"]:
    """S / (S + others), the ideal ratio mask: the masks of all sources sum to 1 where the mixture is not silent."""
    return power.source / (power.source + power.others).clamp_min(1e-10)


def is_dominant(power: Powers) -> Float[Tensor, "b s mel t"]:
    """1 where a source is louder than all others together.

    The released code compares the source with the mixture instead; such a mask hardly separates.
    """
    return (power.source > power.others).to(power.source)


KINDS = {
    "irm": Kind(ratio_to_all),
    "dominant": Kind(is_dominant, binary=True),
    "released": Kind(ratio_to_mixture, exact=False),
}


class MelMasks(Masks):
    """Masks on the cells of a log-mel, applied through its filters. The mixture is the sum of the sources."""

    def __init__(self, kind: Kind, profile: MelProfile, columns: int) -> None:
        self.kind, self.profile = kind, profile
        self.size, self.sample_rate = (profile.n_mels, columns), profile.sample_rate

    def targets(self, sources: Float[Tensor, "b s n"]) -> tuple[Float[Tensor, "b s h w"], Float[Tensor, "b 1 h w"]]:
        mixture, source = self.mel_power(self.mix(sources)).unsqueeze(1), self.mel_power(sources)
        powers = Powers(source, source.sum(dim=1, keepdim=True) - source, mixture)
        return self.kind.target(powers), mixture.log1p().clamp(*WEIGHTS)

    def separate(self, masks: Float[Tensor, "b s h w"], mixture: Float[Tensor, "b n"]) -> Float[Tensor, "b s m"]:
        masks = (masks > 0.5).to(masks) if self.kind.binary else masks
        spectra = spectra_of(mixture, self.profile, self.size[1])
        bins = torch.einsum("bsmt,mf->bsft", masks, self.projection(masks.device))
        bins = at_all_frames(bins, leading_frames(self.profile), spectra.shape[-1])
        if not self.kind.exact:
            bins[..., leading_frames(self.profile) + masks.shape[-1] :] = 0
        return waveform_of(bins * spectra.unsqueeze(1), self.profile, mixture.shape[-1])

    def mel_power(self, waveform: Float[Tensor, "*b n"]) -> Float[Tensor, "*b mel t"]:
        """Mel powers of the columns that a mask has."""
        before, columns = leading_frames(self.profile), self.size[1]
        power = power_of(spectra_of(waveform, self.profile, columns)[..., before : before + columns])
        return mel_filters(self.profile, waveform.device) @ power

    def projection(self, device: torch.device) -> Float[Tensor, "mel f"]:
        """Weight of each mel bin on each linear bin: its filter, as released, or its share of all filters if exact."""
        filters = mel_filters(self.profile, device)
        if not self.kind.exact:
            return filters
        total = filters.sum(dim=0)
        covered = torch.nonzero(total > 0)[:, 0]
        nearest = covered[(torch.arange(len(total), device=device)[:, None] - covered).abs().argmin(dim=1)]
        return filters[:, nearest] / total[nearest]


class SoundOfPixelsMasks(Masks):
    """Sound of Pixels' protocol: 11,025 Hz, its STFT on a log-frequency grid, 1 where a source is over half the mean.

    The mixture is the mean of the sources. Two things differ from the protocol: the window is the model's, not 5.9 s,
    and the model's input is its own log-mel.
    """

    profile = MelProfile(
        name="sop", sample_rate=11_025, win_length=1022, n_fft=1022, hop_length=256, centered=True, n_mels=256
    )

    def __init__(self, num_samples: int, sample_rate: int) -> None:
        self.given_rate, self.sample_rate = sample_rate, self.profile.sample_rate
        resampled = -(-num_samples * self.sample_rate // sample_rate)
        self.size = (self.profile.n_mels, 1 + resampled // self.profile.hop_length)

    def mix(self, sources: Float[Tensor, "b s n"]) -> Float[Tensor, "b n"]:
        return sources.mean(dim=1)

    def references(self, sources: Float[Tensor, "b s n"]) -> Float[Tensor, "b s m"]:
        return self.resampled(sources) / sources.shape[1]

    def targets(self, sources: Float[Tensor, "b s n"]) -> tuple[Float[Tensor, "b s h w"], Float[Tensor, "b 1 h w"]]:
        mixture = self.magnitudes(self.spectra(self.mix(sources).unsqueeze(1)))
        return (self.magnitudes(self.spectra(sources) / sources.shape[1]) > 0.5 * mixture).to(mixture), (
            mixture.log1p().clamp(*WEIGHTS)
        )

    def separate(self, masks: Float[Tensor, "b s h w"], mixture: Float[Tensor, "b n"]) -> Float[Tensor, "b s m"]:
        whole = self.resampled(mixture)
        spectra = spectra_of(whole, self.profile, self.size[1])
        bins = on_rows((masks > 0.5).to(masks), from_log(spectra.shape[-2], masks))
        bins = at_all_frames(bins, leading_frames(self.profile), spectra.shape[-1])
        return waveform_of(bins * spectra.unsqueeze(1), self.profile, whole.shape[-1])

    def spectra(self, waveform: Float[Tensor, "b s n"]) -> Complex[Tensor, "b s f t"]:
        """Spectra of the columns of a mask."""
        before, columns = leading_frames(self.profile), self.size[1]
        return spectra_of(self.resampled(waveform), self.profile, columns)[..., before : before + columns]

    def magnitudes(self, spectra: Complex[Tensor, "b s f t"]) -> Float[Tensor, "b s h t"]:
        """Magnitudes on the grid of a mask."""
        return on_rows(spectra.abs(), to_log(self.size[0], spectra.real))

    def resampled(self, waveform: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
        """The waveform at the protocol's rate."""
        from torchaudio.functional import resample  # noqa: PLC0415 - only this function needs it

        found: Tensor = resample(waveform.contiguous(), self.given_rate, self.sample_rate)
        return found


def at_all_frames(values: Float[Tensor, "b s f t"], before: int, frames: int) -> Float[Tensor, "b s f {frames}"]:
    """Values for all frames: the first and last columns are repeated for the frames before and after them."""
    first, last = values[..., :1], values[..., -1:]
    after = frames - before - values.shape[-1]
    return torch.cat([first.expand(*first.shape[:-1], before), values, last.expand(*last.shape[:-1], after)], dim=-1)


def to_log(rows: int, like: Float[Tensor, "*shape"]) -> Float[Tensor, " h"]:
    """The linear frequency, from -1 to 1, of each row of the log-frequency grid."""
    return (21 ** ((torch.linspace(-1, 1, rows, device=like.device, dtype=like.dtype) + 1) / 2) - 11) / 10


def from_log(rows: int, like: Float[Tensor, "*shape"]) -> Float[Tensor, " h"]:
    """The position in the log-frequency grid, from -1 to 1, of each linear row: the inverse of `to_log`."""
    linear = torch.linspace(-1, 1, rows, device=like.device, dtype=like.dtype)
    return 2 * (10 * linear + 11).log() / math.log(21) - 1


def on_rows(maps: Float[Tensor, "b s f t"], rows: Float[Tensor, " h"]) -> Float[Tensor, "b s h t"]:
    """Maps at the given rows, each from -1 to 1, by linear interpolation."""
    columns = torch.linspace(-1, 1, maps.shape[-1], device=maps.device, dtype=maps.dtype)
    size = len(rows), len(columns)
    grid = torch.stack([columns[None, :].expand(size), rows[:, None].expand(size)], dim=-1)
    return F.grid_sample(maps, grid.expand(len(maps), -1, -1, -1), align_corners=True)


def make_masks(target: str, profile: MelProfile, columns: int, num_samples: int) -> Masks:
    """The masks of a target for waveforms of `num_samples`. Raises ConfigError for an unknown target."""
    if target == SOUND_OF_PIXELS:
        return SoundOfPixelsMasks(num_samples, profile.sample_rate)
    if target not in KINDS:
        raise ConfigError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    return MelMasks(KINDS[target], profile, columns)
