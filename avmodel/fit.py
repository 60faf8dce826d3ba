"""The training loop of pretraining and of every task of evaluation: accumulation, clipping, rates, checks.

A task contributes its losses, its batches, and what it does with a step's record and after a step. No step waits for
the device: a step's numbers are read while the next one runs, and before anything is saved.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_
from torch.profiler import record_function

from avdata.load import Batch
from avmanifest.errors import DivergedError
from avmanifest.wording import counted, first_of
from avmodel.averaging import WeightAverage
from avmodel.configs.optim import OptimConfig
from avmodel.distributed import World
from avmodel.nonfinite import MOST_NAMED, SkippedSteps, restore_buffers, samples_to_blame
from avmodel.optim import set_lr
from avmodel.precision import LEAST_SCALE, LossScale
from avmodel.resuming import Stateful
from avmodel.sharding import gradient_norm, is_sharded

Terms = tuple[str, ...] | None  # the objective's terms that an optimizer steps on; None: all


@runtime_checkable
class Batches(Stateful, Protocol):
    """One process's batches: what is left of an epoch at each iteration. `avdata.load.Loader` is one."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


class Moment(NamedTuple):
    """A micro-step of one process. Random numbers are functions of it: a resumed run draws the same."""

    seed: int
    step: int  # from 0
    number: int  # of the micro-step
    rank: int

    def chance(self, stream: int) -> np.random.Generator:
        """Random numbers for one purpose."""
        return np.random.default_rng([self.seed, stream, self.step, self.number, self.rank])


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a step minimizes, and over which parameters."""

    module: nn.Module
    forward: nn.Module  # the module to call, which may be wrapped: see `distributed`
    optimizers: Sequence[torch.optim.Optimizer]  # one for each of `terms`, stepped one after the other
    losses: Callable[[nn.Module, Batch, Moment, Terms], Mapping[str, Float[Tensor, ""]]]  # `total`, and its terms
    clip_grad: float | None = None  # largest norm of all gradients together
    terms: Sequence[Terms] = (None,)
    after_step: Callable[[], None] = lambda: None
    seed: int = 0
    scale: LossScale | None = None  # of the losses, in float16
    average: WeightAverage | None = None  # of the module's weights after each step
    # In place of `losses` for all micro-steps of a step, one after the other: losses over samples of several of them.
    # Without it, or for these terms None, each micro-step's are its own.
    losses_together: Callable[
        [nn.Module, Sequence[Batch], Sequence[Moment], Terms], Iterator[Mapping[str, Float[Tensor, ""]]] | None
    ] = lambda *_: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A training: its objective, its batches, and what becomes of its steps."""

    objective: Objective
    optim: OptimConfig
    batches: Batches  # of one micro-step each
    micro_steps: int
    batch_size: int  # samples of a step, over all processes and micro-steps
    steps: int
    step_epochs: float  # epochs that a step takes
    record: Callable[[Mapping[str, Any]], None]  # gets each step's numbers, in order, once they are known to be finite
    is_due: Callable[[int], bool]  # whether `after` is to be called after so many steps; true after the last
    after: Callable[[int, Batch, bool], None]  # gets the steps done, a batch of the last, and whether the run stops
    reload: Callable[[], object]  # gives the module the weights of the last checkpoint, or of the start, back
    # Gets the numbers of each step that is left out, and its samples or, in float16, the scale that was too large.
    skip: Callable[[Mapping[str, Any]], None]
    skipped: SkippedSteps
    before_step: Callable[[int], None] = lambda _: None


def fit(run: Fit, world: World, *, first: int = 0, stop: Callable[[], bool] = lambda: False) -> int:
    """Take the steps from `first` to the end, or until `stop` says so on any process; the number of steps done.

    Raises DivergedError, which names the samples, for a loss or gradients that are not finite; if the run may leave
    steps out, only once it has left out as many.
    """
    stream = endless(run.batches)
    behind: Launched | None = None  # on its way on the device while the next step's batch is fetched
    done = first
    for step in range(first, run.steps):
        done = step + 1
        asked = time.perf_counter()
        with record_function("data"):
            micro = [next(stream) for _ in range(run.micro_steps)]
        waited_s = time.perf_counter() - asked
        peak_lr = run.optim.peak_lr(run.batch_size)
        for optimizer in run.objective.optimizers:
            lr = set_lr(optimizer, run.optim, peak_lr=peak_lr, done=step / run.steps)
        run.before_step(step)
        taken = take_step(run.objective, micro, world, step=step, stop=stop(), guarded=run.skipped.most > 0)
        launched = Launched(done, done * run.step_epochs, lr, asked, waited_s, micro, taken)
        stopping = behind is not None and write(run, behind, world, ended_s=asked)
        behind = launched
        if stopping or run.is_due(done) or not taken.applied:
            stopping |= write(run, behind, world)
            behind = None
        if stopping or run.is_due(done):
            run.after(done, micro[0], stopping)
        if stopping:
            break
    return done


