import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avmanifest.errors import AvkitError, ConfigError
from avmodel.checkpoint import latest_checkpoint, load_model, load_trainer_state, save_checkpoint, save_weights
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.models.deepavfusion import DeepAVFusion
from tests.families import masks_for

SMALL = DeepAVFusionConfig(
    size="32x2x4",
    image_size=(32, 32),
    audio_size=(32, 48),
    fusion_layers=(1,),
    decoder_embed_dim=16,
    decoder_depth=1,
    decoder_num_heads=4,
    image_mask_ratio=0.5,
)


def model_of(seed: int = 0) -> DeepAVFusion:
    torch.manual_seed(seed)
    return DeepAVFusion(SMALL)


def same_weights(a: DeepAVFusion, b: DeepAVFusion) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[name]) for name, t in ours.items())


def test_model_config_and_trainer_state_come_back(tmp_path: Path) -> None:
    model = model_of()
    optimizer = torch.optim.AdamW(model.parameters())
    batch = (torch.randn(2, 3, 32, 32), torch.randn(2, 1, 32, 48))
    model(*batch, masks_for(model, 2)).losses["total"].backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "loader": {"epoch": 1, "position": 64, "seed": 0, "plan": "ab12"},
        "best": None,
    }
    saved = save_checkpoint(tmp_path, 10, model, SMALL, state)
    assert saved == latest_checkpoint(tmp_path) == tmp_path / "step-00000010"
    for path in (tmp_path, str(tmp_path), saved, saved / "model.safetensors", str(saved / "model.safetensors")):
        loaded, config = load_model(path)
        assert config == SMALL
        assert same_weights(loaded, model)
        assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {n for n, _ in model.named_parameters()}
    back = load_trainer_state(str(tmp_path))
    assert back["loader"] == state["loader"]
    assert torch.equal(back["rng"], state["rng"])
    resumed = torch.optim.AdamW(loaded.parameters())
    resumed.load_state_dict(back["optimizer"])
    # One more step from both gives the same weights: nothing was lost.
    for m, o in ((model, optimizer), (loaded, resumed)):
        o.zero_grad()
        m(*batch, masks_for(m, 2, seed=1)).losses["total"].backward()
        o.step()
    assert same_weights(loaded, model)


def test_latest_follows_and_old_ones_go(tmp_path: Path) -> None:
    for step in range(1, 5):
        save_checkpoint(tmp_path, step, model_of(step), SMALL, {}, keep=2)
        assert latest_checkpoint(tmp_path) == tmp_path / f"step-{step:08d}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000003", "step-00000004"]
    assert same_weights(load_model(tmp_path / "step-00000003")[0], model_of(3))


def test_a_step_saved_again_never_touches_the_first(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path, 7, model_of(1), SMALL, {})
    second = save_checkpoint(tmp_path, 7, model_of(2), SMALL, {})
    assert first != second
    assert same_weights(load_model(tmp_path)[0], model_of(2))
    assert same_weights(load_model(first)[0], model_of(1))
    save_checkpoint(tmp_path, 7, model_of(3), SMALL, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step-00000007-3"]


def test_names_of_wrappers_are_taken_off(tmp_path: Path) -> None:
    model = model_of()
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path, 1, wrapped, SMALL, {})
    assert same_weights(load_model(tmp_path)[0], model)


def test_a_weight_file_alone_is_a_model(tmp_path: Path) -> None:
    save_weights(tmp_path / "m.safetensors", model_of(), SMALL)
    assert same_weights(load_model(tmp_path / "m.safetensors")[0], model_of())


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(2), Path("x"), {1, 2}, object()])
def test_state_that_could_not_be_read_back_is_refused_at_saving(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match=r"trainer_state\['loader'\]\[0\] is a"):
        save_checkpoint(tmp_path / "run", 1, model_of(), SMALL, {"loader": [value]})
    assert not (tmp_path / "run").exists()


def metadata(**changes: str) -> dict[str, str]:
    return {"format_version": "1", "family": "deepavfusion", "config": json.dumps(asdict(SMALL)), **changes}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "weights without a config"),
        (metadata(family="avsima"), "unknown family 'avsima'; known: .*deepavfusion"),
        (metadata(format_version="2"), "checkpoint format '2'; this version reads '1'"),
        (metadata(config="{"), "config cannot be used"),
        (metadata(config='{"widht": 3}'), "unknown widht; known: .*image_size"),
        (metadata(config='{"size": 5}'), "config cannot be used"),
        (metadata(config='{"size": "giant"}'), "unknown size 'giant'"),
        (metadata(config="[1]"), "config cannot be used"),
        (metadata(config=json.dumps(asdict(replace(SMALL, size="48x2x4")))), "weights don't fit"),
    ],
)
def test_weights_that_make_no_model(tmp_path: Path, given: dict[str, str], message: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file(model_of().state_dict(), path, metadata=given)
    with pytest.raises(ConfigError, match=message):
        load_model(path)


def test_missing_checkpoints_and_hostile_pointers(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for load in (load_model, load_trainer_state):
        with pytest.raises(AvkitError, match="no checkpoint here"):
            load(tmp_path)
    save_weights(tmp_path / "model.safetensors", model_of(), SMALL)
    inside = tmp_path / "run"
    inside.mkdir()
    for name in ("..", "/etc", "step-1", "step-00000001"):
        (inside / "latest").write_text(name)
        with pytest.raises(AvkitError, match="no checkpoint in this folder"):
            load_model(inside)
