"""A model with its card, in a folder and on a hub: what is written, what is kept, what is never shown."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import avkit
from avcli.main import app
from avdata.retrying import RetryPolicy
from avdata.store import Store
from avmanifest.errors import ConfigError, StorageError
from avmodel.evaluate.loading import load_pretrained
from avmodel.hub import load_published
from avmodel.publishing import FILES, publish
from avmodel.rundir import CONFIG_FILE, DATA_FILE
from tests.buckets import UnreliableMemory
from tests.evaluating import save_tiny
from tests.hub import Hub, serving_hub
from tests.videos import tree

SETTINGS = {
    "name": "tiny",
    "optim.lr": 1e-3,
    "data.cache_dir": "/home/ann/cache",
    "image_weights": "/home/ann/weights/mae_pretrain_vit_base.pth",
    "audio_weights": "audiomae-vit-b",
    "data.mix": ["https://me:password@host/x.tar?token=abc"],
    "note": "<script>alert(1)</script> | https://me:password@host/x.tar?sig=abc",
}
PART = {"name": "cl*ps", "subset_id": "0123abcd", "samples": 1234, "epoch": 24}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with results of its checkpoint and of another one. Not to be changed."""
    run = save_tiny(tmp_path_factory.mktemp("runs") / "tiny")
    (run / CONFIG_FILE).write_text(json.dumps(SETTINGS))
    (run / DATA_FILE).write_text(json.dumps({"parts": [PART]}))
    sha256 = load_pretrained(run, torch.device("cpu")).origin["sha256"]
    for task, of in (("linear-probe", sha256), ("knn", "0" * 64)):
        score = {"mean": 41.257, "spread": 0.0, "values": [41.257], "interval": [39.0, 43.5]}
        (run / "evaluations" / task).mkdir(parents=True)
        (run / "evaluations" / task / "results.json").write_text(
            json.dumps(
                {
                    "headline": {"row": "all", "metric": "mAP"},
                    "scores": {"image": {"mAP": {**score, "interval": None}}, "all": {"mAP": score}},
                    "data": {"test": {"samples": 300, "split": "clips/test", "subset_id": "89ef"}},
                    "notes": ["/home/ann/sets/clips: 3 training clips show what test clips show"],
                    "checkpoint": {"sha256": of},
                }
            )
        )
    return run


@pytest.fixture
def hub() -> Store:
    """A repository of the hub, as fsspec sees it."""
    memory = UnreliableMemory()
    memory.pipe_file("/me/tiny/.gitattributes", b"*.safetensors filter=lfs")
    return Store("hf://me/tiny", memory, "/me/tiny", RetryPolicy(attempts=2, wait_s=0.0))


def test_a_folder_has_the_model_and_a_card_that_tells_all_and_no_secret(original: Path, tmp_path: Path) -> None:
    target = tmp_path / "published"
    done = publish(original, str(target), license="cc-by-nc-4.0")
    assert sorted(path.name for path in target.iterdir()) == sorted(FILES)
    assert done.written == FILES and done.scored == ("linear-probe",) and done.left_out == ("knn",)
    card = (target / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["library_name"]) == ("cc-by-nc-4.0", "avkit")
    assert "deepavfusion" in head["tags"]
    assert "| **linear-probe** | **all** | **mAP** | 41.26 | 39.00 to 43.50 | 300 |" in card
    assert "| linear-probe | image | mAP | 41.26 | - | 300 |" in card
    assert "- linear-probe: tested on clips/test, subset 89ef; clips: 3 training clips show what" in card
    assert "knn" not in card, "of another checkpoint"
    assert "| cl\\*ps | 1,234 | 0123abcd |" in card
    assert (
        "optim.lr" in card
        and "step 7" in card
        and load_pretrained(original, torch.device("cpu")).origin["sha256"] in card
    )
    assert "MAE ViT-B/16 encoder" in card and "CC-BY-NC-4.0" in card and "AudioMAE ViT-B" in card
    for hidden in ("password", "token=", "sig=abc", "/home/ann", "<script>", str(original.parent)):
        assert hidden not in card + (target / "config.json").read_text(), hidden
    found, own = load_published(target), load_pretrained(original, torch.device("cpu"))
    assert all(torch.equal(value, own.model.state_dict()[name]) for name, value in found.model.state_dict().items())


