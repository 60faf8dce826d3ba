"""Names of published models where a path is expected: small files of the published forms, on a server on loopback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import avkit as package
from avcli.main import app
from avmanifest.errors import ConfigError
from avmodel.apply import apply, load, task_config
from avmodel.apply.refusals import require_trained
from avmodel.evaluate.loading import load_pretrained
from avmodel.models.cavmae import CAVMAE
from avmodel.registry.entries import VARIABLE, entries
from avmodel.registry.fetch import here, models_folder
from avmodel.registry.named import located
from avmodel.weights.cavmae import import_cav_mae
from avmodel.weights.own_run import start_from_model
from avmodel.weights.starting import start_from_weights
from tests.drawn_windows import drawn_windows
from tests.serving import FileServer, serving
from tests.shards import CLASSES
from tests.unit.avmodel.weights.test_released import cav_mae_file
from tests.unit.avmodel.weights.test_released_classifiers import tuned_cav_mae
from tests.unit.avmodel.weights.test_starting import CAV_MAE, published

CPU = torch.device("cpu")
KINDS = {
    "vit.pth": {"starts": ["image_weights"]},
    "whole.pth": {"family": "cavmae"},
    "tuned.pth": {"family": "cavmae", "classes": "table", "mode": "audio-visual"},
}


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    """Building the first model on the meta device imports torch's compiler, which is no test's time."""
    import torch._dynamo  # noqa: F401


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    root = tmp_path_factory.mktemp("served")
    torch.save({"model": published(3, 12)}, root / "vit.pth")
    cav_mae_file(root / "whole.pth")
    tuned_cav_mae(root / "tuned.pth")
    rows = [f'{number},/m/{number},"{name}"' for number, name in enumerate(CLASSES)]
    (root / "classes.csv").write_text("\n".join(["index,mid,display_name", *rows]) + "\n")
    with serving(root) as server:
        yield server


@pytest.fixture(autouse=True)
def lists(served: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tiny-vit, tiny-whole and tiny-tuned can be had; nothing is here; the working folder is empty."""
    lines = []
    for file, kind in KINDS.items():
        values: dict[str, Any] = {"title": f"Tiny {file}", "url": f"{served.url}/{file}", "page": "x", "file": file}
        values |= {"licence": "CC-BY-4.0 (us)", **kind}
        if "classes" in kind:
            values["classes_url"] = f"{served.url}/classes.csv"
        lines += [f"[tiny-{Path(file).stem}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    (tmp_path / "models.toml").write_text("\n".join(lines) + "\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "models.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def avkit(*words: str) -> str:
    ended = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_a_model_that_is_not_here_is_never_downloaded_unasked(served):
    asked = len(served.requests)
    with pytest.raises(
        ConfigError, match=r"start=tiny-whole: this published model .*CC-BY-4.0.* avkit download tiny-whole"
    ):
        located("tiny-whole", "start")
    with pytest.raises(ConfigError, match="avkit download tiny-whole"):
        load_pretrained("tiny-whole", CPU)
    assert len(served.requests) == asked


def test_a_near_miss_is_answered_and_other_texts_are_paths():
    with pytest.raises(ConfigError, match=r"no such path, and no published model .*did you mean tiny-whole"):
        located("tiny-hole")
    for text in ("runs/first", "nowhere", "tiny-whole.pth", "weights/tiny-hole"):
        assert located(text) == Path(text)


def test_a_local_path_of_the_name_comes_first():
    Path("tiny-whole").mkdir()
    assert located("tiny-whole") == Path("tiny-whole")


def test_a_vit_starts_the_branch_that_it_is_for():
    avkit("download", "tiny-vit")
    torch.manual_seed(0)
    named, from_path = CAVMAE(CAV_MAE), CAVMAE(CAV_MAE)
    found = start_from_weights(named, "image", "tiny-vit")
    assert (found.name, found.license) == ("tiny-vit", "CC-BY-4.0 (us)"), "known by the hash of its first download"
    start_from_weights(from_path, "image", models_folder() / "tiny-vit" / "vit.pth")
    kernel = "encoder.image.patch_embed.proj.weight"
    assert torch.equal(named.state_dict()[kernel], from_path.state_dict()[kernel])
    with pytest.raises(ConfigError, match=r"audio_weights=tiny-vit: .* does not start this branch. It starts image_w"):
        start_from_weights(named, "audio", "tiny-vit")
    with pytest.raises(ConfigError, match="It is a whole model: set start=tiny-whole"):
        start_from_weights(named, "image", "tiny-whole")
    with pytest.raises(ConfigError, match="the ViT of one modality, no whole model"):
        load_pretrained("tiny-vit", CPU)


def test_missing_weights_of_a_named_run_say_what_downloads_them():
    model = CAVMAE(CAV_MAE)
    with pytest.raises(ConfigError, match="avkit download mae-vit-b-full --to weights Or train from scratch"):
        start_from_weights(model, "image", "weights/mae_pretrain_vit_base_full.pth")


def test_a_whole_model_is_loaded_and_started_from_by_its_family():
    avkit("download", "tiny-whole", "--to", "weights")
    file = Path("weights/whole.pth")
    expected = import_cav_mae(file)[0].state_dict()
    loaded = load_pretrained("tiny-whole", CPU)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.folder == Path("runs/tiny-whole"), "results go where runs are"
    assert loaded.origin["published"] == "tiny-whole"
    assert (loaded.profile, loaded.fit, loaded.origin["license"]) == ("kaldi", "short-side-crop", "CC-BY-4.0 (us)")
    assert "cavmae" in repr(package.load_model("tiny-whole", device="cpu"))
    assert load_pretrained(file, CPU).origin["sha256"] == loaded.origin["sha256"], "its path is known by the hash"
    fresh = CAVMAE(loaded.model.config)
    start_from_model(fresh, "tiny-whole")
    assert torch.equal(fresh.state_dict()["encoder.joint_norm.weight"], expected["encoder.joint_norm.weight"])
    with pytest.raises(ConfigError, match="weights don't fit"):
        start_from_model(CAVMAE(CAV_MAE), "tiny-whole")


def test_a_fine_tuned_model_classifies_by_its_name(tmp_path):
    avkit("download", "tiny-tuned")
    require_trained(Path("tiny-tuned"), "finetune")
    for _ in range(2):  # the second finds what the first converted
        model = load("classify", "tiny-tuned", task_config("classify", device="cpu", window_s=0.5))
    apply(model, drawn_windows(model.window_config), tmp_path / "out")
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())["labels"]
    assert {entry["label"] for entry in labels} == set(CLASSES)
    assert sorted(path.name for path in (models_folder() / "tiny-tuned").iterdir()) == [
        "tuned.classes.csv", "tuned.classifier", "tuned.pth",
    ]  # fmt: skip
    assert load_pretrained("tiny-tuned", CPU).model.config == load_pretrained("tiny-tuned", CPU).model.config


