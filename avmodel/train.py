"""The training loop, read top to bottom.

What is random at a step is a function of the seed, the step and the place of each sample in its epoch's order, never
of a generator carried along: so a run that was killed goes on to the last bit, and two processes draw the masks that
one would.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from avdata.load import Batch
from avdata.load.order import random_bits
from avdata.profiles import profile
from avmanifest.errors import AvkitError, ConfigError
from avmodel.checkpoint import latest_checkpoint, load_model, load_trainer_state, save_checkpoint
from avmodel.configs.run import RunConfig
from avmodel.distributed import World, join_world, require_precision
from avmodel.draws import DROPOUT, draw_masks
from avmodel.inputs import Source, probe_loader, to_inputs, train_loader
from avmodel.metrics import METRICS, MetricLog, read_lines
from avmodel.models import FAMILIES, family_of
from avmodel.models.family import Branch, Family
from avmodel.optim import make_optimizer, set_lr
from avmodel.probe import nearest_neighbor_probe
from avmodel.reconstructions import save_picture
from avmodel.rundir import CHECKPOINTS, PICTURES, as_json, start_run
from avmodel.step import Taken, take_step, wrap
from avmodel.weights.starting import start_branch


@runtime_checkable
class Batches(Protocol):
    """One process's batches: what is left of an epoch at each iteration. `avdata.load.Loader` is one."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, int | str]: ...
    def load_state_dict(self, values: Mapping[str, Any]) -> None: ...


class Listener:
    """Hears how a run goes; this one keeps it to itself."""

    def started(self, *, step: int, steps: int, epochs: float) -> None:
        """`step` of `steps` steps are done."""

    def stepped(self, record: Mapping[str, Any]) -> None:
        """What metrics.jsonl got."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class Report(NamedTuple):
    """A run, finished or stopped."""

    out: Path
    step: int
    steps: int
    first_loss: float
    last_loss: float


def pretrain(
    config: RunConfig,
    source: Source,
    out: Path,
    *,
    resume: bool = False,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Train on a prepared dataset's folder, or on shard URLs, under torchrun or alone; see `train`."""
    with join_world(config.device) as world:
        require_precision(config.precision, world.device)
        micro_batch, _ = config.micro_batch(world.size)
        batches = train_loader(config.data, config.model, source, world, batch_size=micro_batch, seed=config.seed)
        probed = probe_loader(config.data, config.model, source, world, batch_size=micro_batch)
        return train(config, batches, out, world, probed=probed, resume=resume, listener=listener, stop=stop)


