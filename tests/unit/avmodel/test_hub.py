"""A model as a folder that others load: what is written, what is refused, and the hub."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from avmanifest.errors import AvkitError, CheckpointError, ConfigError, StorageError
from avmodel.apply.refusals import require_trained
from avmodel.checkpoint import CONTENT_SHA256, content_sha256, read_weights
from avmodel.evaluate.loading import load_pretrained
from avmodel.hub import load_published, write_published
from avmodel.models import build_model
from avmodel.registry.hub import fetch_published
from avmodel.registry.named import results_place
from avmodel.rundir import DATA_FILE
from avmodel.weights.own_run import start_from_model
from tests.evaluating import save_tiny
from tests.hub import COMMIT, Hub, serving_hub
from tests.runs import TINY

CPU = torch.device("cpu")
PART = {"name": "clips", "subset_id": "0123abcd", "samples": 24, "epoch": 24}


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's folder with a published model, me/tiny; it is not to be changed."""
    root = tmp_path_factory.mktemp("hub")
    run = save_tiny(root / "run")
    (run / DATA_FILE).write_text(json.dumps({"parts": [PART]}))
    write_published(root / "me" / "tiny", load_pretrained(run, CPU), license="MIT")
    return root


@pytest.fixture
def hub(hub_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub(hub_root) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_published_model_is_the_model_with_all_that_its_run_notes(hub_root: Path) -> None:
    own, found = load_pretrained(hub_root / "run", CPU), load_published(hub_root / "me" / "tiny")
    for name, weight in own.model.state_dict().items():
        assert torch.equal(weight, found.model.state_dict()[name]), name
    for name in ("profile", "window_s", "fit", "around_frame"):
        assert getattr(found, name) == getattr(own, name), name
    assert found.origin["license"] == "MIT"
    assert found.origin["step"] == own.origin["step"] == 7
    assert found.origin["data"] == [PART]
    said = json.loads((hub_root / "me" / "tiny" / "config.json").read_text())
    assert said["library_name"] == "avkit"
    assert said["family"] == "deepavfusion"
    assert said["config"] == json.loads(json.dumps(asdict(TINY)))
    assert not found.model.training


def test_files_that_are_there_are_kept_unless_told(hub_root: Path, tmp_path: Path) -> None:
    loaded = load_pretrained(hub_root / "run", CPU)
    write_published(tmp_path, loaded)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"holds config\.json, model\.safetensors already"):
        write_published(tmp_path, replace(loaded, fit="squash"))
    assert (tmp_path / "config.json").read_bytes() == before
    write_published(tmp_path, replace(loaded, fit="squash"), overwrite=True)
    assert load_published(tmp_path).fit == "squash"


def _rewritten(folder: Path, change: Callable[[dict[str, str]], object], *, rehash: bool) -> None:
    """The weights with other metadata, and a config.json that agrees with it."""
    weights, metadata = read_weights(folder / "model.safetensors")
    change(metadata)
    if rehash:
        metadata[CONTENT_SHA256] = content_sha256(weights, metadata)
    save_file(weights, folder / "model.safetensors", metadata)
    said = {
        "library_name": "avkit",
        **metadata,
        "config": json.loads(metadata["config"]),
        "data": json.loads(metadata["data"]),
    }
    (folder / "config.json").write_text(json.dumps(said))


def _other_config(**changes: Any) -> Callable[[dict[str, str]], object]:
    return lambda noted: noted.update(config=json.dumps({**json.loads(noted["config"]), **changes}))


def _without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def _edited(folder: Path, **changes: Any) -> None:
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **changes}))


def _flipped(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)


