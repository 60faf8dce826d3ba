"""Pretraining: a dataset and a config to a run's folder, by the loop in `avmodel.fit`.

What is random at a step is a function of the seed, the step and the place of each sample in its epoch's order, never
of a generator carried along: so a run that was killed goes on to the last bit, and two processes draw the masks that
one would.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from avdata.load import Batch, described_parts
from avdata.load.order import random_bits
from avdata.profiles import profile
from avdata.tracking import TrackedRun
from avmanifest.errors import AvkitError, CheckpointError, ConfigError, ShardError
from avmanifest.files import write_errors
from avmanifest.secrets import shown_url
from avmanifest.wording import counted
from avmodel.augment import augment
from avmodel.averaging import WeightAverage, weight_average
from avmodel.checkpoint import load_average, load_model, save_checkpoint
from avmodel.checkpoint_folder import EMA_FILE, LATEST_FILE, checkpoints_in, newest_whole, place_of, point_latest_to
from avmodel.compiling import prepare_forward
from avmodel.configs.run import RunConfig
from avmodel.distributed import World, join_world
from avmodel.fit import Batches, Fit, Moment, Objective, Terms, distributed, fit, is_due
from avmodel.gradient_cache import two_passes
from avmodel.inputs import (
    Source,
    probe_loader,
    reading_notes,
    to_inputs,
    train_loader,
    validation_loader,
    with_mix,
)
from avmodel.metrics import METRICS, MetricLog, read_lines
from avmodel.models import build_model
from avmodel.models.family import Contrast, Family, Modality, Output
from avmodel.nonfinite import SkippedSteps, skip_note
from avmodel.optim import make_optimizer
from avmodel.precision import LossScale, call_in, loss_scale, require_precision
from avmodel.probe import nearest_neighbor_probe
from avmodel.profiling import StepTrace
from avmodel.reconstructions import save_attention, save_picture
from avmodel.resuming import (
    AVERAGE,
    LOSS_SCALE,
    SKIPPED_STEPS,
    load_state,
    load_together,
    restore,
    together,
    trainer_state,
)
from avmodel.rng import DROPOUT, Part, augment_draws, draw_masks
from avmodel.rundir import CHECKPOINTS, PICTURES, as_json, other_shards, start_run
from avmodel.sharding import Placement, load_whole, placement, whole, whole_weights
from avmodel.speed import Speed
from avmodel.validation import held_out_loss
from avmodel.weights.own_run import start_from_model
from avmodel.weights.starting import start_from_weights


class Listener:
    """Receives progress events of a run. This default ignores them."""

    def started(self, *, step: int, steps: int, epochs: float) -> None:
        """`step` of `steps` steps are done."""

    def stepped(self, record: Mapping[str, Any]) -> None:
        """Called after each step with its line of metrics.jsonl."""

    def note(self, text: str) -> None:
        """A message to show as one line."""


class Report(NamedTuple):
    """A run, finished or stopped."""

    out: Path
    step: int
    steps: int
    first_loss: float
    last_loss: float


def pretrain(
    config: RunConfig,
    source: Source | None,
    out: Path,
    *,
    resume: bool = False,
    resume_from: int | None = None,
    profile_steps: bool = False,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Train on a prepared dataset's folder, or on shard URLs, under torchrun or alone; see `train`.

    Datasets with amounts, such as `data/a=0.7`, become the setting `data.mix`, which is used where `source` is None.
    """
    data, source = with_mix(config.data, source)
    config = replace(config, data=data)
    with join_world(config.device) as world:
        require_precision(config.precision, world.device)
        micro_batch, _ = config.micro_batch(world.size)
        batches = train_loader(config.data, config.model, source, world, batch_size=micro_batch, seed=config.seed)
        probed = probe_loader(config.data, config.model, source, world, batch_size=micro_batch)
        data_name = shown_url(str(source)) if isinstance(source, str | Path) else "united"
        return train(
            config,
            batches,
            out,
            world,
            probed=probed,
            held_out=validation_loader(config, source, world),
            parts=described_parts(batches.dataset, data_name),
            resume=resume,
            resume_from=resume_from,
            profile_steps=profile_steps,
            listener=listener,
            stop=stop,
        )


