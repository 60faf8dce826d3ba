from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from avmanifest.errors import ConfigError
from avmodel.evaluate.data import one_view, open_split, ordered_loader
from avmodel.evaluate.features import Features
from avmodel.evaluate.heads import ALL
from avmodel.evaluate.knn.config import KnnConfig
from avmodel.evaluate.knn.task import knn, neighbor_votes, unit_vectors
from avmodel.probe import nearest_neighbor_probe
from tests.evaluating import DATA, TEST, draw_splits, evaluation_of
from tests.shards import CLASSES

CONFIG = KnnConfig(data=DATA, device="cpu")


def drawn(samples: int, seed: int, classes: int = 4) -> Features:
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(samples, 6, generator=generator) for name in ("image", "audio")}
    labels = torch.eye(classes, dtype=torch.bool)[torch.randint(0, classes, (samples,), generator=generator)]
    return Features([str(row) for row in range(samples)], values, labels)


def test_leave_one_out_is_the_probe_of_pretraining(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    result = knn(replace(CONFIG, seeds=(1,)), run)
    view = one_view(DATA, run.loaded)
    loader = ordered_loader(DATA, open_split(DATA, splits, "test"), view, run.world, batch_size=5, seed=0)
    expected = nearest_neighbor_probe(run.loaded.model, loader, run.world, precision="float32")
    assert {row: found["accuracy"].mean for row, found in result.scores.items()} == pytest.approx(
        {row: score.value for row, score in expected.streams.items()}
    )
    assert result.headline == ("all", "accuracy")
    assert result.baselines["chance"]["accuracy"].mean == pytest.approx(100 / 3)
    assert "random weights, fusion" in result.baselines


@given(st.integers(0, 50))
def test_the_nearest_of_a_gallery_is_scikit_learns(seed: int) -> None:
    queries, gallery = drawn(20, seed), drawn(30, seed + 1000)
    votes = neighbor_votes(queries, gallery, 1, exclude_self=False)
    unit = [unit_vectors(features.values) for features in (queries, gallery)]
    for row in ("image", "audio", ALL):
        expected = KNeighborsClassifier(1).fit(unit[1][row].numpy(), gallery.labels.int().argmax(1).numpy())
        assert votes[row].argmax(1).tolist() == expected.predict(unit[0][row].numpy()).tolist()


def test_several_neighbors_vote_by_how_near_they_are() -> None:
    gallery = Features(
        ["a", "b", "c"],
        {"image": torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])},
        torch.tensor([[True, False], [False, True], [False, True]]),
    )
    query = Features(["q"], {"image": torch.tensor([[2.0, 0.0]])}, torch.tensor([[True, False]]))
    votes = neighbor_votes(query, gallery, 3, exclude_self=False)["image"][0]
    expected = (torch.tensor([1.0, 0.8, 0.6]) / 0.07).exp()
    torch.testing.assert_close(votes, torch.stack([expected[0], expected[1] + expected[2]]))


def test_no_query_is_its_own_neighbor() -> None:
    same = drawn(12, 0)
    votes = neighbor_votes(same, same, 1, exclude_self=True)
    alone = neighbor_votes(same, same, 1, exclude_self=False)
    assert (alone["image"].argmax(1) == same.labels.int().argmax(1)).all()
    assert not (votes["image"] == alone["image"]).all()
    with pytest.raises(ConfigError, match=r"k=12: the gallery has 12"):
        neighbor_votes(same, same, 12, exclude_self=True)


def test_a_gallery_of_training_clips(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    result = knn(replace(CONFIG, gallery="train", k=3, random_weights=False), run)
    assert result.data["gallery"]["samples"] == 24
    assert result.data["test"]["samples"] == TEST
    assert result.task == "3 nearest neighbors, train"


def test_several_labels_are_scored_by_average_precision(tiny_run: Path, tmp_path: Path) -> None:
    data = draw_splits(
        tmp_path / "multi", labels=lambda n: [CLASSES[n % 3], *([CLASSES[0]] if n % 2 else [])][: 1 + (n % 3 > 0)]
    )
    result = knn(replace(CONFIG, random_weights=False), evaluation_of(tiny_run, data, tmp_path))
    assert result.headline == ("all", "map")
    assert set(result.scores["all"]) == {"map", "auc", "d_prime", "skipped_classes", "hit"}
    assert result.baselines["chance"]["auc"].mean == 50.0
    assert "average_precision" in result.extra["per_class"][0]


@pytest.mark.parametrize(("changes", "said"), [({"gallery": "val"}, "unknown gallery 'val'"), ({"k": 0}, "k=0")])
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **changes)  # type: ignore[arg-type]
