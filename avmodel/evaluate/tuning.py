"""The training of a classifier: all of a pretrained model and linear heads, and their predictions.

Each seed is a run of its own folder, checkpointed every epoch: killed, the same command goes on with the next step.
"""

import math
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from avdata.load import Batch, Loader, LoaderConfig, View
from avmanifest.errors import AvkitError, ConfigError
from avmodel.checkpoint import latest_checkpoint, load_trainer_state
from avmodel.distributed import World, autocast, micro_batches
from avmodel.evaluate.classifier import Classifier, freeze_unused, load_classifier, save_classifier
from avmodel.evaluate.data import (
    MODES,
    EvalDataConfig,
    Split,
    one_view,
    ordered_loader,
    train_view,
)
from avmodel.evaluate.evaluation import (
    EvalConfig,
    Evaluation,
    class_scores,
)
from avmodel.evaluate.features import eval_inputs, gathered, label_matrix, parts_of
from avmodel.evaluate.heads import ALL, classification_loss
from avmodel.evaluate.subject import Subject, with_settings
from avmodel.inputs import Inputs, to_inputs
from avmodel.metrics import METRICS, JsonLines
from avmodel.optim import OptimConfig, make_optimizer, parameter_groups, set_lr
from avmodel.rundir import CHECKPOINTS, as_json, differences, read_config, write_config
from avmodel.train import endless, no_sync

MIXUP, DROPOUT, MIXED = 1, 2, 3  # streams of random numbers
TEST_ONLY = ("data.windows", "data.frames", "data.test_labels")  # settings that training doesn't know
AVERAGES = ("logits", "probabilities")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(EvalConfig):
    """Defaults: the released recipe for VGGSound, with the ten-window test that it meant."""

    data: EvalDataConfig = field(default_factory=lambda: EvalDataConfig(windows=10))
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            base_lr=3e-4, warmup=0.2, ramp=0.0, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.75
        )
    )
    batch_size: int = 512  # samples of a step, over all devices and micro-steps; at most the training samples
    device_batch_size: int = 32
    epochs: int = 100
    drop_path: float = 0.2
    mixup: float = 1.0  # of Beta(mixup, mixup): one share for both senses and the labels; 0: none
    smoothing: float = 0.1  # of the labels; not with several labels a sample
    class_balanced: bool = False  # rare classes as often as frequent ones
    max_gain_db: float = 6.0
    min_area: float = 0.5
    test_every: int | None = None  # epochs between tests of one window; none: only at the end
    mixed: bool = False  # AVSiam's: of the steps half see and hear, a quarter only hear, a quarter only see
    missing: tuple[str, ...] = ()  # test, too, with only this sense given: audio, image
    average: str = "logits"  # over windows or frames; or probabilities

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        for name in ("batch_size", "device_batch_size", "epochs", "test_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name}={value}: must be 1 or more")
        for name, most in (("drop_path", 0.99), ("smoothing", 0.99), ("mixup", math.inf)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name}={getattr(self, name)} is not in 0..{most}")
        if strange := set(self.missing) - set(MODES[1:]):
            raise ConfigError(f"missing={sorted(strange)}: known are {', '.join(MODES[1:])}, the sense still given")
        if self.average not in AVERAGES:
            raise ConfigError(f"unknown average {self.average!r}; known: {', '.join(AVERAGES)}")
        if (self.missing or self.mixed) and self.data.mode != MODES[0]:
            raise ConfigError(
                f"missing={self.missing}, mixed={self.mixed}: of data.mode={self.data.mode} a sense is missing already"
            )


