"""What all tasks with maps share: tapped layers, the decoder, the file that keeps a predictor."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.checkpoint import config_from_values
from avmodel.configs.model import ModelConfig
from avmodel.evaluate.decoder import Decoder, DecoderConfig, segmentation_decoder, tap_layers
from avmodel.evaluate.predictor import Predictor, load_predictor, save_predictor
from avmodel.models import build_model
from tests.evaluating import tiny_model
from tests.families import batch
from tests.runs import TINY, TINY_MODELS

CONFIGS = list(TINY_MODELS.values())


def family(config: ModelConfig):
    torch.manual_seed(0)
    return build_model(config).eval()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_layers_are_of_patches_in_the_grids_order(config: ModelConfig) -> None:
    model = family(config)
    image, log_mel = batch(config, 1)
    assert (model.image_grid, model.audio_grid, model.depth) == ((2, 2), (8, 3), 2)
    assert model.audio_input(log_mel).shape[2:] == ((48, 128) if model.time_first else (128, 48))
    with torch.no_grad():
        first, last, again = model.get_intermediate_layers(image, log_mel, (0, 1, 0))
        assert torch.equal(first.image, again.image)
        assert (first.image.shape, first.audio.shape) == ((1, 4, 32), (1, 24, 32))
        assert not torch.equal(first.audio, last.audio)
        # A patch that changed moves its own token most: the fifth band of the third column of patches.
        changed = log_mel.clone()
        changed[..., 4 * 16 : 5 * 16, 2 * 16 :] += 3
        moved = (model.get_intermediate_layers(image, changed, (0,))[0].audio - first.audio).norm(dim=-1)[0]
    assert int(moved.argmax()) == 4 * 3 + 2
    with pytest.raises(ValueError, match="the model has 2"):
        model.get_intermediate_layers(image, log_mel, (2,))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_the_last_layer_before_its_norm_is_what_streams_norm(config: ModelConfig) -> None:
    model = family(config)
    image, log_mel = batch(config, 2)
    with torch.no_grad():
        last, streams = (
            model.get_intermediate_layers(image, log_mel, (model.depth - 1,))[0],
            model.streams(image, log_mel),
        )
        norm = getattr(model.encoder, "norm", None) or model.encoder.image.norm
        torch.testing.assert_close(norm(last.image), streams["image"])
        several = model.get_intermediate_layers(image, log_mel[:1], (0,))[0]
    assert len(several.audio) == 2


def test_layers_are_tapped_from_the_first_to_the_last() -> None:
    assert tap_layers(12, 5) == (0, 2, 5, 8, 11)
    assert tap_layers(12, 4) == (0, 3, 7, 11)
    assert tap_layers(2, 5) == (0, 0, 0, 0, 1)
    assert tap_layers(24, 1) == (0,)


@pytest.mark.parametrize(
    ("config", "grid", "size", "widths", "parameters"),
    [
        (DecoderConfig(), (8, 12), (128, 192), [768, 384, 192, 96, 48], 46_926_241),
        (segmentation_decoder(71, narrowing=True), (14, 14), (224, 224), [768, 384, 192, 128], 37_875_911),
        (segmentation_decoder(1, narrowing=True), (14, 14), (224, 224), [768, 384, 192, 128], 37_795_201),
    ],
)
def test_decoders_of_the_base_model_have_the_released_shapes(
    config: DecoderConfig, grid: tuple[int, int], size: tuple[int, int], widths: list[int], parameters: int
) -> None:
    with torch.device("meta"):
        decoder = Decoder(config, 768, grid, size)
    assert sum(p.numel() for p in decoder.parameters()) == parameters
    taps = [torch.empty(2, grid[0] * grid[1], 768, device="meta") for _ in config.divisors]
    assert decoder(taps, torch.empty(2, 196, 768, device="meta")).shape == (2, config.outputs, *size)
    assert [part[0].out_channels for part in (decoder.top, *decoder.joins)] == widths


def test_the_decoder_of_an_earlier_version_is_as_wide_as_it_was() -> None:
    noted = {"divisors": [1, 2, 4, 6], "outputs": 1, "size": None, "condition": "scales"}
    config = config_from_values(DecoderConfig, noted)
    assert config == segmentation_decoder(1)
    with torch.device("meta"):
        decoder = Decoder(config, 768, (14, 14), (224, 224))
    assert sum(p.numel() for p in decoder.parameters()) == 39_466_433


def test_decoders_start_as_released() -> None:
    torch.manual_seed(0)
    decoder = Decoder(segmentation_decoder(3, narrowing=True), 64, (2, 2), (32, 32)).requires_grad_(False)
    convolution, transposed, projection = decoder.top[0], decoder.laterals[0][0], decoder.condition.projections[0]
    # Kaiming's fan-out: of a transposed convolution, torch counts its inputs.
    assert float(convolution.weight.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert float(transposed.weight.std()) == pytest.approx((2 / (64 * 4)) ** 0.5, rel=0.02)
    assert float(projection.weight.abs().max()) == pytest.approx((6 / 128) ** 0.5, rel=0.02)
    assert float(projection.weight.abs().max()) <= (6 / 128) ** 0.5
    assert not any(p.any() for name, p in decoder.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("sense", ["audio", "image"])
def test_every_tap_and_the_other_sense_have_a_say(sense: str) -> None:
    config = DecoderConfig() if sense == "audio" else segmentation_decoder(2, narrowing=True)
    predictor = Predictor(tiny_model(), sense, config).eval()
    image, log_mel = batch(TINY, 2)
    with torch.no_grad():
        plain = predictor(image, log_mel)
        assert plain.shape == ((2, 1, 128, 48) if sense == "audio" else (2, 2, 32, 32))
        assert not torch.allclose(plain, predictor(image.flip(0), log_mel))
        assert not torch.allclose(plain, predictor(image, log_mel.flip(0)))
    predictor.freeze_unused()
    trained = {name for name, p in predictor.named_parameters() if p.requires_grad}
    assert {f"decoder.norms.{tap}.weight" for tap in range(len(config.divisors))} <= trained
    assert "model.encoder.fusion_blocks.0.attn.image.q.weight" in trained or any(
        "fusion_blocks.0" in n for n in trained
    )
    # Nobody reads what the last layer tells the fusion tokens, nor the final norms.
    assert not any(name.startswith(("model.encoder.fusion_blocks.1", "model.image_decoder")) for name in trained)
    assert not any(name.endswith(("image.norm.weight", "audio.norm.weight")) for name in trained)


def test_a_predictor_is_kept_in_one_file(tmp_path: Path) -> None:
    predictor = Predictor(tiny_model(), "audio", DecoderConfig()).eval()
    save_predictor(tmp_path, predictor, 3, {"plain": 1}, {"profile": "paper"})
    inputs = batch(TINY, 1)
    for path in (tmp_path, str(tmp_path), next(tmp_path.glob("checkpoints/*/model.safetensors"))):
        found, notes = load_predictor(path)
        assert notes["profile"] == "paper"
        with torch.no_grad():
            assert torch.equal(found(*inputs), predictor(*inputs))


def test_what_is_no_predictor_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a pretrained model without a decoder"):
        load_predictor(tiny_run)
    with pytest.raises(ConfigError, match="unknown condition"):
        replace(DecoderConfig(), condition="loud")
