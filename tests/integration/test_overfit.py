"""Every named run, its model made tiny, learns 64 drawn pairs by heart: sounds find pictures, pictures sounds."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from avmodel.distributed import World
from avmodel.inputs import to_inputs
from avmodel.models import FAMILIES, family_of
from avmodel.models.family import Family
from avmodel.optim import OptimConfig, make_optimizer, set_lr
from avmodel.runs import RUNS, run_config
from avmodel.train import RunConfig, take_step
from tests.learnable import drawn_pairs

HERE = World(0, 1, torch.device("cpu"))
PAIRS = 64
TINY: dict[str, Any] = {
    "size": "64x2x4",
    "image_size": (24, 24),
    "audio_size": (16, 32),
    "patch_size": 8,
    "decoder_embed_dim": 32,
    "decoder_depth": 1,
    "decoder_num_heads": 4,
}
CROSSMAE: dict[str, Any] = {"feature_decoder_depth": 1}
# Without a contrastive loss nothing brings the senses into one space.
WITHOUT_CONTRAST = ("self-mae",)
WITH_CONTRAST = [
    name
    for name in RUNS
    if name.startswith(("avsiam", "avsep", "cavmae", "crossmae", "cl-")) and name != "crossmae-b-256"
]


def tiny(name: str, steps: int, lr: float = 1e-2) -> RunConfig:
    run = run_config(name)
    changes = TINY | (CROSSMAE if hasattr(run.model, "feature_decoder_depth") else {})
    optim = OptimConfig(optimizer=run.optim.optimizer, lr=lr, warmup=0.1, ramp=0.0, weight_decay=0.0, clip_grad=1.0)
    model = replace(run.model, **changes)
    return replace(
        run, model=model, optim=optim, batch_size=PAIRS, device_batch_size=PAIRS, steps=steps, precision="float32",
        compile=False, device="cpu",
    )  # fmt: skip


def trained(run: RunConfig) -> tuple[Family, dict[str, float]]:
    """The model after the run's steps on the same pairs, in other orders, and its last losses."""
    torch.manual_seed(0)
    model = FAMILIES[family_of(run.model)](run.model)
    optimizers = [make_optimizer(model, run.optim) for _ in model.step_terms]
    assert run.steps is not None
    for step in range(run.steps):
        for optimizer in optimizers:
            set_lr(optimizer, run.optim, peak_lr=run.optim.peak_lr(PAIRS), done=step / run.steps)
        batch = replace(drawn_pairs(PAIRS), epoch=step)
        taken = take_step(run, model, model, optimizers, [batch], HERE, stop=False)
    return model, taken.read()[0]


@torch.no_grad()
def recall_at_1(model: Family) -> tuple[float, float]:
    """Percent of sounds that find their picture first, and of pictures their sound; a tie counts as a miss."""
    model.eval()
    streams = model.streams(*to_inputs(drawn_pairs(PAIRS), HERE.device))
    image, audio = (F.normalize(streams[name].mean(dim=1), dim=1) for name in ("image", "audio"))
    cosines = audio @ image.T
    found = []
    for side in (cosines, cosines.T):
        own = side.diagonal().unsqueeze(1)
        found.append(100 * float(((side >= own).sum(dim=1) == 1).float().mean()))
    return found[0], found[1]


STEPS = {"cavmae": 150}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CONTRAST)
def test_each_sound_finds_its_picture_and_back(name: str) -> None:
    model, losses = trained(tiny(name, STEPS.get(name, 60)))
    assert recall_at_1(model) == (100, 100), losses
