from dataclasses import replace

import pytest
import torch

from avmodel.configs.cavmae import CAVMAEConfig
from avmodel.models.cavmae import CAVMAE
from tests.families import SIZES, batch, count, draws_for, on_meta

SMALL = CAVMAEConfig(**SIZES)


def small(**changes: object) -> CAVMAE:
    torch.manual_seed(0)
    return CAVMAE(replace(SMALL, **changes))


def test_parameters_are_the_papers() -> None:
    """The published logs count fixed positions and norms that nothing uses: 164.50 M of encoder, 191.04 M in all."""
    model = on_meta(CAVMAEConfig())
    positions = sum(b.numel() for b in model.buffers())
    unused = 22 * 4 * 2 * 768 + 8 * 4 * 2 * 512
    assert (count(model) + positions + unused) / 1e6 == pytest.approx(191.04, abs=0.01)
    assert count(model.encoder) / 1e6 == pytest.approx(164.5, rel=0.01)


def test_losses_add_up_with_their_weights_and_reach_every_parameter() -> None:
    model = small()
    losses = model(*batch(SMALL), model.choose(draws_for(model))).losses
    assert list(losses) == ["total", "image", "audio", "contrast"]
    torch.testing.assert_close(losses["total"], losses["image"] + losses["audio"] + 0.01 * losses["contrast"])
    losses["total"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_without_contrast_what_it_alone_trains_is_frozen() -> None:
    model = small(contrast_weight=0.0)
    losses = model(*batch(SMALL), model.choose(draws_for(model))).losses
    assert list(losses) == ["total", "image", "audio"]
    losses["total"].backward()
    assert [name for name, p in model.named_parameters() if (p.grad is None) == p.requires_grad] == []


def test_without_reconstruction_there_is_no_decoder_and_what_it_alone_trains_is_frozen() -> None:
    model = small(reconstruction_weight=0.0)
    assert not any(name.startswith("decoder") for name in model.state_dict())
    output = model(*batch(SMALL), model.choose(draws_for(model)))
    assert list(output.losses) == ["total", "contrast"]
    assert model.pictures(*batch(SMALL), output) is None
    output.losses["total"].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_weight_of_reconstruction_scales_both_of_its_losses() -> None:
    model, other = small(), small(reconstruction_weight=0.5)
    losses = other(*batch(SMALL), other.choose(draws_for(other))).losses
    torch.testing.assert_close(losses["image"], model(*batch(SMALL), model.choose(draws_for(model))).losses["image"])
    torch.testing.assert_close(losses["total"], 0.5 * (losses["image"] + losses["audio"]) + 0.01 * losses["contrast"])


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.contrast_weight and model\.reconstruction_weight are both 0"):
        replace(SMALL, contrast_weight=0.0, reconstruction_weight=0.0)


def test_three_joint_passes_share_their_weights_but_not_their_norms() -> None:
    model = small().eval()
    image, log_mel = batch(SMALL)
    before = model.streams(image, log_mel)
    assert {name: x.shape[1] for name, x in before.items()} == {"image": 16, "audio": 16, "joint": 32}
    block = model.encoder.joint_blocks[0]
    torch.nn.init.normal_(block.norm1_banks["audio"].weight)
    after = model.streams(image, log_mel)
    assert torch.equal(before["image"], after["image"])
    assert torch.equal(before["joint"], after["joint"])
    assert not torch.allclose(before["audio"], after["audio"])
    torch.nn.init.normal_(block.attn.proj.weight)
    assert all(not torch.allclose(after[name], x) for name, x in model.streams(image, log_mel).items())


def test_streams_of_one_modality_are_those_of_both() -> None:
    model = small().eval()
    image, log_mel = batch(SMALL)
    both = model.streams(image, log_mel)
    assert torch.equal(model.streams(image, None)["image"], both["image"])
    assert torch.equal(model.streams(None, log_mel)["audio"], both["audio"])
    assert model.streams(None, log_mel).keys() == {"audio"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"joint_depth": 3}, "must leave some of 3 blocks to the towers"),
        ({"audio_scheme": "lines"}, "unknown model.audio_scheme 'lines'"),
        ({"audio_mask_ratio": 0.0}, "leaves nothing to see or to predict of 16 \\w+ patches"),
        ({"audio_size": (16, 60)}, "not whole patches of 8 x 8"),
        ({"decoder_num_heads": 3}, "must be a multiple of 4"),
    ],
)
def test_impossible_models(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **changes)
