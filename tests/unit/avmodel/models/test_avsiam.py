from dataclasses import replace

import pytest
import torch
from torch import Tensor

from avmodel.configs.avsiam import AVSiamConfig
from avmodel.models.avsiam import AVSiam, AVSiamKeptIds
from avmodel.models.family import Draws
from tests.families import SIZES, batch, count, draws_for, on_meta

SMALL = AVSiamConfig(**SIZES)


def small(**changes: object) -> AVSiam:
    torch.manual_seed(0)
    return AVSiam(replace(SMALL, **changes))


def masks_of(model: AVSiam, size: int = 10) -> AVSiamKeptIds:
    return model.choose(draws_for(model, size))


@pytest.mark.parametrize(
    ("changes", "millions", "printed"),
    [
        ({}, 100.60, 100),
        ({"norms": "shared"}, 100.56, 100),
        ({"size": "large"}, 329.4, 332),
        ({"size": "huge", "patch_size": 14}, 671.4, 672),
        ({"size": "large", "separate": True}, 631.6, None),  # the paper prints 640
    ],
)
def test_parameters_without_decoder_are_the_papers(changes: dict, millions: float, printed: float | None) -> None:
    model = on_meta(AVSiamConfig(**changes))
    found = (count(model.encoder) + count(model.joint_layers)) / 1e6
    assert found == pytest.approx(millions, rel=0.001)
    if printed is not None:
        assert found == pytest.approx(printed, rel=0.01)


def test_two_backbones_have_nearly_twice_the_parameters_of_one() -> None:
    one, two = (on_meta(AVSiamConfig(size="large", separate=separate)) for separate in (False, True))
    sizes = [count(model.encoder) + count(model.joint_layers) for model in (one, two)]
    assert sizes[1] / sizes[0] == pytest.approx(1.92, abs=0.01)


def test_reconstruction_never_reaches_the_encoder() -> None:
    model = small()
    output = model(*batch(SMALL), masks_of(model))
    (output.losses["image"] + output.losses["audio"]).backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for part in (model.joint_layers, model.decoder) for p in part.parameters())
    released = small(stop_gradient=False)
    output = released(*batch(SMALL), masks_of(released))
    (output.losses["image"] + output.losses["audio"]).backward()
    assert all(p.grad is not None for p in released.encoder.parameters())


def test_contrast_trains_all_of_the_encoder_and_nothing_else() -> None:
    model = small()
    model(*batch(SMALL), masks_of(model), terms=("contrast",)).losses["total"].backward()
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"encoder"}
    assert all(p.grad is not None for p in model.encoder.parameters())


@pytest.mark.parametrize("size", [5, 6, 7, 12, 16])
def test_every_ratio_has_its_part_of_every_batch(size: int) -> None:
    model = small()
    masks = masks_of(model, size)
    for groups, tokens in ((masks.audio_groups, 16), (masks.image_groups, 16)):
        assert sorted(torch.cat([group.rows for group in groups]).tolist()) == list(range(size))
        sizes = [len(group.rows) for group in groups]
        assert max(sizes) - min(sizes) <= 1
        assert [group.ids_keep.shape[1] for group in groups] == [tokens, 14, 12, 10, 8]
    assert masks.audio_ids.shape == masks.image_ids.shape == (size, 4)


def test_both_modalities_ratios_are_independent() -> None:
    model = small()
    pairs = set()
    for seed in range(20):
        masks = model.choose(draws_for(model, 10, seed))
        where = [{row: g for g, group in enumerate(groups) for row in group.rows.tolist()}
                 for groups in (masks.audio_groups, masks.image_groups)]  # fmt: skip
        pairs |= {(where[0][row], where[1][row]) for row in range(10)}
    assert len(pairs) == 25


def test_groups_of_two_processes_are_those_of_one() -> None:
    model, everyone = small(), draws_for(small(), 12)
    whole = model.choose(everyone)
    halves = [model.choose(Draws(everyone.noise[rank::2], everyone.places[rank::2], 12)) for rank in (0, 1)]
    for name in ("audio_groups", "image_groups"):
        for number, group in enumerate(getattr(whole, name)):
            found = {}
            for rank, half in enumerate(halves):
                part = getattr(half, name)[number]
                found |= {2 * row + rank: ids for row, ids in zip(part.rows.tolist(), part.ids_keep, strict=True)}
            assert sorted(found) == group.rows.tolist()
            assert all(
                torch.equal(found[row], ids) for row, ids in zip(group.rows.tolist(), group.ids_keep, strict=True)
            )


