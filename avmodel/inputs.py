"""From a dataset to a model's inputs: samples, views, and normalization on the device."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avdata.load import (
    Batch,
    CacheConfig,
    ClipView,
    Dataset,
    EvalView,
    Loader,
    LoaderConfig,
    TrainView,
    evaluation_config,
    is_folder,
    is_mixture,
    open_dataset,
    open_mixture,
    select,
    source_of,
)
from avmanifest.errors import ConfigError, MissingSplit
from avmanifest.files import read_text
from avmanifest.wording import counted
from avmodel.configs.data import CacheSettings, DataConfig
from avmodel.configs.model import ModelConfig
from avmodel.configs.run import RunConfig
from avmodel.distributed import World

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

HELD_OUT_SEED = 0  # of the order and the masks of the held-out loss, whatever the run's seed: runs are comparable

Source = str | Path | Sequence[str]


def cache_of(data: CacheSettings) -> CacheConfig:
    """Where remote shards are kept, how much of them, and whether servers are asked; none: as the loader has it."""
    given: dict[str, Any] = {"offline": data.offline}
    if data.cache_dir is not None:
        given["root"] = Path(data.cache_dir)
    if data.cache_gb is not None:
        given["max_bytes"] = round(data.cache_gb * 1e9)
    return CacheConfig(**given)


class Inputs(NamedTuple):
    """The inputs of a model."""

    image: Float[Tensor, "b 3 h w"]
    log_mel: Float[Tensor, "b 1 mel t"]


def train_loader(
    data: DataConfig, model: ModelConfig, source: Source, world: World, *, batch_size: int, seed: int
) -> Loader:
    """One process's training batches of `batch_size`; batches may span two epochs.

    Raises ConfigError if the data doesn't fit the model, or has fewer samples than one batch of every process;
    ManifestError or ShardError for an incomplete dataset.
    """
    cache = cache_of(data)
    given: dict[str, Any] = {"exclude": data.exclude, "where": data.where, "cache": cache}
    given["allow_pipe"] = data.allow_pipe
    if data.mix or data.epoch_samples is not None:
        entries = data.mix or entries_of(source)
        given |= {"epoch_samples": data.epoch_samples, "class_balanced": data.class_balanced}
        opened = partial(open_mixture, entries, data.split, **given)
    else:
        opened = partial(open_dataset, source, data.split if is_folder(source) else None, **given)
    try:
        dataset = opened()
    except MissingSplit as error:
        raise error.for_setting("data.split") from error
    view = TrainView(
        **seen(data, model),
        min_area=data.min_area,
        flip_probability=data.flip_probability,
        max_gain_db=data.max_gain_db,
    )
    require_mel(view.mel.n_mels, model)
    require_samples(dataset, batch_size * world.size, source)
    config = replace(
        held_out_config(data, cache, batch_size),
        seed=seed,
        class_balanced=data.class_balanced and not dataset.parts,
        exclude_keys=listed_keys(data.exclude_keys),
        pin_memory=world.device.type == "cuda",
    )
    return Loader(dataset, view, config, rank=world.rank, world_size=world.size)


def reading_notes(of: DataConfig | ClipView) -> dict[str, str]:
    """What a checkpoint notes of how its samples were read: evaluations of it, and `apply`, read theirs so."""
    return {
        "profile": of.profile,
        "window_s": str(of.window_s),
        "fit": of.fit,
        "around_frame": str(of.around_frame),
    }


def with_mix(data: DataConfig, source: Source | None) -> tuple[DataConfig, Source]:
    """The settings with what `source` says of a mixture (`data/a=0.7`) in `mix`, and the datasets without amounts.

    Raises:
        ConfigError: No dataset is named, or both by `source` and by `data.mix`.
    """
    entries = () if source is None else entries_of(source)
    if data.mix and entries:
        raise ConfigError("--data and data.mix both name what to train on. Give one of them.")
    if is_mixture(entries):
        data = replace(data, mix=entries)
    if not (data.mix or entries):
        raise ConfigError("--data is missing: a prepared dataset's folder, or shard URLs")
    if not data.mix:
        return data, source if source is not None else entries
    sources = tuple(source_of(entry) for entry in data.mix)
    return data, sources[0] if len(sources) == 1 else sources


def entries_of(source: Source) -> tuple[str, ...]:
    """The folders and URLs of a source, one by one."""
    return (str(source),) if isinstance(source, str | Path) else tuple(map(str, source))


def listed_keys(entries: Sequence[str]) -> tuple[str, ...]:
    """The keys of `data.exclude_keys`, each once. An entry is a key, or @FILE with a key a line.

    Raises:
        ConfigError: The file cannot be read.
    """
    keys: list[str] = []
    for entry in entries:
        if not entry.startswith("@"):
            keys.append(entry)
            continue
        try:
            lines = read_text(entry[1:]).splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"data.exclude_keys={entry}: cannot be read as a text of keys ({error})") from error
        keys += [line.strip() for line in lines if line.strip()]
    return tuple(dict.fromkeys(keys))


def probe_loader(
    data: DataConfig, model: ModelConfig, source: Source, world: World, *, batch_size: int
) -> Loader | None:
    """One process's share of the probe's split, each sample once; None if there is no such split.

    Only the folder of a prepared dataset has splits. Raises as `train_loader`.
    """
    if data.probe_split is None or not is_folder(source):
        return None
    cache = cache_of(data)
    try:
        dataset = open_dataset(source, data.probe_split, cache=cache)
    except MissingSplit:
        return None
    dataset = without_keys(dataset, data.exclude_keys)
    if not dataset.classes or len(dataset) < 2:
        return None
    config = evaluation_config(held_out_config(data, cache, batch_size))
    return Loader(dataset, EvalView(**seen(data, model)), config, rank=world.rank, world_size=world.size)


def validation_loader(config: RunConfig, source: Source, world: World) -> Loader | None:
    """One process's batches for the held-out loss: whole ones, in an order that never changes; None if it is off.

    A damaged sample is replaced, with `data.skip_bad`, so that every process has equally many.

    Raises:
        ConfigError: There is no such split, or it doesn't fill a batch; only folders of prepared datasets have any.
    """
    validation, data = config.validation, config.data
    if validation.every is None:
        return None
    if not is_folder(source):
        raise ConfigError(
            f"validation.every={validation.every}: {', '.join(entries_of(source))} has no splits. Give --data the "
            "folder of a prepared dataset, or set validation.every=none."
        )
    size, _ = config.validation_batch(world.size)
    cache = cache_of(data)
    try:
        dataset = open_dataset(source, validation.split, cache=cache)
    except MissingSplit as error:
        raise error.for_setting("validation.split") from error
    dataset = without_keys(dataset, data.exclude_keys)
    if len(dataset) < validation.batch_size:
        raise ConfigError(
            f"validation.batch_size={validation.batch_size}: split {validation.split!r} has "
            f"{counted(len(dataset), 'sample')}. "
            "Set it to at most as many."
        )
    loading = replace(held_out_config(data, cache, size), seed=HELD_OUT_SEED)
    return Loader(dataset, EvalView(**seen(data, config.model)), loading, rank=world.rank, world_size=world.size)


def seen(data: DataConfig, model: ModelConfig) -> dict[str, Any]:
    """What views of samples to train on, and of others, have in common."""
    return {
        "profile": data.profile,
        "window_s": data.window_s,
        "columns": model.audio_size[1],
        "image_size": image_side(model),
        "fit": data.fit,
        "around_frame": data.around_frame,
    }


def held_out_config(data: DataConfig, cache: CacheConfig, batch_size: int) -> LoaderConfig:
    """How samples that are not trained on are loaded."""
    return LoaderConfig(
        batch_size=batch_size,
        num_workers=data.num_workers,
        skip_bad=data.skip_bad,
        max_bad_share=data.max_bad_share,
        cache=cache,
    )


def without_keys(dataset: Dataset, entries: Sequence[str]) -> Dataset:
    """The dataset without the samples of `data.exclude_keys`."""
    excluded = listed_keys(entries)
    if not excluded:
        return dataset
    return select(dataset, ~pc.is_in(dataset.keys, pa.array(excluded, dataset.keys.type)).to_numpy(False))


def to_inputs(batch: Batch, device: torch.device) -> Inputs:
    """The batch on the device: images normalized by ImageNet's statistics, log-mels in float32 with their gain."""
    batch = batch.to(device, non_blocking=True)
    return Inputs(normalize_images(batch.images), batch.gained_log_mel().unsqueeze(1))


