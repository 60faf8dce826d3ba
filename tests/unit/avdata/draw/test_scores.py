from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from avdata.draw.scores import (
    CLASSES_FILE,
    CONFUSION_FILE,
    draw_classes,
    draw_confusion,
    save_map,
    save_pictures,
)
from avmanifest.errors import StorageError


def report(classes: int) -> dict[str, object]:
    rows = [
        {"class": f"class {n} $x^2$ <b>", "samples": n, "accuracy": 100 * n / classes if n else None}
        for n in range(classes)
    ]
    counts = np.eye(classes, dtype=int) * 3
    counts[0] = 0
    return {"per_class": rows, "confusion": counts.tolist()}


@pytest.mark.parametrize("classes", [3, 309])
def test_pictures_of_few_and_of_many_classes(tmp_path: Path, classes: int) -> None:
    paths = save_pictures(report(classes), tmp_path)
    assert [path.name for path in paths] == [CLASSES_FILE, CONFUSION_FILE]
    for path in paths:
        assert imread(path).std() > 0.02


def test_classes_without_samples_are_left_out() -> None:
    figure = draw_confusion(np.array([[2, 0, 1], [0, 0, 0], [0, 0, 4]]), ["a", "b", "c"])
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "c"]
    assert axis.images[0].get_array().tolist() == [[pytest.approx(2 / 3), pytest.approx(1 / 3)], [0, 1]]
    assert "7 samples, 2 classes" in axis.get_title()


def test_of_many_classes_the_best_and_the_worst_are_shown() -> None:
    figure = draw_classes(report(120)["per_class"])  # type: ignore[arg-type]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(names) == 50
    assert names[0].startswith("class 119")
    assert names[-1].startswith("class 1 ")
    assert "69 classes between them" in figure.axes[0].get_title()


def test_a_map_has_a_panel_for_each_stream(tmp_path: Path) -> None:
    places = {name: np.random.default_rng(0).normal(size=(30, 2)) for name in ("image", "audio")}
    labels = np.arange(30) % 4 - 1
    path = save_map(tmp_path / "map.png", places, labels, ["a", "b_$1$", "c"], title="t-SNE")
    assert imread(path).std() > 0.02


def test_one_map_of_two_streams_is_one_panel(tmp_path: Path) -> None:
    places = {name: np.random.default_rng(0).normal(size=(30, 2)) for name in ("audio", "image")}
    labels = np.arange(30) % 4 - 1
    both = save_map(tmp_path / "both.png", places, labels, ["a", "b", "c"], title="t-SNE", together=True)
    each = save_map(tmp_path / "each.png", places, labels, ["a", "b", "c"], title="t-SNE")
    assert imread(both).std() > 0.02
    assert imread(both).shape[1] < imread(each).shape[1]


def test_a_path_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"picture not written"):
        save_pictures(report(3), tmp_path / "file")
