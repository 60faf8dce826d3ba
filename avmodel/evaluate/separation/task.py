"""Source separation: the sounds of several clips are mixed, and each is separated by its image."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from avdata.draw.examples import EXAMPLES_FILE, Example, write_examples
from avdata.load import EvalView
from avdata.profiles import MelProfile
from avmanifest.errors import ConfigError
from avmanifest.wording import counted
from avmodel.bootstrap import Sampled, resamples_of
from avmodel.distributed import World
from avmodel.evaluate.data import Split, chosen, one_view, open_splits, ordered_loader
from avmodel.evaluate.evaluation import Evaluation, describe_view
from avmodel.evaluate.result import Result, Score, compared, scored
from avmodel.evaluate.separation.bss import METRICS, all_scores, best_order, is_silent
from avmodel.evaluate.separation.classical import nmf_parts, rpca_parts
from avmodel.evaluate.separation.config import SOUND_OF_PIXELS, TARGETS, SeparationConfig
from avmodel.evaluate.separation.examples import example_of
from avmodel.evaluate.separation.masks import Masks
from avmodel.evaluate.separation.mixtures import MIXTURES_FILE, Mixture, MixtureList, choose_mixtures, write_mixtures
from avmodel.evaluate.separation.separator import Separator, masks_of, trained_separator
from avmodel.inputs import normalize_images
from avmodel.precision import require_precision

SEPARATED, RANDOM, MIXTURE = "separated", "random weights", "mixture"


def separation(config: SeparationConfig, run: Evaluation) -> Result:
    """Train to separate each of several mixed sounds by its image; test on a fixed list of mixtures, once a seed.

    Raises as `open_splits` and `choose_mixtures`, ConfigError for too few clips, DivergedError for a loss that isn't
    finite.
    """
    require_precision(config.precision, run.world.device)
    train, test = open_splits(config.data, run.test, run.train, labeled=False)
    listed = choose_mixtures(
        config.mixtures,
        config.data,
        test,
        sources=config.sources,
        count=config.num_mixtures,
        seed=config.mixture_seed,
    )
    if run.world.is_main:
        write_mixtures(listed.mixtures, run.out)
    separators = [
        trained_separator(config, one, train, seed, folder) for one, seed, folder in run.with_seeds(config.seeds)
    ]
    methods: dict[str, list[Method]] = {SEPARATED: [partial(estimates_of, one, config.precision) for one in separators]}
    random_separators = [
        trained_separator(config, one, train, seed, folder) for one, seed, folder in run.with_random_weights(config)
    ]
    if random_separators:
        methods[RANDOM] = [partial(estimates_of, one, config.precision) for one in random_separators]
    methods |= baseline_methods(config, separators[0], len(listed.mixtures[0].keys))
    view = replace(one_view(config.data, run.loaded), waveform=True)
    found = scored_mixtures(config, run, test, view, listed.mixtures, methods)
    result = result_of(config, run, train, test, listed, found, view)
    if run.world.is_main and config.examples:
        shown = examples_of(config, separators[0], run, test, view, result.extra["mixtures"])
        count = len(result.extra["mixtures"])
        write_examples(shown, run.out, title="Source separation", line=result.line(), of=count)
    return result


def result_of(
    config: SeparationConfig,
    run: Evaluation,
    train: Split,
    test: Split,
    listed: MixtureList,
    found: "MixtureScores",
    view: EvalView,
) -> Result:
    """The result. Raises ConfigError if no mixture has a score."""
    if not found.rows:
        raise ConfigError(
            f"{test.name}: each of the {len(listed.mixtures)} mixtures has a silent clip. Set data.exclude=silent."
        )
    kept = [listed.mixtures[row] for row in found.rows]
    sources = len(kept[0].keys)
    used = chosen(test, [key for mixture in kept for key in mixture.keys])
    first = [RANDOM] * (RANDOM in found.values)
    others = [name for name in found.values if name not in (SEPARATED, RANDOM)]
    rows = [by_kind(found, kept, name) for name in (*first, *others)]
    baselines = {row: score for one in rows for row, score in one.items()}
    scores = compared(
        by_kind(found, kept, SEPARATED), baselines, lambda row, other: other in counterparts(row, found.values)
    )
    return run.result(
        config,
        task="source separation",
        headline=(SEPARATED, "sdr"),
        unit="dB",
        scores=scores,
        baselines=baselines,
        units="mixture",
        files=(MIXTURES_FILE, *((EXAMPLES_FILE,) if config.examples else ())),
        mode=f"{sources} sources, {config.target} masks",
        view=describe_view(view),
        data={
            "train": train.described(),
            "test": {**used.described(), "clips": len(used.dataset), "samples": len(kept)},
        },
        notes=(*train.notes, *test.notes, listed.note, *notes_on(config, len(listed.mixtures) - len(kept), sources)),
        extra={"mixtures": mixture_rows(found, kept)},
    )


class MixtureBatch(NamedTuple):
    """Mixtures that a method separates."""

    images: Float[Tensor, "m s 3 h w"]  # normalized
    sources: Float[Tensor, "m s n"]


class Estimates(NamedTuple):
    """A method's estimates and the true sources: estimate k is of source k."""

    references: Float[Tensor, "m s n"]
    estimates: Float[Tensor, "m s n"]


