"""Training of a pretrained model with a head. A task gives the module, the loss and the file format.

Each seed is a run with its own folder and a checkpoint at the end of each epoch. The same command resumes a killed
run from its last checkpoint.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from avdata.load import Batch, LoaderConfig, TrainView
from avmanifest.errors import ConfigError
from avmanifest.wording import counted
from avmodel.checkpoint import fill_own
from avmodel.checkpoint_folder import TRAINER_FILE, newest_whole
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import micro_batches
from avmodel.evaluate.config import TrainingConfig
from avmodel.evaluate.data import Split, make_loader
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.features import content_sha256
from avmodel.fit import Fit, Moment, Objective, Terms, distributed, fit
from avmodel.metrics import METRICS, JsonLines, SkippedLog
from avmodel.nonfinite import SkippedSteps, skip_note
from avmodel.optim import make_optimizer, parameter_groups
from avmodel.precision import loss_scale
from avmodel.resuming import LOSS_SCALE, SKIPPED_STEPS, load_state, load_together, restore, trainer_state
from avmodel.rundir import CHECKPOINTS, as_json, defaults_of, differences, read_config, write_config

_LOG = logging.getLogger(__name__)
DROPOUT = 2  # number of its random stream
TRAIN_CONTENT = "run.train_content"
NOT_TRAINED_WITH = ("seeds", "random_weights", "feature_batch_size")  # settings that training does not read

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(Generic[Module]):
    """What a task contributes to the training of one seed."""

    name: str  # shown in progress
    view: TrainView
    build: Callable[[], Module]  # the module at its start, on the device; called after torch is seeded
    optimizer: Callable[[Module], torch.optim.Optimizer]
    # Loss of a micro-step, from the module to call (maybe wrapped), the batch and the moment.
    loss: Callable[[nn.Module, Batch, Moment], Float[Tensor, ""]]
    save: Callable[[Module, int, Mapping[str, Any]], None]  # module, number of steps, trainer state
    load: Callable[[Module, Path], object]  # give the module the weights of a checkpoint that `save` wrote
    test_only: Sequence[str]  # settings that training does not read
    splits: Mapping[str, Split]  # compared when a run resumes; `train` is trained on
    class_balanced: bool = False
    averaged_epochs: int = 1  # number of last epochs whose weights are averaged
    parts: bool = False  # a step may use only some of the parameters
    after_epoch: Callable[[Module, int, int], None] | None = None  # gets the module, epochs and steps done


def train(config: TrainingConfig, run: Evaluation, training: Training[Module], seed: int, folder: Path) -> Module:
    """Train for all epochs and return the module, in evaluation mode; a killed run of this folder is resumed.

    Raises ConfigError for a folder that was begun otherwise (`begin`), CheckpointError for one without a whole
    checkpoint, DivergedError for a loss that isn't finite.
    """
    world, samples = run.world, len(training.splits["train"].dataset)
    batch_size, device_batch, micro_steps = step_sizes(config, samples, world.size)
    shuffled = LoaderConfig(batch_size=device_batch, seed=seed, class_balanced=training.class_balanced)
    loader = make_loader(shuffled, config.data, training.splits["train"], training.view, world)
    begin(config, run, training.splits, seed, folder, profile=training.view.profile, free=training.test_only)
    torch.manual_seed(seed)
    module = training.build()
    optimizer = training.optimizer(module)
    average = LastEpochs(module, training.averaged_epochs) if training.averaged_epochs > 1 else None
    scale = loss_scale(config.precision, world.device)
    skipped = SkippedSteps(config.optim.max_skipped_steps)

    def go_on(checkpoint: Path) -> int:
        training.load(module, checkpoint)
        done, state = restore(checkpoint, [optimizer], loader)
        skipped.count = state.get(SKIPPED_STEPS, 0)
        if average is not None:
            fill_own(average.mean, state.get("average", {}), checkpoint / TRAINER_FILE)
        if scale is not None:
            load_state(scale, state, LOSS_SCALE, checkpoint)
        return done

    resumed = load_together(folder / CHECKPOINTS, go_on, world, say=_LOG.warning)
    first = 0 if resumed is None else resumed[1]
    epoch_steps = samples // batch_size
    steps = config.epochs * epoch_steps

    def losses(forward: nn.Module, batch: Batch, moment: Moment, _: Terms) -> Mapping[str, Float[Tensor, ""]]:
        torch.manual_seed(int(moment.chance(DROPOUT).integers(1 << 62)))
        return {"total": training.loss(forward, batch, moment)}

    with (
        closing(JsonLines(folder / METRICS, last_step=first)) if world.is_main else nullcontext() as log,
        closing(SkippedLog(folder, last_step=first)) if world.is_main else nullcontext() as skips,
    ):

        def record(values: Mapping[str, Any]) -> None:
            if log is not None:
                log.write(values)
            if run.progress is not None and world.is_main:
                run.progress(f"{training.name}, seed {seed}, loss {values['loss']:.3f}", values["step"], steps)

        def skip(values: Mapping[str, Any]) -> None:
            if skips is not None:
                skips.write(values)
                _LOG.warning("%s: %s", folder, skip_note(values, skipped))

        def reload() -> None:
            if newest_whole(folder / CHECKPOINTS, lambda checkpoint: training.load(module, checkpoint)) is None:
                torch.manual_seed(seed)
                module.load_state_dict(training.build().state_dict())

        def epoch_ended(done: int, _batch: Batch, _stopping: bool) -> None:
            if log is not None:
                log.flush()
            state = trainer_state(done, [optimizer], loader, skipped)
            if average is not None:
                average.epoch_ended(module, left=(steps - done) // epoch_steps)
                state["average"] = average.mean.state_dict()
            if scale is not None:
                state[LOSS_SCALE] = scale.state_dict()
            if world.is_main:
                training.save(module, done, state)
            if training.after_epoch is not None:
                training.after_epoch(module, done // epoch_steps, done)

        objective = Objective(
            module=module,
            forward=distributed(module, world, parts=training.parts),
            optimizers=[optimizer],
            losses=losses,
            clip_grad=config.optim.clip_grad,
            seed=seed,
            scale=scale,
        )
        fitting = Fit(
            objective=objective,
            optim=config.optim,
            batches=loader,
            micro_steps=micro_steps,
            batch_size=batch_size,
            steps=steps,
            step_epochs=1 / epoch_steps,
            record=record,
            is_due=lambda done: done % epoch_steps == 0,
            after=epoch_ended,
            reload=reload,
            skip=skip,
            skipped=skipped,
        )
        fit(fitting, world, first=first)
    return module.eval()


def step_sizes(config: TrainingConfig, samples: int, world_size: int) -> tuple[int, int, int]:
    """Samples of a step, of a micro-step of one device, and the number of micro-steps. Raises as `whole_batch`."""
    batch_size = whole_batch(config, samples, world_size)
    return batch_size, *micro_batches(batch_size, config.device_batch_size, world_size)


class LastEpochs:
    """The unweighted mean of a module's weights at the ends of its last epochs."""

    def __init__(self, module: nn.Module, epochs: int) -> None:
        self.epochs = epochs
        self.mean = AveragedModel(module, use_buffers=True)

    def epoch_ended(self, module: nn.Module, *, left: int) -> None:
        """Add the weights if this is one of the last epochs; after the last one, load the mean into the module."""
        if left < self.epochs:
            self.mean.update_parameters(module)
        if left == 0:
            module.load_state_dict(self.mean.module.state_dict())