def train(
    config: RunConfig,
    batches: Batches,
    out: Path,
    world: World,
    *,
    probed: Batches | None = None,
    held_out: Batches | None = None,
    parts: Sequence[Mapping[str, Any]] = (),
    resume: bool = False,
    resume_from: int | None = None,
    profile_steps: bool = False,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Train to the end of the config, or until `stop` says so; the folder `out` then holds the run.

    With config.steps=0 its checkpoint is the untrained start.

    Killed at any moment and resumed, a run on one CPU device gives the same curve to the last bit.

    Args:
        config: The run.
        batches: This process's training batches.
        out: The run's folder.
        world: The processes of the run.
        probed: Batches that the probe looks at; None: no probe.
        held_out: Batches of the held-out loss, of `RunConfig.validation_batch`; None: no such loss.
        parts: What data.json keeps of the data.
        resume: Go on from the newest whole checkpoint of the run in `out`.
        resume_from: Go on from the checkpoint of this step; `resume` is then implied.
        profile_steps: Write a trace of a few steps of the main process: see `StepTrace`.
        listener: Receives progress events.
        stop: Whether to end after the step under way.

    Raises:
        ConfigError: The config cannot run here or isn't the resumed run's, or there is no checkpoint of that step.
        CheckpointError: No checkpoint to go on from is whole.
        DivergedError: A loss, a gradient or a weight is not finite.
        StorageError: The run's folder cannot be written.
    """
    listener = (listener if world.is_main else None) or Listener()
    _, micro_steps = config.micro_batch(world.size)
    step_epochs = micro_steps / len(batches)
    steps = int(config.epochs / step_epochs) if config.steps is None else config.steps
    goes_on = resume or resume_from is not None
    changed = other_shards(out, parts) if goes_on and world.is_main else []
    start_together(out, config, world, parts, resume=goes_on)
    place = placement(config.parallel, world)
    resumed = go_on(out, config, batches, place, step=resume_from, say=listener.note)
    model = resumed.model if resumed else place(initial_model(config, place.start, listener))
    require_batch(model, config, world)
    objective = pretraining(config, model, world, resumed)
    first = resumed.step if resumed else 0
    skipped = SkippedSteps(config.optim.max_skipped_steps, resumed.skipped if resumed else 0)
    if resume and not resumed:
        listener.note(f"{out / CHECKPOINTS}: no checkpoint was saved yet; the run begins at step 0")
    for name in changed:
        listener.note(
            f"{name}: its shards have other bytes than before, as after another prepare or avkit dataset; the run goes "
            "on with them. To train on the same, give the dataset as it was."
        )
    speed = Speed(config, world, first=first, steps=steps)
    listener.started(step=first, steps=steps, epochs=steps * step_epochs)
    for note in (config.contrast_note(world.size), config.data.unread_note):
        if steps and note:
            listener.note(note)

    if not steps:
        if resumed is None:
            save(out, config, objective, batches, 0, world, None, skipped)
        world.barrier()
        return Report(out, 0, 0, math.nan, math.nan)

    traced = trace_of(out, first, steps, world, listener.note) if profile_steps else nullcontext()
    with log_of(out, first, config, world, listener.note) as log, traced as trace:

        def record(values: Mapping[str, Any]) -> None:
            values = speed.of(values)
            if log is not None:
                log.step(values)
            listener.stepped(values)

        def skip(values: Mapping[str, Any]) -> None:
            if log is not None:
                log.skipped(values)
            listener.note(skip_note(values, skipped))

        def reload() -> None:
            saved = newest_whole(out / CHECKPOINTS, lambda checkpoint: load_model(checkpoint, place.start)[0])
            good = saved[1] if saved else initial_model(config, place.start, Listener())
            load_whole(model, good.state_dict())

        def due(done: int) -> tuple[bool, bool, bool, bool]:
            last = done == steps
            return (
                is_due(done, config.pictures_every, last=last),
                is_due(done * step_epochs, config.probe_every, step_epochs, last=last),
                is_due(done * step_epochs, config.validation.every, step_epochs, last=last),
                is_due(done, config.save_every, last=last),
            )

        def after(done: int, batch: Batch, stopping: bool) -> None:
            draws, probes, validates, saves = due(done)
            if draws:
                drawn = draw(out, config, model, batch, done, world)
                if log is not None:
                    log.pictures(done, drawn)
            if probes and probed is not None:
                probe(config, model, probed, done, world, log, listener)
            if validates and held_out is not None:
                validate(config, model, held_out, done, world, log, listener)
            # Last: what a checkpoint's step has to show is there before it.
            if saves or stopping:
                save(out, config, objective, batches, done, world, log, skipped)

        def before_step(step: int) -> None:
            if trace is not None:
                trace.before_step(step)
            seed_dropout(config.seed, step, world.rank)

        run = Fit(
            objective=objective,
            optim=config.optim,
            batches=batches,
            micro_steps=micro_steps,
            batch_size=config.batch_size,
            steps=steps,
            step_epochs=step_epochs,
            record=record,
            is_due=lambda done: any(due(done)),
            after=after,
            reload=reload,
            skip=skip,
            skipped=skipped,
            before_step=before_step,
        )
        try:
            done = fit(run, world, first=first, stop=stop)
        except ShardError:
            if not config.data.skip_bad:
                listener.note(
                    "To train on without damaged samples, resume with --set data.skip_bad=true, or name them: "
                    "--set data.exclude_keys=KEY,KEY"
                )
            raise
    world.barrier()
    return report(out, done, steps)


def pretraining(config: RunConfig, model: Family, world: World, resumed: "Resumed | None" = None) -> Objective:
    """The model's losses on augmented, masked batches, compiled and recomputed as the config asks.

    `resumed`: what a resumed run goes on with; None: new optimizers.
    """
    prepare_forward(model, config, world.device)
    parts = config.contrast_parts(world.size)

    def call(forward: nn.Module, batch: Batch, moment: Moment, terms: Terms, **options: Contrast) -> Output:
        image, log_mel = to_inputs(batch, world.device)
        log_mel = augment(log_mel, config.augment, augment_draws(config.augment, config.seed, batch))
        masks = draw_masks(model, config.seed, batch, world, Part(moment.number % parts, parts))
        only = {} if terms is None else {"terms": terms}
        if config.compile == "whole":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # the last outputs were read
        output: Output = call_in(config.precision, forward, world.device, image, log_mel, masks, **only, **options)
        return output

    def losses(forward: nn.Module, batch: Batch, moment: Moment, terms: Terms) -> Mapping[str, Float[Tensor, ""]]:
        return call(forward, batch, moment, terms).losses

    def losses_together(
        forward: nn.Module, micro: Sequence[Batch], moments: Sequence[Moment], terms: Terms
    ) -> Iterator[Mapping[str, Float[Tensor, ""]]] | None:
        if parts == 1 or (terms is not None and "contrast" not in terms):
            return None

        def call_part(number: int, contrast: Contrast) -> Output:
            moment = moments[number]
            seed_dropout(config.seed, moment.step, moment.rank, moment.number)  # both passes drop the same
            return call(forward, micro[number], moment, terms, contrast=contrast)

        return two_passes(model, call_part, range(len(micro)))

    return Objective(
        module=model,
        forward=distributed(model, world, parts=len(model.step_terms) > 1),
        optimizers=resumed.optimizers if resumed else new_optimizers(config, model),
        losses=losses,
        clip_grad=config.optim.clip_grad,
        terms=model.step_terms,
        after_step=model.after_step,
        seed=config.seed,
        losses_together=losses_together,
        scale=resumed.scale if resumed else loss_scale(config.precision, world.device),
        average=resumed.average if resumed else weight_average(config, model),
    )


def new_optimizers(config: RunConfig, model: Family) -> list[torch.optim.Optimizer]:
    """One for each group of the model's terms that is stepped on by itself."""
    return [make_optimizer(model, config.optim, config.pretrained) for _ in model.step_terms]


def start_together(
    out: Path, config: RunConfig, world: World, parts: Sequence[Mapping[str, Any]], *, resume: bool
) -> None:
    """Give the folder to the run; errors as in `start_run`, on every process."""
    refusal: AvkitError | None = None
    if world.is_main:
        try:
            start_run(out, config, parts, resume=resume)
        except AvkitError as error:
            refusal = error
    together(world, refusal, out)


class Resumed(NamedTuple):
    """What a run goes on with."""

    step: int  # steps that are done
    model: Family
    optimizers: Sequence[torch.optim.Optimizer]
    skipped: int  # steps that were left out
    scale: LossScale | None  # of the losses, in float16
    average: WeightAverage | None  # of the weights, in a run with ema_decay


def go_on(
    out: Path, config: RunConfig, batches: Batches, place: Placement, *, step: int | None, say: Callable[[str], object]
) -> Resumed | None:
    """The model and optimizers of the checkpoint to go on from, the same for all processes; None without any.

    `batches` are then where they were, and `latest` names that checkpoint. Raises as `load_together`.
    """
    folder, world = out / CHECKPOINTS, place.world

    def load(checkpoint: Path) -> Resumed:
        model, found = load_model(checkpoint, place.start)
        if found != config.model:
            raise CheckpointError(f"{checkpoint}: of another model than this run's: {found}.")
        model = place(model)
        optimizers = new_optimizers(config, model)
        done, state = restore(checkpoint, optimizers, batches)
        scale = loss_scale(config.precision, world.device)
        if scale is not None:
            load_state(scale, state, LOSS_SCALE, checkpoint)
        average = weight_average(config, model)
        if average is not None:
            load_state(average, state, AVERAGE, checkpoint)
            average.fill(load_average(checkpoint), checkpoint / EMA_FILE)
        return Resumed(done, model, optimizers, state.get(SKIPPED_STEPS, 0), scale, average)

    found = load_together(folder, load, world, step=step, say=say)
    if found is None:
        return None
    checkpoint, resumed = found
    if world.is_main:
        later = [path.name for path in checkpoints_in(folder) if place_of(path) > place_of(checkpoint)]
        if later:
            say(f"going on from {checkpoint.name}; later checkpoints stay where they are: {', '.join(later)}")
        with write_errors(folder / LATEST_FILE, "Free space, then resume."):
            point_latest_to(checkpoint, say)
    return resumed


def initial_model(config: RunConfig, device: torch.device, listener: Listener) -> Family:
    """The initial model: random weights from the seed, then those that the config names."""
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    if config.start is not None:
        start_from_model(model, config.start)
        listener.note(f"all weights from {config.start}")
        model.before_training()
        return model.to(device)
    weights: dict[Modality, str | None] = {"image": config.image_weights, "audio": config.audio_weights}
    for modality, path in weights.items():
        if path is not None:
            found = start_from_weights(model, modality, path)
            listener.note(f"{modality} weights from {path}: {found.name}, license {found.license}")
    model.before_training()
    return model.to(device)


def require_batch(model: Family, config: RunConfig, world: World) -> None:
    """Raise ConfigError if the model's loss needs larger or equal batches than the config gives."""
    together = config.micro_batch(world.size)[0] * world.size * config.contrast_parts(world.size)
    if together < model.least_batch:
        raise ConfigError(
            f"{counted(together, 'sample')} at once over all processes; the model needs {model.least_batch}. Raise "
            "batch_size or device_batch_size, or set gradient_cache=true."
        )


def save(
    out: Path,
    config: RunConfig,
    objective: Objective,
    batches: Batches,
    done: int,
    world: World,
    log: MetricLog | None,
    skipped: SkippedSteps,
) -> None:
    """A checkpoint after `done` steps, once its lines of metrics are on the disk. Every process calls it."""
    if log is not None:
        log.flush()
    parts = {LOSS_SCALE: objective.scale, AVERAGE: objective.average}
    more = {name: part.state_dict() for name, part in parts.items() if part is not None}
    average = whole(objective.average.weights, keep=world.is_main) if objective.average is not None else None
    weights = whole_weights(objective.module, keep=world.is_main)
    state = whole(trainer_state(done, objective.optimizers, batches, skipped, **more), keep=world.is_main)
    if world.is_main:
        save_checkpoint(
            out / CHECKPOINTS,
            done,
            weights,
            config.model,
            state,
            keep=config.keep_checkpoints,
            keep_every=config.keep_every,
            average=average,
            notes=reading_notes(config.data),
        )


def draw(out: Path, config: RunConfig, model: Family, batch: Batch, done: int, world: World) -> dict[str, Path]:
    """Pictures of what the model makes of the first samples of the main process's batch, by name; some may be missing.

    Every process takes part: a loss over pairs of samples waits for all of them.
    """
    part = Part(0, config.contrast_parts(world.size))  # the first micro-batch of its step
    inputs, masks = to_inputs(batch, world.device), draw_masks(model, config.seed, batch, world, part)
    spectrograms, folder = profile(batch.profile), out / PICTURES
    path, maps = (folder / f"{name}-{done:08d}.png" for name in ("step", "attention"))
    save_picture(path if world.is_main else None, model, inputs, masks, batch.keys, spectrograms)
    save_attention(maps if world.is_main else None, model, inputs, batch.keys, spectrograms)
    return {"reconstruction": path, "attention": maps}


def probe(
    config: RunConfig,
    model: Family,
    probed: Batches,
    done: int,
    world: World,
    log: MetricLog | None,
    listener: Listener,
) -> None:
    """Run the nearest-neighbor probe after `done` steps and log its scores."""
    found = nearest_neighbor_probe(model, probed, world, precision=config.precision)
    if log is not None:
        log.probe({"step": done, **found.record()})
    listener.note(f"step {done}: nearest neighbor shares a class: {found.said()}")


def validate(
    config: RunConfig,
    model: Family,
    held_out: Batches,
    done: int,
    world: World,
    log: MetricLog | None,
    listener: Listener,
) -> None:
    """Compute the held-out loss after `done` steps and log it."""
    _, parts = config.validation_batch(world.size)
    most = config.validation.batches
    losses = held_out_loss(model, held_out, world, parts=parts, most=most, precision=config.precision)
    if log is not None and all(map(math.isfinite, losses.values())):  # a curve of numbers
        log.validation(done, losses)
    terms = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if name != "total")
    listener.note(f"step {done}: held-out loss {losses['total']:.4f} ({terms})")


