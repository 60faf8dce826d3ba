"""Localization: the part of a frame that makes the sound, by the similarity of the audio with each patch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from avdata.draw.audio import to_wav
from avdata.draw.examples import EXAMPLES_FILE, Example, best_and_worst, write_examples
from avdata.draw.images import draw_heat_map, draw_mask, to_png
from avdata.load import Batch, EvalView
from avdata.waveform import SAMPLE_RATE
from avmanifest import wording
from avmanifest.errors import ConfigError
from avmodel.bootstrap import Sampled
from avmodel.configs.dense import DENSE
from avmodel.evaluate.data import (
    Split,
    chosen,
    example_batches,
    one_view,
    open_split,
    ordered_loader,
    train_view,
    without_leaks,
)
from avmodel.evaluate.evaluation import Evaluation, describe_view, seeded
from avmodel.evaluate.features import gathered_parts, label_matrix
from avmodel.evaluate.loaded import with_settings
from avmodel.evaluate.localization.config import RULES, LocalizationConfig
from avmodel.evaluate.localization.localizer import (
    Localizer,
    grid_maps,
    in_size_of,
    load_localizer,
    localize,
    save_localizer,
)
from avmodel.evaluate.localization.prompted import packed, prompted_scores, unpacked
from avmodel.evaluate.localization.scores import (
    best_ciou,
    center_prior,
    enlarged,
    resampled_ciou,
    rule_scores,
    sample_ciou,
)
from avmodel.evaluate.result import Result, tables
from avmodel.evaluate.training import Training
from avmodel.evaluate.training import train as train_module
from avmodel.evaluate.truth import Sounding, sounding_in
from avmodel.fit import Moment
from avmodel.inputs import reading_notes, to_inputs
from avmodel.optim import make_optimizer
from avmodel.precision import autocast, require_precision

RANDOM_MAPS = 4  # number of its random stream
RANDOM_GRID = 14
ROWS = {rule: f"{rule} rule" for rule in RULES}
WHOLE = "whole image"  # the baseline that is the same by all rules
TEST_ONLY = ("examples", "prompted")
PROMPTED = "prompted"  # the row of scores by class
CENTER, RANDOM = "center prior", "random map"  # trivial baselines
GRID, SOUNDING = "grid", "sounding"  # with PROMPTED, a sample's map and its packed truth
NOT_SCORES = ("known", "index", GRID, SOUNDING, *RULES)


def localization(config: LocalizationConfig, run: Evaluation) -> Result:
    """cIoU and its AUC by all rules, of the whole frame nearest to each clip's middle.

    Raises ConfigError if no sample has boxes or masks, and as `open_split`; DivergedError for a loss that isn't finite.
    """
    require_precision(config.precision, run.world.device)
    data = config.data
    split = open_split(data, run.test, data.test_split, labeled=False)
    test = sounding_in(data, split, truth=config.truth, boxes=config.boxes)
    train, leak_notes = _training_truth(config, run, split) if config.supervised else (None, ())
    seeds = config.seeds if train is not None else config.seeds[:1]

    def localizer_of(one: Evaluation, seed: int, folder: Path) -> Localizer:
        if train is None:
            return Localizer(one.loaded.model, config.encoding, config.dense if config.maps == DENSE else None)
        return trained(config, one, train, test, seed, folder)

    localizers = [localizer_of(*one) for one in run.with_seeds(seeds)]
    found = measured(config, run, localizers[0], test, baselines=True)
    others = [measured(config, run, one, test, baselines=False) for one in localizers[1:]]
    counted = found["known"][:, 0] > 0
    if not counted.any():
        raise ConfigError(f"{test.split.name}: no tested frame has anything that sounds. Set truth=boxes?")
    labels = label_matrix(test.split.dataset)[found["index"][counted, 0].long()]
    grid = run.loaded.model.image_grid

    def rows_of(values: Mapping[str, Tensor]) -> dict[str, dict[str, Sampled]]:
        return _scores({name: values[name][counted] for name in values}, labels, grid if config.prompted else None)

    runs = [rows_of(values) for values in (found, *others)]
    trivial = {name: resampled_ciou(found[name][counted, 0]) for name in found if name not in NOT_SCORES}
    random_runs = [
        rows_of(measured(config, run, localizer_of(*one), test, baselines=False))
        for one in run.with_random_weights(config)
    ]
    rule, rule_note = quoted_rule(config.rule, {name: x["ciou"].value for name, x in trivial.items()})
    if PROMPTED in runs[0]:
        rows = found["index"][counted, 0].long().tolist()
        plain = {CENTER: center_prior(RANDOM_GRID).expand(len(rows), -1, -1), RANDOM: random_maps(rows)}
        sounding = unpacked(found[SOUNDING][counted])
        trivial |= {f"{name}, {PROMPTED}": prompted_scores(maps, sounding, labels) for name, maps in plain.items()}
    silent = int((~counted).sum())
    keys: list[str] = test.split.dataset.keys.to_pylist()
    used = chosen(test.split, [keys[int(row)] for row in found["index"][counted, 0]])
    result = run.result(
        config,
        task="localization",
        headline=(ROWS[rule], "ciou"),
        **tables(runs, trivial, random_runs, lambda row, other: other.endswith(row) or other == WHOLE),
        mode=mode_of(config),
        view=describe_view(frame_view(config, run, test)),
        data={"test": used.described() | {"of": len(split.dataset)}}
        | ({} if train is None else {"train": train.split.described()}),
        seeds=seeds,
        notes=(
            *test.notes,
            *rule_note,
            *((f"left out: {wording.counted(silent, 'frame')} in which nothing sounds",) if silent else ()),
            *_label_notes(config, labels),
            *split.notes,
            *leak_notes,
        ),
        extra={"examples": EXAMPLES_FILE} if config.examples else {},
        files=(EXAMPLES_FILE,) if config.examples else (),
    )
    if config.examples and run.world.is_main:
        score = torch.where(counted, found["median"][:, 0], torch.nan)
        shown = examples_of(config, run, localizers[0], test, found["index"][:, 0].long(), score)
        count = int(score.isfinite().sum())
        write_examples(shown, run.out, title=f"{result.task}, {result.mode}", line=result.line(), of=count)
    return result


def quoted_rule(asked: str, trivial: Mapping[str, float]) -> tuple[str, tuple[str, ...]]:
    """The rule of the quoted cIoU, and what the result must say of it.

    By the median rule a map selects half of the pixels: where everything that sounds is small, no map succeeds.

    Args:
        asked: The rule that the config names.
        trivial: cIoU in percent by row of the baselines, the best possible ones among them.
    """
    if trivial[f"best possible, {ROWS[asked]}"] > 0:
        return asked, ()
    return "adaptive", (f"by the {asked} rule no map could succeed here: the score is by the adaptive rule",)


def _training_truth(config: LocalizationConfig, run: Evaluation, test: Split) -> tuple[Sounding, tuple[str, ...]]:
    """The ground truth of the training split, and the notes on leaks for the result."""
    source = run.test if run.train is None else run.train
    split = open_split(config.data, source, config.data.train_split, labeled=False)
    split, notes = without_leaks(config.data, split, test)
    return sounding_in(config.data, split, truth=config.truth, boxes=config.boxes), notes


def mode_of(config: LocalizationConfig) -> str:
    """How the maps are made, as results say it."""
    if config.supervised:
        return "supervised transfer"
    return f"zero-shot, modalities {config.encoding}" + (", dense maps" if config.maps == DENSE else "")


def _label_notes(config: LocalizationConfig, labels: Bool[Tensor, "n k"]) -> tuple[str, ...]:
    """What a result must say of the samples that scores by class leave out."""
    without = int((~labels.any(dim=1)).sum())
    if not config.prompted or not without:
        return ()
    return (f"{PROMPTED}: without {wording.counted(without, 'sample')} that have no label",)


def _scores(
    values: Mapping[str, Float[Tensor, "n _"]], labels: Bool[Tensor, "n k"], grid: tuple[int, int] | None
) -> dict[str, dict[str, Sampled]]:
    """Scores by rule, and of maps of this grid by class if any sample has a label; None: not by class."""
    found = {row: resampled_ciou(values[rule][:, 0]) for rule, row in ROWS.items()}
    if grid is None:
        return found
    maps = rearrange(values[GRID], "n (r c) -> n r c", r=grid[0])
    by_class = prompted_scores(maps, unpacked(values[SOUNDING]), labels)
    return found | ({PROMPTED: by_class} if by_class else {})


def frame_view(config: LocalizationConfig, run: Evaluation, truth: Sounding) -> EvalView:
    """The view of the whole frame, squashed to a square as the evaluations of localization do."""
    return replace(one_view(config.data, run.loaded), fit="squash", masks=truth.tables is not None)


def measured(
    config: LocalizationConfig, run: Evaluation, localizer: Localizer, test: Sounding, *, baselines: bool
) -> dict[str, Float[Tensor, "n _"]]:
    """Each sample's cIoU by rule, those of trivial baselines, whether it has ground truth, and its row.

    With config.prompted, its map patch by patch, too, and which pixels sound.
    """
    world = run.world
    view = frame_view(config, run, test)
    loader = ordered_loader(config.data, test.split, view, world, batch_size=config.feature_batch_size, seed=0)
    prior = center_prior()

    def scores_of(batch: Batch) -> dict[str, Float[Tensor, "b _"]]:
        moved = batch.to(world.device)
        with autocast(config.precision, world.device):
            cells = grid_maps(localizer, moved.images, moved.gained_log_mel()).float().cpu()
        truth, known = test.maps(batch)
        values = {"known": known.float()} | rule_scores(in_size_of(batch.images, cells), truth)
        if baselines:
            values[WHOLE] = sample_ciou(torch.ones_like(truth, dtype=torch.bool), truth)
            others = {
                CENTER: rule_scores(prior.expand_as(truth), truth),
                RANDOM: rule_scores(random_maps(batch.sample_ids.tolist()), truth),
                "best possible": best_ciou(truth),
            }
            values |= {f"{name}, {ROWS[rule]}": x[rule] for name, x in others.items() for rule in RULES}
        columns = {name: x.unsqueeze(1) for name, x in values.items()}
        if config.prompted:
            columns |= {GRID: cells.flatten(1), SOUNDING: packed(truth)}
        return {name: x.to(world.device) for name, x in columns.items()}

    localizer.eval()
    return gathered_parts(loader, world, scores_of, run.progress, f"maps of {test.split.name}")


def random_maps(rows: Sequence[int]) -> Float[Tensor, "n side side"]:
    """A map for each of these rows of a dataset, always the same."""
    drawn = [torch.rand(RANDOM_GRID, RANDOM_GRID, generator=seeded(0, RANDOM_MAPS, row)) for row in rows]
    return torch.stack(drawn)


def trained(
    config: LocalizationConfig, run: Evaluation, train: Sounding, test: Sounding, seed: int, folder: Path
) -> Localizer:
    """The localizer after all epochs, in evaluation mode; see `avmodel.evaluate.training.train`."""
    world = run.world
    view = replace(
        train_view(config.data, run.loaded, max_gain_db=config.max_gain_db),
        fit="squash",
        flip_probability=0.0,  # boxes are not flipped
        masks=train.tables is not None,
    )

    def build() -> Localizer:
        localizer = Localizer(with_settings(run.loaded, drop_path=config.drop_path).model, config.encoding)
        localizer.freeze_unused()
        return localizer

    def loss(forward: nn.Module, batch: Batch, _: Moment) -> Float[Tensor, ""]:
        truth, known = train.maps(batch)
        with autocast(config.precision, world.device):
            maps = forward(*to_inputs(batch, world.device)).float()
        return pixel_loss(maps / config.temperature, truth.to(maps), known.to(maps))

    def save(localizer: Localizer, done: int, state: Mapping[str, Any]) -> None:
        save_localizer(folder, localizer, done, state, reading_notes(view))

    training = Training(
        name="localization",
        view=view,
        build=build,
        optimizer=lambda localizer: make_optimizer(localizer.model, config.optim),
        loss=loss,
        save=save,
        load=lambda localizer, path: localizer.load_state_dict(load_localizer(path, world.device)[0].state_dict()),
        test_only=TEST_ONLY,
        splits={"train": train.split, "test": test.split},
    )
    return train_module(config, run, training, seed, folder)


def pixel_loss(
    logits: Float[Tensor, "b r c"], truth: Float[Tensor, "b h w"], known: Float[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of every pixel, averaged over the samples with ground truth; 0 if there is none."""
    each = F.binary_cross_entropy_with_logits(enlarged(logits), truth, reduction="none").mean(dim=(1, 2))
    return (each * known).sum() / known.sum().clamp(min=1)


