"""Retrieval: from a sound its picture among all of a gallery, and the other way round."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from avdata.load import Batch, Dataset
from avmanifest.errors import ConfigError
from avmanifest.lists import read_clip_names
from avmanifest.wording import counted
from avmodel.bootstrap import Sampled, constants, median_draws, resamples_of
from avmodel.evaluate.data import (
    Split,
    chosen,
    keys_of_clips,
    open_split,
    open_splits,
    ordered_loader,
    scoring_view,
)
from avmodel.evaluate.dense import all_pair_scores, audio_on_grid, image_on_grid, require_heads
from avmodel.evaluate.evaluation import Evaluation, describe_view, seeded
from avmodel.evaluate.features import eval_inputs, gathered_parts
from avmodel.evaluate.result import Result, tables
from avmodel.evaluate.retrieval.config import RetrievalConfig
from avmodel.evaluate.retrieval.tuning import tuned
from avmodel.evaluate.scores import Ranks, partner_ranks, retrieval_scores
from avmodel.optim import schedule
from avmodel.precision import autocast

MODALITIES = ("image", "audio")
DIRECTIONS = {"audio to image": ("audio", "image"), "image to audio": ("image", "audio")}
CUTOFFS = (1, 5, 10)
TITLES = {
    "zero-shot": "retrieval",
    "aligned": "retrieval after linear alignment",
    "tuned": "retrieval after contrastive fine-tuning",
}
MODES = {"zero-shot": "zero-shot", "aligned": "frozen, linear projections learned", "tuned": "finetuned"}
SHUFFLES = 2  # stream of the alignment's orders
CLIPS, PER_CLASS = "-clips", "-per-class"
NOT_FOUND_SHOWN = 3


Pairs = dict[str, Float[Tensor, "n _"]]  # by modality; row i of both is clip i


def retrieval(config: RetrievalConfig, run: Evaluation) -> Result:
    """R@1, 5, 10 and median rank of each clip's partner, both directions; ties count against it.

    Each modality is encoded alone: joint encoding would leak the pairing through early fusion. Raises ConfigError for
    a gallery with clips that the test split lacks altogether.
    """
    data = config.data
    train, test = None, open_split(data, run.test, data.test_split, labeled=False)
    if config.align != "none" or config.tuned:
        train, test = open_splits(data, run.test, run.train, labeled=not config.tuned)
    whole = len(test.dataset)
    test, gallery_note = in_gallery(config, test)

    def ranked(one: Evaluation, seed: int, folder: Path) -> dict[str, dict[str, Sampled]]:
        if train is not None and config.tuned:
            one = tuned(config, one, train, seed, folder)
        if config.compare == "dense":
            return dense_directions(config, one, test)
        pairs = alone(config, one, test)
        if train is not None and not config.tuned:
            pairs = aligned(config, alone(config, one, train), pairs, seed, run.world.device)
        return directions(pairs)

    seeds = config.seeds if train is not None else config.seeds[:1]
    found = [ranked(*one) for one in run.with_seeds(seeds)]
    count = len(test.dataset)
    expected = {f"r@{k}": 100 * min(k, count) / count for k in CUTOFFS} | {"median_rank": (count + 1) / 2, "tied": 0.0}
    random_runs = [ranked(*one) for one in run.with_random_weights(config)]
    how = "tuned" if config.tuned else "zero-shot" if train is None else "aligned"
    notes = (*test.notes, *gallery_note, *(train.notes if train is not None else ()))
    return run.result(
        config,
        task=TITLES[how],
        headline=("audio to image", "r@1"),
        **tables(found, {"chance": constants(expected)}, random_runs),
        mode=MODES[how] + (", dense" if config.compare == "dense" else ""),
        view=describe_view(scoring_view(data, run.loaded)),
        data={"test": test.described() | {"of": whole}} | ({} if train is None else {"train": train.described()}),
        notes=notes,
    )


def alone(config: RetrievalConfig, run: Evaluation, split: Split) -> Pairs:
    """Each modality's own stream, encoded without the other.

    With compare=paired a clip's row has the unit vectors of its windows or frames one after the other: the cosine of
    two rows is the mean cosine of those of the same number.
    """
    view = scoring_view(config.data, run.loaded)
    averaged = config.compare == "mean"
    return {
        modality: run.features(config, split, view, mode=modality, averaged=averaged).values[modality]
        for modality in MODALITIES
    }


def directions(pairs: Mapping[str, Float[Tensor, "n _"]]) -> dict[str, dict[str, Sampled]]:
    """Scores of both directions. Resamples draw the queries; the gallery stays as it is."""
    unit = {modality: F.normalize(x.double(), dim=1) for modality, x in pairs.items()}
    return {
        row: resampled_ranks(partner_ranks(unit[query] @ unit[candidate].T))
        for row, (query, candidate) in DIRECTIONS.items()
    }


def dense_directions(config: RetrievalConfig, run: Evaluation, split: Split) -> dict[str, dict[str, Sampled]]:
    """Scores of both directions by every token of the sounds and every patch of the frames, in the dataset's order."""
    model, world = run.loaded.model, run.world
    require_heads(model, config.dense)
    view = scoring_view(config.data, run.loaded)
    loader = ordered_loader(config.data, split, view, world, batch_size=config.feature_batch_size, seed=0)

    def encoded(batch: Batch) -> dict[str, Float[Tensor, "b _"]]:
        inputs = eval_inputs(batch, world.device)
        with torch.no_grad(), autocast(config.precision, world.device):
            seen, heard = model.encode(inputs.image, None)["image"], model.encode(None, inputs.log_mel)["audio"]
        return {"image": seen.tokens.flatten(1), "audio": heard.tokens.flatten(1)}

    parts = gathered_parts(loader, world, encoded)
    tokens = {name: rearrange(parts[name], "n (m d) -> n m d", d=model.feature_dim) for name in MODALITIES}
    count = len(tokens["audio"])

    def told(done: int) -> None:
        if run.progress is not None and world.is_main:
            run.progress(f"pairs of {split.name}", done, count * count)

    audio, image = audio_on_grid(model, tokens["audio"]), image_on_grid(model, tokens["image"])
    scores = all_pair_scores(audio, image, config.dense, world.device, told).double()
    return {
        row: resampled_ranks(partner_ranks(scores if query == "audio" else scores.T))
        for row, (query, _) in DIRECTIONS.items()
    }


