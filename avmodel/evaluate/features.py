"""Samples to vectors: one a stream, nothing masked, computed once and kept."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from avdata.load import Batch, ClipView, Dataset, Loader
from avmanifest.errors import ConfigError
from avmanifest.files import sha256_of
from avmodel.distributed import World
from avmodel.evaluate.config import EvalDataConfig, Progress
from avmodel.evaluate.data import Split, ordered_loader
from avmodel.evaluate.loaded import LoadedModel, require_modalities
from avmodel.evaluate.store import CONTENT, FeatureStore, read_parts
from avmodel.inputs import Inputs, normalize_images
from avmodel.models.family import Family
from avmodel.precision import autocast


class Features(NamedTuple):
    """Vectors of a split's samples, on the CPU."""

    keys: list[str]
    values: dict[str, Float[Tensor, "n _"]]  # by stream
    labels: Bool[Tensor, "n c"]

    def __len__(self) -> int:
        return len(self.keys)


class Extraction(NamedTuple):
    """What features are computed of, and how."""

    loaded: LoadedModel
    split: Split
    view: ClipView
    data: EvalDataConfig
    mode: str
    batch_size: int
    precision: str
    seed: int = 0
    epoch: int = 0  # of training views: each draws others
    averaged: bool = True  # over windows or frames; False: the unit vectors of all of them, one after the other
    part_samples: int = 4096  # samples between writes: at most these are computed again after a kill

    def described(self) -> dict[str, Any]:
        """All that the numbers depend on."""
        return {
            "checkpoint": self.loaded.origin["sha256"],
            "subset_id": self.split.subset_id,
            CONTENT: content_sha256(self.split.dataset, self.view.profile),
            "view": {"kind": type(self.view).__name__, **asdict(self.view)},
            "mode": self.mode,
            "precision": self.precision,
            "draws": [self.seed, self.epoch] if self.view.num_draws else [],
            **({} if self.averaged else {"averaged": False}),
        }


def kept_features(job: Extraction, folder: Path, world: World, progress: Progress | None = None) -> Features:
    """As `extract`, in a folder below `folder` that is named by what the features are of."""
    text = json.dumps(job.described(), sort_keys=True)
    return extract(job, folder / sha256_of(text)[:16], world, progress)