class Taken(NamedTuple):
    """What a step came to, still on the device."""

    names: tuple[str, ...]  # of the losses: total, then the objective's terms
    values: Float[
        Tensor, " v"
    ]  # losses, stop (means over processes); damaged samples (their sum); norm of the gradients
    applied: bool = True  # False: not finite, and the weights are as before
    loss_scale: float | None = None  # in float16: that of this step
    overflowed: bool = False  # the gradients did, at this scale

    def read(self) -> tuple[dict[str, float], bool, int, float]:
        """Losses, whether any process wants to stop, damaged samples, norm; waits for the device."""
        *losses, stop, damaged, norm = self.values.tolist()
        return dict(zip(self.names, losses, strict=True)), stop > 0, round(damaged), norm


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
    objective: Objective,
    micro: Sequence[Batch],
    world: World,
    *,
    step: int = 0,
    stop: bool = False,
    guarded: bool = False,
) -> Taken:
    """Gradients of all micro-steps, one update; or, one after the other, those of each group of terms.

    Nothing here waits for the device, unless `guarded` or in float16: then an update that is not finite is left out on
    all processes, together with those of the terms after it.
    """
    scale = objective.scale
    guarded |= scale is not None
    losses: dict[str, Tensor] = {}
    norms = []
    applied, overflowed = True, False
    used_scale = None if scale is None else scale.scale
    buffers = [buffer.clone() for buffer in objective.module.buffers()] if guarded else []
    for terms, optimizer in zip(objective.terms, objective.optimizers, strict=True):
        found, norm = gradients(objective, micro, world, step, terms, optimizer)
        total = found["total"] if not losses else losses["total"] + found["total"]
        losses |= found | {"total": total}
        norms.append(norm)
        if guarded and world.any(not bool(torch.isfinite(found["total"]) & torch.isfinite(norm))):
            applied = False
            if scale is not None and used_scale is not None:
                lost = world.any(not bool(torch.isfinite(found["total"])))
                overflowed = not lost and used_scale > LEAST_SCALE
                scale.back_off()
            break
        update(objective, optimizer, norm)
    if applied:
        objective.after_step()
        if objective.average is not None:
            objective.average.update(objective.module)
    else:
        objective.module.zero_grad()
        restore_buffers(objective.module, buffers)
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).square().sum().sqrt()
    means = torch.stack(list(losses.values()))
    damaged = sum(batch.skipped for batch in micro) * world.size
    shared = world.mean(torch.cat([means, means.new_tensor([float(stop), float(damaged)])]))
    return Taken(tuple(losses), torch.cat([shared, norm.reshape(1)]), applied, used_scale, overflowed)


def gradients(
    objective: Objective,
    micro: Sequence[Batch],
    world: World,
    step: int,
    terms: Terms,
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, ""]]:
    """Of these terms, all if None: the losses' means over micro-steps, and the norm of the optimizer's gradients."""
    scaler = None if objective.scale is None else objective.scale.scaler
    losses: dict[str, Tensor] = {}
    moments = [Moment(objective.seed, step, number, world.rank) for number in range(len(micro))]
    each = objective.losses_together(objective.forward, micro, moments, terms) or (
        objective.losses(objective.forward, batch, moment, terms) for batch, moment in zip(micro, moments, strict=True)
    )
    for number in range(len(micro)):
        with no_sync(objective.forward, unless=number == len(micro) - 1):
            with record_function("losses"):
                found = next(each)  # computed here, with or without synchronization
            total = found["total"] / len(micro)
            torch.autograd.backward(total if scaler is None else scaler.scale(total))
        for name, loss in found.items():
            losses[name] = losses.get(name, 0) + loss.detach() / len(micro)
    if scaler is not None:
        scaler.unscale_(optimizer)
    return losses, gradient_norm(objective.module)


def update(objective: Objective, optimizer: torch.optim.Optimizer, norm: Float[Tensor, ""]) -> None:
    """One optimizer's step on the gradients, which have that norm."""
    if objective.clip_grad is not None:
        parameters = [p for p in objective.module.parameters() if p.grad is not None]
        clip_grads_with_norm_(parameters, objective.clip_grad, norm)
    optimizer.step()
    optimizer.zero_grad()
    if objective.scale is not None:
        objective.scale.scaler.update()


