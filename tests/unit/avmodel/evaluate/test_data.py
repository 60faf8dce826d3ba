import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avdata.load import TrainView
from avdata.load.crops import Crop
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from avmodel.evaluate.config import EvalDataConfig
from avmodel.evaluate.data import (
    footage,
    label_notes,
    one_view,
    only_labeled,
    open_split,
    open_splits,
    varied_view,
)
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.linear_probe.config import LinearProbeConfig
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.segmentation.config import SegmentationConfig
from avmodel.evaluate.segmentation.segmenter import training_view
from avmodel.evaluate.separation.config import SeparationConfig
from avmodel.evaluate.separation.separator import mixing_view
from tests.evaluating import DATA, TEST, TRAIN, change_manifest, draw_splits, evaluation_of, tiny_model
from tests.shards import CLASSES, sample_key

OFF: dict[str, Any] = {"data": DATA, "max_gain_db": 0.0, "min_area": 1.0, "flip_probability": 0.0}


def change_description(root: Path, **values: object) -> None:
    path = Layout(root).dataset_json
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def leak(root: Path, count: int) -> None:
    """The first training clips show what test clips show: the same videos, spans that overlap."""
    change_manifest(root, "train", end_s=10.0, video_id=lambda n: f"video{TRAIN + n}" if n < count else f"video{n}")
    change_manifest(root, "test", end_s=15.0, start_s=5.0)


def test_splits_that_fit_are_opened_whole(splits: Path) -> None:
    train, test = open_splits(DATA, splits, None)
    assert (len(train.dataset), len(test.dataset)) == (TRAIN, TEST)
    assert (train.name, test.name) == ("drawn/train", "drawn/test")
    assert train.notes == test.notes == ()
    assert not test.multi_label
    assert test.described() == {"split": "drawn/test", "subset_id": test.subset_id, "samples": TEST}
    assert open_splits(DATA, splits, splits)[0].subset_id == train.subset_id


