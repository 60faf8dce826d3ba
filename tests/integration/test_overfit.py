"""Every named run, its model made tiny, learns 64 drawn pairs by heart: sounds find pictures, pictures sounds."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import RunConfig
from avmodel.distributed import World
from avmodel.fit import take_step
from avmodel.inputs import to_inputs
from avmodel.models import build_model, family_of
from avmodel.models.family import Family
from avmodel.optim import set_lr
from avmodel.presets import presets, run_config
from avmodel.train import pretraining
from tests.families import SIZES
from tests.learnable import drawn_pairs

HERE = World(0, 1, torch.device("cpu"))
PAIRS = 64
STEPS = 100  # most
TINY = SIZES | {"size": "32x2x4", "image_size": (24, 24), "audio_size": (16, 32)}
CROSSMAE: dict[str, Any] = {"feature_decoder_depth": 1}
CAV_MAE: dict[str, Any] = {"contrast_weight": 1.0}  # 0.01 and 0.1 take many times the steps


def tiny(name: str, steps: int, lr: float = 1e-2) -> RunConfig:
    run = run_config(name)
    changes = TINY | {"crossmae": CROSSMAE, "cavmae": CAV_MAE, "cavmae_sync": CAV_MAE}.get(family_of(run.model), {})
    optim = OptimConfig(optimizer=run.optim.optimizer, lr=lr, warmup=0.1, ramp=0.0, weight_decay=0.0, clip_grad=1.0)
    model = replace(run.model, **changes)
    return replace(
        run, model=model, optim=optim, batch_size=PAIRS, device_batch_size=PAIRS, steps=steps, precision="float32",
        compile="none", device="cpu",
    )  # fmt: skip


def trained(run: RunConfig, *, until_recalled: bool = True) -> tuple[Family, dict[str, float]]:
    """The model after at most the run's steps on the same pairs, and its last losses."""
    torch.manual_seed(0)
    model = build_model(run.model)
    objective = pretraining(run, model, HERE)
    assert run.steps is not None
    for step in range(run.steps):
        for optimizer in objective.optimizers:
            set_lr(optimizer, run.optim, peak_lr=run.optim.peak_lr(PAIRS), done=step / run.steps)
        batch = replace(drawn_pairs(PAIRS), epoch=step)
        taken = take_step(objective, [batch], HERE)
        if until_recalled and step % 10 == 9 and recall_at_1(model) == (100, 100):
            break
    return model, taken.read()[0]


@torch.no_grad()
def recall_at_1(model: Family) -> tuple[float, float]:
    """Percent of sounds that find their picture first, and of pictures their sound; a tie counts as a miss."""
    model.eval()
    streams = model.encode(*to_inputs(drawn_pairs(PAIRS), HERE.device))
    model.train()
    image, audio = (F.normalize(streams[name].vector, dim=1) for name in ("image", "audio"))
    cosines = audio @ image.T
    there, back = (
        100 * float(((side >= side.diagonal().unsqueeze(1)).sum(dim=1) == 1).float().mean())
        for side in (cosines, cosines.T)
    )
    return there, back


def distinct() -> list[str]:
    """The runs whose loss compares pairs and that still differ when all are tiny, as sizes and starts don't."""
    compared = [name for name in reversed(presets()) if getattr(run_config(name).model, "contrast_weight", 0) > 0]
    return sorted({tiny(name, 1).model: name for name in compared}.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", distinct())
def test_each_sound_finds_its_picture_and_back(name: str) -> None:
    model, losses = trained(tiny(name, STEPS))
    assert recall_at_1(model) == (100, 100), losses


@pytest.mark.slow
def test_without_contrast_the_senses_do_not_meet_but_patches_are_predicted() -> None:
    """SelfMAE has no loss between the senses: its patches, normalized, become better than their means, which cost 1."""
    model, losses = trained(tiny("self-mae", STEPS), until_recalled=False)
    assert losses["image"] < 0.9
    assert losses["audio"] < 0.9
    assert max(recall_at_1(model)) < 30