def trained(config: FinetuneConfig, run: Evaluation, train: Split, test: Split, seed: int, folder: Path) -> Classifier:
    """The classifier after all epochs, in evaluation mode; taken up where a killed run of this folder was."""
    world = run.world
    batch_size = whole_batch(config, len(train.dataset), world.size)
    size, micro_steps = micro_batches(batch_size, config.device_batch_size, world.size)
    loader = shuffled_loader(config, run.subject, train, world, size, seed)
    checkpoint = begin(config, run, train, test, seed, folder)
    torch.manual_seed(seed)
    subject = with_settings(run.subject, drop_path=config.drop_path)
    classifier = Classifier(subject.model, len(train.dataset.classes), config.data.mode).to(world.device)
    classifier.heads.start_from_frequencies(label_matrix(train.dataset).float().mean(dim=0).to(world.device))
    freeze_unused(classifier)
    optimizer = finetune_optimizer(classifier, config.optim)
    first = 0
    if checkpoint is not None:
        state = load_trainer_state(checkpoint)
        classifier.load_state_dict(load_classifier(folder, world.device)[0].state_dict())
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        first = int(state["step"])
    forward = distributed(classifier, world, parts=config.mixed)
    steps_per_epoch = len(train.dataset) // batch_size
    steps = config.epochs * steps_per_epoch
    stream = endless(loader)
    with closing(JsonLines(folder / METRICS, last_step=first)) if world.is_main else nullcontext() as log:
        for step in range(first, steps):
            began = time.perf_counter()
            lr = set_lr(optimizer, config.optim, peak_lr=config.optim.peak_lr(batch_size), done=step / steps)
            micro = [next(stream) for _ in range(micro_steps)]
            loss = take_step(
                config, classifier, forward, optimizer, micro, world, seed, step, multi_label=train.multi_label
            )
            done = step + 1
            if log is not None:
                log.write({"step": done, "loss": loss, "lr": lr, "took_s": round(time.perf_counter() - began, 4)})
            if run.progress is not None and world.is_main:
                run.progress(f"fine-tuning, seed {seed}, loss {loss:.3f}", done, steps)
            if done % steps_per_epoch == 0:
                epoch = done // steps_per_epoch
                if log is not None:
                    log.flush()
                if world.is_main:
                    state = {"optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
                    save_classifier(folder, classifier, train.dataset.classes, done, state)
                if config.test_every is not None and epoch % config.test_every == 0 and done < steps:
                    view = one_view(config.data, run.subject)
                    logits = predict(config, classifier, run, test, view, multi_label=train.multi_label)
                    report(logits, test, done, folder, world)
    return classifier.eval()


def whole_batch(config: FinetuneConfig, samples: int, world_size: int) -> int:
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
    config: FinetuneConfig, subject: Subject, train: Split, world: World, batch_size: int, seed: int
) -> Loader:
    """One process's training batches."""
    data = config.data
    loading = LoaderConfig(
        batch_size=batch_size,
        seed=seed,
        class_balanced=config.class_balanced,
        num_workers=data.num_workers,
        skip_bad=data.skip_bad,
        pin_memory=world.device.type == "cuda",
        cache=data.cache,
    )
    view = train_view(data, subject, max_gain_db=config.max_gain_db, min_area=config.min_area)
    return Loader(train.dataset, view, loading, rank=world.rank, world_size=world.size)


def begin(config: FinetuneConfig, run: Evaluation, train: Split, test: Split, seed: int, folder: Path) -> Path | None:
    """The checkpoint to go on from. Raises ConfigError for a folder with a run of another config, model or data."""
    values = as_json(config) | {
        "run.checkpoint": run.subject.origin["sha256"],
        "run.train": train.subset_id,
        "run.test": test.subset_id,
        "run.seed": seed,
    }
    free = ("seeds", "random_weights", "missing", "average", "test_every", "feature_batch_size", *TEST_ONLY)
    for name in free:
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


