"""Published AVSiam, CAV-MAE and CAV-MAE Sync checkpoints, by their key names."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.evaluate.loading import load_pretrained
from avmodel.weights.avsiam import import_avsiam
from avmodel.weights.cavmae import import_cav_mae
from avmodel.weights.cavmae_sync import import_cav_mae_sync
from avmodel.weights.convert import convert
from tests.unit.avmodel.weights.test_starting import block_shapes

DIM, IMAGE, AUDIO = 64, 16, 32  # width; patches of 64 x 64 pixels, of 128 x 64 mels


def with_banks(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Blocks as both releases have them: three copies of each norm."""
    return shapes | {
        name.replace(norm, f"{norm}_{letter}"): shape
        for name, shape in shapes.items()
        for norm in ("norm1", "norm2")
        if norm in name
        for letter in "av"
    }


def pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


DECODER: dict[str, tuple[int, ...]] = {
    **pair("decoder_embed", 32, DIM),
    "mask_token": (1, 1, 32),
    "decoder_pos_embed_a": (1, AUDIO, 32),
    "decoder_pos_embed_v": (1, IMAGE, 32),
    "decoder_modality_a": (1, 1, 32),
    "decoder_modality_v": (1, 1, 32),
    **with_banks(block_shapes("decoder_blocks", 2, 32)),
    **pair("decoder_norm", 32),
    **pair("decoder_pred_a", 256, 32),
    **pair("decoder_pred_v", 768, 32),
}
NORMS = pair("norm", DIM) | pair("norm_a", DIM)


def avsiam_shapes() -> dict[str, tuple[int, ...]]:
    """All but the decoder."""
    tower: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, DIM),
        "pos_embed": (1, IMAGE + 1, DIM),
        "pos_embed_a": (1, AUDIO, DIM),
        **pair("patch_embed.proj", DIM, 3, 16, 16),
        **pair("patch_embed_a.proj", DIM, 1, 16, 16),
        **with_banks(block_shapes("blocks", 3, DIM)),
        **NORMS,
        **pair("head", 21, DIM),
    }
    shapes = {f"{name}.{part}": shape for name in ("vit_base", "ast_base") for part, shape in tower.items()}
    shapes |= {f"my_{name}": shape for name, shape in tower.items() if name.startswith("blocks")}
    shapes |= pair("my_patch_embed.proj", DIM, 3, 16, 16)
    for number in (1, 2):
        layer = with_banks(block_shapes("x", 1, DIM))
        shapes |= {name.replace("x.0", f"mm_layer_{number}"): shape for name, shape in layer.items()}
    return shapes


def avsiam_file(path: Path) -> dict[str, Tensor]:
    return save(path, avsiam_shapes() | DECODER)


def cav_mae_shapes() -> dict[str, tuple[int, ...]]:
    """All but the decoder."""
    return {
        **pair("patch_embed_a.proj", DIM, 1, 16, 16),
        **pair("patch_embed_v.proj", DIM, 3, 16, 16),
        "modality_a": (1, 1, DIM),
        "modality_v": (1, 1, DIM),
        "pos_embed_a": (1, AUDIO, DIM),
        "pos_embed_v": (1, IMAGE, DIM),
        **with_banks(block_shapes("blocks_a", 2, DIM)),
        **with_banks(block_shapes("blocks_v", 2, DIM)),
        **with_banks(block_shapes("blocks_u", 1, DIM)),
        **NORMS,
        **pair("norm_v", DIM),
    }


def cav_mae_file(path: Path) -> dict[str, Tensor]:
    return save(path, cav_mae_shapes() | DECODER)


def cav_mae_sync_file(path: Path, **more: tuple[int, ...]) -> dict[str, Tensor]:
    """With three registers a modality, those of the audio first."""
    own = {"cls_token_a": (1, 1, DIM), "cls_token_v": (1, 1, DIM), "register_tokens": (6, DIM)}
    return save(path, cav_mae_shapes() | DECODER | own | more)


