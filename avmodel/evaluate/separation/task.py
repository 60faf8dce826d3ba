"""Source separation: sounds of several clips mixed, and each taken out of the mixture by its picture."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from avdata.draw.examples import Example, write_examples
from avdata.load import EvalView
from avdata.profiles import MelProfile
from avmanifest.errors import ConfigError
from avmodel.distributed import World, require_precision
from avmodel.evaluate.data import Split, chosen, one_view, open_splits, ordered_loader
from avmodel.evaluate.evaluation import Evaluation, describe_view, settings_of
from avmodel.evaluate.loaded import untrained
from avmodel.evaluate.result import Result, Score, scored
from avmodel.evaluate.separation.bss import METRICS, all_scores, best_order, is_silent
from avmodel.evaluate.separation.classical import nmf_parts, rpca_parts
from avmodel.evaluate.separation.config import SOUND_OF_PIXELS, TARGETS, SeparationConfig
from avmodel.evaluate.separation.examples import example_of
from avmodel.evaluate.separation.masks import Masks
from avmodel.evaluate.separation.mixtures import Mixture, MixtureList, choose_mixtures, write_mixtures
from avmodel.evaluate.separation.separator import Separator, masks_of, trained_separator
from avmodel.inputs import normalize_images

SEPARATED, RANDOM, MIXTURE = "separated", "random weights", "mixture"


def separation(config: SeparationConfig, run: Evaluation) -> Result:
    """Train to take each of several mixed sounds out by its picture; test on a fixed list of mixtures, once a seed.

    Raises as `open_splits` and `choose_mixtures`, ConfigError for too few clips, DivergedError for a loss that isn't
    finite.
    """
    require_precision(config.precision, run.world.device)
    train, test = open_splits(config.data, run.test, run.train, labeled=False)
    listed = choose_mixtures(
        config.mixtures,
        config.data,
        test,
        run.test,
        sources=config.sources,
        count=config.num_mixtures,
        seed=config.mixture_seed,
    )
    if run.world.is_main:
        write_mixtures(listed.mixtures, run.out)
    separators = [trained_separator(config, run, train, seed, run.out / f"seed-{seed}") for seed in config.seeds]
    methods: dict[str, list[Method]] = {SEPARATED: [partial(answers_of, one, config.precision) for one in separators]}
    if config.random_weights:
        methods[RANDOM] = [
            partial(
                answers_of,
                trained_separator(
                    config, run.of(untrained(run.loaded, seed)), train, seed, run.out / f"random-seed-{seed}"
                ),
                config.precision,
            )
            for seed in config.seeds
        ]
    methods |= known_methods(config, separators[0], len(listed.mixtures[0].keys))
    view = replace(one_view(config.data, run.loaded), waveform=True)
    found = scored_mixtures(config, run, test, view, listed.mixtures, methods)
    result = result_of(config, run, train, test, listed, found, view)
    if run.world.is_main and config.examples:
        shown = examples_of(config, separators[0], run, test, view, result.extra["mixtures"])
        write_examples(shown, run.out, title="Source separation", line=result.line())
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
    """All that is known of the scores. Raises ConfigError if no mixture has any."""
    if not found.rows:
        raise ConfigError(f"{test.name}: of {len(listed.mixtures)} mixtures each has a silent clip. Set data.exclude.")
    kept = [listed.mixtures[row] for row in found.rows]
    sources = len(kept[0].keys)
    used = chosen(test, [key for mixture in kept for key in mixture.keys])
    baselines = [by_kind(found, kept, name) for name in found.values if name != SEPARATED]
    return Result(
        task="source separation",
        headline=(SEPARATED, "sdr"),
        unit="dB",
        scores=by_kind(found, kept, SEPARATED),
        baselines={row: score for rows in baselines for row, score in rows.items()},
        mode=f"{sources} sources, {config.target} masks",
        view=describe_view(view),
        data={
            "train": train.described(),
            "test": {**used.described(), "clips": len(used.dataset), "samples": len(kept)},
        },
        checkpoint=run.loaded.origin,
        settings=settings_of(config),
        seeds=config.seeds,
        notes=(*train.notes, *test.notes, listed.note, *notes_on(config, len(listed.mixtures) - len(kept), sources)),
        extra={"mixtures": mixture_rows(found, kept)},
    )


class Heard(NamedTuple):
    """Mixtures as methods get them."""

    images: Float[Tensor, "m s 3 h w"]  # normalized
    sources: Float[Tensor, "m s n"]


class Answers(NamedTuple):
    """What a method makes of mixtures, and what it should have: estimate k is of source k."""

    references: Float[Tensor, "m s n"]
    estimates: Float[Tensor, "m s n"]


Method = Callable[[Heard], Answers]


def answers_of(separator: Separator, precision: str, heard: Heard) -> Answers:
    """A trained separator's."""
    masks = separator.masks
    estimates = separator.answer(heard.images, masks.mix(heard.sources), precision=precision)
    return Answers(masks.references(heard.sources), estimates)