def _plain(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "error", "match"),
    [
        (lambda f: _without(f, "config.json"), ConfigError, "not the folder of a published model"),
        (lambda f: _without(f, "model.safetensors"), CheckpointError, "no readable weights"),
        (lambda f: _edited(f, family="cavmae"), ConfigError, "family differ from what model.safetensors"),
        (lambda f: _edited(f, window_s="9.0", fit="squash"), ConfigError, "window_s"),
        (lambda f: (f / "config.json").write_text("[" * 10_000), ConfigError, "config.json"),
        (lambda f: (f / "config.json").write_text("[]"), ConfigError, "expected an object"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04pickle"), CheckpointError, "no readable weights"),
        (_flipped, CheckpointError, "damaged"),
        (_plain, ConfigError, "without a hash"),
        (lambda f: _rewritten(f, _other_config(size="32x3x2"), rehash=False), CheckpointError, "damaged"),
        (lambda f: _rewritten(f, _other_config(size="4x1000000x1"), rehash=True), CheckpointError, "1,000,000 blocks"),
        (lambda f: _rewritten(f, _other_config(decoder_depth=10**9), rehash=True), CheckpointError, "do not fit"),
        (lambda f: _rewritten(f, _other_config(image_size=[8**7] * 2), rehash=True), CheckpointError, "patches"),
        (lambda f: _rewritten(f, _other_config(command="rm"), rehash=True), ConfigError, "unknown command"),
        (lambda f: _rewritten(f, lambda n: n.update(family="__main__"), rehash=True), ConfigError, "unknown family"),
        (lambda f: _rewritten(f, lambda n: n.update(window_s="NaN"), rehash=True), ConfigError, "in place"),
    ],
)  # fmt: skip
def test_folders_of_others_are_checked(
    hub_root: Path, tmp_path: Path, harm: Callable[[Path], object], error: type[AvkitError], match: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((hub_root / "me" / "tiny" / name).read_bytes())
    harm(folder)
    with pytest.raises(error, match=match):
        load_published(folder)


def test_no_pickle_is_read_where_one_lies_beside(hub_root: Path, hub: Hub, tmp_path: Path) -> None:
    (hub_root / "me" / "tiny" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    folder = fetch_published("hf:me/tiny", cache_dir=tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    asked = {path.rpartition("/")[2] for path in hub.requests if "/resolve/" in path}
    assert asked == {"config.json", "model.safetensors"}


def test_a_model_of_the_hub_is_fetched_once_and_then_taken_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    loaded = load_published("hf:me/tiny@v1", cache_dir=tmp_path)
    assert loaded.origin["path"] == "hf:me/tiny"
    assert loaded.origin["commit"] == COMMIT
    fetched = len(hub.requests)
    assert load_published(f"hf:me/tiny@{COMMIT}", cache_dir=tmp_path).origin == loaded.origin
    assert len(hub.requests) == fetched, "a commit never changes, so the server need not be asked"
    hub.is_down = True
    assert load_published("hf:me/tiny@v1", cache_dir=tmp_path).origin == loaded.origin


def test_a_model_of_the_hub_stands_where_a_checkpoint_does(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = Path("hf:me/tiny@v1")
    require_trained(place, None)
    loaded = load_pretrained(place, CPU)
    assert loaded.folder == Path("runs/me--tiny"), "never in the hub's cache"
    assert (loaded.origin["path"], loaded.origin["commit"]) == ("hf:me/tiny", COMMIT)
    assert loaded.origin == load_published(str(place), cache_dir=tmp_path).origin
    assert results_place(place, "finetune") == Path("runs/me--tiny")
    assert results_place(place, None) == place
    with pytest.raises(ConfigError, match="a pretrained model, not one for this task"):
        require_trained(place, "finetune")
    with pytest.raises(ConfigError, match="no such model on the hub"):
        load_pretrained("hf:me/none", CPU)


@pytest.mark.parametrize(
    ("place", "error", "match"),
    [
        ("hf:me/none", ConfigError, "no such model on the hub"),
        ("hf:me/tiny@v9", ConfigError, "no such revision"),
        ("hf:me/bare", ConfigError, "has no config.json"),
        ("hf:me/closed", ConfigError, "access is granted by its owner"),
        ("hf:tiny", ConfigError, "hf:USER/NAME"),
        ("hf:../tiny", ConfigError, "hf:USER/NAME"),
        ("hf:me/tiny@../../x", ConfigError, "hf:USER/NAME@REVISION"),
        ("hf:me/tiny@", ConfigError, "hf:USER/NAME@REVISION"),
    ],
)
def test_what_the_hub_does_not_have_is_said(
    hub_root: Path, hub: Hub, tmp_path: Path, place: str, error: type[AvkitError], match: str
) -> None:
    for name in ("bare", "closed"):
        (hub_root / "me" / name).mkdir(exist_ok=True)
    hub.closed_to = {"me/closed"}
    with pytest.raises(error, match=match):
        load_published(place, cache_dir=tmp_path)


def test_without_a_connection_the_message_says_what_is_missing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match=r"hf:me/tiny: config\.json is not in the cache, and the hub"):
        load_published("hf:me/tiny", cache_dir=tmp_path)


def test_a_run_starts_from_a_model_of_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    published = load_published(f"hf:me/tiny@{COMMIT}", cache_dir=tmp_path).model
    model = build_model(published.config)
    start_from_model(model, Path("hf:me/tiny"))
    for name, tensor in published.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
