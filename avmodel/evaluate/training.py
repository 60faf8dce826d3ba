"""The loop in which a pretrained model is trained with a head, whatever the task: what changes is module and loss.

Each seed is a run of its own folder, checkpointed every epoch: killed, the same command goes on with the next step.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from avdata.load import Batch, Loader, LoaderConfig, TrainView
from avmanifest.errors import AvkitError, ConfigError
from avmodel.checkpoint import latest_checkpoint, load_trainer_state
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import micro_batches
from avmodel.distributed import World
from avmodel.evaluate.config import EvalDataConfig, TrainingConfig
from avmodel.evaluate.data import Split, cache_of
from avmodel.evaluate.evaluation import Evaluation
from avmodel.metrics import METRICS, JsonLines
from avmodel.optim import make_optimizer, parameter_groups, set_lr
from avmodel.rundir import CHECKPOINTS, as_json, differences, read_config, write_config
from avmodel.step import no_sync
from avmodel.train import endless

DROPOUT = 2  # stream of random numbers
NOT_TRAINED_WITH = ("seeds", "random_weights", "feature_batch_size")  # settings that no step knows


class Moment(NamedTuple):
    """A micro-step of one process. Random numbers are functions of it: a resumed run draws the same."""

    seed: int
    step: int
    number: int  # of the micro-step
    rank: int

    def chance(self, stream: int) -> np.random.Generator:
        """Random numbers for one purpose."""
        return np.random.default_rng([self.seed, stream, self.step, self.number, self.rank])


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is trained, on what, and how it is kept."""

    name: str  # as progress says it
    module: nn.Module
    optimizer: torch.optim.Optimizer
    loader: Loader
    batch_size: int  # samples of a step, over all processes
    loss: Callable[[nn.Module, Batch, Moment], Float[Tensor, ""]]  # calls the given module, which may be wrapped
    save: Callable[[int, Mapping[str, Any]], None]  # the module after so many steps, and the state of its training
    after_epoch: Callable[[int, int], None] | None = None  # gets the epochs and the steps done
    average: "LastEpochs | None" = None  # what the module becomes at the end; None: it stays as the last step left it
    parts: bool = False  # a step may use only some of the parameters


class LastEpochs:
    """The mean of a module's weights at the ends of its last epochs, each counted alike."""

    def __init__(self, module: nn.Module, epochs: int) -> None:
        self.epochs = epochs
        self.mean = AveragedModel(module, use_buffers=True)

    def epoch_ended(self, module: nn.Module, *, left: int) -> None:
        """Count the weights in if they are of the last epochs; with none left, the module gets the mean."""
        if left < self.epochs:
            self.mean.update_parameters(module)
        if left == 0:
            module.load_state_dict(self.mean.module.state_dict())