def mixture_itself(heard: Heard) -> Answers:
    """Nothing is done."""
    return Answers(heard.sources, heard.sources.sum(dim=1, keepdim=True).expand_as(heard.sources))


def oracle(masks: Masks, heard: Heard) -> Answers:
    """The true masks, whose score no separator with such masks passes by much."""
    true, _ = masks.targets(heard.sources)
    return Answers(masks.references(heard.sources), masks.heard(true, masks.mix(heard.sources)))


class Classical:
    """A method that parts mixtures and doesn't say which part is which source."""

    def __init__(self, parts_of: Callable[[Float[Tensor, " n"]], Float[Tensor, "s n"]]) -> None:
        self._parts_of = parts_of
        self._last: tuple[Heard, list[Float[Tensor, "s n"]]] | None = None

    def parts(self, heard: Heard) -> list[Float[Tensor, "s n"]]:
        """Each mixture's, found once for both of the ways to look at them."""
        if self._last is None or self._last[0] is not heard:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                self._last = heard, list(pool.map(self._parts_of, heard.sources.cpu().sum(dim=1)))
        return self._last[1]

    def in_best_order(self, heard: Heard) -> Answers:
        """Parts in the order that suits the sources best: told by the truth what the picture tells a separator."""
        sources = heard.sources.cpu()
        ordered = [best_order(true, found) for true, found in zip(sources, self.parts(heard), strict=True)]
        return Answers(sources, torch.stack(ordered))

    def as_found(self, heard: Heard) -> Answers:
        """Parts in the method's own order, which knows nothing of the sources'."""
        return Answers(heard.sources.cpu(), torch.stack(self.parts(heard)))


