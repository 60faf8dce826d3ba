from dataclasses import replace

import pytest
import torch
from torch import nn

from avmodel.configs.deepavfusion import DeepAVFusionConfig, fusion_layer_ids
from avmodel.models import FAMILIES
from avmodel.models.deepavfusion import DeepAVFusion, Encoder
from tests.families import masks_for
from tests.runs import TINY

SMALL = replace(
    TINY, size="48x3x4", image_size=(64, 64), audio_size=(32, 48), num_aggr_image_tokens=3, decoder_embed_dim=32,
    decoder_depth=2, image_mask_ratio=0.75,
)  # fmt: skip


def batch(size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 64, 64, generator=generator), torch.randn(size, 1, 32, 48, generator=generator)


def small(**changes: object) -> DeepAVFusion:
    torch.manual_seed(0)
    return DeepAVFusion(replace(SMALL, **changes))


def count(module: nn.Module) -> tuple[int, int]:
    """Trainable numbers, and all of them."""
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return trainable, sum(t.numel() for t in module.state_dict().values())


def on_meta(**changes: object) -> DeepAVFusion:
    with torch.device("meta"):
        return DeepAVFusion(DeepAVFusionConfig(**changes))


def test_parameter_counts_of_the_vggsound_model() -> None:
    model = on_meta()
    assert count(model) == (320_339_456, 320_563_712)
    assert count(model.encoder.image) == (85_646_592, 85_797_120)
    assert count(model.encoder.audio) == (85_253_376, 85_327_104)
    assert count(model.encoder.image.patch_embed)[0] == 590_592
    assert count(model.encoder.audio.patch_embed)[0] == 197_376
    assert count(model.encoder.image.blocks[0])[0] == 7_087_872
    assert model.encoder.fusion_tokens.numel() == 24_576
    assert count(model.encoder.fusion_norm)[0] == 1_536
    assert count(model.encoder.fusion_blocks)[0] == 97_509_888
    assert count(model.encoder.fusion_blocks["0"].attn)[0] == 6_938_496
    assert count(model.encoder.fusion_blocks["0"].mlp)[0] == 1_181_184
    assert count(model.encoder)[1] == 268_660_224
    assert count(model.image_decoder)[0] == 26_108_672
    assert count(model.audio_decoder)[0] == 25_794_816


def test_parameter_counts_of_the_audioset_model() -> None:
    model = on_meta(fusion_attn_ratio=1.0, fusion_mlp_ratio=4.0)
    assert count(model)[1] == 378_997_760
    assert count(model.encoder)[1] == 327_094_272
    assert count(model.encoder.fusion_blocks)[0] == 155_943_936


@pytest.mark.parametrize(
    ("fusion", "mlp_ratio", "block"),
    [
        ("factorized", 1.0, 8_125_824),
        ("factorized", 4.0, 11_667_072),
        ("dense", 1.0, 2_073_408),
        ("token", 1.0, 1_778_496),
    ],
)
def test_parameter_counts_of_fusion_blocks(fusion: str, mlp_ratio: float, block: int) -> None:
    model = on_meta(fusion=fusion, fusion_mlp_ratio=mlp_ratio)
    assert [count(b)[0] for b in model.encoder.fusion_blocks.values()] == [block] * 12


def test_released_file_sizes_agree_with_float32_weights() -> None:
    for changes, size_bytes in (
        ({}, 1_282_543_933),
        ({"fusion_attn_ratio": 1.0, "fusion_mlp_ratio": 4.0}, 1_516_280_189),
    ):
        model = on_meta(**changes)
        assert 0 < size_bytes - 4 * count(model)[1] < 300_000
        assert len(model.state_dict()) == 893


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_every_size_builds_with_every_fusion(size: str) -> None:
    for fusion in ("factorized", "dense", "token"):
        assert on_meta(size=size, fusion=fusion).config.vit.embed_dim % 192 in (0, 64)


