import copy

import pytest
import torch
from torch import nn

from avmodel.configs.deepavfusion import FUSIONS, DeepAVFusionConfig
from avmodel.models.fusion import FUSION_TYPES, Affine, FusionBlock, attend_to_pairs


def config(name: str, impl: str = "separable") -> DeepAVFusionConfig:
    counts = {"num_fusion_tokens": 4, "num_aggr_image_tokens": 3, "num_aggr_audio_tokens": 2}
    return DeepAVFusionConfig(size="48x1x4", fusion=name, fusion_impl=impl, **counts)


def fusion(name: str, impl: str = "separable") -> nn.Module:
    torch.manual_seed(0)
    module = FUSION_TYPES[name](config(name, impl))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


def inputs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, n, 48, generator=generator, requires_grad=True) for n in (9, 7, 5)]


@pytest.mark.parametrize("name", ["dense", "factorized"])
def test_separable_equals_pairs_with_all_gradients(name: str) -> None:
    separable = fusion(name, "separable")
    pairs = copy.deepcopy(separable)
    pairs.impl = "pairs"
    a_in, b_in = inputs(), inputs()
    a, b = separable(*a_in), pairs(*b_in)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    target = torch.randn(a.shape, generator=torch.Generator().manual_seed(2))
    a.mul(target).mean().backward()
    b.mul(target).mean().backward()
    for x, y in zip([*a_in, *separable.parameters()], [*b_in, *pairs.parameters()], strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=0)


def test_pairs_by_hand_at_the_scale_of_the_full_head_width() -> None:
    torch.manual_seed(0)
    q, image, audio = torch.randn(1, 2, 4), torch.randn(1, 3, 6), torch.randn(1, 2, 6)
    key, value = (Affine(torch.randn(4, 12), torch.randn(4)) for _ in range(2))
    pairs = torch.stack([torch.cat([v, a]) for v in image[0] for a in audio[0]])
    weights = (q[0] @ (pairs @ key.weight.T + key.bias).T * 0.125).softmax(dim=-1)
    expected = weights @ (pairs @ value.weight.T + value.bias)
    for impl in ("pairs", "separable"):
        out = attend_to_pairs(q, image, audio, key, value, num_heads=1, scale=0.125, dropout=0.0, impl=impl)
        torch.testing.assert_close(out[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "ratio", "scale"), [("dense", 0.25, 0.125), ("factorized", 0.25, 0.125), ("token", 0.25, 0.25)]
)
def test_scales_of_the_released_model(name: str, ratio: float, scale: float) -> None:
    with torch.device("meta"):
        module = FUSION_TYPES[name](DeepAVFusionConfig(fusion=name, fusion_attn_ratio=ratio, fusion_impl="pairs"))
    assert module.scale == scale


@pytest.mark.parametrize("name", ["dense", "factorized", "token"])
def test_a_zeroed_block_returns_the_normalized_tokens(name: str) -> None:
    block = FusionBlock(config(name))
    nn.init.normal_(block.norm_fusion.weight)
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    state, image, audio = inputs()
    assert torch.equal(block(state, image, audio), block.norm_fusion(state))
    assert not torch.allclose(block(state, image, audio), state)


def test_factorized_fusion_tokens_see_the_other_modality_through_summaries_only() -> None:
    module = fusion("factorized")
    state, image, audio = inputs()
    out = module(state, image, audio)
    changed = module(state, image, audio + 1)
    assert not torch.allclose(out[:, :4], changed[:, :4])
    assert torch.equal(out[:, 4:7], changed[:, 4:7])
    assert not torch.allclose(out[:, 7:], changed[:, 7:])


def test_an_unknown_fusion_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown model\.fusion 'late'; known: dense, factorized, token"):
        config("late")
    assert tuple(FUSION_TYPES) == FUSIONS
