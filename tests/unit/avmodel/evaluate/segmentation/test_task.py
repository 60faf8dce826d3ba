import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from avdata.load import open_dataset
from avmanifest.errors import ConfigError, ShardError
from avmodel.evaluate.data import open_split
from avmodel.evaluate.decoder import segmentation_decoder
from avmodel.evaluate.predictor import Predictor, save_predictor
from avmodel.evaluate.segmentation.baselines import baseline_masks
from avmodel.evaluate.segmentation.config import SegmentationConfig, avss, ms3
from avmodel.evaluate.segmentation.counts import frames_by_clip, masked_frames, packed, unpacked
from avmodel.evaluate.segmentation.scores import binary_frames, class_frames
from avmodel.evaluate.segmentation.segmenter import load_segmenter, mask_loss, segment
from avmodel.evaluate.segmentation.task import segmentation
from avmodel.evaluate.truth import UNKNOWN, Clip, clips_of, mask_tables
from tests.dense import draw_quarters, quarter_mask
from tests.evaluating import DATA, change_manifest, evaluation_of, tiny_model
from tests.shards import CLASSES, draw_dataset

CONFIG = SegmentationConfig(
    data=DATA, device="cpu", random_weights=False, examples=0, epochs=2, batch_size=16, device_batch_size=16,
    repeats=2, drop_path=0.0,
)  # fmt: skip
KNOWN = ("all background", "all foreground", "center prior", "mean training mask")


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return draw_quarters(tmp_path_factory.mktemp("quarters") / "set", num_frames=2, flac=True)


@pytest.mark.slow
def test_a_decoder_learns_and_is_kept(tiny_run: Path, quarters: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, quarters, tmp_path)
    config = replace(CONFIG, epochs=4, repeats=6, examples=3, optim=replace(CONFIG.optim, lr=1e-2, layer_decay=1.0))
    result = segmentation(config, run)
    assert result.headline == ("segmented, official", "miou")
    assert list(result.scores) == ["segmented, official", "segmented, released"]
    assert set(result.baselines) == {f"{name}, {how}" for name in KNOWN for how in ("official", "released")}
    found = {row: score["miou"].mean for row, score in result.baselines.items()}
    assert found["all background, official"] == 0
    assert found["all foreground, official"] == pytest.approx(25)
    assert found["all background, released"] == pytest.approx(75 / 2)
    learned = {row: {name: x.mean for name, x in metrics.items()} for row, metrics in result.scores.items()}
    assert learned["segmented, official"]["miou"] > 60
    assert learned["segmented, official"]["miou"] == pytest.approx(learned["segmented, released"]["miou_noBg"])
    assert result.data["test"] == open_split(DATA, quarters, "test").described() | {
        "samples": 12,
        "frames": 24,
        "of": 12,
    }
    segmenter, notes = load_segmenter(str(tmp_path / "task" / "seed-0"))
    assert (segmenter.classes, notes["window_s"]) == ((), "1.0")
    page = (tmp_path / "task" / "examples.html").read_text()
    assert (page.count("data:image/png"), page.count("data:audio/wav")) == (6 * 4, 6)
    images, log_mel = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.randn(2, 128, 48).half()
    probabilities = segment(segmenter, images, log_mel)
    assert probabilities.shape == (4, 1, 32, 32)
    assert (probabilities >= 0).all() and (probabilities <= 1).all()
    again = segmentation(config, run)  # nothing is left to train
    assert again.scores == result.scores
    with pytest.raises(ConfigError, match="holds a run with other settings: jitter_s"):
        segmentation(replace(config, jitter_s=0.1), run)
    with pytest.raises(ConfigError, match="without a decoder"):
        load_segmenter(tiny_run)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_classes_have_an_output_each(tiny_run: Path, quarters: Path, tmp_path: Path, loss: str) -> None:
    config = replace(CONFIG, target="classes", loss=loss, random_weights=loss == "ce", examples=1)
    result = segmentation(config, evaluation_of(tiny_run, quarters, tmp_path))
    assert set(result.scores["segmented, official"]) == {"miou", "f", "miou_noBg", "f_noBg"}
    assert [row["class"] for row in result.extra["per_class"]] == ["background", *CLASSES]
    # Each class is in a third of the frames, in a quarter of their pixels.
    whole = result.baselines["all foreground, official"]["miou_noBg"].mean
    assert whole == pytest.approx(100 * (1 / 3 * 1 / 4) / 3)
    assert ("random weights, official" in result.baselines) == (loss == "ce")
    segmenter, _ = load_segmenter(tmp_path / "task" / "seed-0")
    assert (segmenter.classes, segmenter.loss) == (CLASSES, loss)
    images, log_mel = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.randn(2, 128, 48).half()
    sums = segment(segmenter, images, log_mel).sum(dim=1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5) == (loss == "ce")


