"""What every family's streams promise to the tasks."""

import pytest
import torch

from avmodel.configs.model import ModelConfig
from avmodel.models import FAMILIES, build_model, family_of
from tests.runs import TINY_MODELS

SMALL = list(TINY_MODELS.values())


def test_the_tests_of_all_families_know_all_families() -> None:
    assert TINY_MODELS.keys() == FAMILIES.keys()
    assert {name: family_of(config) for name, config in TINY_MODELS.items()} == {name: name for name in FAMILIES}


@pytest.mark.parametrize("config", SMALL, ids=lambda config: type(config).__name__)
def test_each_stream_has_a_vector_that_knows_no_more_than_its_tokens(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = build_model(config).eval()
    image, log_mel = torch.randn(4, 3, *config.image_size), torch.randn(2, 1, *config.audio_size)
    with torch.no_grad():
        found, streams = model.encode(image, log_mel), model.streams(image, log_mel)
        seen, heard = model.encode(image, None), model.encode(None, log_mel)
    assert found.keys() == streams.keys()
    for name, (tokens, vector) in found.items():
        torch.testing.assert_close(tokens, streams[name])
        assert (vector.shape, vector.dtype) == ((len(tokens), model.feature_dim), torch.float32)
    assert seen["image"].tokens.shape[1] == model.image_grid[0] * model.image_grid[1]
    assert heard["audio"].tokens.shape[1] == model.audio_grid[0] * model.audio_grid[1]
    assert (len(seen["image"].vector), len(heard["audio"].vector)) == (4, 2)


@pytest.mark.parametrize("config", SMALL, ids=lambda config: type(config).__name__)
def test_several_images_meet_the_sound_of_their_sample(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = build_model(config).eval()
    image = torch.randn(6, 3, *config.image_size)
    log_mel = torch.randn(2, 1, *config.audio_size)
    with torch.no_grad():
        several = model.streams(image, log_mel)
        for frame in range(3):
            one = model.streams(image[frame::3], log_mel)
            assert one.keys() == several.keys()
            for name, tokens in one.items():
                found = several[name] if len(several[name]) == 2 else several[name][frame::3]
                torch.testing.assert_close(found, tokens, atol=1e-5, rtol=1e-5)
    assert {len(tokens) for tokens in several.values()} <= {2, 6}


@pytest.mark.parametrize("config", SMALL, ids=lambda config: type(config).__name__)
def test_a_sense_alone_knows_nothing_of_the_other_and_has_the_only_stream(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = build_model(config).eval()
    image, log_mel = torch.randn(2, 3, *config.image_size), torch.randn(2, 1, *config.audio_size)
    with torch.no_grad():
        seen, heard = model.streams(image, None), model.streams(None, log_mel)
    assert "image" in seen
    assert "audio" not in seen
    assert "audio" in heard
    assert "image" not in heard
