"""Published single-modality weights in each family's branches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.configs.avsiam import AVSiamConfig
from avmodel.configs.cavmae import CAVMAEConfig
from avmodel.configs.cavmae_sync import CAVMAESyncConfig
from avmodel.configs.crossmae import CrossMAEConfig
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.models.avsiam import AVSiam
from avmodel.models.cavmae import CAVMAE
from avmodel.models.cavmae_sync import CAVMAESync
from avmodel.models.crossmae import CrossMAE
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.positions import resize_positions
from avmodel.weights.starting import start_from_weights

SIZES = {"image_size": (64, 48), "audio_size": (128, 64), "decoder_embed_dim": 32, "decoder_num_heads": 4}
AVSIAM = AVSiamConfig(size="48x3x4", decoder_depth=1, **SIZES)
CAV_MAE = CAVMAEConfig(size="48x3x4", decoder_depth=2, **SIZES)
SYNC = CAVMAESyncConfig(size="48x3x4", decoder_depth=2, **SIZES)
CROSSMAE = CrossMAEConfig(size="48x3x4", decoder_depth=1, feature_decoder_depth=1, **SIZES)


def published(
    in_chans: int, positions: int, *, prefix: str = "", tokens: int = 1, decoder: bool = False
) -> dict[str, Tensor]:
    """A ViT of three blocks of width 48, named as timm, MAE, AST and AudioMAE name it."""
    generator = torch.Generator().manual_seed(in_chans)
    dim = 48
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, positions + tokens, dim),
        "patch_embed.proj.weight": (dim, in_chans, 16, 16),
        "patch_embed.proj.bias": (dim,),
        **block_shapes("blocks", 3, dim),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    if tokens == 2:
        shapes["dist_token"] = (1, 1, dim)
    shapes = {prefix + name: shape for name, shape in shapes.items()}
    if decoder:
        shapes |= {
            "mask_token": (1, 1, 32),
            "decoder_pos_embed": (1, positions + 1, 32),
            "decoder_embed.weight": (32, dim),
            "decoder_embed.bias": (32,),
            **block_shapes("decoder_blocks", 2, 32),
            "decoder_norm.weight": (32,),
            "decoder_norm.bias": (32,),
            "decoder_pred.weight": (768, 32),
            "decoder_pred.bias": (768,),
        }
    else:
        shapes |= {f"{'mlp_head.1' if prefix else 'head'}.{part}": (7,) for part in ("weight", "bias")}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def block_shapes(where: str, depth: int, dim: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(depth):
        for name, rows, columns in (
            ("attn.qkv", 3 * dim, dim), ("attn.proj", dim, dim), ("mlp.fc1", 4 * dim, dim), ("mlp.fc2", dim, 4 * dim),
        ):  # fmt: skip
            shapes |= {f"{where}.{layer}.{name}.weight": (rows, columns), f"{where}.{layer}.{name}.bias": (rows,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{where}.{layer}.{norm}.{part}": (dim,) for part in ("weight", "bias")}
    return shapes


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    torch.save({"model": weights}, path)
    return path


@pytest.mark.parametrize("audio_init", ["released", "aligned"])
def test_an_image_vit_starts_deepavfusions_audio_branch(tmp_path: Path, audio_init: str) -> None:
    """Where AudioMAE has no ViT of that size. An image's kernel has no time axis to turn."""
    weights = published(3, 12)
    model = DeepAVFusion(DeepAVFusionConfig(size="48x3x4", decoder_depth=1, audio_init=audio_init, **SIZES))
    positions = model.encoder.audio.positions.clone()
    start_from_weights(model, "audio", saved(tmp_path / "vit.pth", weights))
    state = model.state_dict()
    kernel = weights["patch_embed.proj.weight"]
    assert torch.equal(state["encoder.audio.patch_embed.proj.weight"], kernel.sum(dim=1, keepdim=True))
    assert torch.equal(state["encoder.audio.blocks.2.mlp.fc1.weight"], weights["blocks.2.mlp.fc1.weight"])
    assert torch.equal(state["encoder.audio.positions"], positions)


def test_an_imagenet_vit_starts_avsiam_and_all_its_copies(tmp_path: Path) -> None:
    weights = published(3, 12)
    torch.manual_seed(0)
    model = AVSiam(AVSIAM)
    found = start_from_weights(model, "image", saved(tmp_path / "vit.pth", weights))
    assert found.license.startswith("unknown")
    state = model.state_dict()
    for name, tensor in weights.items():
        if name.startswith(("blocks", "norm")):
            assert torch.equal(state[f"encoder.{name}"], tensor)
    assert torch.equal(state["encoder.image.positions"], weights["pos_embed"][:, 1:])
    kernel = weights["patch_embed.proj.weight"]
    assert torch.equal(state["encoder.audio.patch_embed.proj.weight"], kernel.mean(dim=1, keepdim=True))
    expected = resize_positions(weights["pos_embed"][:, 1:], (4, 3), (8, 4), "linear1d")
    assert torch.equal(state["encoder.audio.positions"], expected)
    assert torch.equal(state["encoder.blocks.1.norm1_banks.audio.weight"], weights["blocks.1.norm1.weight"])
    assert torch.equal(state["encoder.audio_norm.bias"], weights["norm.bias"])
    for layer in (0, 1):
        assert torch.equal(state[f"joint_layers.{layer}.mlp.fc1.weight"], weights[f"blocks.{layer + 1}.mlp.fc1.weight"])