def known_methods(config: SeparationConfig, separator: Separator, sources: int) -> dict[str, list[Method]]:
    """The baselines that learn nothing, one of each name."""
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
    """Scores of the mixtures that have any, means over their sources."""

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
    """What the methods score, each process taking its share; mixtures with a silent source are left out."""
    world = run.world
    own = range(world.rank, len(mixtures), world.size)
    size = max(config.feature_batch_size // len(mixtures[0].keys), 1)
    every = [method for seeds in methods.values() for method in seeds]
    table = torch.full((-(-len(mixtures) // world.size), 1 + 3 * len(every)), torch.nan, dtype=torch.float64)
    for begin in range(0, len(own), size):
        rows = own[begin : begin + size]
        asked = [mixtures[row] for row in rows]
        heard = hear(read_clips(config, test, view, asked), asked, world.device)
        silent = is_silent(heard.sources).any(dim=1)
        heard = Heard(heard.images[~silent], heard.sources[~silent])
        if len(heard.sources):
            values = [all_scores(*method(heard)).mean(dim=2) for method in every]
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
    """The clips of some mixtures, which this process reads alone. Raises ShardError for one that can't be read."""
    wanted = chosen(test, [key for mixture in mixtures for key in mixture.keys])
    data, alone = replace(config.data, skip_bad=False), World(0, 1, torch.device("cpu"))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for batch in ordered_loader(data, wanted, view, alone, batch_size=16, seed=0):
        assert batch.waveform is not None
        found |= dict(zip(batch.keys, zip(batch.images, batch.waveform, strict=True), strict=True))
    return found


def hear(clips: Clips, mixtures: Sequence[Mixture], device: torch.device) -> Heard:
    """Frames and waveforms of the mixtures' clips, on the device."""
    images = torch.stack([clips[key][0] for mixture in mixtures for key in mixture.keys])
    waveforms = torch.stack([clips[key][1] for mixture in mixtures for key in mixture.keys])
    count = len(mixtures)
    return Heard(
        rearrange(normalize_images(images.to(device)), "(m s) c h w -> m s c h w", m=count),
        rearrange(waveforms.to(device), "(m s) n -> m s n", m=count),
    )


def by_kind(found: MixtureScores, mixtures: Sequence[Mixture], name: str) -> dict[str, dict[str, Score]]:
    """A method's mean scores over all mixtures and, if the list tells kinds apart, over those of each."""
    kinds = [mixture.kind for mixture in mixtures]
    rows = {name: [True] * len(kinds)}
    if len(set(kinds)) > 1:
        rows |= {f"{name}, {kind or 'other'}": [one == kind for one in kinds] for kind in sorted(set(kinds))}
    untouched = found.values[MIXTURE][0]
    return {
        row: scored([mean_scores(values[keep], untouched[keep]) for values in found.values[name]])
        for row, keep in ((row, torch.tensor(keep)) for row, keep in rows.items())
    }


def mean_scores(values: Float[Tensor, "m 3"], untouched: Float[Tensor, "m 3"]) -> dict[str, float]:
    """Means over mixtures; `sdr_gain` is over what the mixtures themselves score."""
    means = dict(zip(METRICS, values.mean(dim=0).tolist(), strict=True))
    return {**means, "sdr_gain": means["sdr"] - float(untouched[:, 0].mean())}


def mixture_rows(found: MixtureScores, mixtures: Sequence[Mixture]) -> list[dict[str, Any]]:
    """Each mixture with its scores, means over the seeds."""
    means = torch.stack(list(found.values[SEPARATED])).mean(dim=0).tolist()
    return [
        {"keys": list(mixture.keys), "kind": mixture.kind, **dict(zip(METRICS, values, strict=True))}
        for mixture, values in zip(mixtures, means, strict=True)
    ]


def notes_on(config: SeparationConfig, skipped: int, sources: int) -> list[str]:
    """What a reader of the numbers must know."""
    notes = [f"{skipped} mixtures left out: a source is silent, or filtered from another"] * bool(skipped)
    if config.nmf or (config.rpca and sources == 2):
        notes.append("parts of NMF and RPCA go to the sources in the order that suits best; order unknown: as found")
    if config.target == SOUND_OF_PIXELS:
        notes.append("Sound of Pixels' masks and rate, but this model's window and log-mel")
    return notes


def examples_of(
    config: SeparationConfig,
    separator: Separator,
    run: Evaluation,
    test: Split,
    view: EvalView,
    rows: Sequence[Mapping[str, Any]],
) -> list[Example]:
    """The best and the worst mixtures, to look at and to listen to."""
    ordered = sorted(rows, key=lambda row: -row["sdr"])
    wanted = (
        ordered if len(ordered) <= 2 * config.examples else [*ordered[: config.examples], *ordered[-config.examples :]]
    )
    labels = labels_of(test)
    found = []
    for row in wanted:
        mixture = Mixture(tuple(row["keys"]), row["kind"])
        clips = read_clips(config, test, view, [mixture])
        answers = answers_of(separator, config.precision, hear(clips, [mixture], run.world.device))
        found.append(
            example_of(
                keys=mixture.keys,
                names=[labels.get(key) or key for key in mixture.keys],
                scores={name: float(row[name]) for name in METRICS},
                frames=[clips[key][0] for key in mixture.keys],
                references=answers.references[0].cpu(),
                estimates=answers.estimates[0].cpu(),
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
