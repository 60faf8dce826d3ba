"""Runs on drawn batches for processes of their own (tests.forks), and ways to break them off."""

import json
import os
import signal
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from avmodel.configs.run import RunConfig
from avmodel.distributed import World, join_world
from avmodel.fit import gradients
from avmodel.models import build_model
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.probe import nearest_neighbor_probe
from avmodel.rundir import CONFIG_FILE
from avmodel.sharding import placement
from avmodel.train import Listener, initial_model, pretrain, pretraining, train
from avmodel.validation import held_out_loss
from tests.runs import FAMILY_RUNS, TINY, DrawnBatches

TOUCHES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


def train_drawn(
    out: Path, run: RunConfig, stop_at: int | None = None, resume: bool = False, spoiled: Collection[int] = ()
) -> None:
    """One process of the run; `stop_at` samples of all processes, the one of rank 0 is asked to stop."""
    with join_world("cpu") as world:
        size, _ = run.micro_batch(world.size)
        batches = DrawnBatches(size, rank=world.rank, world_size=world.size, spoiled=spoiled)

        def stop() -> bool:
            return stop_at is not None and world.is_main and batches.done >= stop_at

        probed = DrawnBatches(size, 2 * size * world.size, rank=world.rank, world_size=world.size)
        train(run, batches, out, world, probed=probed, resume=resume, stop=stop)


def pretrain_on(data: Path, out: Path, run: RunConfig, resume: bool = False) -> None:
    """One process of a run on a prepared dataset."""
    pretrain(run, data, out, resume=resume)


def train_until_killed(out: Path, run: RunConfig, moment: int) -> None:
    """The run, begun or resumed, killed before it touches a file in its folder for the moment-th time."""
    resume = (out / CONFIG_FILE).exists()
    touched = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touched
        if event in TOUCHES and str(arguments[0]).startswith(str(out)):
            touched += 1
            if touched == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    train_drawn(out, run, resume=resume)


def fail_before_the_other() -> None:
    """Rank 0 raises an error while it is still waiting for a sum with rank 1."""
    with join_world("cpu") as world:
        _add_and_fail(world)


def _add_and_fail(world: World) -> None:
    # The traceback holds the model until the process ends.
    model = DistributedDataParallel(torch.nn.Linear(2, 2))  # noqa: F841
    if world.rank:
        time.sleep(1)
    dist.all_reduce(torch.zeros(4), async_op=True)
    raise ValueError("failed")


def shares_drawn(answer: Path, run: RunConfig) -> None:
    """Count the numbers of this process after one step of the run, as JSON."""
    with join_world("cpu") as world:
        model = placement(run.parallel, world)(initial_model(run, torch.device("cpu"), Listener()))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        objective = pretraining(run, model, world)
        batches = DrawnBatches(run.micro_batch(world.size)[0], rank=world.rank, world_size=world.size)
        found, _ = gradients(objective, [next(iter(batches))], world, 0, None, objective.optimizers[0])
        assert found["total"].isfinite()
        owned = [parameter.grad for parameter in trained if parameter.grad is not None]
        counts = {"weights": own_numbers(trained), "gradients": own_numbers(owned)}
        objective.optimizers[0].step()
        moments = [value for state in objective.optimizers[0].state.values() for value in state.values() if value.ndim]
        counts |= {"moments": own_numbers(moments), "whole": sum(parameter.numel() for parameter in trained)}
        answer.with_suffix(f".{world.rank}").write_text(json.dumps(counts))


def own_numbers(tensors: Sequence[torch.Tensor]) -> int:
    """Numbers of these tensors that lie on this process."""
    return sum((tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel() for tensor in tensors)


def probe_drawn(answer: Path) -> None:
    """What the probe of the model at its start says, as JSON."""
    with join_world("cpu") as world:
        torch.manual_seed(0)
        batches = DrawnBatches(12 // world.size, 12, rank=world.rank, world_size=world.size)
        found = nearest_neighbor_probe(DeepAVFusion(TINY), batches, world, precision="float32")
        if world.is_main:
            answer.write_text(json.dumps(found.record()))


def held_out_drawn(answer: Path, micro: int, parallel: str = "ddp") -> None:
    """The held-out losses of each family at its start, in parts of `micro` samples of batches of twelve, as JSON."""
    found = {}
    with join_world("cpu") as world:
        for name, run in {"deepavfusion": {"model": TINY}, **FAMILY_RUNS}.items():
            torch.manual_seed(0)
            model = placement(parallel, world)(build_model(run["model"]))
            batches = DrawnBatches(micro, 24, rank=world.rank, world_size=world.size)
            parts = 12 // (micro * world.size)
            found[name] = held_out_loss(model, batches, world, parts=parts, precision="float32")
        if world.is_main:
            answer.write_text(json.dumps(found))
