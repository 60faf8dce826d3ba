import argparse
import hashlib
import os
import pickle
import re
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avmanifest.errors import AvkitError, CheckpointError, ConfigError
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.evaluate.loading import load_pretrained
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.weights.convert import convert, read_published
from avmodel.weights.deepavfusion import config_from_released, import_deepavfusion, model_from_released
from avmodel.weights.files import read_weights
from avmodel.weights.published import identify, published_files
from avmodel.weights.starting import start_from_weights
from tests.families import masks_for
from tests.runs import TINY

SMALL = replace(
    TINY, size="48x2x4", image_size=(64, 48), audio_size=(32, 48), num_aggr_image_tokens=3, decoder_embed_dim=32,
    image_mask_ratio=0.75,
)  # fmt: skip
TOLD = {
    name: getattr(SMALL, name)
    for name in ("size", "num_fusion_tokens", "num_aggr_image_tokens", "num_aggr_audio_tokens", "decoder_num_heads")
}


def vit_state(in_chans: int, dim: int = 48, depth: int = 2, grid: int = 12) -> dict[str, Tensor]:
    """An MAE-style checkpoint: encoder, class token and decoder, with the published names."""
    torch.manual_seed(in_chans)
    shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, grid + 1, dim),
        "patch_embed.proj.weight": (dim, in_chans, 16, 16),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
        "mask_token": (1, 1, 32),
        "decoder_pos_embed": (1, grid + 1, 32),
        "decoder_embed.weight": (32, dim),
        "decoder_blocks.0.norm1.weight": (32,),
        "decoder_pred.bias": (768,),
    }
    for i in range(depth):
        for name, rows, columns in (
            ("attn.qkv", 3 * dim, dim),
            ("attn.proj", dim, dim),
            ("mlp.fc1", 4 * dim, dim),
            ("mlp.fc2", dim, 4 * dim),
        ):
            shapes[f"blocks.{i}.{name}.weight"] = (rows, columns)
            shapes[f"blocks.{i}.{name}.bias"] = (rows,)
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{norm}.weight"] = (dim,)
            shapes[f"blocks.{i}.{norm}.bias"] = (dim,)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def released_names(model: DeepAVFusion) -> dict[str, Tensor]:
    """The state dict as the released code would have saved it."""
    released = {name_of_released(name, model.config.fusion): t.clone() for name, t in model.state_dict().items()}
    if model.config.fusion == "dense":
        for name in [name for name in released if name.endswith("attn.kv.weight")]:
            released[name] = torch.cat(released[name].chunk(2, dim=1)[::-1], dim=1)
    return released


def name_of_released(ours: str, fusion: str) -> str:
    image, audio = ("aud", "img") if fusion == "token" else ("img", "aud")
    name = re.sub(r"^(image|audio)_decoder\.", r"\1_decoder_", ours)
    for new, old in (
        ("positions", "pos_embed"),
        ("norm_fusion", "norm1_mm"),
        ("norm_image", f"norm1_{image}"),
        ("norm_audio", f"norm1_{audio}"),
        ("aggregate_image", "attn_v"),
        ("aggregate_audio", "attn_a"),
    ):
        name = name.replace(new, old)
    return name


def model_of(config: DeepAVFusionConfig) -> DeepAVFusion:
    torch.manual_seed(0)
    return DeepAVFusion(config)


