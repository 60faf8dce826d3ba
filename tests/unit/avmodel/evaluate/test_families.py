"""The tasks know no family: what they do on models that encode each sense alone, and hear whole clips."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from avmanifest.errors import ConfigError
from avmodel.checkpoint import save_checkpoint
from avmodel.evaluate.data import open_split, open_splits, ordered_loader, scoring_view
from avmodel.evaluate.features import eval_inputs
from avmodel.evaluate.finetune.classifier import load_classifier
from avmodel.evaluate.finetune.config import FinetuneConfig
from avmodel.evaluate.finetune.task import finetune
from avmodel.evaluate.finetune.training import predict
from avmodel.evaluate.knn.config import KnnConfig
from avmodel.evaluate.knn.task import knn
from avmodel.evaluate.retrieval.config import RetrievalConfig
from avmodel.evaluate.retrieval.task import alone, retrieval
from avmodel.models import FAMILIES, build_model
from avmodel.rundir import CHECKPOINTS
from tests.evaluating import DATA, draw_splits, evaluation_of

SHAPE = {"image_size": (32, 32), "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 4}
STREAMS = {
    "avsiam": {"image", "audio", "joint"},
    "cavmae": {"image", "audio", "joint"},
    "cavmae_sync": {"image", "audio", "joint"},
    "crossmae": {"image", "audio"},
}
NOTES = {"profile": "kaldi", "window_s": "None"}
AROUND = {"cavmae_sync": {"window_s": "4.16", "around_frame": "True"}}  # notes of families that hear parts of clips


@pytest.fixture(scope="module")
def whole_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of whole-clip spectrograms. Not to be changed."""
    return draw_splits(tmp_path_factory.mktemp("whole") / "set", mel=("kaldi",))


@pytest.fixture
def family_run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run's folder with a drawn model of the family."""
    config = FAMILIES[request.param].config_type(size="16x2x2", **SHAPE)
    torch.manual_seed(0)
    notes = NOTES | AROUND.get(request.param, {})
    save_checkpoint(tmp_path / "run" / CHECKPOINTS, 1, build_model(config), config, {"step": 1}, notes=notes)
    return tmp_path / "run"


def test_only_the_families_of_other_tests_are_left_out() -> None:
    assert STREAMS.keys() == FAMILIES.keys() - {"deepavfusion", "mae"}  # mae: tests/unit/avmodel/models/test_mae.py


@pytest.mark.parametrize("family_run", STREAMS, indirect=True)
def test_every_family_is_compared(family_run: Path, whole_clips: Path, tmp_path: Path) -> None:
    run = evaluation_of(family_run, whole_clips, tmp_path)
    streams = STREAMS[run.loaded.origin["family"]]
    neighbors = knn(KnnConfig(data=DATA, device="cpu", random_weights=False), run)
    assert set(neighbors.scores) == {*streams, "all"}
    parts = run.loaded.origin["family"] in AROUND
    assert neighbors.view["window"] == ("4.16 s" if parts else "the whole clip")
    assert neighbors.view.get("around_frame", False) == parts
    ranked = retrieval(RetrievalConfig(data=DATA, device="cpu", random_weights=False), run)
    assert ranked.mode == "zero-shot"


@pytest.mark.slow
@pytest.mark.parametrize("family_run", STREAMS, indirect=True)
def test_every_family_is_tuned(family_run: Path, whole_clips: Path, tmp_path: Path) -> None:
    run = evaluation_of(family_run, whole_clips, tmp_path)
    streams = STREAMS[run.loaded.origin["family"]]
    config = FinetuneConfig(
        data=replace(DATA, frames=2), batch_size=12, device_batch_size=12, epochs=1, mixed=True,
        missing=("audio", "image"), average="probabilities", device="cpu", random_weights=False,
    )  # fmt: skip
    tuned = finetune(config, run)
    assert set(tuned.scores) == {
        *streams, "all", "image, image only", "all, image only", "audio, audio only", "all, audio only",
    }  # fmt: skip
    assert tuned.view["frames"] == 2


