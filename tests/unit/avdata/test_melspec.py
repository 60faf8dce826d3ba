"""The log-mel in numpy: against its definition in float64, and against the torch form."""

import numpy as np
import pytest
import torch

from avdata import torch_melspec
from avdata.melspec import apply_gain_db, log_mel, mel_filters
from avdata.profiles import PROFILES, MelProfile, num_frames, profile
from avmanifest.errors import ConfigError
from tests.kaldi import kaldi_log_mel

STFT = ("paper", "released")


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000))).astype(np.float32)


def sweep(seconds: float) -> np.ndarray:
    """A rising tone, far above a little noise, off center."""
    times = np.arange(round(seconds * 16_000)) / 16_000
    return (0.2 * np.sin(2 * np.pi * (200 + 50 * times) * times) + 0.03 * noise(seconds) + 0.01).astype(np.float32)


def full_scale_sine() -> np.ndarray:
    return np.sin(2 * np.pi * 440 * np.arange(48_000) / 16_000).astype(np.float32)


SOUNDS = {"noise": noise(10), "sweep": sweep(10), "sine": full_scale_sine(), "silence": np.zeros(48_000, np.float32)}


def in_torch(waveform: np.ndarray, front_end: MelProfile) -> np.ndarray:
    return torch_melspec.log_mel(torch.from_numpy(waveform), front_end).numpy()


def energies(spectrogram: np.ndarray, front_end: MelProfile) -> np.ndarray:
    """What the logarithm was taken of, in float64."""
    exact = spectrogram.astype(np.float64)
    return np.exp(exact) if front_end.kaldi else 10**exact


@pytest.mark.parametrize("name", STFT)
def test_the_filters_are_those_of_the_torch_form_to_the_last_bit(name: str) -> None:
    expected = torch_melspec.mel_filters(profile(name), torch.device("cpu")).numpy()
    assert np.array_equal(mel_filters(profile(name)), expected)


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("name", list(PROFILES))
def test_it_is_the_torch_form(name: str, sound: str) -> None:
    """Each band's energy differs by less than a millionth of the loudest band's in its column.

    `kaldi`: by less than 3e-5, for torchaudio's float32 logarithm rounds the bins' mel another way, and its triangles
    are 22 mel wide.
    """
    front_end = profile(name)
    found, expected = log_mel(SOUNDS[sound], front_end), in_torch(SOUNDS[sound], front_end)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (128, num_frames(len(SOUNDS[sound]), front_end))
    reached = energies(found, front_end), energies(expected, front_end)
    apart = np.abs(reached[0] - reached[1]) / reached[1].max(axis=0)
    assert apart.max() < (3e-5 if front_end.kaldi else 1e-6)


@pytest.mark.parametrize("sound", ["noise", "sweep", "sine"])
@pytest.mark.parametrize("name", STFT)
def test_it_is_nearer_to_float64_than_the_torch_form(name: str, sound: str) -> None:
    """The definition written out: frames, Hann window, power, triangles, log10."""
    front_end, waveform = profile(name), SOUNDS[sound].astype(np.float64)
    if front_end.centered:
        waveform = np.pad(waveform, front_end.n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(waveform, front_end.n_fft)[:: front_end.hop_length]
    window = np.zeros(front_end.n_fft)
    left = (front_end.n_fft - front_end.win_length) // 2
    window[left : left + front_end.win_length] = np.hanning(front_end.win_length + 1)[:-1]
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    found, in_float32 = log_mel(SOUNDS[sound], front_end), in_torch(SOUNDS[sound], front_end)
    expected = np.log10(mel_filters(front_end) @ power.T + front_end.floor)[:, : found.shape[1]]
    error = np.abs(found - expected)
    assert error.mean() < np.abs(in_float32 - expected).mean()
    assert error.max() < np.abs(in_float32 - expected).max()


def test_kaldi_is_its_definition_at_128_bins() -> None:
    waveform = noise(3) + sweep(3)
    exact = waveform.astype(np.float64)
    expected = kaldi_log_mel(exact - exact.mean())
    found = log_mel(waveform, profile("kaldi"))
    assert expected.shape == (128, 298)
    np.testing.assert_allclose(found[:, :298], expected, atol=1e-3)
    assert np.quantile(np.abs(found[:, :298] - expected), 0.999) < 2e-4


def test_kaldi_fills_ten_seconds_to_1024_columns_and_cuts_what_is_longer() -> None:
    spectrogram = log_mel(noise(10), profile("kaldi"))
    assert spectrogram.shape == (128, 1024)
    assert np.abs(spectrogram[:, :998]).min() > 0
    assert not spectrogram[:, 998:].any()
    longer = log_mel(noise(11), profile("kaldi"))
    assert longer.shape == (128, 1024)
    assert np.abs(longer).min() > 0


def test_golden_values_of_the_released_front_end() -> None:
    """As in the test of the torch form: measured on the released code's front end."""
    released = profile("released")
    assert np.all(log_mel(SOUNDS["silence"], released) == -7.0)
    assert log_mel(full_scale_sine(), released).max() == pytest.approx(4.609, abs=5e-4)
    hiss = log_mel(noise(30), released)
    assert hiss.mean() == pytest.approx(0.750, abs=0.005)
    assert hiss.std() == pytest.approx(0.499, abs=0.005)


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_batch_is_its_waveforms_one_by_one(name: str) -> None:
    waveforms = np.stack([noise(2, seed) for seed in range(4)]).reshape(2, 2, -1)
    together = log_mel(waveforms, profile(name))
    assert together.shape[:2] == (2, 2)
    assert np.array_equal(together[1, 0], log_mel(waveforms[1, 0], profile(name)))


@pytest.mark.parametrize("start", [0, 1, 63, 64, 200])
def test_any_196_columns_are_the_log_mel_of_their_three_seconds(start: int) -> None:
    waveform = sweep(8)
    alone = log_mel(waveform[240 * start : 240 * start + 48_000], profile("paper"))
    np.testing.assert_allclose(log_mel(waveform, profile("paper"))[:, start : start + 196], alone, atol=1e-5)


@pytest.mark.parametrize("name", STFT)
def test_gain_on_the_log_mel_is_gain_on_the_waveform(name: str) -> None:
    front_end = profile(name)
    stored = np.stack([log_mel(noise(1), front_end)] * 2)
    louder = apply_gain_db(stored, np.array([0.0, 20.0], np.float32), front_end)
    assert louder.dtype == np.float32
    np.testing.assert_allclose(louder[0], stored[0], atol=1e-4)
    np.testing.assert_allclose(louder[1], log_mel(10 * noise(1), front_end), atol=1e-4)
    half = stored.astype(np.float16)
    expected = torch_melspec.apply_gain_db(torch.from_numpy(half), 3.0, front_end)
    np.testing.assert_allclose(apply_gain_db(half, 3.0, front_end), expected.numpy(), atol=1e-5)


def test_gain_on_kaldi_is_refused() -> None:
    with pytest.raises(ConfigError, match="kaldi"):
        apply_gain_db(np.zeros((128, 1024), np.float32), 3.0, profile("kaldi"))


def test_errors_name_what_is_known_and_needed() -> None:
    with pytest.raises(ConfigError, match="known: paper, released, kaldi"):
        profile("papre")
    with pytest.raises(ConfigError, match="needs at least 1024 samples"):
        log_mel(np.zeros(1023, np.float32), profile("paper"))