def test_the_lines_of_the_card_load_the_model(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(original, str(tmp_path / "first"), license="MIT")
    code = (tmp_path / "first" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 7
    monkeypatch.chdir(tmp_path)
    seen: list[str] = []

    class Model:
        def embed(self, clip: str) -> dict[str, Any]:
            seen.append(clip)
            return {}

    load = avkit.load_model
    monkeypatch.setattr(avkit, "load_model", lambda place: (load(place), Model())[1])
    exec(code, {})
    assert seen == ["clip.mp4"]


def test_a_run_without_results_says_so_and_a_licence_in_words_is_kept(tmp_path: Path) -> None:
    run = save_tiny(tmp_path / "run")
    publish(run, str(tmp_path / "out"), license="Ours: ask\nme")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "This checkpoint was not evaluated" in card and "Not recorded" in card
    assert yaml.safe_load(card.split("---\n")[1])["license_name"] == "Ours: ask\nme"


def test_nothing_is_replaced_unless_asked(original: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    publish(original, str(target), license="MIT")
    before = tree(target)
    assert publish(original, str(target), license="MIT").written == ()
    with pytest.raises(ConfigError, match=r"of these names: .*README\.md\. To replace them, give --overwrite"):
        publish(original, str(target), license="cc-by-4.0")
    assert tree(target) == before
    assert "README.md" in publish(original, str(target), license="cc-by-4.0", overwrite=True).written
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt and 0 more files, and no model"):
        publish(original, str(tmp_path / "mine"), license="MIT")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_interrupted_upload_goes_on(original: Path, hub: Store) -> None:
    class Stopped(Exception):
        pass

    def stop(step: str) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        publish(original, "hf:me/tiny", license="MIT", store=hub, say=stop)
    assert set(hub.sizes()) == {".gitattributes", "model.safetensors"}, "the card comes last"
    done = publish(original, "hf:me/tiny", license="MIT", store=hub)
    assert done.written == ("config.json", "README.md")
    hub.filesystem.is_down = lambda path: True
    with pytest.raises(StorageError, match="cannot write"):
        publish(original, "hf:me/tiny", license="cc-by-4.0", store=hub, overwrite=True)


def test_places_and_licences_that_are_none_are_refused(original: Path, tmp_path: Path) -> None:
    for to in ("s3://bucket/x", "https://host/x"):
        with pytest.raises(ConfigError, match="give a folder or hf:USER/NAME"):
            publish(original, to, license="MIT")
    with pytest.raises(ConfigError, match="write a repository as hf:USER/NAME"):
        publish(original, "hf:../x", license="MIT")
    refused = CliRunner().invoke(app, ["publish", str(original), "--to", str(tmp_path / "out")])
    assert "--license is missing" in str(refused.exception)
    assert not (tmp_path / "out").exists()


def test_results_that_are_none_are_named(original: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(original, tmp_path / "run"))
    (run / "evaluations" / "knn" / "results.json").write_text("[")
    with pytest.raises(avkit.AvkitError, match=r"knn/results\.json: not valid JSON"):
        publish(run, str(tmp_path / "out"), license="MIT")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_the_card_has(original: Path, tmp_path: Path) -> None:
    words = ["publish", str(original), "--to", str(tmp_path / "out"), "--license", "MIT"]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    assert "the card has scores of linear-probe" in ended.stdout
    assert "left out, as they are of another checkpoint: knn" in ended.stdout
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["written"] == []


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback, with no model."""
    (tmp_path / "hub" / "me").mkdir(parents=True)
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrst")
    with serving_hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_it_goes_to_the_hub_and_comes_back(original: Path, online: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    done = publish(original, "hf:me/first", license="MIT", private=True, say=said.append)
    assert online.made == {"me/first": True}
    assert online.commits == [[name] for name in FILES], "the card comes last"
    assert done.written == FILES
    assert said[0] == "hf:me/first: made a private repository"
    held = online.root / "me" / "first"
    assert 'avkit.load_model("hf:me/first")' in (held / "README.md").read_text()
    assert all(b"hf_abcdef" not in path.read_bytes() for path in held.iterdir())
    found = load_published("hf:me/first", cache_dir=tmp_path / "cache")
    own = load_pretrained(original, torch.device("cpu"))
    assert all(torch.equal(value, own.model.state_dict()[name]) for name, value in found.model.state_dict().items())
    assert publish(original, "hf:me/first", license="MIT").written == ()
    (held / "README.md").unlink()
    (held / "config.json").unlink()
    assert publish(original, "hf:me/first", license="MIT").written == ("config.json", "README.md")
    with pytest.raises(ConfigError, match=r"hf://me/first: holds other files of these names: .*give --overwrite"):
        publish(original, "hf:me/first", license="cc-by-4.0")


def test_a_hub_that_refuses_says_what_to_do(original: Path, online: Hub) -> None:
    online.is_read_only = True
    with pytest.raises(ConfigError, match=r"does not let you write there\. Log in"):
        publish(original, "hf:me/first", license="MIT")
