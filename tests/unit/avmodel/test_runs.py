"""The named runs, against the published recipes."""

import re
from dataclasses import replace

import pytest

from avmanifest.errors import ConfigError
from avmodel.models.deepavfusion import fusion_layer_ids
from avmodel.runs import RUNS, describe, run_config


@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_run_builds_under_its_name_and_explains_itself(name: str) -> None:
    run = run_config(name)
    assert run.name == name
    text = describe(name)
    command = re.search(r"^avkit pretrain ([a-z0-9-]+) --data \S+", text, re.MULTILINE)
    assert command is not None
    assert command[1] in RUNS
    assert re.search(r"\b(hours|minutes)\b", text)
    assert re.search(r"Numbers|Paper", text)


def test_an_unknown_run_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown run 'vggsound'; known: avsep-l, avsiam-alternate"):
        run_config("vggsound")


def test_the_vggsound_run_is_the_released_recipe() -> None:
    run = run_config("deepavfusion")
    assert (run.epochs, run.steps, run.batch_size) == (200, None, 512)
    assert run.optim.warmup * run.epochs == 40
    assert run.optim.ramp * run.epochs == 100
    assert run.optim.peak_lr(run.batch_size) == pytest.approx(3e-4)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.clip_grad) == ((0.9, 0.95), 0.05, None)
    assert run.optim.layer_decay == 1
    model = run.model
    assert (model.size, model.fusion, model.fusion_layers) == ("base", "factorized", "all")
    assert (model.fusion_attn_ratio, model.fusion_mlp_ratio) == (0.25, 1.0)
    assert model.num_tokens == (16, 8, 8)
    assert (model.image_mask_ratio, model.audio_mask_ratio) == (0.75, 0.8)
    assert (model.decoder_embed_dim, model.decoder_depth, model.decoder_num_heads) == (512, 8, 16)
    assert model.normalize_targets
    assert run.pretrained == ["image", "audio"]
    assert (run.data.window_s, run.data.max_gain_db) == (3.0, 6.0)


def test_the_audioset_run_is_wider_and_has_four_times_the_batch() -> None:
    run = run_config("deepavfusion-audioset")
    assert run.optim.peak_lr(run.batch_size) == pytest.approx(1.2e-3)
    assert run.batch_size == 2048
    assert (run.model.fusion_attn_ratio, run.model.fusion_mlp_ratio) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("none", []),
        ("late", [11]),
        ("mid", [8, 9, 10, 11]),
        ("early", list(range(12))),
        ("layers-1", [11]),
        ("layers-3", [9, 10, 11]),
        ("layers-6", list(range(6, 12))),
        ("layers-9", list(range(3, 12))),
    ],
)
def test_ablations_of_layers_fuse_where_the_paper_says(name: str, layers: list[int]) -> None:
    run = run_config(f"deepavfusion-{name}")
    assert list(fusion_layer_ids(run.model.fusion_layers, 12)) == layers


def test_an_ablation_changes_one_thing() -> None:
    base = run_config("deepavfusion")
    for name, changes in {
        "dense": {"fusion": "dense"},
        "token": {"fusion": "token"},
        "tokens-1": {"num_fusion_tokens": 1},
        "tokens-32": {"num_fusion_tokens": 32},
        "aggregation-4": {"num_aggr_image_tokens": 4, "num_aggr_audio_tokens": 4},
    }.items():
        changed = replace(base, name=f"deepavfusion-{name}", model=replace(base.model, **changes))
        assert run_config(f"deepavfusion-{name}") == changed
    scratch = run_config("deepavfusion-scratch")
    assert scratch.pretrained == []
    assert scratch == replace(base, name="deepavfusion-scratch", image_weights=None, audio_weights=None)
