"""cIoU by both rules: on maps small enough to count by hand, and what maps without a model score on all of VGG-SS."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import auc
from torch import Tensor

from avdata.boxes import boxes_in
from avmanifest.lists import read_requests
from avmanifest.recipe import load_recipe
from avmodel.evaluate.localization.scores import (
    RULES,
    SIDE,
    SUCCESSES,
    best_ciou,
    boxes_map,
    center_prior,
    ciou_scores,
    consensus_map,
    pointed_at,
    rule_scores,
    sample_ciou,
)

VGGSS = Path(__file__).parents[5] / "shared" / "data" / "meta" / "vggss" / "vggss.json"
CHUNK = 32


def mean_scores(values: list[Tensor]) -> dict[str, float]:
    return {name: round(score, 2) for name, score in ciou_scores(torch.cat(values)).items()}


def test_trivial_maps_score_on_listed_boxes_as_by_definition(tmp_path: Path) -> None:
    """A made list in VGG-SS's format; edges are multiples of a side's half, so that no pixel is cut."""
    listed = [
        {"file": f"{'abc'[place] * 11}_000010", "class": "hail", "bbox": [box]}
        for place, box in enumerate([[0, 0, 0.5, 1], [0, 0, 0.5, 0.5], [0, 0, 1, 1]])
    ]
    (tmp_path / "vggss.json").write_text(json.dumps(listed))
    table = read_requests(load_recipe("vgg-ss"), tmp_path / "vggss.json", ["test"])
    boxes = [
        [(box.x0, box.y0, box.x1, box.y1) for box in boxes_in(text, 0, 1)]
        for text in table.column("annotations").to_pylist()
    ]
    truth = torch.stack([boxes_map(found) for found in boxes])
    assert truth.mean(dim=(1, 2)).tolist() == [0.5, 0.25, 1.0]
    whole = sample_ciou(torch.ones_like(truth).bool(), truth)
    assert whole.tolist() == [0.5, 0.25, 1.0]
    assert mean_scores([whole])["ciou"] == 66.67
    best = best_ciou(truth)["median"]
    assert best.tolist() == pytest.approx([1.0, 0.5, 0.5], abs=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not VGGSS.exists(), reason="needs VGG-SS's boxes")
def test_maps_that_know_nothing_score_on_vggss_as_measured_before() -> None:
    listed = read_requests(load_recipe("vgg-ss"), VGGSS, ["test"]).column("annotations").to_pylist()
    boxes = [[(box.x0, box.y0, box.x1, box.y1) for box in boxes_in(text, 0, 1)] for text in listed]
    truth = torch.stack([boxes_map(found).bool() for found in boxes])
    for place, entry in list(enumerate(json.loads(VGGSS.read_text())))[::20]:
        assert torch.equal(boxes_map(entry["bbox"]).bool(), truth[place])
    assert (len(truth), int((~truth.flatten(1).any(dim=1)).sum())) == (5158, 2)
    center = pointed_at(center_prior().unsqueeze(0), torch.zeros(1, SIDE, SIDE), "median")
    whole: list[Tensor] = []
    prior: list[Tensor] = []
    best: list[Tensor] = []
    for chunk in truth.split(CHUNK):
        maps = chunk.float()
        whole.append(sample_ciou(torch.ones_like(chunk), maps))
        prior.append(sample_ciou(center.expand_as(chunk), maps))
        best.append(best_ciou(maps)["median"])
    assert mean_scores(whole) == {"ciou": 21.95, "auc": 31.25}
    assert mean_scores(prior) == {"ciou": 33.95, "auc": 37.43}
    assert mean_scores(best) == {"ciou": 50.54, "auc": 49.47}
    generator = torch.Generator().manual_seed(0)
    chunks = truth[::8].split(CHUNK)
    drawn = [rule_scores(torch.rand(len(t), 14, 14, generator=generator), t.float())["median"] for t in chunks]
    random = mean_scores(drawn)
    assert random["ciou"] < 0.5
    assert random["auc"] == pytest.approx(21.67, abs=0.7)  # of an eighth of the clips


def test_boxes_are_cut_to_the_image_and_to_whole_pixels() -> None:
    found = boxes_map([[-0.5, 0.25, 0.5, 0.5], [0.25, 0.25, 0.5, 2.0]])
    assert found.shape == (SIDE, SIDE)
    assert found.sum() == 112 * 56 + 56 * 112
    assert found.max() == 1
    assert boxes_map([[0.5, 0.875, 0.75, -2.9e16]]).sum() == 0
    assert boxes_map([[0.0, 0.0, 0.0089, 1.0]]).sum() == SIDE  # 1.99 pixels are one


def test_annotators_agree_or_count_half() -> None:
    found = consensus_map([[0, 0, 128, 256], [0, 0, 128, 128], [0, 0, 128, 128], [3, 0, 5, 3]])
    assert found[200, 10] == 0.5
    assert found[10, 10] == 1
    assert found[10, 112] == 0
    single = consensus_map([[3, 0, 5, 3]])
    assert single.nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]  # 2.6 to 4.4, 0 to 2.6


def test_the_rules_are_metrics_of_their_own() -> None:
    scores = torch.zeros(1, 4, 4)
    scores[0, 0] = torch.tensor([1.0, 0.9, 0.1, 0.2])
    truth = torch.zeros(1, 4, 4)
    truth[0, 0, 1:] = torch.tensor([0.5, 1.0, 1.0])
    assert pointed_at(scores, truth, "fixed")[0].nonzero().tolist() == [[0, 0], [0, 1]]
    assert pointed_at(scores, truth, "median")[0].nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert pointed_at(scores, truth, "adaptive")[0].nonzero().tolist() == [[0, 0], [0, 1], [0, 3]]
    assert not pointed_at(scores, torch.zeros(1, 4, 4), "adaptive").any()
    ramp = torch.arange(16.0).reshape(1, 4, 4)
    assert int(pointed_at(ramp, truth, "median").sum()) == 7  # above the upper of the middle two
    for rule in RULES:
        assert torch.equal(pointed_at(-5 + 3 * scores, truth, rule), pointed_at(scores, truth, rule))
        assert not pointed_at(torch.full((1, 4, 4), 0.3), truth, rule).any()


def test_ciou_weighs_by_the_truth_and_by_what_has_none() -> None:
    truth = torch.zeros(2, 2, 2)
    truth[0] = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    found = torch.tensor([[[True, False], [True, False]]]).expand(2, 2, 2)
    assert sample_ciou(found, truth).tolist() == pytest.approx([1 / (1.5 + 1), 0])
    lonely = torch.tensor([[[0.5, 0.0], [0.0, 0.0]]])  # one annotator's single pixel
    assert sample_ciou(lonely > 0, lonely).tolist() == [1]
    assert sample_ciou(torch.zeros(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2)).tolist() == [0]


def test_scores_are_the_share_found_and_the_area_under_it() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    values[0] = 0.5
    found = ciou_scores(values)
    shares = [(values.double() >= threshold).double().mean() for threshold in SUCCESSES]
    assert found["ciou"] == pytest.approx(100 * float((values >= 0.5).float().mean()))
    assert found["auc"] == pytest.approx(100 * auc(SUCCESSES, shares))
    assert ciou_scores(torch.ones(3)) == {"ciou": 100, "auc": pytest.approx(100)}
    assert ciou_scores(torch.zeros(3)) == {"ciou": 0, "auc": pytest.approx(2.5)}


def test_no_map_without_equal_values_beats_the_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.stack([boxes_map([[0.1, 0.2, 0.5, 0.6]]), boxes_map([[0, 0, 0.9, 0.9]]), torch.zeros(SIDE, SIDE)])
    bound = best_ciou(truth)
    assert bound["median"].tolist() == pytest.approx([90 * 90 / 25088, 25088 / (201 * 201), 0], abs=0.01)
    slope = 1e-3 * torch.rand(3, SIDE, SIDE, generator=generator)
    for found in (torch.rand(3, 7, 7, generator=generator), truth + slope):
        scores = rule_scores(found, truth)
        for rule in RULES:
            assert (scores[rule] <= bound[rule] + 1e-4).all()
    assert scores["median"].tolist() == pytest.approx(bound["median"].tolist(), abs=1e-3)
    flat = rule_scores(truth, truth)
    for rule in ("fixed", "adaptive"):
        assert flat[rule].tolist() == bound[rule].tolist() == [1, 1, 0]
    assert flat["median"][0] == 1  # the box alone is above the median
