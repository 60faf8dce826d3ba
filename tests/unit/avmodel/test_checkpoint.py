import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avmanifest.errors import AvkitError, CheckpointError, ConfigError, DivergedError
from avmodel.checkpoint import load_model, load_trainer_state, read_weights, save_checkpoint, save_weights
from avmodel.checkpoint_folder import (
    LATEST_FILE,
    MODEL_FILE,
    TRAINER_FILE,
    checkpoints_in,
    latest_checkpoint,
    place_of,
    point_latest_to,
)
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
        (metadata(format_version="3"), "checkpoint format '3'; this version reads '1' and '2'"),
        (metadata(config="{"), "config cannot be used"),
        (metadata(config='{"widht": 3}'), "unknown widht; known: .*image_size"),
        (metadata(config='{"size": 5}'), "config cannot be used"),
        (metadata(config='{"size": "giant"}'), "unknown model.size 'giant'"),
        (metadata(config="[1]"), "config cannot be used"),
    ],
)
def test_weights_that_make_no_model(tmp_path: Path, given: dict[str, str], message: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file(model_of().state_dict(), path, metadata=given)
    with pytest.raises(ConfigError, match=message):
        load_model(path)


def test_weights_of_another_size_than_their_config_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    other = json.dumps(asdict(replace(SMALL, size="48x2x4")))
    save_file(model_of().state_dict(), path, metadata=metadata(config=other))
    with pytest.raises(CheckpointError, match=r"do not fit its own config: .*weights don't fit"):
        load_model(path)


@pytest.mark.parametrize("part", ["header", "weights"])
def test_no_flipped_bit_of_the_weights_is_loaded(tmp_path: Path, part: str) -> None:
    file = save_checkpoint(tmp_path, 1, model_of(), SMALL, {"step": 1}) / MODEL_FILE
    whole = file.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    chance = np.random.default_rng(0)
    places = chance.integers(*((0, begin) if part == "header" else (begin, len(whole))), 60)
    for place, bit in zip(places.tolist(), chance.integers(0, 8, 60).tolist(), strict=True):
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load_model(tmp_path)


def test_no_flipped_bit_of_the_trainers_state_is_loaded(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, 1, model_of(), SMALL, {"step": 1, "moments": torch.ones(100)}) / TRAINER_FILE
    whole = file.read_bytes()
    for place in range(0, len(whole), 37):
        changed = bytearray(whole)
        changed[place] ^= 16
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"trainer\.pt: its content differs"):
            load_trainer_state(tmp_path)


def test_a_checkpoint_of_an_earlier_version_loads_and_says_that_it_has_no_hashes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = tmp_path / "step-00000003"
    saved.mkdir()
    save_file(model_of().state_dict(), saved / MODEL_FILE, metadata=metadata(step="3"))
    torch.save({"step": 3}, saved / TRAINER_FILE)
    (tmp_path / LATEST_FILE).write_text(f"{saved.name}\n")
    assert same_weights(load_model(tmp_path)[0], model_of())
    assert load_trainer_state(tmp_path) == {"step": 3}
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "written by an earlier avkit, without hashes: damage in it cannot be seen."
    ]


@pytest.mark.parametrize("hidden", ["content_sha256", "trainer_sha256"])
def test_a_hash_that_was_taken_out_is_missed(tmp_path: Path, hidden: str) -> None:
    saved = save_checkpoint(tmp_path, 1, model_of(), SMALL, {"step": 1})
    weights, notes = read_weights(saved / MODEL_FILE)
    del notes[hidden]
    save_file(weights, saved / MODEL_FILE, metadata=notes)
    with pytest.raises(CheckpointError):
        (load_model if hidden == "content_sha256" else load_trainer_state)(saved)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path, value: float) -> None:
    model = model_of()
    save_checkpoint(tmp_path, 1, model, SMALL, {})
    with torch.no_grad():
        model.encoder.image.blocks[0].norm1.bias[3] = value
    bad = r"1 of \d+ weights are not finite: encoder\.image\.blocks\.0\.norm1\.bias \(1 value\)"
    with pytest.raises(DivergedError, match=f"step 2: {bad}"):
        save_checkpoint(tmp_path, 2, model, SMALL, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]
    save_weights(tmp_path / "m.safetensors", model, SMALL)
    with pytest.raises(CheckpointError, match=bad):
        load_model(tmp_path / "m.safetensors")


def test_whole_numbers_are_no_weights_and_short_floats_are_lengthened(tmp_path: Path) -> None:
    model = model_of()
    save_weights(tmp_path / "int.safetensors", {n: t.int() for n, t in model.state_dict().items()}, SMALL)
    with pytest.raises(CheckpointError, match=r"is torch\.int32, expected torch\.float32"):
        load_model(tmp_path / "int.safetensors")
    save_weights(tmp_path / "half.safetensors", {n: t.half() for n, t in model.state_dict().items()}, SMALL)
    loaded = load_model(tmp_path / "half.safetensors")[0]
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("content", [b"", b"id,label\n", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(60)])
def test_a_file_that_is_no_weights_is_misuse(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"not a \.safetensors file"):
        load_model(tmp_path / "m.safetensors")


def test_every_so_many_steps_a_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step in range(1, 9):
        save_checkpoint(tmp_path, step, model_of(step), SMALL, {}, keep=2, keep_every=3)
    assert [place_of(path)[0] for path in checkpoints_in(tmp_path)] == [3, 6, 7, 8]


def test_checkpoints_after_the_latest_are_not_counted_among_the_newest(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save_checkpoint(tmp_path, step, model_of(step), SMALL, {})
    point_latest_to(tmp_path / "step-00000002")
    save_checkpoint(tmp_path, 3, model_of(3), SMALL, {}, keep=2)
    assert [place_of(path)[0] for path in checkpoints_in(tmp_path)] == [2, 3, 4, 6]


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