@pytest.mark.parametrize("nesting", ["model", "state_dict", None])
def test_mae_weights_start_the_image_branch(tmp_path: Path, nesting: str | None) -> None:
    state, path = vit_state(3), tmp_path / "mae.pth"
    torch.save({nesting: state, "epoch": 799, "args": argparse.Namespace(lr=1e-3)} if nesting else state, path)
    model = model_of(SMALL)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = start_from_weights(model, "image", path)
    assert (found.name, found.license.startswith("unknown")) == ("unknown", True)
    for name, tensor in model.state_dict().items():
        released = state.get(name.removeprefix("encoder.image."))
        if name.startswith("encoder.image.") and released is not None:
            assert torch.equal(tensor, released), name
        else:
            assert torch.equal(tensor, before[name]), name
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("audio_init", ["released", "aligned"])
def test_audiomae_kernels_are_turned_only_when_aligned(tmp_path: Path, audio_init: str) -> None:
    state, path = vit_state(1), tmp_path / "audiomae.pth"
    torch.save({"model": state}, path)
    model = model_of(replace(SMALL, audio_init=audio_init))
    positions = model.encoder.audio.positions.clone()
    start_from_weights(model, "audio", path)
    kernel = state["patch_embed.proj.weight"]
    expected = kernel.transpose(-1, -2) if audio_init == "aligned" else kernel
    assert torch.equal(model.encoder.audio.patch_embed.proj.weight, expected)
    assert torch.equal(model.encoder.audio.positions, positions)


def test_an_aligned_patch_sees_what_audiomae_saw(tmp_path: Path) -> None:
    """A (frequency, time) patch through our kernel equals its transpose through AudioMAE's."""
    state, path = vit_state(1), tmp_path / "audiomae.pth"
    torch.save(state, path)
    model = model_of(replace(SMALL, audio_init="aligned"))
    start_from_weights(model, "audio", path)
    log_mel = torch.randn(1, 1, 32, 48)
    ours = model.encoder.audio.patch_embed(log_mel).view(1, 2, 3, 48)
    theirs = torch.nn.functional.conv2d(
        log_mel.transpose(-1, -2), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16
    )
    torch.testing.assert_close(ours, theirs.permute(0, 3, 2, 1), atol=1e-4, rtol=1e-4)


def test_an_image_mae_starts_the_audio_branch_by_the_sum_of_its_colors(tmp_path: Path) -> None:
    path = tmp_path / "mae.pth"
    torch.save({"model": vit_state(3)}, path)
    model = model_of(SMALL)
    start_from_weights(model, "audio", path)
    expected = vit_state(3)["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.encoder.audio.patch_embed.proj.weight.data, expected)


def test_weights_of_another_branch_or_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mae.pth"
    torch.save({"model": vit_state(1)}, path)
    with pytest.raises(ConfigError, match=r"patch_embed.proj.weight is \[48, 1, 16, 16\], expected \[48, 3, 16, 16\]"):
        start_from_weights(model_of(SMALL), "image", path)
    torch.save({"model": vit_state(3, depth=3)}, path)
    with pytest.raises(ConfigError, match=r"12 of \d+ weights don't fit: encoder.image.blocks.2.*is not of this model"):
        start_from_weights(model_of(SMALL), "image", path)
    torch.save({"model": {k: v for k, v in vit_state(3).items() if k != "norm.bias"}}, path)
    with pytest.raises(ConfigError, match=r"mae\.pth: not a published ViT: 'norm\.bias' is missing"):
        start_from_weights(model_of(SMALL), "image", path)
    torch.save({"model": vit_state(3, depth=1)}, path)
    with pytest.raises(
        ConfigError, match=r"mae\.pth: 8 of .*encoder\.image\.blocks\.1\.\S+ is missing.* set model\.size"
    ):
        start_from_weights(model_of(SMALL), "image", path)


@pytest.mark.parametrize("fusion", ["factorized", "dense", "token"])
@pytest.mark.parametrize("layers", ["all", (1,)])
def test_released_checkpoints_come_back_whole(tmp_path: Path, fusion: str, layers: str | tuple[int, ...]) -> None:
    config = replace(SMALL, fusion=fusion, fusion_layers=layers, fusion_attn_ratio=0.5, fusion_mlp_ratio=2.0)
    model, path = model_of(config), tmp_path / "checkpoint_latest.pth"
    torch.save({"state_dict": released_names(model)}, path)
    imported, found = import_deepavfusion(path, accept_unknown=True, **TOLD)
    assert imported.config == config
    assert found.name == "unknown"
    assert imported.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(t, imported.state_dict()[name]) for name, t in model.state_dict().items())
    assert {n for n, p in imported.named_parameters() if p.requires_grad} == {n for n, _ in model.named_parameters()}
    image, log_mel = torch.randn(2, 3, 64, 48), torch.randn(2, 1, 32, 48)
    outputs = [m(image, log_mel, masks_for(m, 2)) for m in (model, imported)]
    assert torch.equal(outputs[0].losses["total"], outputs[1].losses["total"])