def log_of(
    out: Path, first: int, config: RunConfig, world: World, say: Callable[[str], object]
) -> AbstractContextManager[MetricLog | None]:
    """The run's log on the process that writes."""
    if not world.is_main:
        return nullcontext()
    return MetricLog(out, last_step=first, tracked=TrackedRun.of(config), config=as_json(config), say=say)


def trace_of(
    out: Path, first: int, steps: int, world: World, say: Callable[[str], object]
) -> AbstractContextManager[StepTrace | None]:
    """The trace of the process that writes. Raises ConfigError, on every process, for a run that is too short."""
    trace = StepTrace(out, first=first, steps=steps, device=world.device, say=say)
    return trace if world.is_main else nullcontext()


def seed_dropout(seed: int, step: int, rank: int, number: int = 0) -> None:
    """Seed what torch draws by itself in a step, or in its micro-step of that number, on one process.

    As torch.manual_seed does, but for devices that are in use alone: for each other one it would format the stack.
    """
    bits = int(random_bits(seed, step, DROPOUT, np.array([rank + (number << 32)]))[0])
    torch.default_generator.manual_seed(bits)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(bits)


def report(out: Path, step: int, steps: int) -> Report:
    """What a run's metrics say of it after `step` steps."""
    losses = {line["step"]: line["loss"] for line in read_lines(out / METRICS) if "loss" in line}
    return Report(out, step, steps, losses.get(1, math.nan), losses.get(step, math.nan))
