"""Log-mel spectrograms in torch, on CPU and GPU, from 16 kHz mono waveforms.

`paper` and `released` use torch.stft and a mel matrix; `kaldi` uses torchaudio's Kaldi filter bank. `avdata.melspec`
computes the same in numpy.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from avdata.melspec import refuse_gain
from avdata.profiles import MelProfile, num_frames


def log_mel(waveform: Float[Tensor, "*b n"], profile: MelProfile) -> Float[Tensor, "*b mel t"]:
    """Compute what `avdata.melspec.log_mel` does, with the same arguments and errors, on the waveform's device.

    On a GPU, TF32 matrix products cost about three digits of precision.
    """
    num_columns = num_frames(waveform.shape[-1], profile)
    flat = waveform.reshape(-1, waveform.shape[-1])
    with torch.autocast(waveform.device.type, enabled=False):
        spectrogram = _kaldi(flat.float(), profile) if profile.kaldi else _stft(flat.float(), profile)
    return spectrogram[..., :num_columns].reshape(*waveform.shape[:-1], profile.n_mels, num_columns)


def apply_gain_db(
    log_mel: Float[Tensor, "*b mel t"], gain_db: float | Float[Tensor, "*b"], profile: MelProfile
) -> Float[Tensor, "*b mel t"]:
    """Compute what `avdata.melspec.apply_gain_db` does, with the same arguments and errors."""
    refuse_gain(profile)
    gain = torch.as_tensor(gain_db, dtype=torch.float32, device=log_mel.device)[..., None, None]
    power = (10 ** log_mel.float() - profile.floor).clamp_min(0)
    return torch.log10(power * 10 ** (gain / 10) + profile.floor)


def _stft(waveform: Float[Tensor, "b n"], profile: MelProfile) -> Float[Tensor, "b mel t"]:
    spectrum = torch.stft(
        waveform,
        n_fft=profile.n_fft,
        hop_length=profile.hop_length,
        win_length=profile.win_length,
        window=_hann(profile, waveform.device),
        center=profile.centered,
        pad_mode="reflect",
        return_complex=True,
    )
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.log10(mel_filters(profile, waveform.device) @ power + profile.floor)


def _kaldi(waveform: Float[Tensor, "b n"], profile: MelProfile) -> Float[Tensor, "b mel t"]:
    from torchaudio.compliance.kaldi import fbank  # noqa: PLC0415 - fails to import beside another torch version

    spectrogram = waveform.new_zeros(len(waveform), profile.n_mels, profile.pad_columns)
    for filled, samples in zip(spectrogram, waveform, strict=True):
        columns = fbank(
            samples[None] - samples.mean(),
            htk_compat=True,
            sample_frequency=profile.sample_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=profile.n_mels,
            low_freq=profile.f_min,
            dither=0.0,
            frame_length=1000 * profile.win_length / profile.sample_rate,
            frame_shift=1000 * profile.hop_length / profile.sample_rate,
        )[: profile.pad_columns]
        filled[:, : len(columns)] = columns.T
    return spectrogram


@lru_cache(maxsize=16)
def _hann(profile: MelProfile, device: torch.device) -> Float[Tensor, " w"]:
    with torch.inference_mode(False):
        return torch.hann_window(profile.win_length, device=device)


@lru_cache(maxsize=16)
def mel_filters(profile: MelProfile, device: torch.device) -> Float[Tensor, "mel bin"]:
    """Triangular mel filters with a peak of 1 and corners equally spaced on HTK's scale, 2595 log10(1 + f / 700)."""
    # The cache outlives the caller's inference mode, and training cannot use inference tensors.
    with torch.inference_mode(False):
        # float32 throughout, as in torchaudio: narrow triangles differ in the fifth digit in float64.
        f_max = profile.sample_rate / 2
        mel_min, mel_max = (2595 * math.log10(1 + f / 700) for f in (profile.f_min, f_max))
        corners = 700 * (10 ** (torch.linspace(mel_min, mel_max, profile.n_mels + 2) / 2595) - 1)
        bins = torch.linspace(0, f_max, profile.n_fft // 2 + 1)
        low, peak, high = (corners[i : i + profile.n_mels, None] for i in range(3))
        return torch.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)).clamp_min(0).to(device)
