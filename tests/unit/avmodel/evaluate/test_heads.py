import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from avmodel.evaluate.heads import ALL, Heads, class_weights, classification_loss, label_shares

WIDTHS = {"image": 6, "audio": 6, "fusion": 6}


def features(samples: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(samples, width, generator=generator) for name, width in WIDTHS.items()}


def test_the_mean_of_the_heads_is_a_row_of_its_own() -> None:
    logits = Heads(WIDTHS, 5, normalize=False)(features(4))
    assert set(logits) == {*WIDTHS, ALL}
    torch.testing.assert_close(logits[ALL], (logits["image"] + logits["audio"] + logits["fusion"]) / 3)


def test_streams_of_a_missing_sense_have_no_say() -> None:
    heads = Heads(WIDTHS, 5, normalize=False)
    given_streams = {name: x for name, x in features(4).items() if name != "image"}
    logits = heads(given_streams)
    assert set(logits) == {"audio", "fusion", ALL}
    torch.testing.assert_close(logits[ALL], (logits["audio"] + logits["fusion"]) / 2)


@given(st.integers(1, 5), st.integers(0, 100))
def test_the_logits_of_the_mean_feature_are_the_mean_of_the_logits(windows: int, seed: int) -> None:
    heads = Heads(WIDTHS, 5, normalize=True)
    heads(features(32))  # statistics of a batch
    heads.eval()
    several = [features(3, seed * 10 + window) for window in range(windows)]
    mean = {name: torch.stack([one[name] for one in several]).mean(dim=0) for name in WIDTHS}
    expected = torch.stack([heads(one)[ALL] for one in several]).mean(dim=0)
    torch.testing.assert_close(heads(mean)[ALL], expected, atol=1e-5, rtol=1e-5)


def test_batch_norms_have_no_parameters_and_maes_eps() -> None:
    norm = Heads(WIDTHS, 5, normalize=True).norms["image"]
    assert isinstance(norm, nn.BatchNorm1d)
    assert (norm.affine, norm.eps) == (False, 1e-6)
    assert not list(norm.parameters())


def test_weights_start_xavier_uniform_and_biases_at_0() -> None:
    torch.manual_seed(0)
    head = Heads({"image": 768}, 309, normalize=False).heads["image"].requires_grad_(False)
    bound = (6 / (768 + 309)) ** 0.5
    assert float(head.weight.abs().max()) <= bound
    assert float(head.weight.std()) == pytest.approx(0.0431, abs=2e-4)  # bound / sqrt(3)
    assert not head.bias.any()


def test_biases_start_at_the_log_odds_of_the_shares_with_a_floor() -> None:
    heads = Heads(WIDTHS, 3, normalize=False)
    heads.start_from_shares(torch.tensor([0.5, 0.25, 0.0]))
    zero = {name: torch.zeros(1, width) for name, width in WIDTHS.items()}
    expected = torch.tensor([0.0, math.log(0.251 / 0.751), math.log(0.001 / 1.001)])
    torch.testing.assert_close(heads(zero)[ALL][0], expected)


def test_shares_are_of_all_labels() -> None:
    labels = torch.tensor([[1, 0, 1], [1, 0, 0], [1, 0, 0]], dtype=torch.bool)
    torch.testing.assert_close(label_shares(labels), torch.tensor([0.75, 0.0, 0.25]))


def test_a_stream_without_a_head_is_not_read() -> None:
    heads = Heads({name: WIDTHS[name] for name in ("image", "audio")}, 5, normalize=True).eval()
    values = features(4)
    logits = heads(values)
    assert list(logits) == ["image", "audio", ALL]
    torch.testing.assert_close(heads(values | {"fusion": values["fusion"] + 1})[ALL], logits[ALL])


def test_classes_are_weighted_by_the_inverse_of_their_share() -> None:
    weights = class_weights(torch.tensor([0.5, 0.125, 0.375, 0.0]))
    torch.testing.assert_close(weights, torch.tensor([2.0, 8.0, 8 / 3, 0.0]))


def test_the_weighted_loss_of_several_labels_by_hand() -> None:
    # sigmoid(log 3) = 3/4, sigmoid(0) = 1/2, sigmoid(-log 3) = 1/4; no sample has the last class.
    log3 = math.log(3)
    logits = torch.tensor([[log3, 0.0, 5.0], [-log3, 0.0, -5.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    shares = label_shares(targets.bool())
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 1 / 3, 0.0]))
    first = 1.5 * (math.log(4 / 3) + math.log(4)) / 2
    second = 3 * (math.log(2) + math.log(2)) / 2
    found = classification_loss(logits, targets, multi_label=True, weights=class_weights(shares))
    assert float(found) == pytest.approx((first + second) / 2)


def test_smoothing_of_several_labels_by_hand() -> None:
    # 0.3 over three classes: a label becomes 0.8, another class 0.1; sigmoid(log 3) = 3/4.
    logits = torch.full((1, 3), math.log(3))
    found = classification_loss(logits, torch.tensor([[1.0, 1.0, 0.0]]), multi_label=True, smoothing=0.3)
    of_label = 0.8 * math.log(4 / 3) + 0.2 * math.log(4)
    of_other = 0.1 * math.log(4 / 3) + 0.9 * math.log(4)
    assert float(found) == pytest.approx((2 * of_label + of_other) / 3)


def test_smoothing_moves_a_share_of_the_target_to_all_classes() -> None:
    logits, targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4)[[0, 1, 2, 3, 0, 1]]
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(logits, targets.argmax(1))
    torch.testing.assert_close(classification_loss(logits, targets, multi_label=False, smoothing=0.1), expected)
    several = classification_loss(logits, targets, multi_label=True)
    torch.testing.assert_close(several, nn.BCEWithLogitsLoss()(logits, targets))
