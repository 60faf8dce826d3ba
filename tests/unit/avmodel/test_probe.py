"""The nearest-neighbor probe on features whose neighbors are known."""

from collections.abc import Iterator

import pytest
import torch

from avdata.load import Batch
from avmodel import probe
from avmodel.distributed import World
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.probe import nearest_neighbor_probe, neighbor_accuracy, pooled_features
from tests.runs import TINY, DrawnBatches

HERE = World(0, 1, torch.device("cpu"))


def unit(*degrees: float) -> torch.Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def classes(*names: str) -> torch.Tensor:
    return torch.tensor([[letter in name for letter in "abc"] for name in names])


def test_accuracy_by_hand() -> None:
    # Nearest: 0 -> 10, 10 -> 0, 90 -> 80, 80 -> 90, 200 -> 80 (120 degrees; 90 is 110 away: nearer).
    features = unit(0, 10, 90, 80, 200)
    assert neighbor_accuracy(features, classes("a", "a", "b", "c", "b")) == pytest.approx(60)
    assert neighbor_accuracy(features, classes("ab", "b", "a", "c", "c")) == pytest.approx(40)


def test_samples_without_a_class_are_not_asked_but_can_be_neighbors() -> None:
    features = unit(0, 10, 12, 90)
    assert neighbor_accuracy(features, classes("a", "a", "", "b")) == pytest.approx(100 / 3)
    assert neighbor_accuracy(features, classes("", "", "", "")) == 0


@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_no_sample_is_its_own_neighbor_whatever_the_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "CHUNK", chunk)
    features = torch.nn.functional.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)))
    assert neighbor_accuracy(features, torch.eye(7, dtype=torch.bool)) == 0
    assert neighbor_accuracy(features, torch.ones(7, 1, dtype=torch.bool)) == 100


class Copies:
    """The batch twice, then once more as filling that doesn't count."""

    def __init__(self) -> None:
        self.batch = DrawnBatches().draw(range(4))

    def __iter__(self) -> Iterator[Batch]:
        from dataclasses import replace

        yield self.batch
        yield self.batch
        yield replace(self.batch, valid=torch.zeros(len(self.batch), dtype=torch.bool))


def test_a_sample_seen_twice_is_found_by_all_features_and_filling_is_left_out() -> None:
    torch.manual_seed(0)
    model = DeepAVFusion(TINY)
    features, labels = pooled_features(model.eval(), Copies(), HERE, precision="float32")
    assert {name: tuple(rows.shape) for name, rows in features.items()} == dict.fromkeys(
        ("image", "audio", "fusion"), (8, 32)
    )
    assert labels.tolist() == Copies().batch.labels.tolist() * 2
    for rows in features.values():
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(8))
        torch.testing.assert_close(rows[:4], rows[4:])
    model.train()
    assert nearest_neighbor_probe(model, Copies(), HERE, precision="float32") == dict.fromkeys(
        ("image", "audio", "fusion", "all"), 100.0
    )
    assert model.training
