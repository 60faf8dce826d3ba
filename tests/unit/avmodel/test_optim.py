"""Parameter groups and learning rates, against the released recipe's published numbers."""

import math
from dataclasses import replace

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.configs.optim import OptimConfig
from avmodel.models import build_model
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.optim import layer_id, make_optimizer, parameter_groups, ramp_factor, schedule, set_lr
from tests.runs import FAMILY_RUNS, TINY

SMALL = replace(TINY, size="32x3x4")


@pytest.fixture(scope="module")
def base() -> DeepAVFusion:
    with torch.device("meta"):
        return DeepAVFusion(DeepAVFusionConfig())


def numel(groups: list[dict], *, ramped: bool, decayed: bool) -> int:
    chosen = [g for g in groups if g["ramped"] == ramped and (g["weight_decay"] > 0) == decayed]
    return sum(p.numel() for g in chosen for p in g["params"])


@pytest.mark.parametrize(
    ("epoch", "lr", "ramped_lr"),
    [
        (1, 7.5e-6, 1.85e-9),
        (20, 1.5e-4, 1.43e-5),
        (40, 3.0e-4, 1.04e-4),
        (80, 2.56e-4, 2.32e-4),
        (100, 2.07e-4, 2.07e-4),
        (150, 6.67e-5, 6.67e-5),
    ],
)
def test_learning_rates_of_the_released_run(epoch: int, lr: float, ramped_lr: float) -> None:
    config = OptimConfig()
    model = DeepAVFusion(SMALL)
    optimizer = make_optimizer(model, config, ["image", "audio"])
    peak = config.peak_lr(512)
    assert peak == pytest.approx(3e-4)
    assert set_lr(optimizer, config, peak_lr=peak, done=epoch / 200) == pytest.approx(lr, rel=4e-3)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(ramped_lr if group["ramped"] else lr, rel=4e-3)


def test_group_sizes_of_the_released_model(base: DeepAVFusion) -> None:
    groups = parameter_groups(base, OptimConfig(), ["image", "audio"])
    image, audio = (parameter_groups(getattr(base.encoder, modality), OptimConfig()) for modality in ("image", "audio"))
    assert numel(groups, ramped=False, decayed=True) == pytest.approx(149.1e6, rel=5e-4)
    assert numel(groups, ramped=False, decayed=False) == pytest.approx(0.30e6, rel=2e-2)
    assert numel(image, ramped=False, decayed=True) == pytest.approx(85.52e6, rel=1e-4)
    assert numel(image, ramped=False, decayed=False) == pytest.approx(0.12e6, rel=5e-2)
    assert numel(audio, ramped=False, decayed=True) == pytest.approx(85.13e6, rel=1e-4)
    assert numel(groups, ramped=True, decayed=True) == numel(image, ramped=False, decayed=True) + numel(
        audio, ramped=False, decayed=True
    )


