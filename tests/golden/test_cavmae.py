"""CAV-MAE against the released implementation's numbers (README.md in this folder)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from avmodel.models.cavmae import CAVMAE
from avmodel.renaming import renamed
from avmodel.weights.avsiam import DECODER_NAMES
from avmodel.weights.cavmae import CAV_MAE_NAMES, model_from_released
from tests.golden.cavmae_numbers import assert_predicted, inputs, part

FILE = Path(__file__).with_name("cavmae.safetensors")


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(FILE)


def released_model(tensors: dict[str, Tensor], **settings: object) -> CAVMAE:
    """The model of the file's state dict; its inputs are normalized already."""
    state = {name: tensor.clone() for name, tensor in part(tensors, "state.").items()}
    told = {"size": "48x12x4", "decoder_num_heads": 4, "mel_mean": 0.0, "mel_std": 1.0}
    return model_from_released(state, FILE, **told, **settings)


def test_the_sizes_are_read_off_the_tensors(tensors: dict[str, Tensor]) -> None:
    config = released_model(tensors).config
    assert (config.joint_depth, config.image_size, config.audio_size, config.patch_size) == (1, (64, 64), (128, 64), 16)
    assert (config.decoder_embed_dim, config.decoder_depth) == (32, 2)


@pytest.mark.parametrize(("symmetric", "loss"), [(False, "loss.contrast"), (True, "loss.contrast_both")])
def test_losses_and_predictions(tensors: dict[str, Tensor], symmetric: bool, loss: str) -> None:
    model = released_model(tensors, symmetric=symmetric)
    with torch.no_grad():
        output = model(*inputs(tensors))
    assert_predicted(output, tensors, loss)
    total = tensors["loss.image"] + tensors["loss.audio"] + 0.01 * tensors[loss]
    torch.testing.assert_close(output.losses["total"], total, atol=1e-5, rtol=0)


def test_features(tensors: dict[str, Tensor]) -> None:
    image, log_mel, _ = inputs(tensors)
    with torch.no_grad():
        found = released_model(tensors).eval().streams(image, log_mel)
    for name in ("image", "audio"):
        torch.testing.assert_close(found[name], tensors[f"feat.{name}"], atol=1e-5, rtol=0)


def test_gradients(tensors: dict[str, Tensor]) -> None:
    model = released_model(tensors)
    model(*inputs(tensors)).losses["total"].backward()
    released = part(tensors, "grad.")
    expected = renamed(released, (*CAV_MAE_NAMES, *DECODER_NAMES))
    assert len(expected) == len(released) == 5
    for name, gradient in expected.items():
        found = model.get_parameter(name).grad
        assert found is not None
        torch.testing.assert_close(found, gradient, atol=1e-5 * float(gradient.abs().max()), rtol=0)


def test_a_wrong_setting_is_seen(tensors: dict[str, Tensor]) -> None:
    model = released_model(tensors, temperature=0.07)
    with torch.no_grad():
        output = model(*inputs(tensors))
    assert not torch.allclose(output.losses["contrast"], tensors["loss.contrast"], atol=1e-3)