def test_what_a_pretrained_model_was_not_trained_for_says_the_command():
    avkit("download", "tiny-whole")
    with pytest.raises(
        ConfigError, match=r"tiny-whole: a pretrained model, .*avkit evaluate finetune tiny-whole --data"
    ):
        require_trained(Path("tiny-whole"), "finetune")
    Path("runs/tiny-whole/evaluations/finetune/seed-0").mkdir(parents=True)
    require_trained(Path("tiny-whole"), "finetune")


def test_convert_takes_names_and_downloads_only_if_asked(served):
    refused = CliRunner().invoke(app, ["convert", "tiny-whole", "--out", "ours.safetensors"])
    assert isinstance(refused.exception, ConfigError)
    avkit("convert", "tiny-whole", "--out", "ours.safetensors", "--download")
    assert here(entries()["tiny-whole"]) is not None
    assert load_pretrained("ours.safetensors", CPU).origin["license"]
    avkit("download", "tiny-tuned")
    avkit("convert", "tiny-tuned", "--out", "tuned")
    assert Path("tuned/checkpoints").is_dir()
    refused = CliRunner().invoke(app, ["convert", "tiny-vit", "--out", "vit.safetensors", "--download"])
    assert "nothing to convert" in str(refused.exception)


def test_the_command_says_what_it_did():
    words = ["download", "tiny-whole"]
    first, second = (CliRunner().invoke(app, words) for _ in range(2))
    assert first.stdout.strip() == str(models_folder() / "tiny-whole" / "whole.pth")
    assert "downloaded" in first.stderr and "no page states its hash" in first.stderr
    assert "licence: CC-BY-4.0 (us)" in first.stderr
    assert "was here already" in second.stderr and "no page states" not in second.stderr
    facts = json.loads(CliRunner().invoke(app, [*words, "--offline", "--json"]).stdout)
    assert facts["was_there"] and not facts["first_hash"] and len(facts["sha256"]) == 64
    line = next(line for line in avkit("models").splitlines() if line.startswith("tiny-whole"))
    assert line.split()[-1] == "yes"