def test_a_sample_is_pooled_over_what_its_own_group_keeps() -> None:
    model = small().eval()
    image, log_mel = batch(SMALL)
    masks = masks_of(model)
    seen: list[Tensor] = []
    encode = model.encoder.encode_audio
    model.encoder.encode_audio = lambda tokens: (seen.append(tokens), encode(tokens))[1]
    model(image, log_mel, masks, terms=("contrast",))
    assert [tuple(x.shape[:2]) for x in seen] == [(2, 16), (2, 14), (2, 12), (2, 10), (2, 8)]
    embedded = model.encoder.audio(model.audio_input(log_mel))
    for tokens, group in zip(seen, masks.audio_groups, strict=True):
        for place, row in enumerate(group.rows.tolist()):
            assert torch.equal(tokens[place], embedded[row, group.ids_keep[place]])


def test_streams_of_one_modality_are_those_of_both() -> None:
    model = small().eval()
    image, log_mel = batch(SMALL)
    both = model.streams(image, log_mel)
    assert {name: tuple(x.shape) for name, x in both.items()} == {
        "image": (10, 16, 32), "audio": (10, 16, 32), "joint": (10, 32, 32),
    }  # fmt: skip
    assert torch.equal(model.streams(image, None)["image"], both["image"])
    assert torch.equal(model.streams(None, log_mel)["audio"], both["audio"])
    assert model.feature_dim == 32


def test_copies_begin_as_what_they_copy() -> None:
    model = small(double_embed=True, separate_reconstruction=True, stop_gradient=False)
    encoder = model.encoder
    kernel = encoder.image.patch_embed.proj.weight.mean(dim=1, keepdim=True)
    assert torch.equal(encoder.audio.patch_embed.proj.weight, kernel)
    for ours, theirs in zip(model.joint_layers, encoder.blocks[-2:], strict=True):
        assert torch.equal(ours.attn.qkv.weight, theirs.attn.qkv.weight)
    for ours, theirs in zip(model.reconstruction_blocks, encoder.blocks, strict=True):
        assert torch.equal(ours.mlp.fc1.weight, theirs.mlp.fc1.weight)


def test_both_joint_layers_may_start_as_the_last_block() -> None:
    model = small(joint_start="last-twice")
    first, second = model.joint_layers
    for name, weight in model.encoder.blocks[-1].state_dict().items():
        if "_banks" not in name:
            assert torch.equal(first.state_dict()[name], weight)
            assert torch.equal(second.state_dict()[name], weight)
    assert first.attn.qkv.weight.data_ptr() != second.attn.qkv.weight.data_ptr()


def test_whole_patches_of_fourteen() -> None:
    """AVSiam-Huge: 9 x 73 patches of 14 x 14 out of 128 x 1024."""
    model = on_meta(AVSiamConfig(size="32x2x4", patch_size=14))
    assert (model.encoder.audio.grid, model.encoder.image.grid) == ((9, 73), (16, 16))
    output = model(
        torch.zeros(5, 3, 224, 224, device="meta"), torch.zeros(5, 1, 128, 1024, device="meta"), masks_of(model, 5)
    )
    assert output.audio_pred.shape == (5, 657, 196)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norms": "own"}, "unknown model.norms 'own'; known: per_modality, shared"),
        ({"audio_scheme": "lines"}, "unknown model.audio_scheme"),
        ({"mask_ratios": (0.0, 0.99)}, "they leave nothing to see of 16 audio patches"),
        ({"mask_ratios": ()}, "leave nothing to see"),
        ({"contrast_weight": 0.0, "reconstruction_weight": 0.0}, "nothing to learn"),
        ({"contrast_weight": 0.0}, "nothing would train the backbone"),
        ({"alternate_steps": True, "reconstruction_weight": 0.0}, "alternate_steps needs both losses"),
        ({"separate_reconstruction": True}, "nothing would train its backbone"),
        ({"reconstruction_ratio": 0.0}, "leaves nothing to see or to predict of 16 audio patches"),
        ({"size": "32x1x4"}, "the joint layers start from the last two blocks"),
        ({"decoder_num_heads": 5}, "must be a multiple of"),
        ({"joint_start": "first"}, "unknown model.joint_start 'first'; known: last-two, last-twice"),
        ({"image_size": (36, 32)}, r"image_size=\(36, 32\) is not whole patches of 8 x 8"),
    ],
)
def test_impossible_models(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **changes)


def test_normalization_is_the_published_one() -> None:
    model = small()
    assert model.audio_input(torch.full((1, 1, 16, 64), -5.081)).abs().max() == 0
    x = batch(SMALL)[1]
    torch.testing.assert_close(model.audio_input(x), (x + 5.081) / 4.4849)
    torch.testing.assert_close(model.audio_output(model.audio_input(x)), x, atol=1e-5, rtol=0)