def save(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
    return weights


def block(weights: dict[str, Tensor], where: str, x: Tensor, bank: str = "") -> Tensor:
    """A block of either release, written out."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], weights[f"{where}.{name}{bank}.weight"], weights[f"{where}.{name}{bank}.bias"]
        )

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{where}.{name}.weight"], weights[f"{where}.{name}.bias"])

    b, n, d = x.shape
    q, k, v = linear("attn.qkv", norm("norm1", x)).view(b, n, 3, 1, d).permute(2, 0, 3, 1, 4)
    mixed = ((q @ k.transpose(-1, -2) * d**-0.5).softmax(-1) @ v).transpose(1, 2).reshape(b, n, d)
    x = x + linear("attn.proj", mixed)
    return x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))


def patches(weights: dict[str, Tensor], where: str, x: Tensor) -> Tensor:
    return F.conv2d(x, weights[f"{where}.proj.weight"], weights[f"{where}.proj.bias"], stride=16).flatten(2).mT


def last_norm(weights: dict[str, Tensor], where: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{where}.weight"], weights[f"{where}.bias"], eps)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 64, 64, generator=generator), torch.randn(2, 1, 128, 64, generator=generator)


def test_an_avsiam_file_gives_the_released_forward_pass(tmp_path: Path) -> None:
    weights = avsiam_file(tmp_path / "base.pth")
    model, found = import_avsiam(tmp_path / "base.pth")
    assert "MIT" in found.license
    config = model.config
    assert (config.size, config.image_size, config.audio_size) == ("64x3x1", (64, 64), (128, 64))
    assert (config.double_embed, config.separate_reconstruction, config.stop_gradient) == (True, True, False)
    image, log_mel = inputs()
    heard = 2 * (
        patches(weights, "vit_base.patch_embed_a", (log_mel + 5.081) / 4.4849) + weights["vit_base.pos_embed_a"]
    )
    seen = 2 * (patches(weights, "vit_base.patch_embed", image) + weights["vit_base.pos_embed"][:, 1:])
    for layer in range(3):
        heard = block(weights, f"vit_base.blocks.{layer}", heard, "_a")
        seen = block(weights, f"vit_base.blocks.{layer}", seen, "_v")
    heard = last_norm(weights, "vit_base.norm_a", heard, 1e-6)
    seen = last_norm(weights, "vit_base.norm", seen, 1e-6)
    joint = torch.cat([heard, seen], dim=1)
    for number in (1, 2):
        joint = block(weights, f"mm_layer_{number}", joint, "_a")
    with torch.no_grad():
        streams = model.eval().streams(image, log_mel)
    for name, expected in {"image": seen, "audio": heard, "joint": joint}.items():
        torch.testing.assert_close(streams[name], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.decoder.audio_vector, weights["decoder_modality_a"])
    assert torch.equal(model.reconstruction_blocks[1].norm1.weight, weights["ast_base.blocks.1.norm1.weight"])


def test_a_cav_mae_file_gives_the_released_forward_pass(tmp_path: Path) -> None:
    weights = cav_mae_file(tmp_path / "cav.pth")
    model, found = import_cav_mae(tmp_path / "cav.pth", normalize_targets=False)
    assert found.license.startswith("BSD-2-Clause")
    assert (model.config.size, model.config.joint_depth, model.config.normalize_targets) == ("64x3x1", 1, False)
    image, log_mel = inputs()
    towers = {}
    for letter, given in (("v", image), ("a", (log_mel + 5.081) / 4.4849)):
        x = (
            patches(weights, f"patch_embed_{letter}", given)
            + weights[f"pos_embed_{letter}"]
            + weights[f"modality_{letter}"]
        )
        for layer in range(2):
            x = block(weights, f"blocks_{letter}.{layer}", x)
        towers[letter] = x
    expected = {
        name: last_norm(weights, f"norm_{letter}", block(weights, "blocks_u.0", towers[letter], f"_{letter}"), 1e-5)
        for letter, name in (("v", "image"), ("a", "audio"))
    }
    both = block(weights, "blocks_u.0", torch.cat([towers["a"], towers["v"]], dim=1))
    expected["joint"] = last_norm(weights, "norm", both, 1e-5)
    with torch.no_grad():
        streams = model.eval().streams(image, log_mel)
    for name, x in expected.items():
        torch.testing.assert_close(streams[name], x, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.decoder.image_pred.weight, weights["decoder_pred_v.weight"])


def test_files_of_other_models_are_refused(tmp_path: Path) -> None:
    avsiam_file(tmp_path / "avsiam.pth")
    weights = cav_mae_file(tmp_path / "cav.pth")
    with pytest.raises(
        ConfigError, match=r"not an AVSiam state dict: 'vit_base\.patch_embed\.proj\.weight' is missing"
    ):
        import_avsiam(tmp_path / "cav.pth")
    with pytest.raises(ConfigError, match=r"not a pretrained CAV-MAE state dict"):
        import_cav_mae(tmp_path / "avsiam.pth")
    headless = {name: tensor for name, tensor in weights.items() if not name.startswith(("decoder", "mask"))}
    torch.save(headless, tmp_path / "headless.pth")
    with pytest.raises(ConfigError, match=r"'decoder_embed\.weight' is missing"):
        import_cav_mae(tmp_path / "headless.pth")
    cut = {name: tensor for name, tensor in weights.items() if name != "blocks_v.1.mlp.fc2.bias"}
    torch.save(cut, tmp_path / "cut.pth")
    with pytest.raises(ConfigError, match=r"encoder\.image\.blocks\.1\.mlp\.fc2\.bias is missing"):
        import_cav_mae(tmp_path / "cut.pth")
    with pytest.raises(ConfigError, match="unexpected keyword argument 'depth'"):
        import_cav_mae(tmp_path / "cav.pth", depth=3)


def test_settings_override_what_the_file_tells(tmp_path: Path) -> None:
    avsiam_file(tmp_path / "base.pth")
    model, _ = import_avsiam(tmp_path / "base.pth", mask_ratios=(0.5,), temperature=0.1)
    assert model.config == replace(model.config, mask_ratios=(0.5,), temperature=0.1)
    with pytest.raises(ConfigError, match=r"base\.pth: model\.separate_reconstruction"):
        import_avsiam(tmp_path / "base.pth", stop_gradient=True)


def test_a_cav_mae_sync_file_gives_each_tower_its_own_tokens(tmp_path: Path) -> None:
    weights = cav_mae_sync_file(tmp_path / "sync.pth")
    model, found = import_cav_mae_sync(tmp_path / "sync.pth", contrast_weight=0.01)
    assert "BSD-2-Clause" in found.license
    assert (model.config.num_registers, model.config.contrast_weight) == (3, 0.01)
    for number, (letter, tower) in enumerate((("a", model.encoder.audio), ("v", model.encoder.image))):
        assert torch.equal(tower.global_token, weights[f"cls_token_{letter}"])
        assert torch.equal(tower.register_tokens[0], weights["register_tokens"][3 * number : 3 * number + 3])
    plain = {name: tensor for name, tensor in weights.items() if name != "register_tokens"}
    torch.save(plain, tmp_path / "plain.pth")
    assert import_cav_mae_sync(tmp_path / "plain.pth")[0].config.num_registers == 0


def test_other_models_are_no_cav_mae_sync(tmp_path: Path) -> None:
    cav_mae_file(tmp_path / "cav.pth")
    with pytest.raises(ConfigError, match=r"not a pretrained CAV-MAE Sync state dict: 'cls_token_a' is missing"):
        import_cav_mae_sync(tmp_path / "cav.pth")
    cav_mae_sync_file(tmp_path / "heads.pth", **{"constrative_head_audio.0.norm1.weight": (DIM,)})
    with pytest.raises(ConfigError, match=r"heads\.pth: has contrastive heads"):
        import_cav_mae_sync(tmp_path / "heads.pth")
    cav_mae_sync_file(tmp_path / "odd.pth", register_tokens=(5, DIM))
    with pytest.raises(ConfigError, match=r"odd\.pth: .*5 register tokens are not two equal halves"):
        import_cav_mae_sync(tmp_path / "odd.pth")


def test_a_converted_file_of_parts_of_clips_says_how_long_they_are(tmp_path: Path) -> None:
    cav_mae_sync_file(tmp_path / "sync.pth")
    convert(tmp_path / "sync.pth", tmp_path / "ours.safetensors", family="cavmae_sync")
    loaded = load_pretrained(tmp_path / "ours.safetensors", torch.device("cpu"))
    assert (loaded.profile, loaded.window_s, loaded.around_frame) == ("kaldi", 0.64, True)  # 64 columns


@pytest.mark.parametrize(("family", "make"), [("avsiam", avsiam_file), ("cavmae", cav_mae_file)])
def test_a_converted_file_says_its_family_and_what_it_heard(
    tmp_path: Path, family: str, make: Callable[[Path], dict[str, Tensor]]
) -> None:
    make(tmp_path / "released.pth")
    found = convert(tmp_path / "released.pth", tmp_path / "ours.safetensors", family=family)
    loaded = load_pretrained(tmp_path / "ours.safetensors", torch.device("cpu"))
    assert (loaded.origin["family"], loaded.profile, loaded.window_s) == (family, "kaldi", None)
    assert loaded.origin["license"] == found.license
    with pytest.raises(ConfigError, match="unknown --family 'vit'; known: deepavfusion, avsiam, cavmae"):
        convert(tmp_path / "released.pth", tmp_path / "other.safetensors", family="vit")
