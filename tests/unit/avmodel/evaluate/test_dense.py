"""DenseAV's similarity volume and what is pooled of it, against sums and maxima written out place by place."""

from dataclasses import replace
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F

from avmanifest.errors import ConfigError
from avmodel.configs.dense import DenseConfig, DensePairConfig
from avmodel.configs.model import ModelConfig
from avmodel.evaluate.dense import (
    all_pair_scores,
    audio_on_grid,
    image_on_grid,
    moment_maps,
    pair_scores,
    similarity_maps,
    similarity_volume,
    token_span,
)
from avmodel.evaluate.localization.localizer import Localizer
from avmodel.models import build_model
from tests.runs import TINY, TINY_MODELS

POOL = {"max": max, "mean": fmean}


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("unit_length", [False, True])
def test_the_volume_has_an_inner_product_of_each_head_at_each_pair_of_places(unit_length: bool) -> None:
    audio, image = drawn(2, 2, 3, 6), drawn(2, 3, 2, 6)
    found = similarity_volume(audio, image, DenseConfig(heads=2, unit_length=unit_length))
    assert found.shape == (2, 2, 2, 3, 3, 2)
    if unit_length:
        audio, image = F.normalize(audio, dim=3), F.normalize(image, dim=3)
    for b, k, f, t, h, w in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        expected = sum(float(audio[b, f, t, c] * image[b, h, w, c]) for c in range(3 * k, 3 * k + 3))
        assert found[b, k, f, t, h, w] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("head_pool", POOL)
@pytest.mark.parametrize("time_pool", POOL)
def test_a_map_is_pooled_over_heads_then_frequency_then_time(head_pool: str, time_pool: str) -> None:
    volume = drawn(2, 3, 2, 4, 2, 3)
    found = similarity_maps(volume, DenseConfig(heads=3, head_pool=head_pool, time_pool=time_pool))
    for b, h, w in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        at = [
            fmean(POOL[head_pool](volume[b, k, f, t, h, w].item() for k in range(3)) for f in range(2))
            for t in range(4)
        ]
        assert found[b, h, w] == pytest.approx(POOL[time_pool](at), abs=1e-5)


@pytest.mark.parametrize("head_pool", POOL)
@pytest.mark.parametrize("space_pool", POOL)
@pytest.mark.parametrize("time_pool", POOL)
def test_a_score_is_pooled_over_places_then_frequency_then_time(
    head_pool: str, space_pool: str, time_pool: str
) -> None:
    volume = drawn(2, 3, 2, 4, 2, 3)
    config = DensePairConfig(heads=3, head_pool=head_pool, space_pool=space_pool, time_pool=time_pool)
    found = pair_scores(volume, config)
    for b in range(2):
        values = volume[b].flatten(3).tolist()  # by head, frequency, time, place

        def over_time(at: list[list[list[float]]]) -> float:
            return POOL[time_pool](fmean(POOL[space_pool](at[f][t]) for f in range(2)) for t in range(4))

        if head_pool == "max":
            best = [
                [[max(values[k][f][t][place] for k in range(3)) for place in range(6)] for t in range(4)]
                for f in range(2)
            ]
            expected = over_time(best)
        else:
            expected = fmean(over_time(values[k]) for k in range(3))
        assert found[b] == pytest.approx(expected, abs=1e-5)


def test_each_sound_meets_each_picture_in_blocks_of_any_size() -> None:
    audio, image = drawn(3, 2, 3, 4), drawn(5, 2, 2, 4)
    config, done = DensePairConfig(heads=2), []
    found = all_pair_scores(audio, image, config, torch.device("cpu"), done.append, most=2 * 2 * 2 * 3 * 4)
    for a in range(3):
        for v in range(5):
            volume = similarity_volume(audio[a : a + 1], image[v : v + 1], config)
            assert found[a, v] == pytest.approx(float(pair_scores(volume, config)), abs=1e-6)
    assert done == sorted(done) and done[-1] == 15
    assert torch.allclose(found, all_pair_scores(audio, image, config, torch.device("cpu")))


