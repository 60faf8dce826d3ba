"""Log-mel spectrograms in numpy, from 16 kHz mono waveforms: prepare stores them, the loader computes missing ones.

`avdata.torch_melspec` computes the same in torch on any device. Tests bound the differences.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Float64

from avdata.profiles import MelProfile, num_frames
from avdata.samples import Samples, pairwise_sum
from avmanifest.errors import ConfigError

_CHUNK_COLUMNS: Final = 64  # computed at a time, so that they stay in the CPU cache
_PIECE_COLUMNS: Final = 64 * _CHUNK_COLUMNS  # held in memory at a time
_BLOCK_BANDS: Final = 16  # mel bands per matrix product; each product covers only the bins of its bands
_PRE_EMPHASIS: Final = 0.97  # of Kaldi


def log_mel(waveform: Float[np.ndarray, "*b n"], profile: MelProfile) -> Float32[np.ndarray, "*b mel t"]:
    """Compute a log-mel spectrogram in float32 on one thread.

    `paper` and `released` give log10(power + floor); silence is -7. `kaldi` gives the natural log of Kaldi's filters
    with the options of CAV-MAE and AVSiam: mean of the waveform removed, htk_compat, Hann window, no energy, dither 0,
    Kaldi's defaults otherwise. It is padded with columns of 0.0 to pad_columns, and not normalized.

    Args:
        waveform: Samples at profile.sample_rate.
        profile: The front end.

    Raises:
        ConfigError: The waveform is shorter than one window.
    """
    num_columns = num_frames(waveform.shape[-1], profile)
    flat = np.ascontiguousarray(waveform, np.float32).reshape(-1, waveform.shape[-1])
    out = np.zeros((len(flat), profile.n_mels, num_columns), np.float32)
    for samples, columns in zip(flat, out, strict=True):
        done = 0
        for piece in _computed(samples, profile, num_columns):
            columns[:, done : done + piece.shape[1]] = piece
            done += piece.shape[1]
    return out.reshape(*waveform.shape[:-1], profile.n_mels, num_columns)


def log_mel_pieces(samples: Samples, profile: MelProfile) -> Iterator[Float32[np.ndarray, "mel _"]]:
    """The columns of `log_mel` for one waveform of any length, in pieces that follow each other. Memory does not grow.

    Raises:
        ConfigError: The waveform is shorter than one window.
    """
    left = num_frames(len(samples), profile)
    for piece in _computed(samples, profile, left):
        left -= piece.shape[1]
        yield piece
    if left:
        yield np.zeros((profile.n_mels, left), np.float32)


def apply_gain_db(
    log_mel: Float[np.ndarray, "*b mel t"], gain_db: float | Float[np.ndarray, "*b"], profile: MelProfile
) -> Float32[np.ndarray, "*b mel t"]:
    """Compute the log-mel that the waveform would have with gain_db of gain, in float32.

    The result is exact for a waveform that is not clipped.

    Args:
        log_mel: Spectrograms of `profile`.
        gain_db: Gain in dB: one number, or one per spectrogram.
        profile: How log_mel was made.

    Raises:
        ConfigError: The profile is `kaldi`, whose padding columns are not audio.
    """
    refuse_gain(profile)
    gain = np.asarray(gain_db, np.float32)[..., None, None]
    power = np.maximum(10 ** log_mel.astype(np.float32) - np.float32(profile.floor), 0)
    return _float32(np.log10(power * 10 ** (gain / 10) + np.float32(profile.floor)))


def refuse_gain(profile: MelProfile) -> None:
    """Raise ConfigError if gain cannot be applied to spectrograms of this profile (`kaldi`)."""
    if profile.kaldi:
        raise ConfigError(f"gain is not defined on stored {profile.name!r} spectrograms; apply it to the waveform")


def mel_filters(profile: MelProfile) -> Float32[np.ndarray, "mel bin"]:
    """Triangular mel filters with a peak of 1 and corners equally spaced on a mel scale, rounded as in torch.

    `paper` and `released` use HTK's scale, 2595 log10(1 + f / 700), and triangles that are linear in Hz. `kaldi` uses
    Kaldi's scale, 1127 ln(1 + f / 700), and triangles that are linear in mel; the last bin has weight 0.
    """
    # Rounded to float32 where torch and torchaudio round: narrow triangles differ in the fifth digit in float64.
    f_max = profile.sample_rate / 2
    if profile.kaldi:
        low, high = (1127 * math.log(1 + f / 700) for f in (profile.f_min, f_max))
        step = np.float32((high - low) / (profile.n_mels + 1))
        corners = np.float32(low) + np.arange(profile.n_mels + 2, dtype=np.float32) * step
        hertz = np.arange(profile.n_fft // 2) * (profile.sample_rate / profile.n_fft)
        bins = np.float32(1127) * _float32(np.log(np.float32(1) + np.float32(1 / 700) * _float32(hertz)))
    else:
        low, high = (2595 * math.log10(1 + f / 700) for f in (profile.f_min, f_max))
        mels = _linspace(low, high, profile.n_mels + 2) / np.float32(2595)
        corners = np.float32(700) * (_float32(10.0 ** mels.astype(np.float64)) - np.float32(1))
        bins = _linspace(0.0, f_max, profile.n_fft // 2 + 1)
    left, peak, right = (corners[i : i + profile.n_mels, None] for i in range(3))
    triangles = np.maximum(np.minimum((bins - left) / (peak - left), (right - bins) / (right - peak)), np.float32(0))
    return np.pad(triangles, ((0, 0), (0, 1))) if profile.kaldi else triangles


def _float32(values: np.ndarray) -> Float32[np.ndarray, "..."]:
    return values.astype(np.float32)


def _linspace(start: float, end: float, number: int) -> Float32[np.ndarray, " k"]:
    """torch.linspace in numpy: float32 steps counted from both ends to the middle, each point rounded once."""
    step = float((np.float32(end) - np.float32(start)) / np.float32(number - 1))
    place = np.arange(number)
    rising, falling = np.float32(start) + step * place, np.float32(end) - step * place[::-1]
    return _float32(np.where(place < number // 2, rising, falling))


def _hann(length: int, *, periodic: bool) -> Float32[np.ndarray, " w"]:
    angle = np.arange(length) * (2 * math.pi / (length if periodic else length - 1))
    return _float32(0.5 - 0.5 * np.cos(angle))


@dataclass(frozen=True, slots=True)
class _Bands:
    """Neighboring mel bands, the frequency bins that they cover, and their weights in these bins."""

    bands: slice
    bins: slice
    weights: Float32[np.ndarray, "mel bin"]


@lru_cache(maxsize=16)
def _window(profile: MelProfile) -> Float32[np.ndarray, " w"]:
    return _hann(profile.win_length, periodic=not profile.kaldi)


@lru_cache(maxsize=16)
def _blocks(profile: MelProfile) -> tuple[_Bands, ...]:
    """The mel filters in blocks that leave out most of the zeros."""
    filters, blocks = mel_filters(profile), []
    for first in range(0, profile.n_mels, _BLOCK_BANDS):
        bands = slice(first, min(first + _BLOCK_BANDS, profile.n_mels))
        (used,) = np.nonzero(filters[bands].any(axis=0))
        bins = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append(_Bands(bands, bins, np.ascontiguousarray(filters[bands, bins])))
    return tuple(blocks)


def _computed(samples: Samples, profile: MelProfile, num_columns: int) -> Iterator[Float32[np.ndarray, "mel _"]]:
    """The first columns of a waveform's log-mel, in pieces: at most num_columns, fewer where the waveform ends."""
    window = _window(profile)
    mean = np.float32(pairwise_sum(samples) / len(samples)) if profile.kaldi else None
    # The window is in the middle of n_fft samples; a centered column's are around its sample.
    shift = 0 if profile.kaldi else (profile.n_fft - profile.win_length) // 2
    shift -= profile.n_fft // 2 if profile.centered else 0
    end = len(samples) + (profile.n_fft // 2 if profile.centered else 0)
    num_columns = min(num_columns, 1 + (end - shift - profile.win_length) // profile.hop_length)
    padded = np.zeros((min(_CHUNK_COLUMNS, num_columns), profile.n_fft), np.float32)
    energy = np.empty((profile.n_mels, len(padded)), np.float32)
    for begin in range(0, num_columns, _PIECE_COLUMNS):
        out = np.empty((profile.n_mels, min(_PIECE_COLUMNS, num_columns - begin)), np.float32)
        start = shift + begin * profile.hop_length
        stop = start + (out.shape[1] - 1) * profile.hop_length + profile.win_length
        piece = _reflected(samples, start, stop)
        piece = piece if mean is None else piece - mean
        frames = np.lib.stride_tricks.sliding_window_view(piece, profile.win_length)[:: profile.hop_length]
        for first in range(0, len(frames), _CHUNK_COLUMNS):
            chunk = frames[first : first + _CHUNK_COLUMNS]
            if profile.kaldi:
                chunk = _pre_emphasized(chunk)
            count = len(chunk)
            np.multiply(chunk, window, out=padded[:count, : profile.win_length])
            spectrum = np.fft.rfft(padded[:count]).view(np.float32)  # real and imaginary parts alternate
            np.square(spectrum, out=spectrum)
            power = spectrum[:, ::2] + spectrum[:, 1::2]
            for block in _blocks(profile):
                np.matmul(block.weights, power[:, block.bins].T, out=energy[block.bands, :count])
            out[:, first : first + count] = _log(energy[:, :count], profile)
        yield out


def _reflected(samples: Samples, start: int, stop: int) -> Float32[np.ndarray, " _"]:
    """The samples from start to stop; before the first and after the last sample they are reflected."""
    end = len(samples)
    inside = samples[max(start, 0) : min(stop, end)]
    if start >= 0 and stop <= end:
        return np.asarray(inside)
    before = samples[1 - min(stop, 0) : 1 - min(start, 0)][::-1]
    after = samples[2 * end - 1 - max(stop, end) : 2 * end - 1 - max(start, end)][::-1]
    return np.concatenate([before, inside, after])


def _log(energy: Float32[np.ndarray, "mel t"], profile: MelProfile) -> Float64[np.ndarray, "mel t"]:
    """The logarithm in float64, so that rounding to float32 gives the same result on all machines."""
    exact = energy.astype(np.float64)
    if profile.kaldi:
        return np.asarray(np.log(np.maximum(exact, np.finfo(np.float32).eps)))
    return np.asarray(np.log10(exact + profile.floor))


def _pre_emphasized(frames: Float32[np.ndarray, "t w"]) -> Float32[np.ndarray, "t w"]:
    """Remove the mean of each frame, then subtract _PRE_EMPHASIS times the previous sample, as Kaldi does."""
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    return frames - np.float32(_PRE_EMPHASIS) * before