def write(run: Fit, launched: Launched, world: World, *, ended_s: float | None = None) -> bool:
    """Wait for a step and record it; whether any process wants to stop.

    A step ended at `ended_s`, when the next one began; if none has begun, when its values are there. One whose loss or
    gradients are not finite is left out as far as the run may: see `leave_out`.
    """
    losses, stop, damaged, norm = launched.taken.read()
    total = losses.pop("total")
    took_s = max((time.perf_counter() if ended_s is None else ended_s) - launched.began_s, 1e-9)
    scale, used_scale = run.objective.scale, launched.taken.loss_scale
    if scale is not None and launched.taken.overflowed:
        scale.overflows += 1
        numbers = {"loss": total, "grad_norm": str(norm), "loss_scale": used_scale}
        run.skip({"step": launched.step, "epoch": round(launched.epoch, 4), **numbers})
        return stop
    if not (math.isfinite(total) and math.isfinite(norm)):
        leave_out(run, launched, world, total, norm)
        return stop
    counted: dict[str, Any] = {"skipped_steps": run.skipped.count} if run.skipped.most else {}
    if scale is not None:
        counted |= {"loss_scale": used_scale, "overflows": scale.overflows}
    run.record(
        {
            "step": launched.step,
            "epoch": round(launched.epoch, 4),
            "loss": total,
            **{f"loss_{name}": value for name, value in losses.items()},
            "lr": launched.lr,
            "grad_norm": norm,
            "samples_per_s": round(run.batch_size / took_s, 4),
            "data_wait": round(min(launched.waited_s / took_s, 1.0), 4),
            **({"skipped_samples": damaged} if damaged else {}),
            **counted,
        }
    )
    return stop


def leave_out(run: Fit, launched: Launched, world: World, total: float, norm: float) -> None:
    """Count and log a step that is not finite. Every process comes here for the same step and does the same.

    Raises:
        DivergedError: The run may leave out no more steps. The message names the samples.
    """
    applied = launched.taken.applied
    if applied:  # the weights are no numbers any more
        run.reload()
    objective, step = run.objective, launched.step - 1

    def losses(batch: Batch, number: int) -> Iterator[Tensor]:
        for terms in objective.terms:
            run.before_step(step)
            moment = Moment(objective.seed, step, number, world.rank)
            # Not under no_sync: DistributedDataParallel would miss these gradients in the next step.
            yield objective.losses(objective.forward, batch, moment, terms)["total"]

    keys = samples_to_blame(objective.module, losses, launched.batches, world)
    if not applied and run.skipped.left > 0:
        run.skipped.count += 1
        numbers = {"loss": str(total), "grad_norm": str(norm)}  # JSON has no nan
        run.skip({"step": launched.step, "epoch": round(launched.epoch, 4), **numbers, "samples": keys})
        return
    what = f"step {launched.step}: loss {total}, gradient norm {norm}: not finite."
    kept = "Nothing of it was saved; the last checkpoint is good."
    if run.skipped.most:
        before = counted(run.skipped.count, "step was", "steps were")
        kept += f" {before} left out before, optim.max_skipped_steps={run.skipped.most}."
    if keys:
        raise DivergedError(
            f"{what} Samples: {', '.join(keys)}. {kept} Look at them with avkit inspect DATA --key KEY. To leave such "
            "steps out, resume with --set optim.max_skipped_steps=10."
        )
    own = [key for batch in launched.batches for key in batch.keys]
    raise DivergedError(
        f"{what} No sample alone is the cause (the step had {first_of(own, MOST_NAMED)}). {kept} Begin a new "
        "run (another --out) with a lower optim.lr or optim.base_lr, or with optim.clip_grad=1."
    )


def distributed(module: nn.Module, world: World, *, parts: bool = False) -> nn.Module:
    """The module to call: its gradients averaged over processes if there are several. `parts`: a step may use some.

    A sharded module averages and divides them by itself.
    """
    if world.size == 1 or is_sharded(module):
        return module
    on_gpu = world.device.type == "cuda"
    if on_gpu:  # batch norms over all processes, as released; torch has none for CPUs
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(module, device_ids=[world.device] if on_gpu else None, find_unused_parameters=parts)


def no_sync(forward: nn.Module, *, unless: bool) -> AbstractContextManager[None]:
    """Gradients stay with their process until the last micro-step; those of a sharded module take no more memory."""
    return nullcontext() if unless or not isinstance(forward, DistributedDataParallel) else forward.no_sync()


def endless(batches: Batches) -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from batches


def is_due(done: int | float, every: int | None, stride: int | float = 1, *, last: bool = False) -> bool:
    """Whether the last stride of `done` passed a multiple of `every`, or it is the last; never if that is None."""
    if every is None:
        return False
    return last or math.floor(done / every + 1e-9) > math.floor((done - stride) / every + 1e-9)
