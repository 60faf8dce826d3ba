import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from avmanifest.errors import ConfigError, ManifestError
from avmodel.configs.model import ModelConfig
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.localization.config import PRESETS, LocalizationConfig
from avmodel.evaluate.localization.localizer import Localizer, load_localizer, localize
from avmodel.evaluate.localization.scores import RULES, SIDE
from avmodel.evaluate.localization.task import localization, pixel_loss
from avmodel.evaluate.truth import flickr_boxes
from avmodel.inputs import normalize_images
from avmodel.models import build_model
from avmodel.models.deepavfusion import DeepAVFusion
from tests.dense import draw_quarters, quarter_box
from tests.evaluating import DATA, change_manifest, evaluation_of
from tests.runs import TINY, TINY_MODELS

CONFIG = LocalizationConfig(data=DATA, device="cpu", random_weights=False, examples=0)


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return draw_quarters(tmp_path_factory.mktemp("quarters") / "set", train=64, flac=True)


@pytest.mark.parametrize("config", TINY_MODELS.values(), ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("encoding", ["together", "alone"])
def test_maps_are_cosines_of_the_sound_with_patches_of_any_family(config: ModelConfig, encoding: str) -> None:
    torch.manual_seed(0)
    model = build_model(config).eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    log_mel = torch.randn(2, 128, 48).half()
    localizer = Localizer(model, encoding)
    maps = localize(localizer, images, log_mel)
    assert maps.shape == (4, 32, 32)
    with torch.no_grad():
        seen, heard = model.encode(normalize_images(images), None), model.encode(None, log_mel.float().unsqueeze(1))
        cells = localizer(normalize_images(images), log_mel.float().unsqueeze(1))
    assert cells.abs().max() <= 1 + 1e-6
    if encoding == "alone" or config is not TINY:
        # The second image's patch in the second row, first column, with the sound that both of a pair have.
        expected = F.cosine_similarity(seen["image"].tokens[1, 2], heard["audio"].vector[0], dim=0)
        assert cells[1, 1, 0] == pytest.approx(float(expected), abs=1e-5)
    else:
        assert not torch.allclose(cells, Localizer(model, "alone")(normalize_images(images), log_mel.float()[:, None]))


@pytest.mark.slow
def test_a_result_has_all_rules_and_what_knows_nothing(tiny_run: Path, quarters: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, random_weights=True, seeds=(0, 1), examples=6)
    result = localization(config, evaluation_of(tiny_run, quarters, tmp_path))
    assert list(result.scores) == ["median rule", "fixed rule", "adaptive rule"]
    assert result.headline == ("median rule", "ciou")
    assert result.mode == "zero-shot, modalities together"
    assert set(result.baselines) == {"whole image"} | {
        f"{name}, {rule} rule"
        for name in ("center prior", "random map", "best possible", "random weights")
        for rule in RULES
    }
    found = {name: (score["ciou"].mean, score["auc"].mean) for name, score in result.baselines.items()}
    # A quarter of each image sounds.
    assert found["whole image"][0] == 0
    assert found["whole image"][1] == pytest.approx(100 * 0.275)
    assert found["best possible, median rule"][0] == 100
    assert found["best possible, fixed rule"] == (100, pytest.approx(100))
    assert len(result.baselines["random weights, median rule"]["ciou"].values) == 2
    assert result.data["test"]["samples"] == 12
    page = (tmp_path / "task" / "examples.html").read_text()
    assert page.count("data:image/png") == 12 * 3
    assert page.count("data:audio/wav") == 12
    assert result.line().replace("&", "&amp;") in page


class Planted(DeepAVFusion):
    """A model whose tokens are made by hand: the sound asks for what is bright, in the first of two heads."""

    asks = 1.0

    @property
    def feature_dim(self) -> int:
        return 2

    def streams(self, image, log_mel):
        found = {}
        if image is not None:
            bright = F.avg_pool2d(image.mean(dim=1), self.config.patch_size).flatten(1)
            found["image"] = torch.stack([bright, torch.zeros_like(bright)], dim=2)
        if log_mel is not None:
            tokens = torch.tensor([self.asks, -9.0]).repeat(len(log_mel), self.audio_grid[0] * self.audio_grid[1], 1)
            found["audio"] = tokens
        return found


class Opposite(Planted):
    """One that asks for what is dark."""

    asks = -1.0


@pytest.mark.slow
def test_planted_sources_are_found_by_dense_maps(quarters: Path, tmp_path: Path, tiny_run: Path) -> None:
    config = replace(PRESETS["denseav"](), data=DATA, device="cpu", random_weights=False, examples=0)
    config = replace(config, dense=replace(config.dense, heads=2))
    run = evaluation_of(tiny_run, quarters, tmp_path)

    def found(model: type[Planted], one: LocalizationConfig):
        loaded = replace(run.loaded, model=model(TINY).eval())
        assert isinstance(loaded, LoadedModel)
        return localization(one, replace(run, loaded=loaded))

    result = found(Planted, config)
    assert result.mode == "zero-shot, modalities alone, dense maps"
    assert list(result.scores) == ["median rule", "fixed rule", "adaptive rule", "prompted"]
    assert result.scores["adaptive rule"]["ciou"].mean == 100
    scores, center = result.scores["prompted"], result.baselines["center prior, prompted"]
    assert scores["map"].mean > 90 > center["map"].mean
    assert scores["miou"].mean > 70 > center["miou"].mean
    assert set(scores["map"].differences) == {"center prior, prompted", "random map, prompted"}
    assert scores["skipped_classes"].mean == 0
    wrong = found(Opposite, config)
    assert wrong.scores["adaptive rule"]["ciou"].mean == 0
    assert wrong.scores["prompted"]["map"].mean < center["map"].mean


def test_clips_without_a_label_have_no_scores_by_class(tmp_path: Path, tiny_run: Path) -> None:
    config = replace(CONFIG, maps="dense", prompted=True)
    boxed = draw_quarters(tmp_path / "no labels", masks=False, labels=lambda _: [])
    plain = localization(config, evaluation_of(tiny_run, boxed, tmp_path / "plain"))
    assert "prompted" not in plain.scores
    assert "prompted: without 12 samples that have no label" in plain.notes


@pytest.mark.parametrize(
    ("rule", "side", "quoted", "noted"),
    [("median", 0.5, "median", False), ("fixed", 0.5, "fixed", False), ("median", 0.25, "adaptive", True)],
)
def test_no_rule_is_quoted_by_which_nothing_could_succeed(
    tiny_run: Path, tmp_path: Path, rule: str, side: float, quoted: str, noted: bool
) -> None:
    """A map that selects half of the pixels cannot agree with a source in a sixteenth of them."""
    data = draw_quarters(tmp_path / "set", masks=False)
    change_manifest(data, "test", annotations=json.dumps({"boxes": [[0, 0, side, side]]}))
    result = localization(replace(CONFIG, rule=rule), evaluation_of(tiny_run, data, tmp_path))
    assert result.headline == (f"{quoted} rule", "ciou")
    assert result.baselines[f"best possible, {quoted} rule"]["ciou"].mean == 100
    assert list(result.scores) == ["median rule", "fixed rule", "adaptive rule"]
    note = "by the median rule no map could succeed here: the score is by the adaptive rule"
    assert (note in result.notes) == noted


@pytest.mark.slow
def test_boxes_and_masks_tell_the_same(tiny_run: Path, quarters: Path, tmp_path: Path) -> None:
    boxed = draw_quarters(tmp_path / "boxes alone", train=64, masks=False)
    by_masks = localization(CONFIG, evaluation_of(tiny_run, quarters, tmp_path))
    by_boxes = localization(CONFIG, evaluation_of(tiny_run, boxed, tmp_path))
    assert by_masks.scores == by_boxes.scores
    assert by_masks.baselines == by_boxes.baselines


@pytest.mark.slow
def test_annotators_of_flickr_are_read_from_their_folder(tiny_run: Path, tmp_path: Path) -> None:
    data = draw_quarters(tmp_path / "set", masks=False)
    change_manifest(data, "test", annotations="{}")
    folder = tmp_path / "Annotations"
    folder.mkdir()
    for number in range(16, 25):
        left, top, right, bottom = (round(256 * edge) for edge in quarter_box(number))
        box = f"<bbox><w>1</w><a>{left}</a><b>{top}</b><c>{right}</c><d>{bottom}</d></bbox>"
        (folder / f"video{number}.xml").write_text(f"<r><o>{box}</o><o>{box}</o></r>")
    config = replace(CONFIG, boxes=str(folder))
    result = localization(config, evaluation_of(tiny_run, data, tmp_path))
    assert result.data["test"]["samples"] == 9
    assert "left out: 3 samples without ground truth" in result.notes
    assert result.baselines["whole image"]["auc"].mean == pytest.approx(27.5)
    with pytest.raises(ConfigError, match="set boxes to its folder"):
        localization(CONFIG, evaluation_of(tiny_run, data, tmp_path))
    (folder / "video16.xml").write_text("<r><o><bbox><w>1</w><a>3</a></bbox></o></r>")
    with pytest.raises(ManifestError, match=r"video16\.xml: not an annotation of boxes"):
        localization(config, evaluation_of(tiny_run, data, tmp_path))
    with pytest.raises(ManifestError, match="is not the name"):
        flickr_boxes(folder, "../secret")


@pytest.mark.slow
def test_silent_objects_are_no_truth(tiny_run: Path, tmp_path: Path) -> None:
    data = draw_quarters(tmp_path / "set")

    def objects(row: int) -> str:
        boxes = [quarter_box(16 + row)]
        return json.dumps(
            {
                "objects": [
                    {"label": "dog barking", "sounding": row > 1 and place == (16 + row) % 3, "boxes": boxes}
                    for place in range(3)
                ]
            }
        )

    change_manifest(data, "test", annotations=objects)
    by_masks = localization(CONFIG, evaluation_of(tiny_run, data, tmp_path))
    assert "left out: 2 frames in which nothing sounds" in by_masks.notes
    assert by_masks.data["test"]["samples"] == 10
    by_boxes = localization(replace(CONFIG, truth="boxes"), evaluation_of(tiny_run, data, tmp_path))
    assert by_boxes.scores == by_masks.scores
    change_manifest(data, "test", annotations=json.dumps({"objects": []}))
    with pytest.raises(ConfigError, match="no tested frame"):
        localization(CONFIG, evaluation_of(tiny_run, data, tmp_path))


@pytest.mark.slow
def test_training_brings_the_map_to_the_truth_and_is_kept(tiny_run: Path, quarters: Path, tmp_path: Path) -> None:
    config = replace(
        CONFIG, supervised=True, epochs=8, batch_size=16, device_batch_size=16,
        optim=replace(CONFIG.optim, lr=5e-3), max_gain_db=0.0,
    )  # fmt: skip
    run = evaluation_of(tiny_run, quarters, tmp_path)
    before = {name: p.clone() for name, p in run.loaded.model.named_parameters()}
    start = localization(CONFIG, run).scores["fixed rule"]["auc"].mean
    result = localization(config, run)
    assert result.mode == "supervised transfer"
    assert result.scores["fixed rule"]["auc"].mean > max(start, 45)
    assert all(torch.equal(p, before[name]) for name, p in run.loaded.model.named_parameters())
    localizer, notes = load_localizer(str(tmp_path / "task" / "seed-0"))
    assert (localizer.encoding, notes["profile"], notes["window_s"]) == ("together", "paper", "1.0")
    again = localization(config, run)  # nothing is left to train
    assert again.scores == result.scores
    with pytest.raises(ConfigError, match="holds a run with other settings: temperature"):
        localization(replace(config, temperature=0.5), run)
    with pytest.raises(ConfigError, match="not a localizer"):
        load_localizer(tiny_run)


def test_the_loss_counts_only_what_is_known() -> None:
    logits, truth = torch.randn(2, 2, 2), torch.zeros(2, SIDE, SIDE)
    both = pixel_loss(logits, truth, torch.tensor([1.0, 0.0]))
    assert both == pytest.approx(float(pixel_loss(logits[:1], truth[:1], torch.ones(1))))
    assert pixel_loss(logits, truth, torch.zeros(2)) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"maps": "sparse"}, "unknown maps 'sparse'; known: pooled, dense"),
        ({"maps": "dense", "supervised": True}, "dense maps are zero-shot. Set maps=pooled"),
        ({"encoding": "apart"}, "unknown encoding 'apart'; known: together, alone"),
        ({"truth": "hearsay"}, "unknown truth 'hearsay'; known: auto, masks, boxes"),
        ({"temperature": 0.0}, "temperature=0"),
        ({"data": replace(DATA, windows=3)}, "has one window, its own"),
        ({"data": replace(DATA, mode="image")}, "needs both modalities"),
    ],
)
def test_settings_that_cannot_be(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **changes)