@pytest.mark.parametrize("separate", [False, True])
def test_ast_starts_the_backbone_or_the_audios_alone(tmp_path: Path, separate: bool) -> None:
    weights = published(1, 12 * 101, prefix="v.", tokens=2)
    torch.manual_seed(0)
    model = AVSiam(replace(AVSIAM, separate=separate))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from_weights(model, "audio", saved(tmp_path / "ast.pth", weights))
    state = model.state_dict()
    kernel = weights["v.patch_embed.proj.weight"]
    assert torch.equal(state["encoder.audio.patch_embed.proj.weight"], kernel)
    positions = weights["v.pos_embed"][:, 2:]
    assert torch.equal(state["encoder.audio.positions"], resize_positions(positions, (12, 101), (8, 4), "bicubic2d"))
    body = "audio_blocks" if separate else "blocks"
    assert torch.equal(state[f"encoder.{body}.2.attn.qkv.weight"], weights["v.blocks.2.attn.qkv.weight"])
    if separate:
        assert all(
            torch.equal(state[name], before[name]) for name in state if name.startswith(("encoder.blocks", "joint"))
        )
    else:
        assert torch.equal(state["joint_layers.1.attn.qkv.weight"], weights["v.blocks.2.attn.qkv.weight"])
        torch.testing.assert_close(state["encoder.image.patch_embed.proj.weight"].sum(dim=1, keepdim=True), kernel)


@pytest.mark.parametrize("kind", [CAVMAE, CAVMAESync])
def test_an_image_mae_starts_both_towers_and_the_decoder_of_cav_mae(tmp_path: Path, kind: type) -> None:
    weights = published(3, 12, decoder=True)
    path = saved(tmp_path / "mae.pth", weights)
    torch.manual_seed(0)
    model = kind({CAVMAE: CAV_MAE, CAVMAESync: SYNC}[kind])
    for modality in ("image", "audio"):
        start_from_weights(model, modality, path)
    state = model.state_dict()
    for modality in ("image", "audio"):
        assert torch.equal(state[f"encoder.{modality}.blocks.1.mlp.fc1.bias"], weights["blocks.1.mlp.fc1.bias"])
        assert torch.equal(state[f"encoder.joint_blocks.0.norm2_banks.{modality}.bias"], weights["blocks.2.norm2.bias"])
        assert torch.equal(state[f"encoder.{modality}.norm.weight"], weights["norm.weight"])
    kernel = weights["patch_embed.proj.weight"]
    assert torch.equal(state["encoder.audio.patch_embed.proj.weight"], kernel.sum(dim=1, keepdim=True))
    assert torch.equal(state["encoder.joint_blocks.0.attn.qkv.weight"], weights["blocks.2.attn.qkv.weight"])
    assert torch.equal(state["decoder.blocks.1.norm1.weight"], weights["decoder_blocks.1.norm1.weight"])
    assert torch.equal(state["decoder.image_pred.weight"], weights["decoder_pred.weight"])
    assert torch.equal(state["decoder.mask_token"], weights["mask_token"])


def test_mae_and_audiomae_start_the_towers_of_crossmae(tmp_path: Path) -> None:
    mae, audiomae = published(3, 12, decoder=True), published(1, 512)
    torch.manual_seed(0)
    model = CrossMAE(CROSSMAE)
    start_from_weights(model, "image", saved(tmp_path / "mae.pth", mae))
    start_from_weights(model, "audio", saved(tmp_path / "audiomae.pth", audiomae))
    state = model.state_dict()
    for modality, weights in (("image", mae), ("audio", audiomae)):
        for name in ("cls_token", "blocks.0.attn.proj.weight", "norm.bias", "patch_embed.proj.weight"):
            assert torch.equal(state[f"encoder.{modality}.{name}"], weights[name])
    start_from_weights(model, "audio", tmp_path / "mae.pth")
    kernel = mae["patch_embed.proj.weight"].mean(dim=1, keepdim=True)
    assert torch.equal(model.state_dict()["encoder.audio.patch_embed.proj.weight"], kernel)


def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path: Path) -> None:
    model = CrossMAE(replace(CROSSMAE, size="48x2x4"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = saved(tmp_path / "mae.pth", published(3, 12))
    with pytest.raises(ConfigError, match=r"blocks\.2\..* is not of this model"):
        start_from_weights(model, "image", path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ConfigError, match=r"not a published ViT: 'pos_embed' is missing"):
        start_from_weights(model, "image", saved(tmp_path / "other.pth", {"w": torch.zeros(1)}))
    with pytest.raises(ConfigError, match="7 positions are no grid of a known spectrogram model"):
        start_from_weights(AVSiam(AVSIAM), "audio", saved(tmp_path / "odd.pth", published(1, 7)))


@pytest.mark.parametrize("kind", [AVSiam, CAVMAE, CAVMAESync, CrossMAE])
def test_a_missing_file_says_where_such_weights_are(tmp_path: Path, kind: type) -> None:
    model = kind({AVSiam: AVSIAM, CAVMAE: CAV_MAE, CAVMAESync: SYNC, CrossMAE: CROSSMAE}[kind])
    for modality in ("image", "audio"):
        with pytest.raises(ConfigError, match=rf"{modality}_weights=.*x\.pth: no such file") as refused:
            start_from_weights(model, modality, tmp_path / "x.pth")
        assert kind.published_starts[modality] in str(refused.value)
        assert "(" in kind.published_starts[modality]  # its license