def resampled_ranks(ranks: Ranks) -> dict[str, Sampled]:
    """The scores of a direction with those of resamples of its queries."""
    found, places = retrieval_scores(ranks, CUTOFFS), ranks.pessimistic.cpu().numpy()
    resamples = resamples_of(len(places))
    scores = {f"r@{k}": resamples.share(places <= k) for k in CUTOFFS}
    median = Sampled(found["median_rank"], median_draws(resamples, places), len(places))
    return scores | {"median_rank": median, "tied": Sampled(found["tied"])}


def aligned(
    config: RetrievalConfig,
    learned: Mapping[str, Float[Tensor, "m _"]],
    pairs: Mapping[str, Float[Tensor, "n _"]],
    seed: int,
    device: torch.device,
) -> Pairs:
    """The pairs in a space where two projections, learned on other pairs by InfoNCE, bring partners together."""
    torch.manual_seed(seed)
    projections = nn.ModuleDict(
        {
            modality: nn.Sequential(
                nn.BatchNorm1d(x.shape[1], affine=False, eps=1e-6), nn.Linear(x.shape[1], config.align_dim, bias=False)
            )
            for modality, x in learned.items()
        }
    ).to(device)
    count = len(learned["image"])
    size = min(config.align_batch_size, count)
    if size < 2:
        raise ConfigError(f"align=linear needs two training clips at least; there are {count}")
    optimizer = torch.optim.AdamW(projections.parameters(), lr=config.align_lr, weight_decay=0.05)
    steps, done = config.align_epochs * (count // size), 0
    target = torch.arange(size, device=device)
    for epoch in range(config.align_epochs):
        order = torch.randperm(count, generator=seeded(seed, SHUFFLES, epoch))
        for rows in torch.split(order[: count // size * size], size):
            for group in optimizer.param_groups:
                group["lr"] = config.align_lr * schedule(done / steps, 0.1)
            image, audio = (
                F.normalize(projections[modality](learned[modality][rows].to(device)), dim=1) for modality in MODALITIES
            )
            logits = image @ audio.T / config.align_temperature
            loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            done += 1
    projections.eval()
    with torch.no_grad():
        return {modality: projections[modality](pairs[modality].to(device)).cpu() for modality in MODALITIES}


def in_gallery(config: RetrievalConfig, test: Split) -> tuple[Split, tuple[str, ...]]:
    """The test split cut down to the gallery, and what the result must say of it."""
    if config.gallery == "all":
        return test, ()
    if (count := number_of(config.gallery, CLIPS)) is not None:
        split = chosen(test, sorted(test.dataset.keys.to_pylist())[:count])
        fewer = f"; there are no {count}" if len(split.dataset) < count else ""
        return split, (f"gallery: the first {counted(len(split.dataset), 'clip')} by key{fewer}",)
    if (count := number_of(config.gallery, PER_CLASS)) is not None:
        split = chosen(test, first_of_classes(test.dataset, count))
        return split, (
            f"gallery: the first {counted(count, 'clip')} of each class by key, {len(split.dataset):,} in all",
        )
    path = Path(config.gallery)
    if not path.is_file():
        raise ConfigError(f"gallery={config.gallery!r}: no such list, and not all, N{CLIPS} or N{PER_CLASS}")
    listed = read_clip_names(path)
    found = keys_of_clips(config.data, test, listed)
    keys = [key for key in found if key is not None]
    missing = [row["video_id"] for row, key in zip(listed.to_pylist(), found, strict=True) if key is None]
    if not keys:
        raise ConfigError(
            f"{path}: none of its {counted(len(listed), 'clip')} is in {test.name}, such as {missing[:NOT_FOUND_SHOWN]}"
        )
    split = chosen(test, keys)
    return split, (f"gallery {path.name}: {len(split.dataset):,} of its {counted(len(listed), 'clip')} are here",)


def number_of(gallery: str, kind: str) -> int | None:
    """The N of a gallery such as N-clips; None for one of another kind, and for 0."""
    number = gallery.removesuffix(kind)
    return int(number) if number != gallery and number.isascii() and number.isdecimal() and int(number) else None


def first_of_classes(dataset: Dataset, count: int) -> list[str]:
    """Keys of the first `count` samples, by key, of each class; of a sample with several, its first class counts."""
    first_label = np.full(len(dataset), -1)
    has = np.diff(dataset.label_start) > 0
    first_label[has] = dataset.label_ids[dataset.label_start[:-1][has]]
    keys: list[str] = dataset.keys.to_pylist()
    taken: dict[int, int] = {}
    found = []
    for key, label in sorted(zip(keys, first_label.tolist(), strict=True)):
        if label >= 0 and taken.get(label, 0) < count:
            taken[label] = taken.get(label, 0) + 1
            found.append(key)
    return found