def test_every_parameter_is_in_one_group(base: DeepAVFusion) -> None:
    for config in (OptimConfig(), OptimConfig(layer_decay=0.75)):
        grouped = [id(p) for g in parameter_groups(base, config, ["image"]) for p in g["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(p) for p in base.parameters() if p.requires_grad}


def test_layer_decay_has_28_groups(base: DeepAVFusion) -> None:
    groups = parameter_groups(base, OptimConfig(layer_decay=0.75))
    assert len(groups) == 28
    scales = sorted({g["lr_scale"] for g in groups})
    assert scales == pytest.approx([0.75**k for k in range(13, -1, -1)])
    assert scales[0] == pytest.approx(0.0238, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.image.patch_embed.proj.weight", 0),
        ("encoder.fusion_tokens", 0),
        ("encoder.image.blocks.0.norm1.weight", 1),
        ("encoder.fusion_blocks.11.attn.q.weight", 12),
        ("encoder.audio.norm.weight", 13),
        ("encoder.fusion_norm.bias", 13),
        ("image_decoder.blocks.3.norm1.weight", 13),
    ],
)
def test_layer_id(name: str, expected: int) -> None:
    assert layer_id(name, 13) == expected


def test_tokens_and_decoder_positions_are_decayed_and_norms_are_not() -> None:
    model = DeepAVFusion(SMALL)
    decayed = {id(p) for g in parameter_groups(model, OptimConfig()) if g["weight_decay"] > 0 for p in g["params"]}
    assert id(model.encoder.fusion_tokens) in decayed
    assert id(model.image_decoder.mask_token) in decayed
    assert id(model.image_decoder.positions) in decayed
    assert id(model.encoder.fusion_norm.weight) not in decayed
    assert id(model.image_decoder.pred.bias) not in decayed


def test_schedule_ends_at_zero_and_peaks_at_the_end_of_warmup() -> None:
    assert schedule(0.0, 0.2) == 0.0
    assert schedule(0.2, 0.2) == 1.0
    assert schedule(1.0, 0.2) == pytest.approx(0.0, abs=1e-15)
    assert schedule(0.0, 0.0) == 1.0
    assert schedule(1.0, 1.0) == 1.0


def test_the_cosine_may_end_above_zero() -> None:
    assert [schedule(done, 0.1, floor=0.1) for done in (0.05, 0.1, 1.0)] == pytest.approx([0.5, 1.0, 0.1])
    assert schedule(0.55, 0.1, floor=0.1) == pytest.approx(0.55)  # half way between 1 and 0.1
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr_scale": 1.0, "ramped": False}], lr=0.0)
    assert set_lr(optimizer, OptimConfig(lr=2.0, warmup=0.1, floor=0.1), peak_lr=2.0, done=1.0) == pytest.approx(0.2)
    assert ramp_factor(0.0, 0.0) == 1.0
    assert ramp_factor(0.25, 0.5) == pytest.approx(0.5)
    assert math.isclose(ramp_factor(0.5, 0.5), 1.0)


def test_an_impossible_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.warmup=1\.5: must be from 0 to 1"):
        OptimConfig(warmup=1.5)
    with pytest.raises(ConfigError, match=r"optim\.lr=nan"):
        OptimConfig(lr=math.nan)


def test_a_given_lr_is_not_scaled() -> None:
    assert OptimConfig(lr=1e-3).peak_lr(4096) == 1e-3


def test_drops_take_the_place_of_the_cosine() -> None:
    """AVSiam's rate: constant, halved from epoch 10 of 20 every five epochs."""
    drops = (0.5, 0.75)
    assert [schedule(epoch / 20, 0.0, drops) for epoch in (0, 9, 10, 14, 15, 19)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [schedule(done, 0.1, ()) for done in (0.05, 0.1, 0.9)] == [0.5, 1, 1]
    with pytest.raises(ConfigError, match=r"optim\.drops=1\.5: must be from 0 to 1"):
        OptimConfig(drops=(0.5, 1.5))


def test_adam_adds_its_weight_decay_to_the_gradient() -> None:
    model = DeepAVFusion(SMALL)
    assert type(make_optimizer(model, OptimConfig(optimizer="adam"))) is torch.optim.Adam
    assert type(make_optimizer(model, OptimConfig())) is torch.optim.AdamW
    with pytest.raises(ConfigError, match=r"unknown optim\.optimizer 'sgd'; known: adamw, adam"):
        OptimConfig(optimizer="sgd")


@pytest.mark.parametrize("name", ["avsiam", "cavmae", "cavmae-sync", "crossmae"])
def test_layers_of_every_family_are_numbered_from_their_inputs(name: str) -> None:
    model = build_model(FAMILY_RUNS[name]["model"])
    found = {name: layer_id(name, 9) for name, _ in model.named_parameters()}
    first = {name for name, layer in found.items() if layer == 0}
    assert first >= {"encoder.image.patch_embed.proj.weight", "encoder.audio.patch_embed.proj.bias"}
    assert all(name.startswith("encoder.") for name in first)
    assert first >= {name for name in found if name.startswith("encoder.") and name.endswith(("_token", "_tokens"))}
    blocks = {layer for name, layer in found.items() if "blocks.0." in name and name.startswith("encoder.")}
    assert blocks <= {1, 9}
    assert {found[name] for name in found if "decoder" in name or "joint" in name or "norm." in name} >= {9}
