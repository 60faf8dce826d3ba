"""The training loop, read top to bottom.

What is random at a step is a function of the seed, the step and the place of each sample in its epoch's order, never
of a generator carried along: so a run that was killed goes on to the last bit, and two processes draw the masks that
one would.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from avdata.load import Batch
from avdata.load.order import random_bits
from avdata.melspec import profile
from avmanifest.errors import AvkitError, ConfigError
from avmodel.augment import AugmentConfig, augment
from avmodel.checkpoint import latest_checkpoint, load_model, load_trainer_state, save_checkpoint
from avmodel.compiling import compile_blocks
from avmodel.convert import Branch
from avmodel.distributed import World, autocast, join_world, micro_batches, require_precision
from avmodel.draws import DROPOUT, augment_draws, draw_masks
from avmodel.inputs import DataConfig, Source, probe_loader, to_inputs, train_loader
from avmodel.metrics import METRICS, MetricLog, read_lines
from avmodel.models import FAMILIES, DefaultConfig, ModelConfig, family_of
from avmodel.models.family import Family
from avmodel.optim import OptimConfig, make_optimizer, set_lr
from avmodel.pictures import save_picture
from avmodel.probe import nearest_neighbor_probe
from avmodel.rundir import CHECKPOINTS, PICTURES, as_json, start_run
from avmodel.starting import start_branch


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One training run. `avmodel.runs` has the named ones."""

    name: str
    model: ModelConfig = field(default_factory=DefaultConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch_size: int = 512  # samples of an optimizer step, over all devices and micro-steps
    device_batch_size: int = 64  # most that one device takes at once; more become micro-steps
    epochs: int = 200
    steps: int | None = None  # takes the place of epochs
    # What the image branch, or a shared one, starts from: a published checkpoint, or the folder of a run of one's own.
    image_weights: str | None = None
    audio_weights: str | None = None  # likewise the audio branch; over a shared one if both are given
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"  # bfloat16: autocast; weights stay float32
    compile: bool = False
    save_every: int = 1000  # steps; the last one is always saved
    keep_checkpoints: int | None = 2  # the newest; none: all
    pictures_every: int | None = 1000  # steps, and at the end; none: never
    probe_every: int | None = 10  # epochs, and at the end; none: never
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "device_batch_size",
            "epochs",
            "steps",
            "save_every",
            "keep_checkpoints",
            "pictures_every",
            "probe_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: must be 1 or more")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: must be 0 or more")

    @property
    def pretrained(self) -> list[str]:
        """Branches that start from published weights."""
        weights = {"image": self.image_weights, "audio": self.audio_weights}
        return [branch for branch, path in weights.items() if path is not None]

    def micro_batch(self, world_size: int) -> tuple[int, int]:
        """As `micro_batches`, of this run's batch."""
        return micro_batches(self.batch_size, self.device_batch_size, world_size)


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


class Taken(NamedTuple):
    """What a step came to, still on the device."""

    names: tuple[str, ...]  # of the losses: total, then the objective's terms
    values: Float[Tensor, " v"]  # losses, stop (means over processes); own total, norm of the gradients

    def read(self) -> tuple[dict[str, float], bool, float, float]:
        """Losses, whether any process wants to stop, own total, norm; waits for the device."""
        *losses, stop, own, norm = self.values.tolist()
        return dict(zip(self.names, losses, strict=True)), stop > 0, own, norm


class Launched(NamedTuple):
    """A step whose numbers the device still owes."""

    step: int  # from 1
    epoch: float
    lr: float
    began_s: float
    waited_s: float
    batches: Sequence[Batch]
    taken: Taken


def take_step(
    config: RunConfig,
    model: Family,
    forward: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    micro: Sequence[Batch],
    world: World,
    *,
    stop: bool,
) -> Taken:
    """Gradients of all micro-steps, one update; or, one after the other, those of each group of terms.

    Nothing here waits for the device.
    """
    losses: dict[str, Tensor] = {}
    norms = []
    for terms, optimizer in zip(model.step_terms, optimizers, strict=True):
        found, norm = update(config, model, forward, optimizer, micro, world, terms)
        total = found["total"] if not losses else losses["total"] + found["total"]
        losses |= found | {"total": total}
        norms.append(norm)
    model.after_step()
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).square().sum().sqrt()
    means = torch.stack(list(losses.values()))
    own = means[:1].clone()
    shared = world.mean(torch.cat([means, means.new_tensor([float(stop)])]))
    return Taken(tuple(losses), torch.cat([shared, own, norm.reshape(1)]))


def update(
    config: RunConfig,
    model: Family,
    forward: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro: Sequence[Batch],
    world: World,
    terms: tuple[str, ...] | None,
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, ""]]:
    """One optimizer's step on these terms, all if None: the losses' means over micro-steps, the gradients' norm."""
    only = {} if terms is None else {"terms": terms}
    losses: dict[str, Tensor] = {}
    for number, batch in enumerate(micro):
        with no_sync(forward, unless=number == len(micro) - 1):
            image, log_mel = to_inputs(batch, world.device)
            log_mel = augment(log_mel, config.augment, augment_draws(config.augment, config.seed, batch))
            masks = draw_masks(model, config.seed, batch, world)
            with autocast(config.precision, world.device):
                found = forward(image, log_mel, masks, **only).losses
            (found["total"] / len(micro)).backward()
        for name, loss in found.items():
            losses[name] = losses.get(name, 0) + loss.detach() / len(micro)
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if config.optim.clip_grad is not None:
        clip_grads_with_norm_(parameters, config.optim.clip_grad, norm)
    optimizer.step()
    optimizer.zero_grad()
    return losses, norm


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


def wrap(model: Family, config: RunConfig, world: World) -> nn.Module:
    """The module to call: blocks compiled if asked for, gradients averaged over processes if there are several."""
    if config.compile:
        compile_blocks(model)
    if world.size == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        find_unused_parameters=len(model.step_terms) > 1,
    )


def no_sync(forward: nn.Module, *, unless: bool) -> AbstractContextManager[None]:
    """Gradients stay with their process until the last micro-step."""
    return nullcontext() if unless or not isinstance(forward, DistributedDataParallel) else forward.no_sync()


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
