"""`avkit evaluate` as a user types it: tables, files, refusals, and several processes."""

import json
from pathlib import Path

import pytest
import torch

from avmodel.checkpoint import save_weights
from avmodel.distributed import join_world
from avmodel.evaluate.config import EvalConfig
from avmodel.evaluate.data import one_view, open_split
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.loading import load_pretrained
from avmodel.models.deepavfusion import DeepAVFusion
from tests.dense import quarter_mask
from tests.evaluating import DATA, TEST, draw_splits, save_tiny
from tests.forks import avkit, call, call_together
from tests.runs import TINY

FAST = {
    "linear-probe": ["epochs=2", "train_views=1", "batch_size=8"],
    "finetune": ["epochs=1", "batch_size=8", "device_batch_size=8", "data.windows=1"],
    "knn": [],
    "retrieval": ["gallery=2-per-class"],
    "localization": [],
    "segmentation": ["epochs=1", "batch_size=8", "device_batch_size=8", "repeats=1", "examples=1"],
    "separation": ["epochs=1", "batch_size=8", "device_batch_size=8", "num_mixtures=2", "oracles=false", "rpca=false"],
    "embed": ["picture=pca"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a dataset side by side."""
    root = tmp_path_factory.mktemp("evaluate")
    save_tiny(root / "run")
    draw_splits(root / "set", flac=True, mask=quarter_mask)
    return root


def words(place: Path, task: str, *more: str) -> list[str]:
    settings = ["device=cpu", "data.num_workers=0", "random_weights=false", *FAST[task]]
    pairs = [word for setting in settings for word in ("--set", setting)]
    return ["evaluate", task, str(place / "run"), "--data", str(place / "set"), *pairs, *more]


@pytest.mark.slow
@pytest.mark.parametrize("task", FAST)
def test_each_task_says_what_it_found_and_keeps_it(place: Path, tmp_path: Path, task: str) -> None:
    assert call(avkit, *words(place, task), log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    folder = place / "run" / "evaluations" / task
    found = json.loads((folder / "results.json").read_text())
    assert found["line"] in said.replace("\n", " ") or found["line"] in said
    assert found["data"]["test"]["split"] == "drawn/test"
    assert len(found["checkpoint"]["sha256"]) == 64
    assert found["view"]["windows"] == 1
    assert "Traceback" not in said
    assert "Warning" not in said
    if task in ("localization", "segmentation"):
        assert {"results.json", "examples.html"} <= {path.name for path in folder.iterdir()}
        assert "center prior" in said
    if task == "separation":
        assert {"results.json", "examples.html", "mixtures.json", "seed-0"} <= {path.name for path in folder.iterdir()}
        assert "NMF" in said
        assert "dB" in found["line"]
    if task in ("linear-probe", "finetune", "knn"):
        assert "chance" in said
        assert "majority" in said
        assert {"confusion.png", "classes.png", "results.json"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_json_is_the_whole_output(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "knn"
    assert call(avkit, *words(place, "knn", "--json", "--out", str(out)), log=tmp_path / "log") == 0
    text = (tmp_path / "log").read_text()
    assert json.loads(text[text.index("{") :])["scores"] == json.loads((out / "results.json").read_text())["scores"]


@pytest.mark.slow
def test_one_of_several_processes_says_what_was_found(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "knn"
    asked = words(place, "knn", "--json", "--out", str(out))
    assert call_together(avkit, *asked, log=tmp_path / "log") == [0, 0]
    first, second = ((tmp_path / f"log.{rank}").read_text() for rank in range(2))
    assert json.loads(first[first.index("{") :])["scores"] == json.loads((out / "results.json").read_text())["scores"]
    assert "{" not in second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "guess", "RUN", "--data", "SET"], "unknown task 'guess'; known: linear-probe, finetune"),
        (["evaluate", "knn", "RUN"], "--data is missing"),
        (["evaluate", "knn", "RUN", "--data", "SET", "--set", "data.test_split=val"], "no split 'val'"),
        (["evaluate", "knn", "RUN", "--data", "SET", "--preset", "best"], "unknown preset 'best' of knn; known:"),
        (["evaluate", "knn", "HALF", "--data", "SET"], "its fusion weights are as initialized"),
        (["evaluate", "knn", "SET/dataset.json", "--data", "SET"], "not a .safetensors file"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(place: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    half = tmp_path / "half.safetensors"
    torch.manual_seed(0)
    save_weights(half, DeepAVFusion(TINY), TINY)
    names = {"RUN": place / "run", "SET": place / "set", "HALF": half}
    filled = [str(names.get(word, word)).replace("SET/", f"{place / 'set'}/") for word in arguments]
    code = call(avkit, *filled, log=tmp_path / "log")
    text = (tmp_path / "log").read_text()
    assert code == 2, text
    assert said in text
    assert text.startswith("avkit: ")


def test_explain_has_every_setting_and_the_presets(tmp_path: Path) -> None:
    words = ["evaluate", "linear-probe", "anything", "--preset", "supplement", "--explain"]
    assert call(avkit, *words, log=tmp_path / "log") == 0
    said = (tmp_path / "log").read_text()
    assert "  optimizer=adamw" in said
    assert "  data.windows=1" in said
    assert "presets: released, audioset, supplement" in said


def extract_together(place: Path, out: Path) -> None:
    """One of several processes' part of an extraction."""
    with join_world("cpu") as world:
        loaded = load_pretrained(place / "run", world.device)
        run = Evaluation(loaded=loaded, test=str(place / "set"), train=None, out=out / "task", world=world)
        config = EvalConfig(data=DATA, feature_batch_size=2)
        found = run.features(config, open_split(DATA, run.test, "test"), one_view(DATA, loaded))
        if world.is_main:
            torch.save({"keys": found.keys, **found.values}, out / "features.pt")


@pytest.mark.slow
def test_two_processes_find_the_features_of_one(place: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert call(extract_together, place, tmp_path / "one", log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    codes = call_together(extract_together, place, tmp_path / "two", log=tmp_path / "log2")
    assert codes == [0, 0], (tmp_path / "log2.0").read_text()
    one, two = (torch.load(tmp_path / name / "features.pt", weights_only=True) for name in ("one", "two"))
    assert one["keys"] == two["keys"]
    assert len(one["keys"]) == TEST
    for name in ("image", "audio", "fusion"):
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5)