Method = Callable[[MixtureBatch], Estimates]


def estimates_of(separator: Separator, precision: str, batch: MixtureBatch) -> Estimates:
    """The estimates of a trained separator."""
    masks = separator.masks
    estimates = separator.estimate(batch.images, masks.mix(batch.sources), precision=precision)
    return Estimates(masks.references(batch.sources), estimates)


def mixture_itself(batch: MixtureBatch) -> Estimates:
    """The mixture itself as each estimate: a baseline."""
    return Estimates(batch.sources, batch.sources.sum(dim=1, keepdim=True).expand_as(batch.sources))


def oracle(masks: Masks, batch: MixtureBatch) -> Estimates:
    """The estimates of the true masks: about the highest score of a separator with such masks."""
    true, _ = masks.targets(batch.sources)
    return Estimates(masks.references(batch.sources), masks.separate(true, masks.mix(batch.sources)))


class Classical:
    """A method that splits mixtures without assigning the parts to sources."""

    def __init__(self, parts_of: Callable[[Float[Tensor, " n"]], Float[Tensor, "s n"]]) -> None:
        self._parts_of = parts_of
        self._last: tuple[MixtureBatch, list[Float[Tensor, "s n"]]] | None = None

    def parts(self, batch: MixtureBatch) -> list[Float[Tensor, "s n"]]:
        """The parts of each mixture, computed once for both orders."""
        if self._last is None or self._last[0] is not batch:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                self._last = batch, list(pool.map(self._parts_of, batch.sources.cpu().sum(dim=1)))
        return self._last[1]

    def in_best_order(self, batch: MixtureBatch) -> Estimates:
        """Parts in the order that fits the true sources best."""
        sources = batch.sources.cpu()
        ordered = [best_order(true, found) for true, found in zip(sources, self.parts(batch), strict=True)]
        return Estimates(sources, torch.stack(ordered))

    def as_found(self, batch: MixtureBatch) -> Estimates:
        """Parts in the method's own order, which doesn't depend on the sources."""
        return Estimates(batch.sources.cpu(), torch.stack(self.parts(batch)))


def baseline_methods(config: SeparationConfig, separator: Separator, sources: int) -> dict[str, list[Method]]:
    """The baselines without training, by name."""
    profile: MelProfile = separator.profile
    columns = separator.predictor.model.config.audio_size[1]
    found: dict[str, list[Method]] = {MIXTURE: [mixture_itself]}
    for target in TARGETS if config.oracles else ():
        found[f"oracle {target}"] = [partial(oracle, masks_of(target, profile, columns, separator.num_samples))]
    unseeing: dict[str, Classical] = {}
    if config.nmf:
        unseeing["NMF"] = Classical(partial(nmf_parts, sources=sources, profile=profile))
    if config.rpca and sources == 2:
        unseeing["RPCA"] = Classical(partial(rpca_parts, profile=profile))
    for name, method in unseeing.items():
        found |= {name: [method.in_best_order], f"{name}, order unknown": [method.as_found]}
    return found


