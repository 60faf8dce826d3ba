"""DeepAVFusion against the released implementation's numbers (README.md in this folder)."""

from pathlib import Path

import pytest
import torch

from avmodel.masking import KeptIds
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.objectives import patchify
from tests.golden.deepavfusion import FILES, load


def test_all_three_files_are_here() -> None:
    assert [path.stem for path in FILES] == [
        "deepavfusion_dense_mmi_1-2",
        "deepavfusion_factorized_mmi_all",
        "deepavfusion_token_all",
    ]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_config_read_off_the_tensors_is_the_metadata(path: Path) -> None:
    model, _, metadata = load(path)
    config = model.config
    assert config.fusion == metadata["fusion_arch"].removesuffix("_mmi")
    layers = "all" if config.fusion_layers == "all" else "-".join(map(str, config.fusion_layers))
    assert layers == metadata["fusion_layers"]
    assert "x".join(map(str, config.image_size)) == metadata["image_size"]
    assert "x".join(map(str, config.audio_size)) == metadata["audio_size"]
    assert config.patch_size == int(metadata["patch"])
    assert config.fusion_attn_ratio == float(metadata["attn_ratio"])
    assert config.fusion_mlp_ratio == float(metadata["mlp_ratio"])
    assert config.decoder_embed_dim == int(metadata["decoder_dim"])
    assert config.decoder_depth == int(metadata["decoder_depth"])


def test_every_released_weight_is_used_once(path: Path) -> None:
    model, tensors, _ = load(path)
    released = [t for name, t in tensors.items() if name.startswith("state.")]
    ours = model.state_dict().values()
    assert len(ours) == len(released)
    assert sum(t.sum().item() for t in ours) == pytest.approx(sum(t.sum().item() for t in released))


def test_positions_are_regenerated_to_the_bit_that_matters(path: Path) -> None:
    model, tensors, _ = load(path)
    fresh = DeepAVFusion(model.config)
    for name, ours in (("image", fresh.encoder.image), ("audio", fresh.encoder.audio)):
        torch.testing.assert_close(ours.positions, tensors[f"state.encoder.{name}.pos_embed"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("impl", ["separable", "pairs"])
def test_full_encoder(path: Path, impl: str) -> None:
    model, tensors, _ = load(path, fusion_impl=impl)
    with torch.no_grad():
        features = model.encoder(tensors["image"], tensors["audio"])
    for name in ("image", "audio", "fusion"):
        torch.testing.assert_close(getattr(features, name), tensors[f"full.{name}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("impl", ["separable", "pairs"])
def test_masked_autoencoder(path: Path, impl: str) -> None:
    model, tensors, _ = load(path, fusion_impl=impl)
    masks = KeptIds(tensors["mask.image.ids_keep"], tensors["mask.audio.ids_keep"])
    with torch.no_grad():
        output = model(tensors["image"], tensors["audio"], masks)
    for name, prediction, mask in (
        ("image", output.image_pred, output.image_mask),
        ("audio", output.audio_pred, output.audio_mask),
    ):
        torch.testing.assert_close(mask, tensors[f"mask.{name}.mask"], atol=0, rtol=0)
        torch.testing.assert_close(prediction, tensors[f"pred.{name}"], atol=1e-5, rtol=0)
        torch.testing.assert_close(output.losses[name], tensors[f"loss.{name}"][0], atol=1e-5, rtol=0)
    total = tensors["loss.image"][0] + tensors["loss.audio"][0]
    torch.testing.assert_close(output.losses["total"], total, atol=1e-5, rtol=0)


def test_released_order_of_hidden_tokens_gives_the_same_predictions(path: Path) -> None:
    model, tensors, _ = load(path)
    masks = KeptIds(tensors["mask.image.ids_keep"], tensors["mask.audio.ids_keep"])
    with torch.no_grad():
        features = model.encoder(tensors["image"], tensors["audio"], masks)
        for name, tokens, decoder in (
            ("image", features.image, model.image_decoder),
            ("audio", features.audio, model.audio_decoder),
        ):
            prediction = decoder(tokens, features.fusion, tensors[f"mask.{name}.ids_restore"])
            torch.testing.assert_close(prediction, tensors[f"pred.{name}"], atol=1e-5, rtol=0)


def test_pictures_show_the_inputs_where_they_were_visible(path: Path) -> None:
    model, tensors, _ = load(path)
    masks = KeptIds(tensors["mask.image.ids_keep"], tensors["mask.audio.ids_keep"])
    with torch.no_grad():
        output = model(tensors["image"], tensors["audio"], masks)
        pictures = model.pictures(tensors["image"], tensors["audio"], output)
    for picture, name in zip(pictures, ("image", "audio"), strict=True):
        shown, given = patchify(picture, 16), patchify(tensors[name], 16)
        hidden = tensors[f"mask.{name}.mask"].bool()
        assert torch.equal(shown[~hidden], given[~hidden])
        predicted = tensors[f"pred.{name}"][hidden]
        true = given[hidden]
        expected = predicted * (true.var(-1, keepdim=True) + 1e-6).sqrt() + true.mean(-1, keepdim=True)
        torch.testing.assert_close(shown[hidden], expected, atol=1e-4, rtol=0)