def extract(job: Extraction, folder: Path, world: World, progress: Progress | None = None) -> Features:
    """The features of a split, computed unless the folder has them. A killed extraction is resumed.

    Every process computes its share of the samples and gets all features. Raises ConfigError for a folder with other
    features, and as the loader.
    """
    loader = ordered_loader(
        job.data,
        job.split,
        job.view,
        world,
        batch_size=max(job.batch_size // (job.view.num_images or 1), 1),
        seed=job.seed,
    )
    loader.set_epoch(job.epoch)
    store = FeatureStore(folder, job.described())
    world.barrier()
    total = len(job.split.dataset)
    loader.load_state_dict({**loader.state_dict(), "position": store.position})
    rows: list[Tensor] = []
    if store.position < total:
        for table, widths in gathered(loader, world, lambda batch: encode_batch(job, batch, world.device)):
            rows.append(table)
            position = loader.state.position
            if progress is not None and world.is_main:
                progress(f"features of {job.split.name}", position, total)
            if position == total or sum(map(len, rows)) >= job.part_samples:
                if world.is_main:
                    _keep(store, job.split.dataset, widths, torch.cat(rows), position)
                rows = []
    world.barrier()
    keys, values = read_parts(FeatureStore(folder, job.described()).parts)
    if not keys:
        raise ConfigError(f"{job.split.name}: no sample could be read")
    row_of = {key: row for row, key in enumerate(job.split.dataset.keys.to_pylist())}
    labels = label_matrix(job.split.dataset)[[row_of[key] for key in keys]]
    return Features(keys, values, labels)


def encode_batch(job: Extraction, batch: Batch, device: torch.device) -> dict[str, Float[Tensor, "b _"]]:
    """One vector a sample and stream, float32, of all windows or frames if there are several: see `Extraction`."""
    inputs = eval_inputs(batch, device)
    with torch.no_grad(), autocast(job.precision, device):
        pooled = pooled_streams(job.loaded.model, inputs, job.mode)
    each = {name: rearrange(x, "(b u) d -> b u d", b=len(batch)) for name, x in pooled.items()}
    if job.averaged:
        return {name: x.mean(dim=1) for name, x in each.items()}
    return {name: F.normalize(x, dim=2).flatten(1) for name, x in each.items()}


def pooled_streams(model: Family, inputs: Inputs, mode: str) -> dict[str, Float[Tensor, "b _"]]:
    """The vector of each stream, float32; `mode` leaves one modality out.

    With several images for each log-mel, each image has a row; audio-only streams repeat in all rows of a sample.
    Raises ConfigError for a modality that the model has not learned from.
    """
    require_modalities(model, mode)
    streams = model.encode(
        None if mode == "audio" else inputs.image,
        None if mode == "image" else inputs.log_mel,
    )
    pooled = {name: stream.vector for name, stream in streams.items()}
    rows = max(map(len, pooled.values()))
    return {name: x.repeat_interleave(rows // len(x), dim=0) for name, x in pooled.items()}


def eval_inputs(batch: Batch, device: torch.device) -> Inputs:
    """As `avmodel.inputs.to_inputs`, with the windows, and the frames, of each sample one after the other."""
    batch = batch.to(device, non_blocking=True)
    images, log_mel = batch.images, batch.gained_log_mel()
    images = images.flatten(0, 1) if images.ndim == 5 else images
    log_mel = log_mel.flatten(0, 1) if log_mel.ndim == 4 else log_mel
    return Inputs(normalize_images(images), log_mel.unsqueeze(1))


def content_sha256(dataset: Dataset, profile: str) -> str:
    """A hash of what the samples show and sound like by this profile, one after the other."""
    mel, found = dataset.log_mel.get(profile), dataset.waveform.xxh3.astype(np.uint64)
    if mel is not None:
        found = np.where(mel.size > 0, mel.xxh3, found).astype(np.uint64)
    edges = dataset.frame_start.astype(np.int64)
    starts, counts = edges[:-1], edges[1:] - edges[:-1]
    places = np.arange(int(edges[-1])) - np.repeat(starts, counts)
    times = np.ascontiguousarray(dataset.frame_time_s, np.float32).view(np.uint32)
    frames = dataset.frames.xxh3.astype(np.uint64) * (2 * places + 3).astype(np.uint64) + times.astype(np.uint64)
    has_frames = counts > 0
    if has_frames.any():
        found[has_frames] += np.add.reduceat(frames, starts[has_frames])
    # Members of older shards and of other tools' have no hashes, but their shards have.
    shards = [0 if one.hashed else int(sha256_of(f"{one.sha256} {one.num_bytes}")[:16], 16) for one in dataset.shards]
    found += np.array(shards, np.uint64)[dataset.shard_of]
    return hashlib.sha256(found.tobytes()).hexdigest()


def label_matrix(dataset: Dataset) -> Bool[Tensor, "n c"]:
    """Which sample has which class."""
    matrix = torch.zeros(len(dataset), len(dataset.classes), dtype=torch.bool)
    sample_of = np.repeat(np.arange(len(dataset)), np.diff(dataset.label_start))
    matrix[torch.from_numpy(sample_of), torch.from_numpy(dataset.label_ids.astype(np.int64))] = True
    return matrix


def gathered(
    loader: Loader, world: World, compute: Callable[[Batch], dict[str, Float[Tensor, "b _"]]]
) -> Iterator[tuple[Float[Tensor, "n w"], dict[str, int]]]:
    """What `compute` makes of each batch of all processes, on the CPU; and the widths of its parts.

    A row is a sample, in the dataset's order: the parts side by side, then the sample's row in the dataset. Samples
    that only fill up the last batch are left out.
    """
    for batch in loader:
        values = compute(batch)
        device = next(iter(values.values())).device
        marks = torch.stack([batch.sample_ids, batch.positions, batch.valid.long()], dim=1).to(device).double()
        table = torch.cat([*(x.double() for x in values.values()), marks], dim=1)
        # Every process must give as many rows, and damaged samples may be missing.
        filler = table.new_zeros(loader.config.batch_size - len(table), table.shape[1])
        table = world.gather(torch.cat([table, filler])).cpu()
        table = table[table[:, -1] > 0]
        yield table[table[:, -2].argsort()][:, :-2], {name: x.shape[1] for name, x in values.items()}


def gathered_parts(
    loader: Loader,
    world: World,
    compute: Callable[[Batch], dict[str, Float[Tensor, "b _"]]],
    progress: Progress | None = None,
    what: str = "",
) -> dict[str, Float[Tensor, "n _"]]:
    """As `gathered`, of all batches: the parts, float32, and `index`, each row's sample in the dataset.

    `progress` is told of `what`, and of the samples that are done.
    """
    tables: list[Tensor] = []
    widths: dict[str, int] = {}
    for table, widths in gathered(loader, world, compute):  # noqa: B007  # the last one's are everyone's
        tables.append(table)
        if progress is not None and world.is_main:
            progress(what, loader.state.position, len(loader.dataset))
    whole = torch.cat(tables)
    return parts_of(whole, widths) | {"index": whole[:, -1:]}


def parts_of(table: Float[Tensor, "n w"], widths: dict[str, int]) -> dict[str, Float[Tensor, "n _"]]:
    """The parts of a gathered table, float32."""
    return dict(zip(widths, torch.split(table[:, :-1].float(), list(widths.values()), dim=1), strict=True))


def _keep(
    store: FeatureStore, dataset: Dataset, widths: dict[str, int], table: Float[Tensor, "n w"], position: int
) -> None:
    """Write gathered rows."""
    rows = table[:, -1].long().numpy()
    labels = [
        [dataset.classes[label] for label in dataset.label_ids[dataset.label_start[row] : dataset.label_start[row + 1]]]
        for row in rows
    ]
    store.append(dataset.keys.take(pa.array(rows)).to_pylist(), labels, parts_of(table, widths), position)
