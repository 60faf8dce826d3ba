import math
import subprocess
import sys
from functools import partial

import pytest
import torch

from avmodel.configs.model import ViTSize, size_name, vit_size
from avmodel.embedding import LearnedEmbedding, kernel_from_rgb
from avmodel.layers import (
    Block,
    CrossAttention,
    CrossBlock,
    ModalBlock,
    PatchEmbed,
    attend,
    make_blocks,
)
from avmodel.positions import sincos_positions


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large", "48x3x4"])
def test_size_names_are_read_as_they_are_written(name: str) -> None:
    assert size_name(vit_size(name)) == name


def test_an_own_size() -> None:
    assert vit_size("48x3x4") == ViTSize(embed_dim=48, depth=3, num_heads=4)


def test_an_unknown_size_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown model.size 'giant'; known: base, huge, large, small, tiny"):
        vit_size("giant")


@pytest.mark.parametrize("name", ["50x3x4", "48x0x4", "48x3x5", "48x3", "x3x4", "²x1x1"])
def test_impossible_sizes(name: str) -> None:
    with pytest.raises(ValueError, match="size"):
        vit_size(name)


def test_positions_encode_the_second_axis_first() -> None:
    positions = sincos_positions(16, (3, 5))[0].view(3, 5, 16)
    second, first = positions.split(8, dim=-1)
    assert torch.equal(second, second[:1].expand_as(second))
    assert torch.equal(first, first[:, :1].expand_as(first))
    frequencies = [10_000 ** -(k / 4) for k in range(4)]
    expected = [math.sin(4 * f) for f in frequencies] + [math.cos(4 * f) for f in frequencies]
    torch.testing.assert_close(second[0, 4], torch.tensor(expected))


def test_positions_with_their_halves_exchanged() -> None:
    usual, exchanged = sincos_positions(16, (3, 5)), sincos_positions(16, (3, 5), second_axis_first=False)
    assert torch.equal(torch.cat(usual.chunk(2, dim=-1)[::-1], dim=-1), exchanged)


