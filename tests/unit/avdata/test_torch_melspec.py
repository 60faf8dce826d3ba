import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from avdata.profiles import PROFILES, column_start_s, num_frames, profile, window_columns
from avdata.torch_melspec import apply_gain_db, log_mel, mel_filters
from avmanifest.errors import ConfigError
from tests.kaldi import kaldi_log_mel

CPU = torch.device("cpu")


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(seed))


def full_scale_sine() -> torch.Tensor:
    return torch.sin(2 * torch.pi * 440 * torch.arange(48_000, dtype=torch.float64) / 16_000).float()


@pytest.mark.parametrize(("name", "shape"), [("paper", (128, 196)), ("released", (128, 192))])
def test_three_seconds_give_the_shape_of_the_method(name: str, shape: tuple[int, int]) -> None:
    assert log_mel(noise(3), profile(name)).shape == shape
    assert num_frames(48_000, profile(name)) == shape[1]


def test_kaldi_fills_ten_seconds_to_1024_columns() -> None:
    spectrogram = log_mel(noise(10), profile("kaldi"))
    assert spectrogram.shape == (128, 1024)
    assert spectrogram[:, :998].abs().min() > 0
    assert not spectrogram[:, 998:].any()


def test_kaldi_is_the_call_of_the_published_models() -> None:
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    waveform = noise(4)[None] + 0.02
    expected = kaldi.fbank(
        waveform - waveform.mean(),
        htk_compat=True,
        sample_frequency=16_000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    torch.testing.assert_close(log_mel(waveform, profile("kaldi"))[0, :, : len(expected)], expected.T)


def chirp(seconds: float) -> torch.Tensor:
    """A rising tone under noise, off center, without its mean."""
    times = torch.arange(round(seconds * 16_000)) / 16_000
    waveform = noise(seconds) + 0.05 * torch.sin(2 * torch.pi * 440 * times * (1 + times / 10))
    return waveform - waveform.mean()


@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_kaldi_agrees_with_an_independent_implementation(seconds: float) -> None:
    """kaldi-native-fbank refuses filters between two frequencies, which 128 bins have: both are asked for 80."""
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 80
    options.htk_compat, options.use_energy = True, False
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(16_000, chirp(seconds).tolist())
    bank.input_finished()
    expected = torch.stack([torch.from_numpy(bank.get_frame(k).copy()) for k in range(bank.num_frames_ready)], dim=1)
    assert expected.shape == (80, {1.0: 98, 10.0: 998}[seconds])
    found = log_mel(chirp(seconds), replace(profile("kaldi"), n_mels=80))[:, : expected.shape[1]]
    # Both compute in float32: an almost silent bin beside a loud one keeps fewer digits.
    assert (found - expected).abs().quantile(0.999) < 2e-4
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_kaldi_is_its_definition_at_128_bins() -> None:
    waveform = chirp(3.0).double().numpy()
    expected = kaldi_log_mel(waveform)
    found = log_mel(torch.from_numpy(waveform).float(), profile("kaldi")).numpy()
    assert expected.shape == (128, 298)
    np.testing.assert_allclose(found[:, :298], expected, atol=1e-3)
    assert np.quantile(np.abs(found[:, :298] - expected), 0.999) < 2e-4


@pytest.mark.parametrize("name", ["paper", "released"])
def test_it_agrees_with_torchaudio(name: str) -> None:
    transforms = pytest.importorskip("torchaudio.transforms")
    front_end = profile(name)
    reference = transforms.MelSpectrogram(
        sample_rate=16_000,
        n_fft=front_end.n_fft,
        win_length=front_end.win_length,
        hop_length=front_end.hop_length,
        n_mels=128,
        center=front_end.centered,
    )
    for waveform in (noise(3), full_scale_sine(), torch.zeros(48_000)):
        found = log_mel(waveform, front_end)
        expected = torch.log10(reference(waveform) + 1e-7)[:, : found.shape[-1]]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_golden_values_of_the_released_front_end() -> None:
    """Measured on the released code's front end: silence, a full-scale sine, white noise of 0.1, its filter bank.

    The sine's mean (-5.4) is left out: away from its band there is only the rounding noise of whoever computed it.
    """
    released = profile("released")
    assert torch.all(log_mel(torch.zeros(48_000), released) == -7.0)
    assert log_mel(full_scale_sine(), released).max().item() == pytest.approx(4.609, abs=5e-4)
    hiss = log_mel(noise(30), released)
    assert hiss.mean().item() == pytest.approx(0.750, abs=0.005)
    assert hiss.std().item() == pytest.approx(0.499, abs=0.005)
    filters = mel_filters(released, CPU)
    assert filters.shape == (128, 401)
    sums = filters.sum(1)
    assert sums.min().item() == pytest.approx(0.560, abs=5e-4)
    assert sums.max().item() == pytest.approx(8.318, abs=5e-4)
    covered = filters.sum(0)
    assert torch.allclose(covered[1:392], torch.ones(391), atol=1e-5)
    assert not torch.any(torch.isclose(covered[[0, *range(392, 401)]], torch.ones(10), atol=1e-3))


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_batch_is_its_waveforms_one_by_one(name: str) -> None:
    waveforms = torch.stack([noise(2, seed) for seed in range(4)]).reshape(2, 2, -1)
    together = log_mel(waveforms, profile(name))
    assert together.shape[:2] == (2, 2)
    torch.testing.assert_close(together[1, 0], log_mel(waveforms[1, 0], profile(name)), atol=1e-5, rtol=0)


def test_half_precision_and_autocast_change_nothing_but_rounding() -> None:
    waveform = noise(1).half()
    with torch.autocast("cpu", torch.bfloat16):
        found = log_mel(waveform, profile("paper"))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, log_mel(waveform.float(), profile("paper")))