def train(
    config: RunConfig,
    batches: Batches,
    out: Path,
    world: World,
    *,
    probed: Batches | None = None,
    resume: bool = False,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Train to the end of the config, or until `stop` says so; the folder `out` then holds the run.

    Killed at any moment and resumed, a run on one CPU device gives the same curve to the last bit. Raises ConfigError
    for a config that cannot run here or isn't the resumed run's, AvkitError for a loss that isn't finite.
    """
    listener = (listener if world.is_main else None) or Listener()
    _, micro_steps = config.micro_batch(world.size)
    step_epochs = micro_steps / len(batches)
    steps = config.steps or int(config.epochs / step_epochs)
    checkpoint = start_together(out, config, world, resume=resume)
    model = load_model(checkpoint, world.device)[0] if checkpoint else build_model(config, world.device, listener)
    optimizers = [make_optimizer(model, config.optim, config.pretrained) for _ in model.step_terms]
    first = restore(checkpoint, optimizers, batches) if checkpoint else 0
    require_batch(model, config, world)
    forward = wrap(model, config, world)
    stream = endless(batches)
    listener.started(step=first, steps=steps, epochs=steps * step_epochs)

    done = first
    with log_of(out, first, config, world) as log:
        journal = Journal(config, listener, log)
        behind: Launched | None = None  # on its way on the device while the next step's batch is fetched
        stopping = False
        for step in range(first, steps):
            done = step + 1
            asked = time.perf_counter()
            micro = [next(stream) for _ in range(micro_steps)]
            waited_s = time.perf_counter() - asked
            peak_lr = config.optim.peak_lr(config.batch_size)
            for optimizer in optimizers:
                lr = set_lr(optimizer, config.optim, peak_lr=peak_lr, done=step / steps)
            torch.manual_seed(hashed(config.seed, step, DROPOUT, world.rank))
            taken = take_step(config, model, forward, optimizers, micro, world, stop=stop())
            launched = Launched(done, done * step_epochs, lr, asked, waited_s, micro, taken)
            stopping = behind is not None and journal.write(behind, ended_s=asked)
            behind = launched

            saves = stopping or is_due(done, config.save_every, last=done == steps)
            draws = is_due(done, config.pictures_every, last=done == steps)
            probes = is_due(done * step_epochs, config.probe_every, step_epochs, last=done == steps)
            if saves or draws or probes:
                stopping |= journal.write(behind)
                behind = None
            if draws:
                draw(out, config, model, micro[0], done, world)
            if probes and probed is not None:
                probe(config, model, probed, done, world, log, listener)
            # Last: what a checkpoint's step has to show is there before it.
            if saves or stopping:
                save(out, config, model, optimizers, batches, done, world, log)
            if stopping:
                break
    world.barrier()
    return report(out, done, steps)


class Launched(NamedTuple):
    """A step whose numbers the device still owes."""

    step: int  # from 1
    epoch: float
    lr: float
    began_s: float
    waited_s: float
    batches: Sequence[Batch]
    taken: Taken


class Journal:
    """Steps as records, for the log and the listener."""

    def __init__(self, config: RunConfig, listener: Listener, log: MetricLog | None) -> None:
        self._batch_size, self._listener, self._log = config.batch_size, listener, log

    def write(self, launched: Launched, *, ended_s: float | None = None) -> bool:
        """Wait for a step and write it down; whether any process wants to stop.

        A step ended at `ended_s`, when the next one began; if none has begun, when its values are there.
        Raises AvkitError if its loss or gradients are not finite, before anything of it could be saved.
        """
        losses, stop, own, norm = launched.taken.read()
        total = losses.pop("total")
        took_s = max((time.perf_counter() if ended_s is None else ended_s) - launched.began_s, 1e-9)
        if not (math.isfinite(total) and math.isfinite(norm)):
            keys = [key for batch in launched.batches for key in batch.keys]
            where = "of these samples" if not math.isfinite(own) or math.isfinite(total) else "of another process"
            raise AvkitError(
                f"step {launched.step}: loss {own} {where}, gradient norm {norm}: not finite. Nothing of it was saved; "
                f"the last checkpoint is good. Samples: {', '.join(keys)}. Look at them with avkit inspect; or resume "
                "with a lower optim.lr, or optim.clip_grad=1, in a new run."
            )
        record = {
            "step": launched.step,
            "epoch": round(launched.epoch, 4),
            "loss": total,
            **{f"loss_{name}": value for name, value in losses.items()},
            "lr": launched.lr,
            "grad_norm": norm,
            "samples_per_s": round(self._batch_size / took_s, 4),
            "data_wait": round(min(launched.waited_s / took_s, 1.0), 4),
        }
        if self._log is not None:
            self._log.step(record)
        self._listener.stepped(record)
        return stop


def start_together(out: Path, config: RunConfig, world: World, *, resume: bool) -> Path | None:
    """The checkpoint to go on from, the same for all processes; errors as in `start_run`, on every process."""
    refusal: AvkitError | None = None
    if world.is_main:
        try:
            start_run(out, config, resume=resume)
        except AvkitError as error:
            refusal = error
    if world.any(refusal is not None):
        raise refusal or ConfigError(f"{out}: refused, as process 0 says")
    return latest_checkpoint(out / CHECKPOINTS)


def build_model(config: RunConfig, device: torch.device, listener: Listener) -> Family:
    """The model at its start: drawn from the seed, its branches from the weights that the config names."""
    torch.manual_seed(config.seed)
    model = FAMILIES[family_of(config.model)](config.model)
    weights: dict[Branch, str | None] = {"image": config.image_weights, "audio": config.audio_weights}
    for branch, path in weights.items():
        if path is not None:
            found = start_branch(model, branch, Path(path))
            listener.note(f"{branch} branch from {path}: {found.name}, licence {found.license}")
    model.started()
    return model.to(device)


def require_batch(model: Family, config: RunConfig, world: World) -> None:
    """Raise ConfigError for batches that the model's objective cannot do with."""
    together = config.micro_batch(world.size)[0] * world.size
    if together < model.least_batch:
        raise ConfigError(
            f"{together} samples at once over all processes; the model needs {model.least_batch}. Raise batch_size or "
            "device_batch_size."
        )
    if model.compares_samples and config.data.skip_bad and world.size > 1:
        raise ConfigError(
            "data.skip_bad=true with several processes: this model compares samples and needs equally many of every "
            "process. Leave it off, or train in one process."
        )


def restore(checkpoint: Path, optimizers: Sequence[torch.optim.Optimizer], batches: Batches) -> int:
    """Steps that the checkpoint has done; optimizers and batches are then where they were."""
    state = load_trainer_state(checkpoint)
    saved = [state["optimizer"], *state.get("further_optimizers", [])]
    for optimizer, values in zip(optimizers, saved, strict=True):
        optimizer.load_state_dict(values)
    batches.load_state_dict(state["loader"])
    return int(state["step"])


def save(
    out: Path,
    config: RunConfig,
    model: Family,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Batches,
    done: int,
    world: World,
    log: MetricLog | None,
) -> None:
    """A checkpoint after `done` steps, once its lines of metrics are on the disk."""
    if log is not None:
        log.flush()
    if world.is_main:
        first, *further = (optimizer.state_dict() for optimizer in optimizers)
        state = {"step": done, "optimizer": first, "loader": batches.state_dict()}
        if further:
            state["further_optimizers"] = further
        notes = {"profile": config.data.profile, "window_s": str(config.data.window_s)}
        save_checkpoint(out / CHECKPOINTS, done, model, config.model, state, keep=config.keep_checkpoints, notes=notes)


def draw(out: Path, config: RunConfig, model: Family, batch: Batch, done: int, world: World) -> None:
    """Pictures of what the model makes of the first samples of the main process's batch.

    Every process takes part: a loss over pairs of samples waits for all of them.
    """
    inputs, masks = to_inputs(batch, world.device), draw_masks(model, config.seed, batch, world)
    path = out / PICTURES / f"step-{done:08d}.png"
    save_picture(path if world.is_main else None, model, inputs, masks, batch.keys, profile(batch.profile))


def probe(
    config: RunConfig,
    model: Family,
    probed: Batches,
    done: int,
    world: World,
    log: MetricLog | None,
    listener: Listener,
) -> None:
    """What the features' nearest neighbors say after `done` steps."""
    found = nearest_neighbor_probe(model, probed, world, precision=config.precision)
    if log is not None:
        log.probe({"step": done, **found})
    scores = ", ".join(f"{name} {percent:.1f} %" for name, percent in found.items())
    listener.note(f"step {done}: nearest neighbor shares a class: {scores}")


def log_of(out: Path, first: int, config: RunConfig, world: World) -> AbstractContextManager[MetricLog | None]:
    """The run's log on the process that writes."""
    if not world.is_main:
        return nullcontext()
    return MetricLog(out, last_step=first, wandb_project=config.wandb_project, config=as_json(config))


def endless(batches: Batches) -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from batches


def is_due(done: int | float, every: int | None, stride: int | float = 1, *, last: bool = False) -> bool:
    """Whether the last stride of `done` passed a multiple of `every`, or it is the last; never if that is None."""
    if every is None:
        return False
    return last or math.floor(done / every + 1e-9) > math.floor((done - stride) / every + 1e-9)


def hashed(seed: int, *values: int) -> int:
    """64 bits that depend on all of the numbers."""
    first, second, index = values
    return int(random_bits(seed, first, second, np.array([index]))[0])


def report(out: Path, step: int, steps: int) -> Report:
    """What a run's metrics say of it after `step` steps."""
    losses = {line["step"]: line["loss"] for line in read_lines(out / METRICS)}
    return Report(out, step, steps, losses.get(1, math.nan), losses.get(step, math.nan))