def test_a_context_equals_prepended_tokens_whose_output_is_dropped() -> None:
    torch.manual_seed(0)
    block = Block(32, 4, eps=1e-6)
    torch.nn.init.normal_(block.attn.qkv.bias)
    x = torch.randn(2, 5, 32, requires_grad=True)
    context = torch.randn(2, 3, 32, requires_grad=True)
    short = block(x, context)
    whole = block(torch.cat([context, x], dim=1))[:, 3:]
    torch.testing.assert_close(short, whole, atol=1e-6, rtol=0)
    inputs = (x, context, *block.parameters())
    for a, b in zip(
        torch.autograd.grad(short.square().sum(), inputs),
        torch.autograd.grad(whole.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_context_drops_attention_in_training_only() -> None:
    torch.manual_seed(0)
    block = make_blocks(32, 1, 4, eps=1e-6, attn_drop=0.5)[0]
    x, context = torch.randn(2, 5, 32), torch.randn(2, 3, 32)
    assert not torch.equal(block(x, context), block(x, context))
    block.eval()
    assert torch.equal(block(x, context), block(x, context))


def test_every_block_has_the_same_stochastic_depth_rate() -> None:
    blocks = make_blocks(32, 3, 4, eps=1e-6, drop_path=0.2)
    assert [block.drop_path2.drop_prob for block in blocks] == [0.2] * 3


def test_cross_attention_by_hand() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(8, 2, attn_ratio=0.5)
    x, context = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    q = attention.q(x).view(1, 3, 2, 2).transpose(1, 2)
    k, v = (half.view(1, 4, 2, 2).transpose(1, 2) for half in attention.kv(context).chunk(2, dim=-1))
    weights = (q @ k.transpose(-1, -2) * 2**-0.5).softmax(dim=-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(1, 3, 4))
    torch.testing.assert_close(attention(x, context), expected)


def test_a_bank_has_its_own_norms_and_the_shared_rest() -> None:
    torch.manual_seed(0)
    block, other = ModalBlock(32, 4, ("audio",), eps=1e-6), ModalBlock(32, 4, (), eps=1e-6)
    torch.nn.init.normal_(block.norm1.weight)
    x = torch.randn(2, 5, 32)
    assert not torch.allclose(block(x), block(x, "audio"))
    block.copy_banks()
    torch.testing.assert_close(block(x), block(x, "audio"))
    # Two banks' norms are all that a bank adds.
    assert sum(p.numel() for p in block.parameters()) - sum(p.numel() for p in other.parameters()) == 2 * 2 * 32


def test_class_attention_is_the_softmax_that_the_block_applies() -> None:
    torch.manual_seed(0)
    block = make_blocks(32, 1, 4, eps=1e-6)[0]
    x = torch.randn(3, 6, 32)
    qkv = block.attn.qkv(block.norm1(x)).view(3, 6, 3, 4, 8)
    q, k = (qkv[:, :, i].transpose(1, 2) for i in (0, 1))
    expected = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1).mean(dim=1)[:, 0, 1:]
    found = block.cls_attention(x)
    torch.testing.assert_close(found, expected)
    assert (found.sum(dim=1) < 1).all()  # the class token's share of itself is left out


def test_a_cross_block_reads_its_context_and_its_own_tokens() -> None:
    torch.manual_seed(0)
    block = CrossBlock(16, 4).eval()
    x, context = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    out = block(x, context)
    torch.testing.assert_close(block(x, context[:, torch.randperm(5)]), out, atol=1e-5, rtol=0)
    assert not torch.allclose(block(x, context + 1), out)
    changed = x.clone()
    changed[:, 2] = torch.randn(2, 16)
    assert not torch.allclose(block(changed, context)[:, 0], out[:, 0])


def test_a_spectrograms_kernel_from_an_images() -> None:
    kernel = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(3 * kernel_from_rgb(kernel, "mean"), kernel_from_rgb(kernel, "sum"))
    # A gray picture looks to the summed kernel as its one channel does.
    gray = torch.randn(1, 1, 2, 2)
    seen = torch.nn.functional.conv2d(gray.expand(-1, 3, -1, -1), kernel)
    torch.testing.assert_close(seen, torch.nn.functional.conv2d(gray, kernel_from_rgb(kernel, "sum")))
    with pytest.raises(ValueError, match="unknown kernel reduction 'max'; known: mean, sum"):
        kernel_from_rgb(kernel, "max")


def test_doubled_embeddings_are_twice_the_plain_ones() -> None:
    torch.manual_seed(0)
    plain, doubled = (
        LearnedEmbedding(8, input_size=(4, 4), patch_size=2, in_chans=1, doubled=doubled) for doubled in (False, True)
    )
    doubled.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(doubled(x), 2 * plain(x))


@pytest.mark.parametrize("drops", [{}, {"drop_path": 0.3, "attn_drop": 0.2}])
def test_a_block_is_timms_to_the_bit(drops: dict[str, float]) -> None:
    """Names, drawn weights, outputs, gradients and dropped paths, so that a run of before goes on as it was."""
    from timm.models import vision_transformer

    torch.manual_seed(0)
    theirs = vision_transformer.Block(
        48, 4, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), **drops
    ).train()  # fmt: skip
    torch.manual_seed(0)
    ours = make_blocks(48, 1, 4, eps=1e-6, **drops)[0].train()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(x, theirs.state_dict()[name]) for name, x in ours.state_dict().items())
    x = torch.randn(8, 6, 48)
    outputs = []
    for block in (ours, theirs):
        torch.manual_seed(1)
        outputs.append(block(x))
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter.grad, theirs.get_parameter(name).grad), name


def test_a_patch_embedding_is_timms_to_the_bit() -> None:
    from timm.layers import PatchEmbed as Theirs

    torch.manual_seed(0)
    theirs = Theirs((32, 48), 16, 3, 24)
    torch.manual_seed(0)
    ours = PatchEmbed(16, 3, 24)
    x = torch.randn(2, 3, 32, 48)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.slow
def test_models_need_neither_timm_nor_torchvision() -> None:
    code = (
        "import sys\n"
        "from avmodel.models import FAMILIES\n"
        "assert all(family.model_type for family in FAMILIES.values())\n"
        "print(sorted({'timm', 'torchvision', 'torch._dynamo'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_received_attention_is_the_mean_of_the_weights_that_mix_the_values() -> None:
    """With values that name their token, each head's output is its weights."""
    torch.manual_seed(0)
    cross = CrossAttention(32, 4)
    x, context = torch.randn(2, 5, 32), torch.randn(2, 8, 32)
    k, _ = cross.kv(context).chunk(2, dim=-1)
    names = torch.eye(8).repeat(1, 4).expand(2, -1, -1)
    weights = attend(cross.q(x), k, names, num_heads=4, scale=cross.scale).view(2, 5, 4, 8)
    torch.testing.assert_close(cross.received(x, context), weights.mean(dim=(1, 2)))