class MixtureScores(NamedTuple):
    """Scores of the mixtures without a silent source, as means over their sources."""

    rows: list[int]  # of the list of mixtures
    values: Mapping[str, Sequence[Float[Tensor, "m 3"]]]  # SDR, SIR, SAR by method, and for each seed of it


def scored_mixtures(
    config: SeparationConfig,
    run: Evaluation,
    test: Split,
    view: EvalView,
    mixtures: Sequence[Mixture],
    methods: Mapping[str, Sequence[Method]],
) -> MixtureScores:
    """The scores of all methods; each process computes its share. Mixtures with a silent source are left out."""
    world = run.world
    own = range(world.rank, len(mixtures), world.size)
    size = max(config.feature_batch_size // len(mixtures[0].keys), 1)
    every = [method for seeds in methods.values() for method in seeds]
    table = torch.full((-(-len(mixtures) // world.size), 1 + 3 * len(every)), torch.nan, dtype=torch.float64)
    for begin in range(0, len(own), size):
        rows = own[begin : begin + size]
        asked = [mixtures[row] for row in rows]
        batch = load_mixtures(read_clips(config, test, view, asked), asked, world.device)
        silent = is_silent(batch.sources).any(dim=1)
        batch = MixtureBatch(batch.images[~silent], batch.sources[~silent])
        if len(batch.sources):
            values = [all_scores(*method(batch)).mean(dim=2) for method in every]
            places = torch.arange(begin, begin + len(rows))[~silent.cpu()]
            table[places, 1:] = torch.cat(values, dim=1)
            table[places, 0] = torch.tensor(list(rows), dtype=torch.float64)[~silent.cpu()]
        if run.progress is not None and world.is_main:
            run.progress("scoring mixtures", min((begin + len(rows)) * world.size, len(mixtures)), len(mixtures))
    table = world.gather(table.to(world.device)).cpu()
    table = table[table.isfinite().all(dim=1)]
    table = table[table[:, 0].argsort()]
    parts = iter(torch.split(table[:, 1:], 3, dim=1))
    by_method = {name: [next(parts) for _ in seeds] for name, seeds in methods.items()}
    return MixtureScores(table[:, 0].long().tolist(), by_method)


Clips = Mapping[str, tuple[UInt8[Tensor, "3 h w"], Float[Tensor, " n"]]]  # frame and waveform, by key


def read_clips(config: SeparationConfig, test: Split, view: EvalView, mixtures: Sequence[Mixture]) -> Clips:
    """Read the clips of some mixtures in this process. Raises ShardError for a damaged clip."""
    wanted = chosen(test, [key for mixture in mixtures for key in mixture.keys])
    data, alone = replace(config.data, skip_bad=False), World(0, 1, torch.device("cpu"))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for batch in ordered_loader(data, wanted, view, alone, batch_size=16, seed=0):
        assert batch.waveform is not None
        found |= dict(zip(batch.keys, zip(batch.images, batch.waveform, strict=True), strict=True))
    return found


def load_mixtures(clips: Clips, mixtures: Sequence[Mixture], device: torch.device) -> MixtureBatch:
    """Frames and waveforms of the mixtures' clips, on the device."""
    images = torch.stack([clips[key][0] for mixture in mixtures for key in mixture.keys])
    waveforms = torch.stack([clips[key][1] for mixture in mixtures for key in mixture.keys])
    count = len(mixtures)
    return MixtureBatch(
        rearrange(normalize_images(images.to(device)), "(m s) c h w -> m s c h w", m=count),
        rearrange(waveforms.to(device), "(m s) n -> m s n", m=count),
    )


def by_kind(found: MixtureScores, mixtures: Sequence[Mixture], name: str) -> dict[str, dict[str, Score]]:
    """A method's mean scores over all mixtures and, if the list names kinds, over those of each kind."""
    kinds = [mixture.kind for mixture in mixtures]
    rows = {name: [True] * len(kinds)}
    if len(set(kinds)) > 1:
        rows |= {f"{name}, {kind or 'other'}": [one == kind for one in kinds] for kind in sorted(set(kinds))}
    untouched = found.values[MIXTURE][0]
    stream = list(found.values).index(name)
    return {
        row: scored([mean_scores(values[keep], untouched[keep]) for values in found.values[name]], stream=stream)
        for row, keep in ((row, torch.tensor(keep)) for row, keep in rows.items())
    }


def counterparts(row: str, names: Iterable[str]) -> set[str]:
    """The rows of all methods over the mixtures of a row of SEPARATED: all, or those of one kind."""
    return {name + row.removeprefix(SEPARATED) for name in names}


def mean_scores(values: Float[Tensor, "m 3"], untouched: Float[Tensor, "m 3"]) -> dict[str, Sampled]:
    """Means over mixtures, resampled; `sdr_gain` is the SDR minus that of the untouched mixture."""
    resamples, each = resamples_of(len(values)), values.double().numpy()
    means = {name: resamples.mean(each[:, place]) for place, name in enumerate(METRICS)}
    return {**means, "sdr_gain": resamples.mean(each[:, 0] - untouched[:, 0].double().numpy())}


def mixture_rows(found: MixtureScores, mixtures: Sequence[Mixture]) -> list[dict[str, Any]]:
    """Each mixture with its scores, as means over the seeds."""
    means = torch.stack(list(found.values[SEPARATED])).mean(dim=0).tolist()
    return [
        {"keys": list(mixture.keys), "kind": mixture.kind, **dict(zip(METRICS, values, strict=True))}
        for mixture, values in zip(mixtures, means, strict=True)
    ]


def notes_on(config: SeparationConfig, skipped: int, sources: int) -> list[str]:
    """Notes on the scores for the result."""
    notes = [f"{counted(skipped, 'mixture')} left out: a source is silent, or filtered from another"] * bool(skipped)
    if config.nmf or (config.rpca and sources == 2):
        notes.append(
            "parts of NMF and RPCA are assigned to the sources in the order that scores best; order unknown: in "
            "their own order"
        )
    if config.target == SOUND_OF_PIXELS:
        notes.append("Sound of Pixels' masks and sample rate, with this model's window and log-mel")
    return notes


def examples_of(
    config: SeparationConfig,
    separator: Separator,
    run: Evaluation,
    test: Split,
    view: EvalView,
    rows: Sequence[Mapping[str, Any]],
) -> list[Example]:
    """The best and the worst mixtures, with their images and sounds."""
    ordered = sorted(rows, key=lambda row: -row["sdr"])
    wanted = (
        ordered if len(ordered) <= 2 * config.examples else [*ordered[: config.examples], *ordered[-config.examples :]]
    )
    labels = labels_of(test)
    found = []
    for row in wanted:
        mixture = Mixture(tuple(row["keys"]), row["kind"])
        clips = read_clips(config, test, view, [mixture])
        estimated = estimates_of(separator, config.precision, load_mixtures(clips, [mixture], run.world.device))
        found.append(
            example_of(
                keys=mixture.keys,
                names=[labels.get(key) or key for key in mixture.keys],
                scores={name: float(row[name]) for name in METRICS},
                frames=[clips[key][0] for key in mixture.keys],
                references=estimated.references[0].cpu(),
                estimates=estimated.estimates[0].cpu(),
                sample_rate=separator.masks.sample_rate,
            )
        )
    return found


def labels_of(split: Split) -> dict[str, str]:
    """The classes of each clip, by key."""
    dataset = split.dataset
    start = dataset.label_start
    return {
        key: ", ".join(dataset.classes[label] for label in dataset.label_ids[start[row] : start[row + 1]])
        for row, key in enumerate(dataset.keys.to_pylist())
    }