@pytest.mark.parametrize(
    "config",
    [
        DeepAVFusionConfig(),
        DeepAVFusionConfig(fusion_attn_ratio=1.0, fusion_mlp_ratio=4.0),
        DeepAVFusionConfig(size="tiny", fusion="dense", fusion_layers=(9, 10, 11)),
        DeepAVFusionConfig(size="small", fusion_layers=()),
    ],
)
def test_the_config_of_the_usual_models_needs_no_help(config: DeepAVFusionConfig) -> None:
    with torch.device("meta"):
        state = released_names(DeepAVFusion(config))
    sized = DeepAVFusion(replace(config, size=f"{config.vit.embed_dim}x1x{config.vit.num_heads}", fusion_layers=()))
    for modality in ("image", "audio"):
        name = f"encoder.{modality}.pos_embed"
        state[name] = sized.state_dict()[f"encoder.{modality}.positions"]
    assert config_from_released(state, Path("released.pth")) == config


def test_a_released_state_dict_with_a_hole_or_a_stranger_is_refused() -> None:
    state = released_names(model_of(SMALL))
    hole = {name: t for name, t in state.items() if name != "encoder.fusion_blocks.1.attn.k.bias"}
    with pytest.raises(ConfigError, match=r"attn\.k\.bias is missing"):
        model_from_released(hole, Path("x.pth"), **TOLD)
    with pytest.raises(ConfigError, match="stranger is not of this model"):
        model_from_released({**state, "stranger": torch.zeros(1)}, Path("x.pth"), **TOLD)
    with pytest.raises(ConfigError, match=r"x.pth: not a DeepAVFusion state dict: .*patch_embed.* is missing"):
        model_from_released(vit_state(3), Path("x.pth"))
    with pytest.raises(ConfigError, match="not the sine-cosine of any grid"):
        model_from_released({**state, "encoder.image.pos_embed": torch.zeros(1, 12, 48)}, Path("x.pth"), **TOLD)
    with pytest.raises(ConfigError, match=r"unknown model\.fusion_impl"):
        model_from_released(state, Path("x.pth"), **{**TOLD, "fusion_impl": "fast"})


