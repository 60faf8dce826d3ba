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
    with pytest.raises(ConfigError, match=r"unknown run 'vggsound'; avkit runs lists all "):
        run_config("vggsound")


@pytest.mark.parametrize(
    ("name", "peak", "warmup_epochs"),
    [
        ("pretrain deepavfusion", 3e-4, 40),
        ("pretrain deepavfusion-audioset", 1.2e-3, 40),
        ("pretrain crossmae", 3e-4, 3),
        ("linear-probe released", 1.2, 10),
        ("linear-probe audioset", 0.6, 20),
        ("linear-probe supplement", 1e-4, 0),
        ("finetune released", 6e-4, 20),
        ("finetune audioset", 6e-4, 20),
        ("finetune supplement", 1e-4, 0),
        ("segmentation s4", 4e-4, 20),
        ("segmentation ms3", 4e-4, 20),
        ("segmentation avss", 4e-4, 20),
        ("segmentation supplement", 1e-4, 0),
        ("separation released", 6e-4, 40),
        ("separation supplement", 1e-4, 0),
        ("localization supervised", 1e-4, 0),
    ],
)
def test_a_recipe_comes_to_the_rate_and_warm_up_that_is_printed(name: str, peak: float, warmup_epochs: int) -> None:
    command, preset = name.split()
    config = run_config(preset) if command == "pretrain" else task_config(command, preset)
    optim = getattr(config, "optim", config)
    found = optim.peak_lr(config.batch_size) if hasattr(optim, "peak_lr") else config.base_lr * config.batch_size / 256
    assert found == pytest.approx(peak)
    assert optim.warmup * config.epochs == pytest.approx(warmup_epochs)


@pytest.mark.parametrize(
    ("task", "preset"),
    [
        ("linear-probe", "supplement"),
        ("finetune", "supplement"),
        ("segmentation", "supplement"),
        ("separation", "supplement"),
        ("localization", "supervised"),
    ],
)
def test_the_supplement_is_one_recipe_in_all_tasks(task: str, preset: str) -> None:
    config = task_config(task, preset)
    optim = getattr(config, "optim", config)
    assert config.batch_size == 128
    assert {schedule(done, optim.warmup, optim.drops) for done in (0.0, 0.5, 0.99)} == {1.0}
    assert optim.weight_decay == 0
    if task in ("linear-probe", "finetune"):
        assert (config.epochs, config.head_streams) == (50, ("audio", "image"))


def test_rates_halve_from_the_tenth_epoch_every_five() -> None:
    for name, epochs in (("avsiam-b", 20), ("cavmae", 25)):
        optim = run_config(name).optim
        rates = [schedule(epoch / epochs, optim.warmup, optim.drops, optim.drop_factor) for epoch in (0, 9, 10, 14, 15)]
        assert rates == [1, 1, 0.5, 0.5, 0.25]


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