def test_a_moment_is_the_tokens_whose_middle_is_near_and_that_of_the_time() -> None:
    for time_s in (-0.1, 0.0, 0.05, 0.3, 0.5, 0.99, 1.0, 1.7):
        for moment_s in (0.01, 0.2, 0.45, 3.0):
            span = token_span(time_s, moment_s, 0.2, 5)
            own = min(max(int(time_s / 0.2), 0), 4)
            near = [i for i in range(5) if abs(0.2 * (i + 0.5) - time_s) <= moment_s / 2 + 1e-9]
            expected = range(min([own, *near]), max([own, *near]) + 1)
            assert range(span.start, span.stop) == expected


def test_a_moment_has_a_map_of_its_own_tokens() -> None:
    volume, config = drawn(3, 2, 2, 5, 2, 2), DenseConfig(heads=2)
    found = moment_maps(volume, config, [0.1, 0.5, 0.95], 0.44, 0.2)
    for place, span in enumerate((slice(0, 2), slice(1, 4), slice(4, 5))):
        expected = similarity_maps(volume[place : place + 1, :, :, span], config)
        assert torch.equal(found[place : place + 1], expected), place
    whole = moment_maps(volume, config, [0.1, 0.5, 0.95], 9.0, 0.2)
    assert torch.equal(whole, similarity_maps(volume, config))


@pytest.mark.parametrize("config", TINY_MODELS.values(), ids=lambda one: type(one).__name__)
def test_dense_maps_of_any_family_are_of_its_own_tokens_in_their_places(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = build_model(config).eval()
    images, log_mel = torch.randn(4, 3, 32, 32), torch.randn(2, 1, 128, 48)
    dense = DenseConfig(heads=4, time_pool="max")
    with torch.no_grad():
        maps = Localizer(model, "alone", dense)(images, log_mel)
        seen, heard = model.encode(images, None)["image"].tokens, model.encode(None, log_mel)["audio"].tokens
        one_head = Localizer(model, "alone", DenseConfig())(images, log_mel)
    rows, columns = model.audio_grid  # of frequency and time
    assert maps.shape == (4, 2, 2)
    # The second image's patch in the second row, first column, with the sound that both of a pair have.
    products = (heard[0].reshape(-1, 4, 8) * seen[1, 2].reshape(4, 8)).sum(dim=2).amax(dim=1)
    by_time = products.reshape(columns, rows) if model.time_first else products.reshape(rows, columns).T
    assert maps[1, 1, 0] == pytest.approx(float(by_time.mean(dim=1).max()), rel=1e-4)
    # One head and means: the inner product with the mean token.
    assert one_head[1, 1, 0] == pytest.approx(float(heard[0].mean(dim=0) @ seen[1, 2]), abs=1e-3)
    assert torch.equal(image_on_grid(model, seen)[1, 1, 0], seen[1, 2])
    place = rows if model.time_first else 1
    assert torch.equal(audio_on_grid(model, heard)[0, 0, 1], heard[0, place])


def test_heads_and_pools_that_cannot_be_are_refused() -> None:
    model = build_model(TINY)
    with pytest.raises(ConfigError, match=r"dense\.heads=5: tokens of this DeepAVFusion have 32 numbers"):
        Localizer(model, "alone", DenseConfig(heads=5))
    for changes, said in (
        ({"heads": 0}, r"dense\.heads=0"),
        ({"head_pool": "sum"}, "unknown dense.head_pool 'sum'; known: max, mean"),
        ({"space_pool": "sum"}, "unknown dense.space_pool 'sum'; known: max, mean"),
        ({"time_pool": "last"}, "unknown dense.time_pool 'last'; known: max, mean"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(DensePairConfig(), **changes)