def normalize_images(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Images of 0 to 255, normalized to zero mean and unit deviation over ImageNet, as float32."""
    mean, std = image_statistics(images.device)
    return images.float().sub_(255 * mean).div_(255 * std)


@lru_cache
def image_statistics(device: torch.device) -> tuple[Float[Tensor, "1 3 1 1"], Float[Tensor, "1 3 1 1"]]:
    """ImageNet's mean and deviation of each channel, of values from 0 to 1.

    Made once for each device: a copy from the host makes a CUDA step wait.
    """
    with torch.inference_mode(False):
        mean, std = (
            torch.tensor(values, device=device).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
    return mean, std


def image_side(model: ModelConfig) -> int:
    """Side of the model's images in pixels. Raises ConfigError if they aren't square."""
    height, width = model.image_size
    if height != width:
        raise ConfigError(f"model.image_size={model.image_size}: the loader crops squares. Set two equal numbers.")
    return height


def require_mel(n_mels: int, model: ModelConfig) -> None:
    """Raise ConfigError unless the spectrograms have the model's number of bins."""
    if n_mels != model.audio_size[0]:
        raise ConfigError(
            f"model.audio_size={model.audio_size}: the spectrograms have {n_mels} mel bins. Set its first number to "
            f"{n_mels}."
        )


def require_samples(dataset: Dataset, least: int, source: Source) -> None:
    """Raise ConfigError for a dataset with epochs of fewer than `least` samples."""
    if (count := dataset.epoch_samples) < least:
        raise ConfigError(
            f"{', '.join(entries_of(source))}: {counted(count, 'sample')}, fewer than one batch of {least} over all "
            f"processes. Prepare more, or set device_batch_size or batch_size to at most {count}."
        )