def finetune_optimizer(classifier: Classifier, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW whose rates fall from the heads down, layer by layer."""
    optimizer = make_optimizer(classifier.model, config)
    for group in parameter_groups(classifier.heads, replace(config, layer_decay=1.0)):
        optimizer.add_param_group({**group, "lr": 0.0})
    return optimizer


def take_step(
    config: FinetuneConfig,
    classifier: Classifier,
    forward: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro: list[Batch],
    world: World,
    seed: int,
    step: int,
    *,
    multi_label: bool,
) -> float:
    """One update; the loss, averaged over processes. Raises AvkitError, before the update, if it isn't finite."""
    total = torch.zeros((), device=world.device)
    for number, batch in enumerate(micro):
        # Random numbers are of the step, not of a generator carried along: a resumed run draws the same.
        chance = np.random.default_rng([seed, MIXUP, step, number, world.rank])
        torch.manual_seed(int(np.random.default_rng([seed, DROPOUT, step, number, world.rank]).integers(1 << 62)))
        inputs, targets = mix_up(
            to_inputs(batch, world.device), batch.labels.to(world.device).float(), config.mixup, chance
        )
        with no_sync(forward, unless=number == len(micro) - 1):
            with autocast(config.precision, world.device):
                logits = forward(*inputs, sense_given(config, seed, step))[ALL].float()
            loss = classification_loss(
                logits, targets, multi_label=multi_label, smoothing=0.0 if multi_label else config.smoothing
            )
            torch.autograd.backward(loss / len(micro))
        total += loss.detach() / len(micro)
    most = config.optim.clip_grad if config.optim.clip_grad is not None else math.inf
    norm = nn.utils.clip_grad_norm_([p for p in classifier.parameters() if p.grad is not None], most)
    shared = world.mean(torch.stack([total, norm.to(total)]))
    found, found_norm = shared.tolist()
    if not (math.isfinite(found) and math.isfinite(found_norm)):
        keys = ", ".join(key for batch in micro for key in batch.keys)
        raise AvkitError(
            f"step {step + 1}: loss {found}, gradient norm {found_norm}: not finite. The last epoch's checkpoint is "
            f"good; take a lower optim.base_lr or optim.clip_grad=1 in another --out. Samples: {keys}"
        )
    optimizer.step()
    optimizer.zero_grad()
    return float(found)


def sense_given(config: FinetuneConfig, seed: int, step: int) -> str | None:
    """The only sense that a step of mixed fine-tuning is given; None: both. The same on all processes."""
    if not config.mixed:
        return None
    draw = np.random.default_rng([seed, MIXED, step]).random()
    return None if draw > 0.5 else "audio" if draw < 0.25 else "image"


def mix_up(
    inputs: Inputs, targets: Float[Tensor, "b c"], alpha: float, chance: np.random.Generator
) -> tuple[Inputs, Float[Tensor, "b c"]]:
    """Each sample mixed with another of the batch, in a share of its own that image, log-mel and labels have in common.

    Log-mels are mixed as they are, in the logarithm, as released.
    """
    if alpha == 0 or len(targets) < 2:
        return inputs, targets
    share = torch.from_numpy(chance.beta(alpha, alpha, len(targets))).to(targets)
    partner = torch.from_numpy(chance.permutation(len(targets))).to(targets.device)

    def mix(x: Tensor) -> Tensor:
        part = share.reshape(-1, *[1] * (x.ndim - 1))
        return x * part + x[partner] * (1 - part)

    return Inputs(mix(inputs.image), mix(inputs.log_mel)), mix(targets)


def predict(
    config: FinetuneConfig,
    classifier: Classifier,
    run: Evaluation,
    test: Split,
    view: View,
    *,
    multi_label: bool,
    mode: str | None = None,
) -> dict[str, Float[Tensor, "n c"]]:
    """Logits, or probabilities, of each test sample, in the dataset's order, averaged over its windows or frames."""
    world = run.world
    size = max(config.feature_batch_size // (view.num_images or 1), 1)
    loader = ordered_loader(config.data, test, view, world, batch_size=size, seed=0)

    @torch.no_grad()
    def logits_of(batch: Batch) -> dict[str, Float[Tensor, "b c"]]:
        with autocast(config.precision, world.device):
            logits = classifier(*eval_inputs(batch, world.device), mode)
        scores = {row: x.float() for row, x in logits.items()}
        if config.average == "probabilities":
            scores = {row: x.sigmoid() if multi_label else x.softmax(dim=1) for row, x in scores.items()}
        return {row: x.reshape(len(batch), -1, x.shape[1]).mean(dim=1) for row, x in scores.items()}

    was_training = classifier.training
    classifier.eval()
    tables: list[Tensor] = []
    widths: dict[str, int] = {}
    for table, widths in gathered(loader, world, logits_of):  # noqa: B007  # the last one's are everyone's
        tables.append(table)
    classifier.train(was_training)
    whole = torch.cat(tables)
    if len(whole) < len(test.dataset):
        raise AvkitError(
            f"{test.name}: {len(test.dataset) - len(whole)} samples are damaged. Leave them out, or repair."
        )
    return parts_of(whole, widths)


def scores_of(
    logits: Mapping[str, Float[Tensor, "n c"]],
    labels: Bool[Tensor, "n c"],
    asked: Bool[Tensor, " n"],
    *,
    multi_label: bool,
) -> dict[str, dict[str, float]]:
    """Scores of each row over the samples that have a class."""
    return {row: class_scores(x[asked], labels[asked], multi_label=multi_label) for row, x in logits.items()}


def report(logits: Mapping[str, Float[Tensor, "n c"]], test: Split, done: int, folder: Path, world: World) -> None:
    """A line of tests.jsonl with what one window of each test clip gives."""
    if not world.is_main:
        return
    labels = label_matrix(test.dataset)
    scores = scores_of(logits, labels, labels.any(dim=1), multi_label=test.multi_label)
    log = JsonLines(folder / "tests.jsonl", last_step=done - 1)
    log.write(
        {"step": done} | {f"{row}.{name}": value for row, found in scores.items() for name, value in found.items()}
    )
    log.close()


def distributed(classifier: Classifier, world: World, *, parts: bool) -> nn.Module:
    """The module to call: its gradients averaged over processes if there are several. `parts`: a step may use some."""
    if world.size == 1:
        return classifier
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(classifier, device_ids=devices, find_unused_parameters=parts)
