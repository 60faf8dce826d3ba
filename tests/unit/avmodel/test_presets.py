"""The named runs, against the published recipes."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from avdata.prepare.config import PrepareConfig, SynthConfig, TableOptions
from avmanifest.errors import ConfigError
from avmanifest.recipe import load_recipe
from avmanifest.settings import declared, value_of
from avmodel.configs.data import DataConfig
from avmodel.configs.deepavfusion import fusion_layer_ids
from avmodel.evaluate.tasks import TASKS, task_config
from avmodel.optim import schedule
from avmodel.presets import describe, presets, run_config


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_run_builds_under_its_name_and_explains_itself(name: str) -> None:
    run = run_config(name)
    assert run.name == name
    text = describe(name)
    command = re.search(r"^avkit pretrain ([a-z0-9-]+) --data \S+", text, re.MULTILINE)
    assert command is not None
    assert command[1] in presets()
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
    assert run.data == DataConfig(split="AS-2M")


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
        "mask-image-50": {"image_mask_ratio": 0.5},
        "mask-audio-90": {"audio_mask_ratio": 0.9},
        "attention-64": {"fusion_attn_ratio": 1.0},
    }.items():
        changed = replace(base, name=f"deepavfusion-{name}", model=replace(base.model, **changes))
        assert run_config(f"deepavfusion-{name}") == changed
    scratch = run_config("deepavfusion-scratch")
    assert scratch.pretrained == []
    assert scratch == replace(base, name="deepavfusion-scratch", image_weights=None, audio_weights=None)


def test_the_width_of_attention_is_that_of_a_head() -> None:
    for channels in (8, 32, 64):
        model = run_config(f"deepavfusion-attention-{channels}").model
        assert model.vit.embed_dim * model.fusion_attn_ratio / model.vit.num_heads == channels


def test_larger_vits_have_patches_that_their_weights_have() -> None:
    sizes = {name: run_config(f"deepavfusion-{name}") for name in ("l", "h")}
    assert {name: (run.model.vit, run.model.patch_size) for name, run in sizes.items()} == {
        "l": ((1024, 24, 16), 16), "h": ((1280, 32, 16), 14),
    }  # fmt: skip
    assert [run.image_weights for run in sizes.values()] == [
        "weights/mae_pretrain_vit_large.pth", "weights/mae_pretrain_vit_huge.pth",
    ]  # fmt: skip
    for run in sizes.values():
        assert run.audio_weights == run.image_weights
        # What a window of 3 s has by the profile.
        assert run.model.audio_size[1] <= 196 < run.model.audio_size[1] + run.model.patch_size


def test_avsiam_is_the_papers_recipe_on_whole_clips() -> None:
    run = run_config("avsiam-b")
    assert (run.epochs, run.batch_size, run.optim.optimizer, run.optim.lr) == (20, 1536, "adam", 1e-4)
    assert (run.optim.betas, run.optim.weight_decay) == ((0.95, 0.999), 5e-7)
    rates = [schedule(epoch / 20, run.optim.warmup, run.optim.drops, run.optim.drop_factor) for epoch in (9, 10, 15)]
    assert rates == [1, 0.5, 0.25]
    model = run.model
    assert model.ratios == ((0.0, 0.125, 0.25, 0.375, 0.5),) * 2
    assert (model.norms, model.stop_gradient, model.decoder_depth, model.double_embed) == (
        "per_modality",
        True,
        6,
        False,
    )
    assert (model.symmetric, model.temperature, model.normalize_targets) == (True, 0.05, False)
    assert (run.data.profile, run.data.window_s) == ("kaldi", None)
    assert (run.augment.roll, round(run.augment.noise / model.mel_std, 6)) == (1024, 0.1)
    assert {name: run_config(name).device_batch_size for name in ("avsiam-b", "avsiam-l", "avsiam-h")} == {
        "avsiam-b": 96, "avsiam-l": 48, "avsiam-h": 24,
    }  # fmt: skip


def test_avsiams_ablations_change_what_their_row_says() -> None:
    base = run_config("avsiam-b")
    for name, changes in {
        "avsiam-nce": {"reconstruction_weight": 0.0},
        "avsiam-nomask": {"reconstruction_weight": 0.0, "mask_ratios": (0.0,)},
        "avsiam-alternate": {"alternate_steps": True},
        **{
            f"avsiam-fixed-{a}-{v}": {
                "reconstruction_weight": 0.0, "mask_ratios": (a / 100,), "image_mask_ratios": (v / 100,)
            }
            for a in (25, 50, 75)
            for v in (25, 50, 75)
        },
    }.items():  # fmt: skip
        assert run_config(name) == replace(base, name=name, model=replace(base.model, **changes))
    large, separate = run_config("avsiam-l"), run_config("avsep-l")
    assert separate == replace(large, name="avsep-l", model=replace(large.model, separate=True))
    assert run_config("avsiam-ast").pretrained == ["audio"]
    assert run_config("avsiam-b-plus") == replace(base, name="avsiam-b-plus")


def test_cav_mae_is_the_released_recipe() -> None:
    run = run_config("cavmae")
    assert (run.epochs, run.batch_size, run.optim.lr, run.optim.drops) == (25, 256, 2e-4, (0.4, 0.6, 0.8))
    model = run.model
    assert (model.contrast_weight, model.temperature, model.symmetric) == (0.01, 0.05, False)
    assert (model.vit.depth - model.joint_depth, model.joint_depth) == (11, 1)
    assert (model.decoder_embed_dim, model.decoder_depth, model.normalize_targets) == (512, 8, True)
    assert run.image_weights == run.audio_weights


def test_crossmae_is_the_papers_where_it_says_and_maes_where_it_does_not() -> None:
    run = run_config("crossmae")
    assert (run.epochs, run.batch_size) == (30, 512)
    assert run.optim.peak_lr(512) == pytest.approx(3e-4)
    assert (run.optim.warmup * run.epochs, run.optim.betas, run.optim.weight_decay) == (3, (0.9, 0.95), 0.05)
    model = run.model
    assert (model.contrast_weight, model.directions, model.mask_ratio) == (0.1, "sum", 0.75)
    assert (model.loss_on, run_config("crossmae-literal").model.loss_on) == ("masked", "visible")
    assert (model.mel_mean, model.mel_std) == (-4.2677393, pytest.approx(2 * 4.5689974, abs=1e-6))
    sizes = {name: run_config(name) for name in ("crossmae-b-256", "crossmae-l-256", "crossmae-l-512")}
    assert [(run.model.size, run.batch_size) for run in sizes.values()] == [
        ("base", 256),
        ("large", 256),
        ("large", 512),
    ]


def test_crossmaes_rows_differ_in_what_the_papers_tables_say() -> None:
    """Tables 1 to 3, 6 and 7: losses, condition, queries. Tokens that condition are of one kind in all."""
    base = run_config("crossmae")
    rows: dict[str, dict[str, object]] = {
        "cl-av": {"reconstruct": False, "predict_features": False},
        "self-mae": {"contrast_weight": 0.0, "condition": "none", "predict_features": False},
        "cl-self-mae": {"condition": "none", "predict_features": False},
        "cl-cross-cdt": {"predict_features": False},
        "cl-cross-emb": {"reconstruct": False},
        "crossmae-condition-zero": {"condition": "zero"},
        "crossmae-condition-random": {"condition": "random"},
        "crossmae-queries-attentive": {"queries": "attentive"},
        "crossmae-queries-empty": {"queries": "empty"},
    }
    for name, changes in rows.items():
        assert run_config(name) == replace(base, name=name, model=replace(base.model, **changes))
    for name in ("crossmae", "cl-cross-cdt"):
        other = replace(run_config(name), name=f"{name}-visible")
        assert run_config(other.name) == replace(other, model=replace(other.model, attentive_source="visible"))


def test_the_settings_of_every_run_are_there_without_torch() -> None:
    code = (
        "import sys\n"
        "from avmanifest.settings import flatten, override\n"
        "from avmodel.presets import presets, run_config\n"
        "for name in presets():\n"
        "    list(flatten(override(run_config(name), ['optim.lr=1e-3'])))\n"
        "print(sorted({'torch', 'timm', 'einops', 'jaxtyping', 'numpy', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "config",
    [
        *(pytest.param(run_config(name), id=f"pretrain {name}") for name in sorted(presets())),
        *(
            pytest.param(task_config(name, preset), id=f"evaluate {name} {preset}")
            for name, task in TASKS.items()
            for preset in task.presets
        ),
        pytest.param(
            PrepareConfig(recipe=load_recipe("synth"), out="out", synth=SynthConfig(), table=TableOptions()),
            id="prepare",
        ),
    ],
)
def test_every_setting_has_a_description(config: object) -> None:
    settings = list(declared(type(config), config=config))
    assert len(settings) > 20
    assert [one.path for one in settings if not one.description.endswith(".")] == []
    for one in settings:
        value = value_of(config, one.path)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        assert not one.listed or set(map(str, values)) <= set(one.listed), one.path