def examples_of(
    config: LocalizationConfig,
    run: Evaluation,
    localizer: Localizer,
    test: Sounding,
    rows: Int64[Tensor, " n"],
    score: Float[Tensor, " n"],
) -> list[Example]:
    """The best and the worst samples, with frame, map, truth and, if the shards have it, sound."""
    keys: list[str] = test.split.dataset.keys.to_pylist()
    wanted = best_and_worst(score.tolist(), config.examples)
    score_of = {keys[int(rows[place])]: float(score[place]) for place in wanted}
    marked = test.only(list(score_of))
    device = run.world.device
    found = []
    for batch in example_batches(config.data, marked.split, frame_view(config, run, marked), device):
        moved = batch.to(device)
        maps = localize(localizer, moved.images, moved.gained_log_mel()).float().cpu()
        truth, _ = marked.maps(batch)
        size = batch.images.shape[-2:]
        shown = F.interpolate(truth.unsqueeze(1), size, mode="nearest-exact").squeeze(1)
        rules = rule_scores(maps, truth)
        for place, key in enumerate(batch.keys):
            if not batch.valid[place]:
                continue
            rgb = batch.images[place].movedim(0, -1).numpy()
            pictures = {
                "frame": to_png(rgb),
                "map": to_png(draw_heat_map(rgb, maps[place].numpy())),
                "truth": to_png(draw_mask(rgb, (shown[place] > 0).byte().numpy())),
            }
            metrics = {f"cIoU, {ROWS[rule]}": 100 * float(values[place]) for rule, values in rules.items()}
            found.append(
                Example(
                    key,
                    ", ".join(batch.label_names()[place]) or key,
                    score_of[key],
                    metrics,
                    pictures,
                    {} if batch.waveform is None else {"sound": to_wav(batch.waveform[place].numpy(), SAMPLE_RATE)},
                )
            )
    return found