@pytest.mark.parametrize(
    ("layers", "ids"),
    [
        ("all", tuple(range(12))),
        ("early", tuple(range(12))),
        ("mid", (8, 9, 10, 11)),
        ("late", (11,)),
        ("none", ()),
        ((11, 3), (3, 11)),
        ((), ()),
    ],
)
def test_layer_sets(layers: str | tuple[int, ...], ids: tuple[int, ...]) -> None:
    assert fusion_layer_ids(layers, 12) == ids
    model = on_meta(fusion_layers=layers)
    assert tuple(map(int, model.encoder.fusion_blocks)) == ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "giant"}, "unknown model.size 'giant'; known: base, huge, large, small, tiny"),
        ({"fusion": "concat"}, "unknown model.fusion 'concat'; known: dense, factorized, token"),
        ({"fusion_impl": "fast"}, "unknown model.fusion_impl 'fast'; known: pairs, separable"),
        ({"fusion_layers": "9-12"}, "unknown model.fusion_layers '9-12'; known: all, early, late, mid, none"),
        ({"fusion_layers": (0, 12)}, r"in 0..11"),
        ({"fusion_layers": (-1,)}, r"in 0..11"),
        ({"fusion_layers": (1, 1)}, "different layers"),
        ({"audio_init": "paper"}, "unknown model.audio_init 'paper'; known: aligned, released"),
        ({"decoder_positions": "learned"}, "unknown model.decoder_positions 'learned'"),
        ({"audio_size": (128, 196)}, "not whole patches"),
        ({"image_mask_ratio": 1.0}, "nothing to see"),
        ({"audio_mask_ratio": 0.0}, "nothing to see or to predict"),
        ({"fusion_attn_ratio": 0.3}, "doesn't split into 12 heads"),
        ({"fusion_attn_ratio": 0.0}, "must be above 0"),
        ({"decoder_num_heads": 7}, "multiple of 4 and of model.decoder_num_heads=7"),
        ({"num_fusion_tokens": 0}, "needs more"),
        ({"num_aggr_audio_tokens": 0}, "needs more"),
        ({"attn_drop": 0.1}, "model.fusion_impl=pairs"),
    ],
)
def test_configs_that_no_model_can_have(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepAVFusionConfig(**changes)


def test_patches_of_14_leave_out_the_uppermost_bins() -> None:
    model = small(patch_size=14, image_size=(28, 28), audio_size=(128, 42))
    assert model.audio_grid == model.encoder.audio.grid == (9, 3)
    image, log_mel = torch.randn(2, 3, 28, 28), torch.randn(2, 1, 128, 45)
    masks = masks_for(model, 2)
    output = model(image, log_mel, masks)
    assert output.audio_pred is not None
    assert output.audio_pred.shape == (2, 27, 14 * 14)
    changed = log_mel.clone()
    changed[:, :, 126:], changed[..., 42:] = 9, 9
    assert model(image, changed, masks).losses["total"] == output.losses["total"]
    changed[:, :, 125] = 9
    assert model(image, changed, masks).losses["total"] != output.losses["total"]
    drawn = model.pictures(image, log_mel, output)
    assert drawn is not None
    assert drawn[1].shape == (2, 1, 126, 42)


def test_one_pool_of_tokens_is_enough_for_dense_and_token_fusion() -> None:
    for fusion in ("dense", "token"):
        DeepAVFusionConfig(fusion=fusion, num_aggr_image_tokens=0, num_aggr_audio_tokens=0)


def test_initial_weights() -> None:
    model = small()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            bound = (6 / (module.in_features + module.out_features)) ** 0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
            assert not module.bias.any(), name
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any(), name
    kernel = model.encoder.image.patch_embed.proj.weight
    bound = (6 / (3 * 256 + 48)) ** 0.5
    assert 0.9 * bound < kernel.abs().max() <= bound
    assert 0.015 < model.encoder.fusion_tokens.std() < 0.025


def test_positions_are_fixed_in_the_encoder_and_trained_or_fixed_in_the_decoders() -> None:
    def trained(model: DeepAVFusion) -> set[str]:
        return {name for name, _ in model.named_parameters() if name.endswith("positions")}

    assert trained(small()) == {"image_decoder.positions", "audio_decoder.positions"}
    assert trained(small(decoder_positions="fixed")) == set()
    assert small().state_dict().keys() == small(decoder_positions="fixed").state_dict().keys()


def test_default_masks_keep_49_and_19() -> None:
    image_ids, audio_ids = masks_for(on_meta(), 3)
    assert image_ids.shape == (3, 49)
    assert audio_ids.shape == (3, 19)


def test_the_same_masks_replay_the_losses() -> None:
    model, (image, log_mel) = small(), batch()
    first, second = (model(image, log_mel, masks_for(model, 2, seed=7)) for _ in range(2))
    other = model(image, log_mel, masks_for(model, 2, seed=8))
    assert torch.equal(first.losses["total"], second.losses["total"])
    assert torch.equal(first.image_mask, second.image_mask)
    assert not torch.equal(first.image_mask, other.image_mask)


def test_losses_add_up_and_reach_every_weight() -> None:
    for fusion in ("factorized", "dense", "token"):
        model = small(fusion=fusion)
        output = model(*batch(), masks_for(model, 2))
        assert torch.equal(output.losses["total"], output.losses["image"] + output.losses["audio"])
        output.losses["total"].backward()
        # The state after the last fusion block reaches the decoders, so nothing is left without a gradient.
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_the_update_is_parallel() -> None:
    torch.manual_seed(0)
    encoder = Encoder(SMALL).eval()
    image, log_mel = batch()
    features = encoder(image, log_mel, keep_layers=True)
    v, a = encoder.image.embed(image), encoder.audio.embed(log_mel)
    f = encoder.fusion_tokens.expand(2, -1, -1)
    for layer, tokens in enumerate(features.layers):
        new_v = encoder.image.blocks[layer](torch.cat([f, v], dim=1))[:, 9:]
        new_a = encoder.audio.blocks[layer](torch.cat([f, a], dim=1))[:, 9:]
        f = encoder.fusion_blocks[str(layer)](f, v, a)
        v, a = new_v, new_a
        for ours, expected in zip(tokens, (v, a, f), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert len(features.layers) == 3
    torch.testing.assert_close(features.fusion, encoder.fusion_norm(features.layers[-1].fusion))
    torch.testing.assert_close(features.image, encoder.image.norm(features.layers[-1].image))
    assert encoder(image, log_mel).layers == ()


def test_without_fusion_the_modalities_do_not_meet() -> None:
    encoder = small(fusion_layers="none").encoder.eval()
    image, log_mel = batch()
    features, other = encoder(image, log_mel), encoder(image, log_mel + 1)
    assert torch.equal(features.image, other.image)
    assert torch.equal(features.fusion, encoder.fusion_norm(encoder.fusion_tokens).expand(2, -1, -1))
    fused = small(fusion_layers="all").encoder.eval()
    assert not torch.allclose(fused(image, log_mel).image, fused(image, log_mel + 1).image)


def test_further_columns_of_the_log_mel_are_cut_off() -> None:
    model, (image, log_mel) = small(), batch()
    wide = torch.cat([log_mel, torch.full((2, 1, 32, 4), 1e6)], dim=-1)
    masks = masks_for(model, 2)
    narrow, cut = model(image, log_mel, masks), model(image, wide, masks)
    assert torch.equal(narrow.losses["total"], cut.losses["total"])
    assert model.pictures(image, wide, cut)[1].shape == log_mel.shape


@pytest.mark.parametrize("shape", [(2, 1, 32, 47), (2, 1, 32, 64), (2, 1, 16, 48)])
def test_other_log_mels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this model takes 32 x 48"):
        small().encoder(batch()[0], torch.zeros(shape))


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image of \(64, 80\): this model takes \(64, 64\)"):
        small().encoder(torch.zeros(2, 3, 64, 80), batch()[1])


def test_plain_targets_are_the_patches() -> None:
    image, _ = batch()
    model = small(normalize_targets=False)
    assert model.targets(image, "image").std() == pytest.approx(image.std().item())
    assert not torch.allclose(model.targets(image, "image"), small().targets(image, "image"))


def test_the_sounds_patches_may_be_normalized_or_not_by_a_setting_of_their_own() -> None:
    image, log_mel = batch()
    plain, normalized, mixed = (
        small(**changes) for changes in ({"normalize_targets": False}, {}, {"normalize_audio_targets": False})
    )
    torch.testing.assert_close(mixed.targets(image, "image"), normalized.targets(image, "image"))
    torch.testing.assert_close(mixed.targets(log_mel, "audio"), plain.targets(log_mel, "audio"))
    assert (mixed.normalizes("image"), mixed.normalizes("audio")) == (True, False)
    assert (plain.normalizes("audio"), normalized.normalizes("audio")) == (False, True)


def test_aligned_audio_is_scaled_and_its_position_halves_exchanged() -> None:
    released, aligned = small().encoder, small(audio_init="aligned").encoder
    halves = released.audio.positions.chunk(2, dim=-1)
    assert torch.equal(aligned.audio.positions, torch.cat(halves[::-1], dim=-1))
    assert torch.equal(aligned.image.positions, released.image.positions)
    seen = []
    aligned.audio.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    # A log10 power whose natural logarithm is AudioMAE's mean becomes 0; one deviation above, one half.
    mean, above = -4.2677393 / 2.302585093, (-4.2677393 + 4.5689974) / 2.302585093
    aligned(batch()[0], torch.stack([torch.full((1, 32, 48), mean), torch.full((1, 32, 48), above)]))
    torch.testing.assert_close(seen[0].mean(dim=(1, 2, 3)), torch.tensor([0.0, 0.5]), atol=1e-5, rtol=0)


def test_attention_dropout_and_stochastic_depth_act_in_training_only() -> None:
    for changes in ({"drop_path": 0.5}, {"attn_drop": 0.5, "fusion_impl": "pairs"}):
        model, inputs = small(**changes), batch(4)
        assert not torch.equal(model.encoder(*inputs).fusion, model.encoder(*inputs).fusion)
        model.eval()
        assert torch.equal(model.encoder(*inputs).fusion, model.encoder(*inputs).fusion)


def test_bfloat16_autocast_gives_float32_losses() -> None:
    model = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(*batch(), masks_for(model, 2))
    exact = model(*batch(), masks_for(model, 2))
    assert output.losses["total"].dtype == torch.float32
    torch.testing.assert_close(output.losses["total"], exact.losses["total"], atol=0.05, rtol=0)


def test_the_family_is_known_by_name() -> None:
    assert FAMILIES["deepavfusion"].model_type is DeepAVFusion
    assert FAMILIES["deepavfusion"].config_type is DeepAVFusionConfig
