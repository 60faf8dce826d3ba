"""Branches of one's own runs in other models: what they say of an input stays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import Tensor

from avmanifest.errors import AvkitError, ConfigError
from avmodel.checkpoint import save_checkpoint
from avmodel.configs.avsiam import AVSiamConfig
from avmodel.configs.crossmae import CrossMAEConfig
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.models.avsiam import AVSiam
from avmodel.models.crossmae import CrossMAE
from avmodel.models.deepavfusion import DeepAVFusion, audiomae_scale
from avmodel.models.family import Family
from avmodel.rundir import CHECKPOINTS
from avmodel.weights.own_run import start_from_model
from avmodel.weights.starting import start_from_weights

SIZES = {"image_size": (64, 48), "audio_size": (128, 64), "decoder_embed_dim": 32, "decoder_num_heads": 4}
FUSION = DeepAVFusionConfig(size="48x3x4", decoder_depth=1, fusion_layers="none", num_fusion_tokens=4, **SIZES)
MODELS: dict[str, Family] = {
    "released": DeepAVFusion(FUSION),
    "aligned": DeepAVFusion(replace(FUSION, audio_init="aligned")),
    "crossmae": CrossMAE(CrossMAEConfig(size="48x3x4", decoder_depth=1, feature_decoder_depth=1, **SIZES)),
    "other units": CrossMAE(
        CrossMAEConfig(
            size="48x3x4", decoder_depth=1, feature_decoder_depth=1, mel_mean=-4.0, mel_std=3.0, **SIZES
        )
    ),
}  # fmt: skip


def drawn(name: str, seed: int) -> Family:
    """A model whose weights, zeros and ones included, are all drawn."""
    torch.manual_seed(seed)
    model = type(MODELS[name])(MODELS[name].config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def run_of(model: Family, folder: Path) -> Path:
    """The folder of a run that ended with this model."""
    save_checkpoint(folder / CHECKPOINTS, 3, model, model.config, {"step": 3})
    return folder


def embedded(model: Family, log_mel: Tensor) -> Tensor:
    """The audio branch's tokens before its blocks, along frequency first."""
    if isinstance(model, DeepAVFusion):
        return model.encoder.audio.embed(audiomae_scale(log_mel) if model.encoder.aligned else log_mel)
    return rearrange(model.encoder.audio.embed(model.audio_input(log_mel)), "b (t mel) d -> b (mel t) d", mel=8)


@pytest.mark.parametrize("source", MODELS)
@pytest.mark.parametrize("target", MODELS)
def test_a_branch_hears_and_sees_what_it_did(source: str, target: str, tmp_path: Path) -> None:
    trained, fresh = drawn(source, 1), drawn(target, 2)
    log_mel = torch.randn(2, 1, 128, 64, generator=torch.Generator().manual_seed(0)) * 2 - 4
    image = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    other = embedded(fresh, log_mel)
    for modality in ("image", "audio"):
        found = start_from_weights(fresh, modality, run_of(trained, tmp_path / modality))
        assert found.source == str(tmp_path / modality)
    torch.testing.assert_close(embedded(fresh, log_mel), embedded(trained, log_mel), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(other, embedded(trained, log_mel), atol=0.1)
    torch.testing.assert_close(fresh.encoder.image.embed(image), trained.encoder.image.embed(image))
    for modality in ("image", "audio"):
        ours, theirs = (getattr(model.encoder, modality).state_dict() for model in (fresh, trained))
        same = ours.keys() & theirs.keys() - {"patch_embed.proj.weight", "patch_embed.proj.bias", "positions"}
        assert len(same) >= 2 + 3 * 12
        assert all(torch.equal(ours[name], theirs[name]) for name in same)


def test_a_whole_model_without_fusion_goes_on_as_it_was(tmp_path: Path) -> None:
    trained, fresh = drawn("released", 1), drawn("aligned", 2)
    for modality in ("image", "audio"):
        start_from_weights(fresh, modality, run_of(trained, tmp_path / modality) / CHECKPOINTS / "step-00000003")
    inputs = torch.randn(2, 3, 64, 48), torch.randn(2, 1, 128, 64)
    found, expected = fresh.eval().streams(*inputs), trained.eval().streams(*inputs)
    for name in ("image", "audio"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)


def test_other_inputs_keep_their_own_positions(tmp_path: Path) -> None:
    trained = drawn("released", 1)
    wider = DeepAVFusion(replace(FUSION, audio_size=(128, 96)))
    own = wider.encoder.audio.positions.clone()
    start_from_weights(wider, "audio", run_of(trained, tmp_path))
    assert torch.equal(wider.encoder.audio.positions, own)
    turned = DeepAVFusion(replace(FUSION, image_size=(48, 64)))  # as many patches, elsewhere
    own = turned.encoder.image.positions.clone()
    start_from_weights(turned, "image", tmp_path)
    assert torch.equal(turned.encoder.image.positions, own)
    assert torch.equal(wider.encoder.audio.blocks[0].attn.qkv.weight, trained.encoder.audio.blocks[0].attn.qkv.weight)


def test_what_gives_no_branch_is_refused(tmp_path: Path) -> None:
    siam = AVSiam(AVSiamConfig(size="48x3x4", decoder_depth=1, **SIZES))
    with pytest.raises(ConfigError, match="AVSiam has no separate image ViT"):
        start_from_weights(drawn("released", 0), "image", run_of(siam, tmp_path / "siam"))
    with pytest.raises(ConfigError, match=r"AVSiam has no separate image ViT.*of the same family, set start to it"):
        start_from_weights(siam, "image", run_of(drawn("released", 0), tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"don't fit"):
        start_from_weights(DeepAVFusion(replace(FUSION, size="96x3x4")), "image", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AvkitError, match="no checkpoint here"):
        start_from_weights(drawn("released", 0), "image", tmp_path / "empty")


@pytest.mark.parametrize("whole", ["run", "checkpoint", "file"])
def test_all_weights_go_to_a_model_of_the_same_family(whole: str, tmp_path: Path) -> None:
    """Settings that are of no weight may differ, such as mask ratios."""
    config = AVSiamConfig(size="48x3x4", decoder_depth=1, **SIZES)
    torch.manual_seed(1)
    trained = AVSiam(config)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = run_of(trained, tmp_path)
    if whole != "run":
        path = next((path / CHECKPOINTS).glob("step-*"))
    if whole == "file":
        path = next(path.glob("*.safetensors"))
    fresh = AVSiam(replace(config, mask_ratios=(0.5,)))
    start_from_model(fresh, path)
    for name, weight in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], weight), name
    assert fresh.config.mask_ratios == (0.5,)


def test_a_model_that_is_another_is_no_start(tmp_path: Path) -> None:
    path = run_of(drawn("crossmae", 1), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"start=.*: a model of crossmae, this run trains one of deepavfusion"):
        start_from_model(drawn("released", 0), path)
    larger = CrossMAE(replace(MODELS["crossmae"].config, size="96x3x4"))
    with pytest.raises(ConfigError, match="don't fit"):
        start_from_model(larger, path)
    with pytest.raises(ConfigError, match=r"start=.*nowhere: no such run"):
        start_from_model(larger, tmp_path / "nowhere")
