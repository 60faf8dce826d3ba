"""Masks and what they let through, scores, and separation without learning."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.functional.audio import signal_distortion_ratio

from avdata.profiles import PROFILES, MelProfile
from avdata.torch_melspec import log_mel
from avmanifest.errors import ConfigError
from avmodel.evaluate.separation.bss import MOST_DB, all_scores, best_order, is_silent, scores_of
from avmodel.evaluate.separation.classical import nmf_parts, robust_pca, rpca_parts
from avmodel.evaluate.separation.config import SOUND_OF_PIXELS, TARGETS
from avmodel.evaluate.separation.masks import KINDS, MelMasks, from_log, make_masks, on_rows, to_log
from avmodel.evaluate.separation.spectra import spectra_of, waveform_of
from tests.shards import waveform_of as tone

SIZE = 16_000


def sources(*samples: int) -> torch.Tensor:
    """One mixture's: tones of 200 Hz and 40 Hz more each, with noise."""
    return torch.stack([torch.from_numpy(tone(sample, 1.0)) for sample in samples])[None]


def masks(target: str, profile: str = "paper", columns: int = 48):
    return make_masks(target, PROFILES[profile], columns, SIZE)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_spectra_go_back_to_the_waveform_and_have_the_columns_of_the_log_mel(profile: MelProfile) -> None:
    waveform = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(0))
    back = waveform_of(spectra_of(waveform, profile, 10), profile, SIZE)
    torch.testing.assert_close(back, waveform, atol=1e-5, rtol=1e-5)
    if not profile.kaldi:
        found = (MelMasks(KINDS["irm"], profile, 48).mel_power(waveform) + profile.floor).log10()
        inside = slice(4, 44)  # at the ends one continues with silence, the other with a reflection
        torch.testing.assert_close(found[..., inside], log_mel(waveform, profile)[..., inside], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("profile", ["paper", "released", "kaldi"])
@pytest.mark.parametrize("target", ["irm", "dominant"])
def test_an_open_mask_returns_the_mixture(target: str, profile: str) -> None:
    kind, pair = masks(target, profile, 48), sources(0, 9)
    separated = kind.separate(torch.ones(1, 2, *kind.size), kind.mix(pair))
    torch.testing.assert_close(separated[0], kind.mix(pair).expand(2, -1), atol=1e-5, rtol=1e-5)


def test_a_released_mask_loses_the_edges_and_what_is_late() -> None:
    kind = masks("released", "released", 64)
    noise = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(0))
    separated = kind.separate(torch.ones(1, 1, *kind.size), noise)[0, 0]
    inside = slice(1000, SIZE - 1000)
    error = (separated - noise[0])[inside].square().mean() / noise[0, inside].square().mean()
    assert 20 < -10 * error.log10() < 23  # 21.5 dB of white noise
    assert separated[-100:].abs().max() < 0.5 * noise[0, -100:].abs().max()


def test_targets_are_what_they_are_called() -> None:
    pair, alone = sources(0, 20), torch.cat([sources(0), torch.zeros(1, 1, SIZE)], dim=1)
    ratio, weight = masks("irm").targets(pair)
    torch.testing.assert_close(ratio.sum(dim=1), torch.ones_like(ratio[:, 0]))
    assert 1e-3 <= float(weight.min()) < float(weight.max()) <= 10
    loud = masks("released").mel_power(alone[0, 0]) > 1
    assert torch.allclose(masks("irm").targets(alone)[0][0, 0][loud], torch.tensor(1.0))
    assert torch.allclose(masks("released").targets(alone)[0][0, 0][loud], torch.tensor(0.5), atol=1e-4)
    assert not masks("released").targets(alone)[0][0, 1].any()
    dominant = masks("dominant").targets(pair)[0]
    assert torch.equal(dominant, (ratio > 0.5).float())
    three = masks("dominant").targets(sources(0, 10, 20))[0]
    assert int(three.sum(dim=1).max()) == 1
    assert int(three.sum(dim=1).min()) == 0  # nobody is louder than the two others together
    half = masks("sop").targets(alone)[0]
    assert set(half.unique().tolist()) == {0.0, 1.0}
    assert half[0, 0].mean() > 0.99


@pytest.mark.parametrize("target", TARGETS)
def test_true_masks_separate_and_the_picture_says_which_is_which(target: str) -> None:
    kind, pair = masks(target, columns=62), sources(0, 20)
    separated = kind.separate(kind.targets(pair)[0], kind.mix(pair))
    found = all_scores(kind.references(pair), separated)[0]
    untouched = all_scores(pair, kind.mix(pair).unsqueeze(1).expand(-1, 2, -1))[0]
    assert float(found[0].min()) > float(untouched[0].max()) + 10
    exchanged = all_scores(kind.references(pair), separated.flip(1))[0]
    assert float(exchanged[0].max()) < 0  # no better order is looked for


