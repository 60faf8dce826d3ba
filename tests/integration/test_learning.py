"""Pretraining learns: it predicts what it cannot see, and its features tell classes apart that random ones don't."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmodel.checkpoint import load_model
from avmodel.configs.optim import OptimConfig
from avmodel.distributed import World
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.rundir import CHECKPOINTS
from avmodel.train import train
from tests.learnable import Templates, linear_probe, untrained
from tests.runs import TINY, curve, tiny_run

RUN = tiny_run(
    model=replace(TINY, size="64x2x4", image_size=(64, 64), decoder_embed_dim=64, audio_mask_ratio=0.5),
    optim=OptimConfig(lr=4e-3, warmup=0.1, clip_grad=1.0),
    batch_size=32,
    device_batch_size=32,
    steps=480,
)


@pytest.mark.slow
def test_losses_fall_far_below_the_patch_mean_and_a_linear_probe_beats_random_weights(tmp_path: Path) -> None:
    train(RUN, Templates(512, 32, seed=0), tmp_path / "run", World(0, 1, torch.device("cpu")))
    last = curve(tmp_path / "run")[-20:]
    image, audio = (sum(line[f"loss_{name}"] for line in last) / len(last) for name in ("image", "audio"))
    # Each patch's mean gives 1.0; found: 0.61 and 0.70.
    assert image < 0.75
    assert audio < 0.75

    seen, asked = list(Templates(128, 64, seed=1)), list(Templates(512, 64, seed=2))
    model, _ = load_model(tmp_path / "run" / CHECKPOINTS)
    assert isinstance(model, DeepAVFusion)
    learned = linear_probe(model, seen, asked)
    random = [linear_probe(untrained(model, seed), seen, asked) for seed in (1, 2)]
    # Found: image 89 against 47 and 41, audio 72 against 45, all 92 against 73 and 71. Chance is 6; the standard error
    # of a figure is 2.
    for name, margin in {"image": 25, "audio": 15, "all": 10}.items():
        assert learned[name] > max(found[name] for found in random) + margin, (learned, random)
