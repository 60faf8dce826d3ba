"""What every family's streams promise to the tasks."""

import pytest
import torch

from avmodel.configs.model import ModelConfig
from avmodel.models import build_model
from tests.runs import TINY
from tests.unit.avmodel.models import test_avsiam, test_cavmae, test_crossmae

SMALL = [test_avsiam.SMALL, test_cavmae.SMALL, test_crossmae.SMALL, TINY]


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
