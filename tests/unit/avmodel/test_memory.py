"""The estimate of a card's memory, against the tensors that a real step has alive."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from typer.testing import CliRunner

from avcli.main import app
from avmanifest.errors import ConfigError
from avmodel.configs.model import ModelConfig
from avmodel.costs import SEED, draw_batch, state_memory_mb
from avmodel.distributed import World
from avmodel.fit import take_step
from avmodel.memory import estimate_memory, memory_note
from avmodel.models import build_model
from avmodel.train import pretraining
from tests.runs import TINY, TINY_AVSIAM, TINY_CROSSMAE, tiny_run

HERE = World(0, 1, torch.device("cpu"))
LARGER: dict[str, Any] = {"size": "64x4x4", "decoder_embed_dim": 48, "decoder_depth": 2}
TOLERANCE = 0.25


def peak_bytes(run: Any) -> int:
    """Most bytes of tensors that are alive in the second step, by torch's tracker."""
    torch.manual_seed(SEED)
    model = build_model(run.model)
    objective = pretraining(run, model, HERE)
    batch = draw_batch(run.model, run.batch_size)
    take_step(objective, [batch], HERE)
    tracker = MemTracker()
    tracker.track_external(model, *objective.optimizers)
    with tracker:
        take_step(objective, [batch], HERE)
    return int(tracker.get_tracker_snapshot("peak")[HERE.device]["Total"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (TINY, {}),
        (TINY, {"precision": "bfloat16", "checkpoint_activations": True}),
        (TINY_AVSIAM, {"precision": "bfloat16"}),
        (TINY_CROSSMAE, {"checkpoint_activations": True}),
    ],
    ids=["deepavfusion", "deepavfusion-recomputed", "avsiam", "crossmae-recomputed"],
)
def test_the_estimate_is_near_the_measured_peak(model: ModelConfig, changes: dict[str, Any]) -> None:
    run = tiny_run(model=replace(model, **LARGER), batch_size=32, device_batch_size=32, **changes)
    assert estimate_memory(run).total == pytest.approx(peak_bytes(run), rel=TOLERANCE)


@pytest.mark.slow
def test_states_are_divided_by_sharding_and_doubled_by_buckets() -> None:
    run = tiny_run(batch_size=8, device_batch_size=4)
    one, two = estimate_memory(run), estimate_memory(run, 2)
    assert one.weights + one.gradients + one.moments == pytest.approx(1e6 * state_memory_mb(TINY))
    assert (one.average, one.gathered) == (0, 0)
    assert two == one._replace(gradients=2 * one.gradients)
    sharded = estimate_memory(replace(run, parallel="fsdp", ema_decay=0.9), 2)
    for name in ("weights", "gradients", "moments"):
        assert getattr(sharded, name) == pytest.approx(getattr(one, name) / 2, abs=1)
    assert sharded.average == sharded.weights
    assert 0 < sharded.gathered < 3 * one.weights
    assert sharded.activations == one.activations


@pytest.mark.slow
def test_activations_grow_with_the_samples_at_once_and_shrink_when_recomputed() -> None:
    run = tiny_run(batch_size=16, device_batch_size=4)
    small, large = (estimate_memory(replace(run, device_batch_size=size)).activations for size in (4, 16))
    assert large == pytest.approx(4 * small, rel=0.05)
    assert estimate_memory(replace(run, checkpoint_activations=True)).activations < 0.75 * small
    assert estimate_memory(replace(run, precision="bfloat16", device_batch_size=16)).activations < 0.8 * large


def test_each_optimizer_has_its_moments() -> None:
    run = tiny_run(model=TINY_AVSIAM)
    both = estimate_memory(replace(run, model=replace(TINY_AVSIAM, alternate_steps=True)))
    assert both.moments == 2 * estimate_memory(run).moments


def test_the_estimate_in_words() -> None:
    run = tiny_run(batch_size=8, device_batch_size=4)
    said = memory_note(run)
    assert said.startswith("memory of the card, by an estimate: 0.00 GB (weights 0.00, gradients 0.00, optimizer 0.0")
    assert "activations of 4 samples" in said
    divided = memory_note(replace(run, parallel="fsdp"), 2)
    assert divided.startswith("memory of each of 2 cards")
    assert "gathered blocks" in divided
    with pytest.raises(ConfigError, match="batch_size=8 doesn't divide among 3 processes"):
        memory_note(run, 3)


def test_explain_says_it_for_so_many_cards() -> None:
    def answer(*words: str) -> Any:
        return CliRunner().invoke(app, ["pretrain", "demo", "--explain", *words])

    assert "\nmemory of each of 2 cards, by an estimate: " in answer("--processes", "2").output
    assert "\nmemory of a card: --explain --processes N estimates it for N cards\n" in answer().output
    refused = answer("--processes", "2", "--toml")
    assert isinstance(refused.exception, ConfigError)
    assert "--processes belongs to --explain without --toml" in str(refused.exception)
    assert answer("--processes", "0").exit_code == 2