def test_the_first_call_may_be_in_inference_mode() -> None:
    mel_filters.cache_clear()
    with torch.inference_mode():
        log_mel(noise(1), profile("paper"))
    assert not mel_filters(profile("paper"), CPU).is_inference()


def test_windows_map_to_columns_and_back() -> None:
    paper = profile("paper")
    assert window_columns(2.0, 3.0, paper) == (133, 196)
    assert abs(column_start_s(133, paper) - 2.0) <= 0.0075
    assert window_columns(0.0, 3.0, profile("released")) == (0, 192)


def test_gain_can_differ_within_a_batch() -> None:
    paper = profile("paper")
    spectrograms = log_mel(torch.stack([noise(1), noise(1)]), paper)
    louder = apply_gain_db(spectrograms, torch.tensor([0.0, 20.0]), paper)
    torch.testing.assert_close(louder[0], spectrograms[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(louder[1], log_mel(10 * noise(1), paper), atol=1e-4, rtol=0)


def test_gain_on_kaldi_is_refused() -> None:
    with pytest.raises(ConfigError, match="kaldi"):
        apply_gain_db(torch.zeros(128, 1024), 3.0, profile("kaldi"))


def test_errors_name_what_is_known_and_needed() -> None:
    with pytest.raises(ConfigError, match="known: paper, released, kaldi"):
        profile("papre")
    with pytest.raises(ConfigError, match="needs at least 1024 samples"):
        log_mel(torch.zeros(1023), profile("paper"))
    with pytest.raises(ConfigError, match="win_length=800"):
        type(profile("paper"))(n_fft=512)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(PROFILES))
def test_the_gpu_gives_what_the_cpu_gives(name: str) -> None:
    if not torch.cuda.is_available() and os.environ.get("AVKIT_REQUIRE_GPU") != "1":
        pytest.skip("needs a CUDA device")
    waveform = torch.stack([noise(3, seed) for seed in range(2)])
    found = log_mel(waveform.cuda(), profile(name))
    torch.testing.assert_close(found.cpu(), log_mel(waveform, profile(name)), atol=1e-4, rtol=0)