def train_module(
    config: TrainingConfig, run: Evaluation, training: Training, *, seed: int, folder: Path, first: int = 0
) -> None:
    """Take the steps from `first`, to the end of the last epoch. Raises AvkitError for a loss that isn't finite."""
    world, loader, optimizer = run.world, training.loader, training.optimizer
    micro_steps = micro_batches(training.batch_size, config.device_batch_size, world.size)[1]
    forward = distributed(training.module, world, parts=training.parts)
    steps_per_epoch = len(loader.dataset) // training.batch_size
    steps = config.epochs * steps_per_epoch
    peak_lr = config.optim.peak_lr(training.batch_size)
    stream = endless(loader)
    with closing(JsonLines(folder / METRICS, last_step=first)) if world.is_main else nullcontext() as log:
        for step in range(first, steps):
            began = time.perf_counter()
            lr = set_lr(optimizer, config.optim, peak_lr=peak_lr, done=step / steps)
            micro = [next(stream) for _ in range(micro_steps)]
            loss = take_step(config.optim, training, forward, micro, world, seed, step)
            done = step + 1
            if log is not None:
                log.write({"step": done, "loss": loss, "lr": lr, "took_s": round(time.perf_counter() - began, 4)})
            if run.progress is not None and world.is_main:
                run.progress(f"{training.name}, seed {seed}, loss {loss:.3f}", done, steps)
            if done % steps_per_epoch == 0:
                if log is not None:
                    log.flush()
                state = {"optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
                if training.average is not None:
                    training.average.epoch_ended(training.module, left=(steps - done) // steps_per_epoch)
                    state["average"] = training.average.mean.state_dict()
                if world.is_main:
                    training.save(done, state)
                if training.after_epoch is not None:
                    training.after_epoch(done // steps_per_epoch, done)


def take_step(
    config: OptimConfig,
    training: Training,
    forward: nn.Module,
    micro: Sequence[Batch],
    world: World,
    seed: int,
    step: int,
) -> float:
    """One update; the loss, averaged over processes. Raises AvkitError, before the update, if it isn't finite."""
    total = torch.zeros((), device=world.device)
    for number, batch in enumerate(micro):
        moment = Moment(seed, step, number, world.rank)
        torch.manual_seed(int(moment.chance(DROPOUT).integers(1 << 62)))
        with no_sync(forward, unless=number == len(micro) - 1):
            loss = training.loss(forward, batch, moment)
            torch.autograd.backward(loss / len(micro))
        total += loss.detach() / len(micro)
    most = config.clip_grad if config.clip_grad is not None else math.inf
    norm = nn.utils.clip_grad_norm_([p for p in training.module.parameters() if p.grad is not None], most)
    shared = world.mean(torch.stack([total, norm.to(total)]))
    found, found_norm = shared.tolist()
    if not (math.isfinite(found) and math.isfinite(found_norm)):
        keys = ", ".join(key for batch in micro for key in batch.keys)
        raise AvkitError(
            f"step {step + 1}: loss {found}, gradient norm {found_norm}: not finite. The last epoch's checkpoint is "
            f"good; take a lower optim.base_lr or optim.clip_grad=1 in another --out. Samples: {keys}"
        )
    training.optimizer.step()
    training.optimizer.zero_grad()
    return float(found)


def whole_batch(config: TrainingConfig, samples: int, world_size: int) -> int:
    """Samples of a step: as configured, or of a smaller dataset as many as equal micro-steps can take.

    Raises ConfigError for fewer samples than processes.
    """
    if samples >= config.batch_size:
        return config.batch_size
    share = samples // world_size
    if not share:
        raise ConfigError(f"{samples} training samples among {world_size} processes. Start fewer.")
    return share // min(config.device_batch_size, share) * min(config.device_batch_size, share) * world_size


def shuffled_loader(
    data: EvalDataConfig,
    view: TrainView,
    train: Split,
    world: World,
    *,
    batch_size: int,
    seed: int,
    class_balanced: bool = False,
) -> Loader:
    """One process's training batches, of `batch_size`."""
    loading = LoaderConfig(
        batch_size=batch_size,
        seed=seed,
        class_balanced=class_balanced,
        num_workers=data.num_workers,
        skip_bad=data.skip_bad,
        pin_memory=world.device.type == "cuda",
        cache=cache_of(data),
    )
    return Loader(train.dataset, view, loading, rank=world.rank, world_size=world.size)


def begin(
    config: TrainingConfig,
    run: Evaluation,
    splits: Mapping[str, Split],
    seed: int,
    folder: Path,
    *,
    free: Sequence[str] = (),
) -> Path | None:
    """The checkpoint to go on from. Raises ConfigError for a folder with a run of another config, model or data.

    `splits` and `seed` are part of what it was begun with; settings named in `free` may change.
    """
    values = as_json(config) | {
        "run.checkpoint": run.loaded.origin["sha256"],
        **{f"run.{name}": split.subset_id for name, split in splits.items()},
        "run.seed": seed,
    }
    for name in (*NOT_TRAINED_WITH, *free):
        values.pop(name, None)
    stored = read_config(folder)
    if stored is not None and (changed := differences(stored, values)):
        raise ConfigError(
            f"{folder}: was begun otherwise: {'; '.join(changed)}. Give another --out, or the settings it had."
        )
    run.world.barrier()
    if stored is None and run.world.is_main:
        write_config(folder, values)
    run.world.barrier()
    return latest_checkpoint(folder / CHECKPOINTS)


def take_up(
    checkpoint: Path | None,
    module: nn.Module,
    load: Callable[[], nn.Module],
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    average: LastEpochs | None = None,
) -> int:
    """Steps that a checkpoint has done, 0 without one; module (as `load` reads it) and all others are as they were."""
    if checkpoint is None:
        return 0
    module.load_state_dict(load().state_dict())
    state = load_trainer_state(checkpoint)
    optimizer.load_state_dict(state["optimizer"])
    loader.load_state_dict(state["loader"])
    if average is not None:
        average.mean.load_state_dict(state["average"])
    return int(state["step"])


def tuned_optimizer(
    model: nn.Module, head: nn.Module, config: OptimConfig, *, head_scale: float = 1.0
) -> torch.optim.Optimizer:
    """The optimizer, whose rates fall from the head down, layer by layer of the model; the head's is scaled."""
    optimizer = make_optimizer(model, config)
    for group in parameter_groups(head, replace(config, layer_decay=1.0)):
        optimizer.add_param_group({**group, "lr": 0.0, "lr_scale": head_scale})
    return optimizer


def freeze_all_but_used(module: nn.Module, compute: Callable[[], Float[Tensor, "*shape"]]) -> None:
    """Take the parameters out of training on which nothing depends that `compute` makes with the module."""
    module.eval()  # stochastic depth must not hide a block
    torch.autograd.backward(compute().sum())
    module.train()
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def distributed(module: nn.Module, world: World, *, parts: bool = False) -> nn.Module:
    """The module to call: its gradients averaged over processes if there are several. `parts`: a step may use some."""
    if world.size == 1:
        return module
    on_gpu = world.device.type == "cuda"
    if on_gpu:  # batch norms over all processes, as released; torch has none for CPUs
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(module, device_ids=[world.device] if on_gpu else None, find_unused_parameters=parts)
