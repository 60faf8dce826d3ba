"""Invertible complex spectra of a waveform, with the columns of a log-mel profile."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from avdata.profiles import MelProfile


def leading_frames(profile: MelProfile) -> int:
    """Frames before the log-mel's first column, so that the first samples also lie under several windows."""
    return math.ceil(profile.n_fft / profile.hop_length)


def spectra_of(waveform: Float[Tensor, "*b n"], profile: MelProfile, columns: int) -> Complex[Tensor, "*b f t"]:
    """Frames from `leading_frames` before the first column to beyond the waveform's end, at least `columns` of them.

    The waveform is padded with silence. Kaldi's windows are 56 samples later here than in its filter bank.
    """
    left, hop, size = _left(profile), profile.hop_length, waveform.shape[-1]
    needed = (leading_frames(profile) + columns - 1) * hop + profile.n_fft
    right = max(profile.n_fft + hop, needed - left - size)
    flat = F.pad(waveform.reshape(-1, size), (left, right))
    found = torch.stft(
        flat,
        n_fft=profile.n_fft,
        hop_length=hop,
        win_length=profile.win_length,
        window=_window(profile, flat),
        center=False,
        return_complex=True,
    )
    return found.reshape(*waveform.shape[:-1], *found.shape[1:])


def waveform_of(
    spectra: Complex[Tensor, "*b f t"], profile: MelProfile, num_samples: int
) -> Float[Tensor, "*b {num_samples}"]:
    """The waveform whose `spectra_of` are nearest to these."""
    # istft expects centered frames: shift by half a window.
    skipped = _left(profile) - profile.n_fft // 2
    flat = spectra.reshape(-1, *spectra.shape[-2:])
    found = torch.istft(
        flat,
        n_fft=profile.n_fft,
        hop_length=profile.hop_length,
        win_length=profile.win_length,
        window=_window(profile, flat.real),
        center=True,
        length=skipped + num_samples,
    )[:, skipped:]
    return found.reshape(*spectra.shape[:-2], num_samples)


def power_of(spectra: Complex[Tensor, "*b f t"]) -> Float[Tensor, "*b f t"]:
    """Squared magnitudes."""
    return spectra.real.square() + spectra.imag.square()


def _left(profile: MelProfile) -> int:
    return leading_frames(profile) * profile.hop_length + (profile.n_fft // 2 if profile.centered else 0)


def _window(profile: MelProfile, like: Float[Tensor, "*shape"]) -> Float[Tensor, " w"]:
    return torch.hann_window(profile.win_length, device=like.device, dtype=like.dtype)