def test_a_condition_chooses_among_both_splits_and_the_result_says_so(splits: Path) -> None:
    where = f"'{CLASSES[0]}' in labels"
    train, test = open_splits(replace(DATA, where=where), splits, None)
    assert (len(train.dataset), len(test.dataset)) == (TRAIN // 3, TEST // 3)
    assert train.dataset.classes == CLASSES
    assert test.described() == {
        "split": "drawn/test", "subset_id": test.subset_id, "samples": TEST // 3, "where": where,
    }  # fmt: skip
    assert test.subset_id != open_split(DATA, splits, "test").subset_id


def test_leaks_are_refused_dropped_or_told(own: Path) -> None:
    leak(own, 3)
    with pytest.raises(ConfigError, match=r"3 of 24 training clips .*clip-00000, clip-00001, clip-00002"):
        open_splits(DATA, own, None)
    train, test = open_splits(replace(DATA, leaks="drop"), own, None)
    assert train.dataset.keys.to_pylist() == [sample_key(number) for number in range(3, TRAIN)]
    assert test.notes == ("3 of 24 training clips show what test clips show; they were left out of training",)
    train, test = open_splits(replace(DATA, leaks="allow"), own, None)
    assert len(train.dataset) == TRAIN
    assert test.notes == ("leak: 3 of 24 training clips show what test clips show",)


def test_several_splits_are_one_and_leak_as_one(splits: Path) -> None:
    both = open_split(DATA, splits, "test,train")
    assert both.name == "drawn/test+train"
    assert both.manifests == ((str(splits), "test"), (str(splits), "train"))
    assert both.described()["samples"] == len(footage(DATA, both)) == TEST + TRAIN
    with pytest.raises(ConfigError, match=rf"drawn/train\+test, drawn/test: 15 of {TRAIN + TEST} training clips"):
        open_splits(replace(DATA, train_split="train,test"), splits, None)
    train, _ = open_splits(replace(DATA, train_split="train,test", leaks="drop"), splits, None)
    assert train.dataset.keys.to_pylist() == [sample_key(number) for number in range(TRAIN)]


def test_a_split_that_is_not_there_is_answered_with_the_setting(splits: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no split 'val'; known: train, test\. .* Give --set data\.test_split=test\."
    ):
        open_splits(replace(DATA, test_split="val"), splits, None)
    with pytest.raises(ConfigError, match=r"no split 'trian'; .* Give --set data\.train_split=train\."):
        open_splits(replace(DATA, train_split="trian"), splits, None)


def test_shards_leak_by_their_keys(splits: Path) -> None:
    shards = [str(path) for path in sorted((splits / "test").glob("*.tar"))]
    with pytest.raises(ConfigError, match="15 of 15 training clips"):
        open_splits(DATA, shards, shards)


def test_one_key_of_several_samples_is_refused(splits: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(splits, tmp_path / "copied")
    with pytest.raises(ConfigError, match=rf"copied: {TEST} keys of several samples, such as clip-"):
        open_split(DATA, [str(splits), str(copied)], "test")


def test_clips_without_a_label_and_classes_without_training_are_told(own: Path) -> None:
    change_manifest(own, "train", labels=lambda n: [] if n < 2 else [CLASSES[n % 2]])
    change_manifest(own, "test", labels=lambda n: [] if n == 0 else [CLASSES[n % 3]])
    train, test = open_splits(DATA, own, None)
    assert label_notes(train, test) == (
        "left out: 1 test clip without a label",
        "left out: 2 training clips without a label",
        f"1 class of the test without a training clip, such as {CLASSES[2]!r}",
    )
    assert label_notes(test, test) == ("left out: 1 test clip without a label",)
    assert len(only_labeled(train).dataset) == TRAIN - 2


def test_other_classes_in_training_are_refused(own: Path, splits: Path) -> None:
    change_description(own, labels=[*CLASSES, "thunder"])
    with pytest.raises(ConfigError, match=r"4 classes and .* 3; only in one of them: 'thunder'"):
        open_splits(DATA, splits, own)
    change_description(own, labels=CLASSES[::-1])
    with pytest.raises(ConfigError, match="their order differs"):
        open_splits(DATA, splits, own)


def test_labels_that_are_not_the_recipes_are_refused_unless_told(own: Path) -> None:
    change_description(own, recipe={"name": "vggsound"})
    with pytest.raises(ConfigError, match=r"3 classes are not the 309 of recipe vggsound"):
        open_split(DATA, str(own), "test")
    found = open_split(replace(DATA, other_labels=True), str(own), "test")
    assert "3 classes are not the 309" in found.notes[0]
    assert found.name == "vggsound/test"


def test_no_labels_is_no_evaluation(tmp_path: Path) -> None:
    root = draw_splits(tmp_path / "bare", labels=lambda number: [])
    with pytest.raises(ConfigError, match="no sample has a label"):
        open_split(DATA, str(root), "test")
    assert len(open_split(DATA, str(root), "test", labeled=False).dataset) == TEST


def test_vggsounders_labels_take_the_place_of_the_test_clips(own: Path, tmp_path: Path) -> None:
    change_description(own, labels=list(load_recipe("vggsound").labels), recipe={"name": "vggsound"})
    for split, first in (("train", 0), ("test", TRAIN)):
        change_manifest(
            own,
            split,
            labels=["waterfall burbling"],
            video_id=lambda n, first=first: f"abcdefghi{first + n:02d}",
            start_s=30.0,
            end_s=40.0,
        )
    listed = tmp_path / "vggsounder.csv"
    lines = ["video_id,label,modality,background_music,static_image,voice_over"]
    for number in (TRAIN, TRAIN + 2):
        for label in ("waterfall burbling", "thunder"):
            lines.append(f"abcdefghi{number:02d}_000030,{label},AV,False,False,False")
    lines.append("zzzzzzzzzzz_000030,thunder,A,False,False,False")
    listed.write_text("\n".join(lines) + "\n")
    train, test = open_splits(replace(DATA, test_labels=f"vggsounder={listed}"), str(own), None)
    assert test.dataset.keys.to_pylist() == [sample_key(TRAIN), sample_key(TRAIN + 2)]
    assert test.multi_label
    assert not train.multi_label
    assert test.name == "vggsound/test (vggsounder)"
    assert test.notes == ("labels of vggsounder: 2 of its 3 clips are here",)
    # Of each clip a part was kept, which begins later.
    change_manifest(own, "test", start_s=33.25, end_s=36.25, key=lambda n: f"vgg-abcdefghi{TRAIN + n:02d}_000030")
    _, parts = open_splits(replace(DATA, test_labels=f"vggsounder={listed}"), str(own), None)
    assert parts.dataset.keys.to_pylist() == [f"vgg-abcdefghi{number:02d}_000030" for number in (TRAIN, TRAIN + 2)]
    assert parts.notes == test.notes
    with pytest.raises(ConfigError, match="expected RECIPE=LIST"):
        open_splits(replace(DATA, test_labels="vggsounder.csv"), str(own), None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "smell"}, "unknown data.mode 'smell'; known: audio-visual, audio, image"),
        ({"leaks": "hide"}, "unknown data.leaks"),
        ({"profile": "mine"}, "unknown data.profile 'mine'"),
        ({"windows": 0}, "data.windows=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EvalDataConfig(**changes)  # type: ignore[arg-type]


def test_the_checkpoint_tells_how_it_hears(tmp_path: Path) -> None:
    model = tiny_model()
    known = LoadedModel(model=model, origin={}, folder=tmp_path, profile="released", window_s=1.0)
    assert (one_view(DATA, known).profile, one_view(DATA, known).window_s) == ("released", 1.0)
    unknown = LoadedModel(model=model, origin={}, folder=tmp_path)
    assert (one_view(DATA, unknown).profile, one_view(DATA, unknown).window_s) == ("paper", 3.0)
    told = replace(DATA, profile="paper", window_s=2.0)
    assert (one_view(told, known).profile, one_view(told, known).window_s) == ("paper", 2.0)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda run: varied_view(LinearProbeConfig(**OFF), run.loaded), id="linear-probe"),
        pytest.param(lambda run: training_view(SegmentationConfig(**OFF), run.loaded), id="segmentation"),
        pytest.param(lambda run: mixing_view(SeparationConfig(**OFF), run), id="separation"),
    ],
)
def test_what_varies_training_frames_and_loudness_can_be_switched_off(
    view: Callable[[Evaluation], TrainView], tiny_run: Path, splits: Path, tmp_path: Path
) -> None:
    found = view(evaluation_of(tiny_run, splits, tmp_path))
    assert (found.max_gain_db, found.min_area, found.flip_probability) == (0.0, 1.0, 0.0)
    assert not found.has_gain
    low, high = ([draw] * found.num_draws for draw in (0.0, 0.999))
    assert found.choose_crop(40, 40, low) == found.choose_crop(40, 40, high) == Crop(0, 0, 40, 40)