def test_an_unknown_file_needs_explicit_acceptance(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_latest.pth"
    torch.save({"state_dict": released_names(model_of(SMALL))}, path)
    with pytest.raises(ConfigError, match=rf"{path.stat().st_size} bytes, sha256 [0-9a-f]{{64}}.*accept_unknown"):
        import_deepavfusion(path)


def test_files_are_known_by_size_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_latest.pth"
    path.write_bytes(b"weights")
    known = next(p for p in published_files() if p.name == "deepavfusion-vggsound")
    right = replace(known, size_bytes=7, sha256=hashlib.sha256(b"weights").hexdigest())
    assert identify(path, [replace(right, size_bytes=8), right]) == right
    assert identify(path, [replace(right, sha256=known.sha256)]).name == "unknown"
    assert identify(path, [replace(right, size_bytes=8)]).name == "unknown"
    by_md5 = replace(right, size_bytes=None, sha256=None, md5_prefix=hashlib.md5(b"weights").hexdigest()[:6])
    assert identify(path, [replace(by_md5, md5_prefix="000000"), by_md5]) == by_md5


class RunsCode:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_code_is_refused_unrun(tmp_path: Path, zipped: bool) -> None:
    path, trap = tmp_path / "evil.pth", tmp_path / "trap"
    if zipped:
        torch.save({"state_dict": {"w": torch.zeros(1)}, "hook": RunsCode(trap)}, path)
    else:
        path.write_bytes(pickle.dumps({"hook": RunsCode(trap)}, protocol=2))
    with pytest.raises(ConfigError, match="would run code from the file"):
        read_weights(path)
    assert not trap.exists()


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    pointer = tmp_path / "pointer.pth"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:51\nsize 1282543933\n")
    with pytest.raises(ConfigError, match="Git LFS pointer"):
        read_weights(pointer)
    with pytest.raises(ConfigError, match="no such file"):
        read_weights(tmp_path / "missing.pth")
    for read in (read_weights, read_published):
        with pytest.raises(ConfigError, match=r"is a folder\. .*A run of avkit needs no conversion"):
            read(tmp_path)
    empty = tmp_path / "empty.pth"
    empty.touch()
    with pytest.raises(ConfigError, match=r"empty.pth"):
        read_weights(empty)
    torch.save({"lr": 0.1}, tmp_path / "no_state.pth")
    with pytest.raises(ConfigError, match="no state dict"):
        read_weights(tmp_path / "no_state.pth")
    whole = tmp_path / "whole.pth"
    torch.save({"model": vit_state(3)}, whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="no readable weights"):
        read_weights(cut)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match="no readable weights"):
        read_weights(tmp_path / "cut.safetensors")


def test_a_damaged_file_is_named_whatever_the_damage(tmp_path: Path) -> None:
    path, refused = tmp_path / "damaged.pth", 0
    for zipped in (True, False):
        torch.save({"model": {"w": torch.zeros(3)}}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for position in range(0, min(len(whole), 300), 2):
            path.write_bytes(whole[:position] + b"\x00" + whole[position + 1 :])
            with warnings.catch_warnings(action="ignore"):
                try:
                    read_weights(path)
                except (ConfigError, CheckpointError) as error:
                    assert "damaged.pth" in str(error)
                    refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "name",
    [
        "module.encoder.norm.weight", "_orig_mod.encoder.norm.weight", "model.encoder.norm.weight",
        "module._orig_mod.encoder.norm.weight", "_orig_mod.module.model.encoder.norm.weight",
        "model.module.encoder._orig_mod.norm.weight", "module.model._orig_mod.module.encoder.norm.weight",
    ],
)  # fmt: skip
def test_safetensors_and_wrapped_names_are_read(tmp_path: Path, name: str) -> None:
    save_file({name: torch.ones(3)}, tmp_path / "w.safetensors")
    torch.save({"model": {name: torch.ones(3)}}, tmp_path / "w.pth")
    torch.save({"epoch": 3, "model": {"state_dict": {name: torch.ones(3)}}}, tmp_path / "nested.pth")
    for path in tmp_path.iterdir():
        assert list(read_weights(path)) == ["encoder.norm.weight"]


def test_a_file_that_contains_itself_is_refused(tmp_path: Path) -> None:
    loop: dict[str, object] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    with pytest.raises(ConfigError, match="no state dict"):
        read_weights(tmp_path / "loop.pth")


