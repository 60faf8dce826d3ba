from dataclasses import replace

import pytest
import torch

from avmodel.configs.cavmae_sync import CAVMAESyncConfig
from avmodel.models.cavmae_sync import CAVMAESync
from avmodel.objectives import info_nce
from tests.families import SIZES, batch, count, draws_for, on_meta

SMALL = CAVMAESyncConfig(**SIZES, num_registers=3)


def small(**changes: object) -> CAVMAESync:
    torch.manual_seed(0)
    return CAVMAESync(replace(SMALL, **changes))


def test_it_is_cav_mae_with_a_global_token_and_eight_registers_a_tower() -> None:
    model = on_meta(CAVMAESyncConfig())
    own = [name for name, _ in model.named_parameters() if name.endswith(("global_token", "register_tokens"))]
    assert sum(model.get_parameter(name).numel() for name in own) == 2 * 9 * 768
    assert model.audio_grid == (8, 26)
    assert count(model) / 1e6 == pytest.approx(189.976, abs=0.001)


def test_losses_add_up_with_their_weights_and_reach_every_parameter() -> None:
    model = small()
    losses = model(*batch(SMALL), model.choose(draws_for(model))).losses
    assert list(losses) == ["total", "image", "audio", "contrast"]
    torch.testing.assert_close(losses["total"], losses["image"] + losses["audio"] + 0.1 * losses["contrast"])
    losses["total"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("changes", [{"contrast_weight": 0.0}, {"num_registers": 0}, {"reconstruction_weight": 0.0}])
def test_what_is_left_out_trains_nothing(changes: dict[str, float]) -> None:
    model = small(**changes)
    losses = model(*batch(SMALL), model.choose(draws_for(model))).losses
    losses["total"].backward()
    assert [name for name, p in model.named_parameters() if (p.grad is None) == p.requires_grad] == []


def test_the_contrast_is_over_global_tokens_and_the_decoder_sees_patches_alone() -> None:
    """The global tokens' values after the towers change the contrast, and no prediction."""
    model = small()
    image, log_mel = batch(SMALL)
    masks = model.choose(draws_for(model))
    before = model(image, log_mel, masks)
    vectors = {
        "image": model.encoder.compared(model.encoder.image(image, masks.image_ids), "image"),
        "audio": model.encoder.compared(model.encoder.audio(model.audio_input(log_mel), masks.audio_ids), "audio"),
    }
    expected = info_nce(vectors["image"], vectors["audio"], temperature=0.05, symmetric=False)
    torch.testing.assert_close(before.losses["contrast"], expected)

    def changed(_: object, __: object, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens[:, :1].flip(0), tokens[:, 1:]], dim=1)

    model.encoder.image.register_forward_hook(changed)
    after = model(image, log_mel, masks)
    assert torch.equal(before.image_pred, after.image_pred)
    assert torch.equal(before.audio_pred, after.audio_pred)
    assert not torch.allclose(before.losses["contrast"], after.losses["contrast"])


def test_registers_are_attended_to_and_leave_before_the_joint_blocks() -> None:
    model = small().eval()
    image, log_mel = batch(SMALL, 2)
    before = model.encode(image, log_mel)
    assert {name: stream.tokens.shape[1] for name, stream in before.items()} == {"image": 16, "audio": 16, "joint": 32}
    assert model.encoder.image(image).shape[1] == 17
    with torch.no_grad():
        model.encoder.image.register_tokens[..., ::2] += 1  # of half of the channels: norms take out a shift of all
    after = model.encode(image, log_mel)
    assert not torch.allclose(before["image"].vector, after["image"].vector)
    assert not torch.allclose(before["image"].tokens, after["image"].tokens)
    assert torch.equal(before["audio"].tokens, after["audio"].tokens)


def test_a_modality_alone_is_as_with_the_other() -> None:
    model = small().eval()
    image, log_mel = batch(SMALL, 2)
    both, seen, heard = model.encode(image, log_mel), model.encode(image, None), model.encode(None, log_mel)
    assert (seen.keys(), heard.keys()) == ({"image"}, {"audio"})
    assert torch.equal(seen["image"].vector, both["image"].vector)
    assert torch.equal(heard["audio"].tokens, both["audio"].tokens)


def test_layers_are_of_patches_in_the_order_of_the_grid() -> None:
    model = small().eval()
    image, log_mel = batch(SMALL, 2)
    layers = model.forward_intermediates(image, log_mel)
    assert [(x.image.shape[1], x.audio.shape[1]) for x in layers] == [(16, 16)] * 3
    normed = model.encoder.image.norm(layers[-1].image)
    torch.testing.assert_close(normed, model.encode(image, None)["image"].tokens)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_registers": -1}, "num_registers=-1"),
        ({"joint_depth": 3}, "must leave some of 3 blocks to the towers"),
        ({"audio_size": (16, 60)}, "not whole patches of 8 x 8"),
    ],
)
def test_impossible_models(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **changes)