@pytest.mark.parametrize("family_run", ["avsiam"], indirect=True)
def test_whole_clips_have_no_windows(family_run: Path, whole_clips: Path, tmp_path: Path) -> None:
    run = evaluation_of(family_run, whole_clips, tmp_path)
    with pytest.raises(ConfigError, match=r"data.windows=10: 'kaldi' spectrograms are of whole clips"):
        knn(KnnConfig(data=replace(DATA, windows=10), device="cpu"), run)


@pytest.mark.parametrize("family_run", ["cavmae_sync"], indirect=True)
def test_windows_around_frames_are_compared_frame_by_frame(family_run: Path, whole_clips: Path, tmp_path: Path) -> None:
    run = evaluation_of(family_run, whole_clips, tmp_path)
    with pytest.raises(ConfigError, match=r"data.windows=10: the model hears windows around frames"):
        knn(KnnConfig(data=replace(DATA, windows=10), device="cpu"), run)
    config = RetrievalConfig(data=replace(DATA, frames=2), compare="paired", device="cpu", random_weights=False)
    split = open_split(config.data, whole_clips, "test", labeled=False)
    pairs = alone(config, run, split)
    loader = ordered_loader(
        config.data, split, scoring_view(config.data, run.loaded), run.world, batch_size=len(split.dataset), seed=0
    )
    inputs = eval_inputs(next(iter(loader)), run.world.device)
    with torch.no_grad():
        each = {
            "image": run.loaded.model.encode(inputs.image, None)["image"].vector,
            "audio": run.loaded.model.encode(None, inputs.log_mel)["audio"].vector,
        }
    count = len(split.dataset)
    image, audio = (F.normalize(each[name].reshape(count, 2, -1), dim=2) for name in ("image", "audio"))
    expected = torch.stack([image[:, frame] @ audio[:, frame].T for frame in range(2)]).mean(dim=0)
    unit = {name: F.normalize(x, dim=1) for name, x in pairs.items()}
    torch.testing.assert_close(unit["image"] @ unit["audio"].T, expected, atol=1e-5, rtol=0)
    assert retrieval(config, run).view["around_frame"]
    tuned = replace(config, tuned=True, epochs=1, batch_size=12, device_batch_size=12)
    assert retrieval(tuned, run).view["window"] == "4.16 s"
    with pytest.raises(ConfigError, match="compare=paired with align=linear"):
        replace(config, align="linear")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family_run", "heads", "mixed"), [("avsiam", "concat", True), ("cavmae", "joint", False)], indirect=["family_run"]
)
def test_published_heads_are_tuned_and_tested_with_a_modality_missing(
    family_run: Path, heads: str, mixed: bool, whole_clips: Path, tmp_path: Path
) -> None:
    run = evaluation_of(family_run, whole_clips, tmp_path)
    config = FinetuneConfig(
        data=replace(DATA, frames=2, fit="squash"), batch_size=12, device_batch_size=12, epochs=1, heads=heads,
        head_norm="layer", joint_lr=10.0, head_lr=100.0, mixed=mixed, missing=("audio", "image"), average="sigmoids",
        device="cpu", random_weights=False,
    )  # fmt: skip
    tuned = finetune(config, run)
    first = {"concat": "both", "joint": "joint"}[heads]
    rows = {first, "all"} | {f"all, {mode} only" for mode in ("audio", "image")}
    rows |= {f"{mode if heads == 'concat' else 'joint'}, {mode} only" for mode in ("audio", "image")}
    assert set(tuned.scores) == rows
    assert tuned.view["fit"] == "squash"
    _, test = open_splits(config.data, whole_clips, None)
    classifier, _ = load_classifier(run.out / "seed-0", torch.device("cpu"))
    found = predict(config, classifier, run, test, scoring_view(config.data, run.loaded))
    assert 0 < float(found["all"].min()) < float(found["all"].max()) < 1
    assert not torch.allclose(found["all"].sum(dim=1), torch.ones(len(found["all"])), atol=1e-3)