def test_the_log_frequency_grid_goes_back_and_is_finer_below() -> None:
    ramp = torch.linspace(0, 1, 512).reshape(1, 1, 512, 1).expand(-1, -1, -1, 3)
    warped = on_rows(ramp, to_log(256, ramp))
    steps = warped[0, 0, :, 0].diff()
    assert float(steps[0]) < float(steps[-1]) / 10
    torch.testing.assert_close(on_rows(warped, from_log(512, ramp)), ramp, atol=1e-3, rtol=1e-3)


def test_unknown_targets_list_the_known() -> None:
    with pytest.raises(ConfigError, match="unknown target 'best'; known: irm, dominant, released, sop"):
        masks("best")


def bss_eval(references: np.ndarray, estimates: np.ndarray, taps: int = 512) -> np.ndarray:
    """BSS-eval v3 as it is defined: least squares on every delay of the references."""

    def delays(source: np.ndarray) -> np.ndarray:
        return scipy.linalg.toeplitz(np.pad(source, (0, taps - 1)), np.zeros(taps))

    every = [delays(source) for source in references]
    scores = []
    for own, estimate in zip(every, np.pad(estimates, ((0, 0), (0, taps - 1))), strict=True):
        target = own @ np.linalg.lstsq(own, estimate)[0]
        whole = np.hstack(every)
        explained = whole @ np.linalg.lstsq(whole, estimate)[0]
        pairs = (target, estimate - target), (target, explained - target), (explained, estimate - explained)
        scores.append([10 * np.log10(np.sum(good**2) / np.sum(bad**2)) for good, bad in pairs])
    return np.array(scores).T


@pytest.mark.slow
def test_scores_are_bss_evals() -> None:
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, 2500, generator=generator).double()
    noise = torch.randn(2, 2500, generator=generator).double()
    estimates = pair + torch.tensor([[0.1], [0.6]]) * pair.flip(0).roll(3, dims=1) + 0.3 * noise
    found = scores_of(pair, estimates)
    np.testing.assert_allclose(found.numpy(), bss_eval(pair.numpy(), estimates.numpy()), atol=1e-8)
    torch.testing.assert_close(found[0], signal_distortion_ratio(estimates, pair), atol=1e-3, rtol=1e-3)
    assert float(found[1, 0]) > float(found[1, 1])  # the second lets more of the other through


def test_silence_is_told_and_a_silent_answer_is_no_way_out() -> None:
    pair = sources(0, 9)
    assert is_silent(torch.stack([pair[0, 0], torch.zeros(SIZE)])).tolist() == [False, True]
    mixture = pair.sum(dim=1, keepdim=True).expand(-1, 2, -1)
    torch.testing.assert_close(all_scores(pair, torch.zeros_like(pair)), all_scores(pair, mixture))


def test_a_source_itself_has_the_highest_score() -> None:
    pair = sources(0, 9)[0]
    torch.testing.assert_close(scores_of(pair, 3 * pair), torch.full((3, 2), MOST_DB, dtype=torch.float64))


def test_sources_that_are_the_same_have_no_score() -> None:
    same = sources(0, 0)[0]
    assert scores_of(same, same).isnan().all()


def test_parts_are_put_in_the_sources_order() -> None:
    pair = sources(0, 9)[0]
    assert torch.equal(best_order(pair, pair.flip(0)), pair)
    assert torch.equal(best_order(pair, pair), pair)


def test_nmf_tells_sounds_apart_that_never_change_their_color() -> None:
    times = torch.arange(SIZE) / 16_000
    gate = (times * 6 % 2 < 1).float()
    pair = torch.stack(
        [gate * torch.sin(2 * torch.pi * 300 * times), (1 - gate) * torch.sin(2 * torch.pi * 2000 * times)]
    )
    parts = nmf_parts(pair.sum(dim=0), 2, PROFILES["paper"])
    torch.testing.assert_close(parts.sum(dim=0), pair.sum(dim=0), atol=1e-4, rtol=1e-4)
    assert float(scores_of(pair, best_order(pair, parts))[0].min()) > 15


def test_rpca_finds_what_repeats_and_what_is_rare() -> None:
    generator = torch.Generator().manual_seed(0)
    repeated = torch.randn(40, 2, generator=generator).double() @ torch.randn(2, 50, generator=generator).double()
    rare = 10 * (torch.rand(40, 50, generator=generator) < 0.03).double()
    low_rank, sparse = robust_pca(repeated + rare)
    torch.testing.assert_close(low_rank + sparse, repeated + rare, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(low_rank, repeated, atol=1e-2, rtol=1e-2)
    mixture = sources(0, 9)[0].sum(dim=0)
    torch.testing.assert_close(rpca_parts(mixture, PROFILES["paper"]).sum(dim=0), mixture, atol=1e-4, rtol=1e-4)
    assert not rpca_parts(torch.zeros(SIZE), PROFILES["paper"]).any()


def test_the_settings_know_every_kind_of_mask() -> None:
    assert (*KINDS, SOUND_OF_PIXELS) == TARGETS
