"""The nearest-neighbor probe on features whose neighbors are known."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from avdata.load import Batch
from avmodel import probe
from avmodel.distributed import World
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.probe import nearest_neighbor_probe, neighbor_hits, pooled_features, resampled, shares_of_class
from tests.runs import TINY, DrawnBatches

HERE = World(0, 1, torch.device("cpu"))


def unit(*degrees: float) -> torch.Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def classes(*names: str) -> torch.Tensor:
    return torch.tensor([[letter in name for letter in "abc"] for name in names])


def test_hits_by_hand() -> None:
    # Nearest: 0 -> 10, 10 -> 0, 90 -> 80, 80 -> 90, 200 -> 80 (120 degrees; 90 is 110 away: nearer).
    features = unit(0, 10, 90, 80, 200)
    hits = neighbor_hits(features, classes("a", "a", "b", "c", "b"))
    assert hits.tolist() == [True, True, False, False, True]
    assert neighbor_hits(features, classes("ab", "b", "a", "c", "c")).tolist() == [True, True, False, False, False]


def test_samples_without_a_class_hit_nothing_but_can_be_neighbors() -> None:
    features = unit(0, 10, 12, 90)
    assert neighbor_hits(features, classes("a", "a", "", "b")).tolist() == [True, False, False, False]
    assert not neighbor_hits(features, classes("", "", "", "")).any()


@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_no_sample_is_its_own_neighbor_whatever_the_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "CHUNK", chunk)
    features = torch.nn.functional.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)))
    assert not neighbor_hits(features, torch.eye(7, dtype=torch.bool)).any()
    assert neighbor_hits(features, torch.ones(7, 1, dtype=torch.bool)).all()


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
    found = nearest_neighbor_probe(model, Copies(), HERE, precision="float32")
    assert {name: score.value for name, score in found.streams.items()} == dict.fromkeys(
        ("image", "audio", "fusion", "all"), 100.0
    )
    assert model.training


def test_chance_is_the_share_of_the_others_with_a_class_and_noise_is_said() -> None:
    labels = classes("a", "a", "b", "ab", "")
    assert shares_of_class(labels).tolist() == [0.5, 0.5, 0.25, 0.75, 0]
    hits = {"image": np.arange(200) % 2 == 0, "audio": np.arange(200) % 4 > 0}
    chance = np.full(200, 0.5)
    found = resampled(hits, chance)
    assert found.noise() == ["image"]
    record = found.record()
    assert (record["image"], record["n"], record["chance"]) == (50, 200, 50)
    assert record["intervals"]["audio"] == [pytest.approx(69, abs=1), pytest.approx(81, abs=1)]
    assert re.fullmatch(
        r"image 50\.0 % \[4\d\.\d, 5\d\.\d\], audio 75\.0 % \[.*\] "
        r"\(n = 200, chance 50\.0 %; within noise of chance: image\)",
        found.said(),
    )
    shuffled = np.random.default_rng(0).permutation(200)
    assert resampled({name: x[shuffled] for name, x in hits.items()}, chance).record() == record


def test_a_probe_of_no_labeled_sample_has_no_interval() -> None:
    found = resampled({"image": np.zeros(0, bool)}, np.zeros(0))
    assert found.said() == "image 0.0 % (n = 0, chance 0.0 %; within noise of chance: image)"
    assert found.record()["intervals"] == {}