def whole_batch(config: TrainingConfig, samples: int, world_size: int) -> int:
    """Samples of a step: as configured, or for a smaller dataset as many as equal micro-steps can hold.

    Raises ConfigError for fewer samples than processes.
    """
    if samples >= config.batch_size:
        return config.batch_size
    share = samples // world_size
    if not share:
        raise ConfigError(f"{counted(samples, 'training sample')} for {world_size} processes. Start fewer processes.")
    return share // min(config.device_batch_size, share) * min(config.device_batch_size, share) * world_size


def begin(
    config: TrainingConfig,
    run: Evaluation,
    splits: Mapping[str, Split],
    seed: int,
    folder: Path,
    *,
    profile: str,
    free: Sequence[str] = (),
) -> None:
    """Give the folder to this run. Raises ConfigError for a folder with a run of another config, model or data.

    `splits`, the content of those to train on by this `profile`, and `seed` are compared too; settings named in `free`
    may change.
    """
    values = as_json(config) | {
        "run.checkpoint": run.loaded.origin["sha256"],
        **{f"run.{name}": split.subset_id for name, split in splits.items()},
        TRAIN_CONTENT: content_sha256(splits["train"].dataset, profile),
        "run.seed": seed,
    }
    stored = read_config(folder)
    # A run of an earlier version did not note the content.
    unread = () if stored is None or TRAIN_CONTENT in stored else (TRAIN_CONTENT,)
    for name in (*NOT_TRAINED_WITH, *free, *unread):
        values.pop(name, None)
    if stored is not None and (changed := differences(stored, values, defaults_of(config))):
        raise ConfigError(
            f"{folder}: holds a run with other settings: {'; '.join(changed)}. Give another --out, or those settings."
        )
    run.world.barrier()
    if stored is None and run.world.is_main:
        write_config(folder, values)
    run.world.barrier()


def tuned_optimizer(
    model: nn.Module,
    head: nn.Module,
    config: OptimConfig,
    *,
    head_scale: float = 1.0,
    scaled: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer, with rates that decay layer by layer from the head down; the head's rate is scaled.

    `scaled`: further factors of the rates of parameters, by the beginning of their names.
    """
    optimizer = make_optimizer(model, config, scaled=scaled)
    for group in parameter_groups(head, replace(config, layer_decay=1.0)):
        optimizer.add_param_group({**group, "lr": 0.0, "lr_scale": head_scale})
    return optimizer


def freeze_all_but_used(module: nn.Module, compute: Callable[[], Float[Tensor, "*shape"]]) -> None:
    """Freeze the parameters on which the output of `compute` does not depend; the others are trained.

    What was not trained before, such as the joint layers of a model that learned from contrast alone, is trained now.
    """
    module.eval()  # stochastic depth must not hide a block
    module.requires_grad_(True)
    torch.autograd.backward(compute().sum())
    module.train()
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