def test_two_weights_of_one_name_are_refused(tmp_path: Path) -> None:
    torch.save({"norm.bias": torch.ones(3), "module.norm.bias": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"'norm.bias' and 'module.norm.bias' are both 'norm.bias'"):
        read_weights(tmp_path / "w.pth")


def test_numbers_of_numpy_beside_the_weights_are_read_and_its_objects_are_not(tmp_path: Path) -> None:
    beside = {"best": np.float64(0.31), "acc": np.float32(2), "epoch": np.int64(7), "done": np.bool_(1)}
    torch.save({"model": {"w": torch.ones(2)}, **beside}, tmp_path / "w.pth")
    assert list(read_weights(tmp_path / "w.pth")) == ["w"]
    with zipfile.ZipFile(tmp_path / "w.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for entry in new.infolist():
            old.writestr(entry, new.read(entry).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert list(read_weights(tmp_path / "old.pth")) == ["w"], "as numpy 1 wrote them"
    hook = np.array([RunsCode(tmp_path / "trap")], object)
    torch.save({"model": {"w": torch.ones(2)}, "hook": hook}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="would run code from the file"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_give_the_same_model(tmp_path: Path, dtype: torch.dtype) -> None:
    model = model_of(SMALL)
    path = tmp_path / "half.pth"
    torch.save({"state_dict": {f"module.{name}": t.to(dtype) for name, t in released_names(model).items()}}, path)
    imported, _ = import_deepavfusion(path, accept_unknown=True, **TOLD)
    assert imported.config == SMALL
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(imported.state_dict()[name], tensor.to(dtype).float())


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    weights = vit_state(3)
    weights["blocks.1.attn.proj.bias"][2] = torch.nan
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(AvkitError, match=r"blocks\.1\.attn\.proj\.bias"):
        start_from_weights(model_of(SMALL), "image", tmp_path / "w.pth")


def test_every_published_file_states_license_and_identity() -> None:
    found = published_files()
    assert {"deepavfusion-vggsound", "deepavfusion-audioset", "audiomae-vit-b", "mae-vit-b"} <= {p.name for p in found}
    for known in found:
        assert known.license and known.source
        assert known.sha256 or known.md5_prefix


def test_a_converted_file_is_a_checkpoint_that_says_what_it_heard(tmp_path: Path) -> None:
    model = model_of(SMALL)
    with torch.no_grad():
        model.get_parameter("encoder.fusion_norm.bias").add_(1)
        model.get_parameter("encoder.fusion_blocks.0.norm2.bias").add_(1)
    torch.save({"state_dict": released_names(model)}, tmp_path / "released.pth")
    settings = [f"{name}={value}" for name, value in TOLD.items()]
    with pytest.raises(ConfigError, match="not a released DeepAVFusion checkpoint"):
        convert(tmp_path / "released.pth", tmp_path / "out.safetensors", settings=settings)
    found = convert(tmp_path / "released.pth", tmp_path / "out.safetensors", accept_unknown=True, settings=settings)
    assert found.name == "unknown"
    loaded = load_pretrained(tmp_path / "out.safetensors", torch.device("cpu"))
    assert (loaded.profile, loaded.window_s) == ("released", 3.0)
    assert loaded.origin["license"].startswith("unknown")
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in loaded.model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "released.pth"]


def test_weights_that_are_not_finite_are_not_converted(tmp_path: Path) -> None:
    model = model_of(SMALL)
    with torch.no_grad():
        model.get_parameter("encoder.fusion_norm.bias")[2] = torch.nan
    torch.save({"state_dict": released_names(model)}, tmp_path / "released.pth")
    settings = [f"{name}={value}" for name, value in TOLD.items()]
    with pytest.raises(CheckpointError, match=r"not finite: encoder\.fusion_norm\.bias \(1 value\)"):
        convert(tmp_path / "released.pth", tmp_path / "out.safetensors", accept_unknown=True, settings=settings)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("out", "settings", "said"),
    [
        ("out.pth", (), "give a name ending in .safetensors"),
        ("there.safetensors", (), "is there already"),
        ("out.safetensors", ("speed=3",), "--set 'speed=3': expected key=value with one of"),
        ("out.safetensors", ("patch_size=big",), "patch_size='big' is not a whole number"),
    ],
)
def test_conversions_that_cannot_be_are_refused(tmp_path: Path, out: str, settings: tuple[str, ...], said: str) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"")
    torch.save({"state_dict": released_names(model_of(SMALL))}, tmp_path / "released.pth")
    with pytest.raises(ConfigError, match=re.escape(said)):
        convert(tmp_path / "released.pth", tmp_path / out, accept_unknown=True, settings=settings)
