"""Recipes with boxes and masks as their owners lay them out, prepared with drawn media, evaluated by their tasks."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avdata.prepare.config import PrepareConfig, Supervision, SynthConfig
from avdata.prepare.job import prepare
from avmanifest.recipe import load_recipe
from avmodel.distributed import join_world
from avmodel.evaluate.localization.config import LocalizationConfig
from avmodel.evaluate.localization.task import localization
from avmodel.evaluate.result import Result
from avmodel.evaluate.segmentation.config import SegmentationConfig, avss
from avmodel.evaluate.segmentation.segmenter import load_segmenter
from avmodel.evaluate.segmentation.task import segmentation
from avmodel.evaluate.separation.config import SeparationConfig
from avmodel.evaluate.separation.task import separation
from tests.dense import draw_quarters
from tests.drawn import draw_media, sine
from tests.evaluating import DATA, evaluation_of, save_tiny
from tests.forks import call_together
from tests.videos import SMALL

pytestmark = pytest.mark.slow

IDS = ("5rQzpw4J7ss", "BhR74IRNrj4", "CNbSq__q-BY", "0WxgIKuetYI")  # the first two to train on
SIZE = (64, 96)
FAST: dict[str, Any] = {
    "data": replace(DATA, leaks="allow"),  # all clips are one video
    "device": "cpu",
    "random_weights": False,
    "epochs": 1,
    "batch_size": 2,
    "device_batch_size": 2,
    "examples": 1,
}
SEGMENTATION = SegmentationConfig(**FAST, repeats=1)
LOCALIZATION = LocalizationConfig(**FAST)
SEPARATION = SeparationConfig(**FAST)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A video of 5 s and one of 10 s; the left half is bright."""
    picture = np.full((*SIZE, 3), 20, np.uint8)
    picture[:, : SIZE[1] // 2] = 220
    folder = tmp_path_factory.mktemp("media")
    return {
        seconds: draw_media(
            folder / f"{seconds}.mp4",
            num_frames=10 * seconds,
            fps=10,
            picture=lambda number: picture,
            sound=sine(seconds, 16_000),
            sound_rate=16_000,
        )
        for seconds in (5, 10)
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def instruments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A video of 10 s for each id, with a tone of its own."""
    folder = tmp_path_factory.mktemp("instruments")
    return {
        name: draw_media(
            folder / f"{place}.mp4",
            num_frames=50,
            fps=5,
            picture=lambda number, place=place: np.full((*SIZE, 3), 60 * place, np.uint8),  # type: ignore[misc]
            sound=sine(10, 16_000, 300 * 2.3**place),
            sound_rate=16_000,
        )
        for place, name in enumerate(IDS)
    }


def left_half(value: int, *, palette: bool = False) -> Image.Image:
    """A mask of its own size, 32 x 32; of values, or with a palette."""
    values = np.zeros((32, 32), np.uint8)
    values[:, :16] = value
    mask = Image.fromarray(values)
    if palette:
        mask.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return mask


def save_masks(root: Path, masks: Mapping[str, Image.Image]) -> None:
    for name, mask in masks.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)


def prepared(recipe: str, root: Path, out: Path, splits: Sequence[str]) -> Path:
    """The dataset that prepare makes of root/lists and root/media."""
    report = prepare(
        PrepareConfig(
            recipe=load_recipe(recipe),
            out=out,
            sources=(f"local:{root / 'media'}",),
            list_path=root / "lists",
            splits=tuple(splits),
            sample=replace(SMALL, num_frames=1),
            supervision=Supervision(num_workers=1),
        )
    )
    assert report.ok == report.requested
    return out


def lay_out(root: Path, lists: Mapping[str, str], videos: Mapping[str, Path]) -> Path:
    (root / "lists").mkdir(parents=True)
    (root / "media").mkdir()
    for name, content in lists.items():
        (root / "lists" / name).write_text(content)
    for name, video in videos.items():
        shutil.copy(video, root / "media" / name)
    return root


def assert_left_half_is_the_truth(result: Result) -> None:
    """Half of every frame sounds."""
    assert result.baselines["all foreground, official"]["miou"].mean == pytest.approx(50, abs=0.1)
    assert result.baselines["mean training mask, official"]["miou"].mean == pytest.approx(100, abs=0.1)


def test_avsbench_s4(media: dict[int, Path], run: Path, tmp_path: Path) -> None:
    lists = {
        "avsbench_train.txt": "".join(f"{name}_{frame},race_car\n" for name in IDS[:2] for frame in range(1, 6)),
        "avsbench_test.csv": "".join(f"{name}_{frame},race_car\n" for name in IDS[2:] for frame in range(1, 6)),
    }
    root = lay_out(tmp_path / "s4", lists, {f"{name}.mp4": media[5] for name in IDS})
    for split, names, last in (("train", IDS[:2], 1), ("test", IDS[2:], 5)):
        folder = f"gt_masks/{split}/race_car"
        save_masks(
            root / "media",
            {f"{folder}/{name}/{name}_{frame}.png": left_half(255) for name in names for frame in range(1, last + 1)},
        )
    data = prepared("avsbench-s4", root, tmp_path / "out", ("train", "test"))
    result = segmentation(SEGMENTATION, evaluation_of(run, data, tmp_path))
    assert (result.data["train"]["frames"], result.data["test"]["frames"]) == (2, 10)
    assert_left_half_is_the_truth(result)
    assert load_segmenter(tmp_path / "task" / "seed-0")[0].classes == ()


METADATA = "vid,uid,s_min,s_sec,a_obj,split,label\n"


def test_avsbench_ms3(media: dict[int, Path], run: Path, tmp_path: Path) -> None:
    lines = [f"{name},{name}_0,0,0,man_dog,{split},v1m\n" for name, split in zip(IDS, ["train"] * 2 + ["val"] * 2)]  # noqa: B905
    root = lay_out(
        tmp_path / "ms3", {"metadata.csv": METADATA + "".join(lines)}, {f"{n}_000000.mp4": media[5] for n in IDS}
    )
    dog = 1 + load_recipe("avsbench-avss").labels.index("dog")
    save_masks(
        root / "media",
        {f"v1m/{name}_0/labels_semantic/{frame}.png": left_half(dog) for name in IDS for frame in range(5)},
    )
    data = prepared("avsbench-ms3", root, tmp_path / "out", ("train", "val"))
    config = replace(SEGMENTATION, data=replace(FAST["data"], test_split="val"))
    result = segmentation(config, evaluation_of(run, data, tmp_path))
    assert (result.data["train"]["frames"], result.data["test"]["frames"]) == (10, 10)
    assert result.data["test"]["split"] == "avsbench-ms3/val"
    assert_left_half_is_the_truth(result)


def test_avsbench_avss(media: dict[int, Path], run: Path, tmp_path: Path) -> None:
    subsets = ("v1s", "v2", "v1m", "v2")
    lines = [
        f"{name},{name}_0,0,0,dog,{split},{subset}\n"
        for name, split, subset in zip(IDS, ("train", "train", "test", "test"), subsets, strict=True)
    ]
    seconds = {"v1s": 5, "v1m": 5, "v2": 10}
    videos = {f"{name}_000000.mp4": media[seconds[subset]] for name, subset in zip(IDS, subsets, strict=True)}
    root = lay_out(tmp_path / "avss", {"metadata.csv": METADATA + "".join(lines)}, videos)
    names = load_recipe("avsbench-avss").labels
    dog, cat = 1 + names.index("dog"), 1 + names.index("cat")
    folders = [f"{subset}/{name}_0/labels_semantic" for name, subset in zip(IDS, subsets, strict=True)]
    for folder, frames in zip(folders, (1, 10, 5, 10), strict=True):
        save_masks(root / "media", {f"{folder}/{frame}.png": left_half(dog, palette=True) for frame in range(frames)})
    left_half(cat, palette=True).save(root / "media" / folders[2] / "0.png")  # which its clip isn't labeled with
    data = prepared("avsbench-avss", root, tmp_path / "out", ("train", "test"))
    config = replace(avss(), **FAST)
    result = segmentation(config, evaluation_of(run, data, tmp_path))
    assert (result.data["train"]["frames"], result.data["test"]["frames"]) == (11, 15)
    # The released evaluation takes the frame of the unlabeled cat for background, and leaves it out.
    whole = {name: x.mean for name, x in result.baselines["all foreground, released"].items()}
    assert whole["miou_noBg"] == pytest.approx(50, abs=0.1)
    assert result.baselines["mean training mask, released"]["miou_noBg"].mean == pytest.approx(100, abs=0.1)
    # Officially there is a cat, which nobody finds, and five frames more that fill the clip up.
    mean = result.baselines["mean training mask, official"]["miou_noBg"].mean
    assert mean == pytest.approx(100 * (14 / 20 + 0) / 2, abs=0.1)
    assert len(load_segmenter(tmp_path / "task" / "seed-0")[0].classes) == 70


def test_vgg_ss(media: dict[int, Path], run: Path, tmp_path: Path) -> None:
    label = load_recipe("vggsound").labels[0]
    boxes = [[[0, 0, 0.5, 1]], [[0, 0, 0.25, 1], [0.25, 0, 0.5, 1]], [[0.5, -2.9e16, 0.5, 1]]]
    entries = [
        {"file": f"{name}_000000", "class": label, "bbox": found} for name, found in zip(IDS, boxes, strict=False)
    ]
    root = lay_out(
        tmp_path / "vggss", {"vggss.json": json.dumps(entries)}, {f"{name}_000000.mp4": media[10] for name in IDS[:3]}
    )
    data = prepared("vgg-ss", root, tmp_path / "out", ("test",))
    result = localization(LOCALIZATION, evaluation_of(run, data, tmp_path))
    assert result.data["test"]["samples"] == 3
    # The third clip's only box has no area: every map misses it.
    assert result.baselines["whole image"]["ciou"].mean == pytest.approx(100 * 2 / 3)
    assert result.baselines["best possible, median rule"]["ciou"].mean == pytest.approx(100 * 2 / 3)


def test_flickr_soundnet(media: dict[int, Path], run: Path, tmp_path: Path) -> None:
    ids = ("10000255784", "9992947874", "10000130166", "10007936344")
    lists = {"flickr_sup_train.txt": "\n".join(ids[:2]), "flickr_test.csv": f"{ids[2]},202\n{ids[3]},0\n"}
    root = lay_out(tmp_path / "flickr", lists, {f"{name}.mp4": media[5] for name in ids})
    folder = root / "Annotations"
    folder.mkdir()
    corners = "<xmin>0</xmin><ymin>0</ymin><xmax>128</xmax><ymax>256</ymax>"
    for name in ids[:3]:
        annotators = "".join(f"<annotator><bbox><id>{n}</id>{corners}</bbox></annotator>" for n in range(3))
        (folder / f"{name}.xml").write_text(f"<annotations>{annotators}</annotations>")
    data = prepared("flickr-soundnet", root, tmp_path / "out", ("train", "test"))
    config = replace(LOCALIZATION, supervised=True, boxes=str(folder))
    result = localization(config, evaluation_of(run, data, tmp_path))
    assert result.data["test"]["samples"] == 1
    assert result.data["train"]["samples"] == 2
    assert "left out: 1 sample without ground truth" in result.notes
    assert result.baselines["whole image"]["ciou"].mean == 100


def test_vggsound_music(instruments: dict[str, Path], run: Path, tmp_path: Path) -> None:
    first, second = (f"{name}_000000" for name in IDS[2:])
    lists = {
        "vggmusic_train.txt": "".join(f"{name}_000000,flute\n" for name in IDS[:2]),
        "vggmusic_eval_ss.csv": "source_1,source_2,class_1,class_2,sep_type\n"
        f"{first},{second},bass_drum,flute,Easy\n{second},{first},flute,bass_drum,Hard\n",
    }
    videos = {f"{name}_000000.mp4": path for name, path in instruments.items()}
    data = prepared("vggsound-music", lay_out(tmp_path / "music", lists, videos), tmp_path / "out", ("train", "test"))
    result = separation(SEPARATION, evaluation_of(run, data, tmp_path))
    assert list(result.scores) == ["separated", "separated, Easy", "separated, Hard"]
    assert "mixtures of the dataset's own list: 2 of its 2" in result.notes
    assert result.baselines["oracle irm"]["sdr"].mean > result.baselines["mixture"]["sdr"].mean + 10
    assert (tmp_path / "task" / "mixtures.json").is_file()


def test_music(instruments: dict[str, Path], run: Path, tmp_path: Path) -> None:
    """The solos of CLIPSep to train on, CCoL's mixtures of four to test."""
    kinds = ("flute", "cello", "xylophone", "erhu")
    pairs = list(zip(kinds, IDS, strict=True))
    lists = {
        "clipsep_train.csv": "".join(
            f"/solo/audio/{kind}/{name}.wav,/solo/frames/{kind}/{name},50\n" for kind, name in pairs
        ),
        "ccol_test_sep.csv": ", ".join(f"/{kind}/{name}.wav" for kind, name in pairs) + "\n",
    }
    root = lay_out(tmp_path / "music", lists, {f"{name}.mp4": path for name, path in instruments.items()})
    train = prepared("music", root, tmp_path / "train", ("train",))
    test = prepared("music", root, tmp_path / "test", ("mixtures",))
    config = replace(SEPARATION, data=replace(FAST["data"], test_split="mixtures"))
    result = separation(config, evaluation_of(run, test, tmp_path, train=train))
    assert result.mode == "4 sources, irm masks"
    assert result.data["test"]["samples"] == 1
    assert "RPCA" not in result.baselines
    assert result.baselines["oracle irm"]["sdr"].mean > result.baselines["mixture"]["sdr"].mean + 10


def test_drawn_clips(run: Path, tmp_path: Path) -> None:
    synth = SynthConfig(num_clips=10, seconds=3.2, width=96, height=64, fps=10)
    prepare(
        PrepareConfig(
            recipe=load_recipe("synth"),
            out=tmp_path / "out",
            sources=(),
            synth=synth,
            sample=SMALL,
            supervision=Supervision(num_workers=1),
        )
    )
    data = replace(FAST["data"], test_split="train")  # there are too few clips for every split
    found = localization(replace(LOCALIZATION, data=data), evaluation_of(run, tmp_path / "out", tmp_path))
    boxes = localization(
        replace(LOCALIZATION, data=data, truth="boxes"), evaluation_of(run, tmp_path / "out", tmp_path)
    )
    assert 0 < found.baselines["whole image"]["auc"].mean < boxes.baselines["whole image"]["auc"].mean
    sounding = segmentation(replace(SEGMENTATION, data=data), evaluation_of(run, tmp_path / "out", tmp_path / "a"))
    assert sounding.data["test"]["frames"] == 2 * sounding.data["test"]["samples"]
    classes = segmentation(
        replace(SEGMENTATION, data=data, target="classes", loss="ce"),
        evaluation_of(run, tmp_path / "out", tmp_path / "b"),
    )
    assert any(row["samples"] for row in classes.extra["per_class"][1:])


def measure(run: Path, data: Path, out: Path) -> None:
    """Both tasks' results as JSON, written by the main process of however many there are."""
    with join_world("cpu") as world:
        one = replace(evaluation_of(run, data, out), world=world)
        found = localization(LOCALIZATION, one), segmentation(SEGMENTATION, one)
        if world.is_main:
            (out / "found.json").write_text(json.dumps([result.as_dict() for result in found]))


def test_several_processes_measure_what_one_does(run: Path, tmp_path: Path) -> None:
    data = draw_quarters(tmp_path / "set", train=8, test=5)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    measure(run, data, tmp_path / "one")
    codes = call_together(measure, run, data, tmp_path / "two", log=tmp_path / "log")
    assert codes == [0, 0], (tmp_path / "log.0").read_text()
    one, two = (json.loads((tmp_path / name / "found.json").read_text()) for name in ("one", "two"))
    assert one[0]["scores"] == two[0]["scores"]
    for alone, together in zip(one, two, strict=True):
        assert alone["baselines"] == together["baselines"]
        assert alone["data"] == together["data"]
