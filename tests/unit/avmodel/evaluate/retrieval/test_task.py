import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.configs.dense import DensePairConfig
from avmodel.evaluate.data import one_view, open_split
from avmodel.evaluate.retrieval.config import PRESETS, RetrievalConfig
from avmodel.evaluate.retrieval.task import (
    aligned,
    alone,
    dense_directions,
    directions,
    first_of_classes,
    resampled_ranks,
    retrieval,
)
from avmodel.evaluate.scores import partner_ranks
from tests.evaluating import DATA, TEST, TRAIN, change_manifest, evaluation_of
from tests.shards import sample_key

CONFIG = RetrievalConfig(data=DATA, device="cpu", random_weights=False)


def test_partners_that_are_nearest_are_found_first() -> None:
    vectors = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    found = directions({"image": vectors, "audio": 3 * vectors})
    best = {"r@1": 100.0, "r@5": 100.0, "r@10": 100.0, "median_rank": 1.0, "tied": 0}
    for scores in found.values():
        assert {name: score.value for name, score in scores.items()} == best
        assert scores["r@1"].interval() == (pytest.approx(83.2, abs=0.1), 100)
        assert scores["median_rank"].interval() is None and scores["tied"].interval() is None


def test_senses_are_encoded_without_each_other(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    pairs = alone(CONFIG, run, open_split(DATA, splits, "test"))
    together = run.features(CONFIG, open_split(DATA, splits, "test"), one_view(DATA, run.loaded))
    assert not torch.allclose(pairs["image"], together.values["image"], atol=1e-4)
    assert set(pairs) == {"image", "audio"}


def test_dense_means_are_the_inner_products_of_the_mean_tokens(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run, test = evaluation_of(tiny_run, splits, tmp_path), open_split(DATA, splits, "test")
    means = DensePairConfig(head_pool="mean", space_pool="mean", time_pool="mean")
    found = dense_directions(replace(CONFIG, compare="dense", dense=means), run, test)
    pairs = alone(CONFIG, run, test)
    products = pairs["audio"].double() @ pairs["image"].double().T
    for row, similarity in (("audio to image", products), ("image to audio", products.T)):
        expected = resampled_ranks(partner_ranks(similarity))
        for name in ("r@1", "r@5", "r@10", "median_rank"):
            assert found[row][name].value == expected[name].value


def test_dense_retrieval_says_so_and_takes_one_window(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    config = replace(PRESETS["denseav"](), data=DATA, device="cpu", random_weights=False)
    run = evaluation_of(tiny_run, splits, tmp_path)
    result = retrieval(config, run)
    assert result.mode == "zero-shot, dense"
    assert result.notes == (f"gallery: the first {TEST} clips by key; there are no 1000",)
    assert list(result.scores) == ["audio to image", "image to audio"]
    with pytest.raises(ConfigError, match=r"dense\.heads=3: tokens of this DeepAVFusion"):
        retrieval(replace(config, dense=DensePairConfig(heads=3)), run)
    for changes, said in (
        ({"data": replace(DATA, windows=3)}, "it takes one window and frame of a clip"),
        ({"data": replace(DATA, frames=3)}, "it takes one window and frame of a clip"),
        ({"align": "linear"}, "compare=dense with align=linear"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(config, **changes)


def test_linear_projections_find_a_hidden_relation() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=generator)

    def pairs(count: int) -> dict[str, torch.Tensor]:
        image = torch.randn(count, 12, generator=generator)
        return {"image": image, "audio": image @ mixing + 0.05 * torch.randn(count, 12, generator=generator)}

    learned, asked = pairs(400), pairs(40)
    before = directions(asked)["audio to image"]["r@1"].value
    config = replace(CONFIG, align="linear", align_epochs=30, align_dim=16, align_lr=1e-2)
    after = directions(aligned(config, learned, asked, 0, torch.device("cpu")))["audio to image"]["r@1"].value
    assert before < 20
    assert after > 80


@pytest.mark.slow
def test_a_result_says_what_was_searched(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    result = retrieval(replace(CONFIG, random_weights=True, seeds=(0, 1)), evaluation_of(tiny_run, splits, tmp_path))
    assert result.mode == "zero-shot"
    assert list(result.scores) == ["audio to image", "image to audio"]
    assert result.baselines["chance"]["r@1"].mean == pytest.approx(100 / TEST)
    assert result.baselines["chance"]["r@10"].mean == pytest.approx(1000 / TEST)
    assert result.baselines["chance"]["median_rank"].mean == 8.0
    assert len(result.baselines["random weights, audio to image"]["r@1"].values) == 2
    assert result.data["test"] == open_split(DATA, splits, "test").described() | {"of": TEST}
    learned = retrieval(
        replace(CONFIG, align="linear", align_epochs=2, seeds=(0, 1)), evaluation_of(tiny_run, splits, tmp_path)
    )
    assert len(learned.scores["audio to image"]["r@1"].values) == 2
    assert learned.data["train"]["samples"] == TRAIN


def test_a_gallery_of_so_many_a_class(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    test = open_split(DATA, splits, "test")
    assert first_of_classes(test.dataset, 2) == [sample_key(TRAIN + number) for number in range(6)]
    result = retrieval(replace(CONFIG, gallery="2-per-class"), evaluation_of(tiny_run, splits, tmp_path))
    assert (result.data["test"]["samples"], result.data["test"]["of"]) == (6, TEST)
    assert "the first 2 clips of each class by key, 6 in all" in result.notes[0]


def test_a_gallery_of_so_many_clips(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    result = retrieval(replace(CONFIG, gallery="5-clips"), run)
    assert (result.data["test"]["samples"], result.data["test"]["of"]) == (5, TEST)
    assert result.notes == ("gallery: the first 5 clips by key",)
    assert result.baselines["chance"]["r@1"].mean == pytest.approx(20.0)
    small = retrieval(replace(CONFIG, gallery="500-clips"), run)
    assert small.data["test"]["samples"] == TEST
    assert small.notes == (f"gallery: the first {TEST} clips by key; there are no 500",)
    for wrong in ("0-clips", "-3-clips", "many-clips", "²-clips"):
        with pytest.raises(ConfigError, match="not all, N-clips or N-per-class"):
            retrieval(replace(CONFIG, gallery=wrong), run)


def test_a_published_gallery_is_found_by_video_and_start(tiny_run: Path, own: Path, tmp_path: Path) -> None:
    change_manifest(own, "test", video_id=lambda n: f"_abcdefgh{n:02d}", start_s=30.0, end_s=31.5)
    listed = tmp_path / "gallery.json"
    names = ["_abcdefgh01_000030", "_abcdefgh02_000031", "_abcdefgh03", "zzzzzzzzzzz_000030"]
    listed.write_text(json.dumps({"data": [{"video_id": name, "labels": "x"} for name in names]}))
    result = retrieval(replace(CONFIG, gallery=str(listed)), evaluation_of(tiny_run, own, tmp_path))
    assert result.data["test"]["samples"] == 2  # 01, and 03 whose start is not told
    assert result.notes == ("gallery gallery.json: 2 of its 4 clips are here",)
    listed.write_text(json.dumps({"data": [{"video_id": "zzzzzzzzzzz_000030"}]}))
    with pytest.raises(ConfigError, match="none of its 1 clip is in drawn/test"):
        retrieval(replace(CONFIG, gallery=str(listed)), evaluation_of(tiny_run, own, tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"), [({"gallery": "few"}, "gallery='few': no such list, and not all, N-clips or N-per-class")]
)
def test_galleries_that_are_none(
    tiny_run: Path, splits: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        retrieval(replace(CONFIG, **changes), evaluation_of(tiny_run, splits, tmp_path))  # type: ignore[arg-type]
