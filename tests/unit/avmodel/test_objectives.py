import math

import pytest
import torch

from avmodel.configs.crossmae import LOSS_SUPPORTS
from avmodel.objectives import (
    Term,
    feature_mse,
    info_nce,
    masked_mse,
    normalize_patches,
    patchify,
    weighted,
)


def test_a_patch_lists_row_then_column_then_channel() -> None:
    x = torch.arange(2 * 4 * 6).float().view(1, 2, 4, 6)
    patches = patchify(x, 2)
    # Second patch of the first row: columns 2 and 3, channels next to each other.
    assert patches[0, 1].tolist() == [2, 26, 3, 27, 8, 32, 9, 33]


def test_normalization_uses_unbiased_variance_and_eps_inside_the_root() -> None:
    patches = torch.tensor([[[0.0, 2.0], [5.0, 5.0]]])
    first = 1 / (2 + 1e-6) ** 0.5
    torch.testing.assert_close(normalize_patches(patches), torch.tensor([[[-first, first], [0.0, 0.0]]]))


def test_the_loss_is_over_hidden_visible_or_all_patches() -> None:
    prediction, target = torch.zeros(1, 4, 2), torch.tensor([[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]])
    mask = torch.tensor([[1.0, 0, 0, 1]])
    found = {on: masked_mse(prediction, target, mask, on).item() for on in LOSS_SUPPORTS}
    assert found == {"masked": 8.5, "visible": 6.5, "all": 7.5}
    with pytest.raises(ValueError, match="unknown loss support 'hidden'; known: masked, visible, all"):
        masked_mse(prediction, target, mask, "hidden")


def test_an_objective_adds_weighted_terms_and_tells_each_without_weight() -> None:
    one, two = torch.tensor(2.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    losses = weighted([Term("one", 1.0, one), Term("two", 0.1, two)])
    assert list(losses) == ["total", "one", "two"]
    assert losses["total"].item() == pytest.approx(2.5)
    losses["total"].backward()
    assert (one.grad, two.grad) == (torch.tensor(1.0), torch.tensor(0.1))


@pytest.mark.parametrize("norm", ["layernorm", "l2"])
def test_feature_targets_are_normalized_and_carry_no_graph(norm: str) -> None:
    target = torch.randn(2, 3, 8, requires_grad=True)
    prediction = torch.randn(2, 3, 8, requires_grad=True)
    loss = feature_mse(prediction, target, norm)
    loss.backward()
    assert target.grad is None
    assert prediction.grad is not None
    scaled = feature_mse(prediction, 7 * target.detach(), norm)
    torch.testing.assert_close(loss, scaled, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="unknown target norm 'batch'; known: layernorm, l2"):
        feature_mse(prediction, target, "batch")


def test_contrast_between_its_limits() -> None:
    """Nothing told apart costs log N; pairs that equal each other and nothing else cost nothing."""
    features = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    assert info_nce(features, features.roll(1, 0), temperature=1e6).item() == pytest.approx(math.log(16), abs=1e-4)
    one_hot = torch.eye(16)
    assert info_nce(3 * one_hot, one_hot, temperature=0.01).item() == pytest.approx(0, abs=1e-6)
    assert info_nce(one_hot, one_hot.roll(1, 0), temperature=0.1).item() == pytest.approx(10, abs=1e-2)


def test_contrast_by_hand() -> None:
    anchors, candidates = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    a, c = (x / x.norm(dim=1, keepdim=True) for x in (anchors, candidates))
    logits = a @ c.T / 0.05
    there = -(logits.diagonal() - logits.logsumexp(1))
    back = -(logits.diagonal() - logits.logsumexp(0))
    kind = {"temperature": 0.05}
    torch.testing.assert_close(info_nce(anchors, candidates, **kind), (there.mean() + back.mean()) / 2)
    torch.testing.assert_close(info_nce(anchors, candidates, **kind, symmetric=False), there.mean())
    torch.testing.assert_close(info_nce(anchors, candidates, **kind, directions="sum"), there.mean() + back.mean())
    swapped = info_nce(candidates, anchors, **kind)
    torch.testing.assert_close(swapped, info_nce(anchors, candidates, **kind))
    with pytest.raises(ValueError, match="unknown directions 'none'; known: sum, mean"):
        info_nce(anchors, candidates, **kind, directions="none")


def test_contrast_of_many_random_pairs_is_near_the_entropy_of_a_guess() -> None:
    """It is a mean over pairs: 512 pairs that have nothing in common cost about 2 ln 512 = 12.5 in both directions."""
    anchors, candidates = torch.randn(2, 512, 768, generator=torch.Generator().manual_seed(3))
    loss = info_nce(anchors, candidates, temperature=0.05, directions="sum")
    assert loss.item() == pytest.approx(2 * math.log(512) + 0.5, abs=0.3)
    few = info_nce(anchors[:64], candidates[:64], temperature=0.05, directions="sum")
    assert few.item() == pytest.approx(2 * math.log(64) + 0.5, abs=0.4)


def test_contrast_is_float32_under_autocast() -> None:
    anchors, candidates = torch.randn(2, 32, 8, generator=torch.Generator().manual_seed(2))
    exact = info_nce(anchors, candidates, temperature=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(anchors, candidates, temperature=0.05), exact)