def test_clips_of_five_and_of_ten_frames_meet_in_a_batch(tiny_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    common = {"seconds": 1.5, "flac": False, "mask": quarter_mask}
    draw_dataset(root, 3, 4, num_frames=5, **common)
    draw_dataset(root, 2, 4, split="test", first=3, num_frames=5, **common)
    other = tmp_path / "other"
    draw_dataset(other, 1, 4, first=9, num_frames=10, **common)
    draw_dataset(other, 1, 4, split="test", first=10, num_frames=10, **common)
    data = [str(root), str(other)]
    run = replace(evaluation_of(tiny_run, root, tmp_path), test=data)
    config = replace(CONFIG, target="classes", loss="ce", epochs=1, repeats=1)
    result = segmentation(config, run)
    assert result.data["test"]["frames"] == 20
    test = masked_frames(config, open_split(DATA, data, "test"))
    assert frames_by_clip(test) == [5, 5, 10]
    # Two clips are filled up with five frames of background each; the background and two classes are there.
    background = result.baselines["all background, official"]["miou"].mean
    assert background == pytest.approx(100 * ((20 * 0.75 + 10) / 30) / 3)


def test_what_objects_sound_is_what_counts(tmp_path: Path) -> None:
    dataset = open_dataset(draw_dataset(tmp_path / "set", 3, 4, seconds=1.5, num_frames=1, flac=False), "train")

    def tables(annotations: str) -> dict[str, torch.Tensor]:
        """Of the first sample, which is labeled with the first class."""
        clips = {key: Clip("video", annotations) for key in dataset.keys.to_pylist()}
        return {
            f"{target}{', labeled' * labeled}": mask_tables(
                dataset, clips, classes=target == "classes", only_labeled=labeled
            )[0]
            for target in ("sounding", "classes")
            for labeled in (False, True)
        }

    objects = [("rain", True), ("dog barking", False), ("church bell ringing", True)]
    told = json.dumps({"objects": [{"label": label, "sounding": sounding} for label, sounding in objects]})
    values = tables(told)
    assert values["sounding"][:5].tolist() == [0, 1, 0, 1, 0]
    assert values["classes"][:5].tolist() == [0, 3, 0, 2, 0]
    listed = tables("{}")
    assert listed["sounding"].tolist() == [0, *[1] * 255]
    assert listed["classes"][:6].tolist() == [0, 1, 2, 3, UNKNOWN, UNKNOWN]
    assert listed["classes, labeled"][:5].tolist() == [0, 1, 0, 0, UNKNOWN]
    assert listed["sounding, labeled"][[0, 1, 2, 255]].tolist() == [0, 1, 0, 1]


def test_a_file_with_other_classes_than_outputs_is_refused(tmp_path: Path) -> None:
    predictor = Predictor(tiny_model(), "image", segmentation_decoder(3))
    notes = {"kind": "segmenter", "loss": "ce", "classes": json.dumps(CLASSES)}
    save_predictor(tmp_path, predictor, 1, {}, notes)
    with pytest.raises(ConfigError, match="3 classes for 3 outputs"):
        load_segmenter(tmp_path)
    save_predictor(tmp_path / "other", predictor, 1, {}, {"kind": "separator"})
    with pytest.raises(ConfigError, match="not a segmenter"):
        load_segmenter(tmp_path / "other")


def test_losses_of_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    truth = torch.randint(0, 3, (2, 4, 4), generator=generator).to(torch.uint8)
    assert mask_loss(logits, truth, "ce") == pytest.approx(float(F.cross_entropy(logits, truth.long())))
    each = F.binary_cross_entropy_with_logits(logits.movedim(1, -1), F.one_hot(truth.long(), 3).float())
    assert mask_loss(logits, truth, "bce") == pytest.approx(float(each))
    one = F.binary_cross_entropy_with_logits(logits[:, 0], (truth > 1).float())
    assert mask_loss(logits[:, :1], (truth > 1).to(torch.uint8), "bce") == pytest.approx(float(one))


def test_counts_are_packed_without_loss() -> None:
    truth = torch.rand(3, 8, 8) > 0.5
    for frames, outputs in (
        (binary_frames(torch.rand(3, 8, 8), truth), 1),
        (class_frames(truth.to(torch.uint8), (~truth).to(torch.uint8), 3), 3),
    ):
        for found, expected in zip(unpacked(packed(frames), outputs), frames, strict=True):
            torch.testing.assert_close(found.double(), expected.double())


def test_baselines_of_classes_take_the_most_frequent_one() -> None:
    mean = torch.zeros(4, 8, 8)
    mean[0], mean[2] = 0.7, 0.3
    found = baseline_masks(mean)
    assert {name: x.argmax(dim=0).unique().tolist() for name, x in found.items()} == {
        "all background": [0], "all foreground": [2], "center prior": [0, 2], "mean training mask": [0],
    }  # fmt: skip
    assert found["center prior"].argmax(dim=0)[3, 3] == 2


def test_data_without_what_is_asked_is_refused(tiny_run: Path, splits: Path, quarters: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="drawn/train: no frame has a mask"):
        segmentation(CONFIG, evaluation_of(tiny_run, splits, tmp_path))
    shards = sorted(str(path) for path in (quarters / "test").glob("*.tar"))
    with pytest.raises(ConfigError, match="no manifest, so no ground truth"):
        clips_of(DATA, open_split(DATA, shards, "test", labeled=False))
    root = draw_quarters(tmp_path / "set")
    change_manifest(root, "train", annotations=json.dumps({"objects": [{"label": "whale", "sounding": True}] * 3}))
    with pytest.raises(ShardError, match=r"clip-0000\d: mask value \d, but the dataset has 3 classes"):
        segmentation(replace(CONFIG, target="classes"), evaluation_of(tiny_run, root, tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "noise"}, "unknown target 'noise'; known: sounding, classes"),
        ({"loss": "dice"}, "unknown loss 'dice'; known: bce, ce"),
        ({"fit": "pad"}, "unknown fit 'pad'; known: crop, short-side-crop, squash"),
        ({"loss": "ce"}, "loss=ce needs several classes"),
        ({"official_batch": 0}, "official_batch=0"),
        ({"data": replace(DATA, frames=5)}, "has one window, its own"),
        ({"data": replace(DATA, mode="image")}, "needs both modalities"),
    ],
)
def test_settings_that_cannot_be(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **changes)


def test_presets_are_the_tasks_of_avsbench() -> None:
    assert (SegmentationConfig().repeats, ms3().repeats) == (10, 20)
    assert (avss().target, avss().loss) == ("classes", "ce")
