"""Datasets: samples by number, batches by a loader, the manifest."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex

import pyarrow as pa
import pyarrow.compute as pc

from avdata.load import (
    CacheConfig,
    ClipView,
    EvalView,
    Loader,
    LoaderConfig,
    MemberMap,
    Sample,
    TrainView,
    View,
    is_folder,
    splits_of,
)
from avdata.load import Dataset as Samples
from avdata.load import open_dataset as open_samples
from avdata.load.open import manifest_table
from avdata.load.sample import shard_rows
from avdata.profiles import profile
from avdata.urls import local_path
from avmanifest.columns import joined
from avmanifest.errors import AvkitError, ConfigError
from avmanifest.names import unknown_name
from avmanifest.secrets import shown_url
from avmanifest.wording import counted


class Dataset:
    """The samples of an opened dataset: `len(dataset)`, `dataset[i]`, iteration, `dataset.loader(...)`."""

    def __init__(self, samples: Samples, name: str, parts: Sequence[tuple[str, str]], cache: CacheConfig) -> None:
        """As `open_dataset` makes it; `parts`: the folders and the splits of each."""
        self.samples = samples
        """The index of the samples (`avdata.load.Dataset`), for mix, select, unite and other parts of avdata.load."""
        self.name = name
        """Name of the folder, or of the first shard."""
        self.splits = tuple(dict.fromkeys(split for _, split in parts))
        """The splits that were opened; empty for shards."""
        self._parts, self._cache = tuple(parts), cache

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: SupportsIndex | slice) -> Sample:
        """The sample with this number, read, compared with its hashes and decoded. Negative ones count from the end.

        Raises:
            TypeError: The number is a slice: samples are read one by one, or in batches by `loader`.
            IndexError: There are fewer samples.
            ShardError: A member is damaged, or the shard is missing.
        """
        if isinstance(number, slice):
            raise TypeError(
                "a dataset is not sliced, as that would read many samples at once. Take [dataset[i] for i in "
                "range(...)], or batches of dataset.loader(batch_size=...)."
            )
        sample: Sample = self.samples[index(number)]
        return sample

    def __iter__(self) -> Iterator[Sample]:
        """The samples one by one, in the order of the shards. A loader reads them in batches, and many times faster."""
        return iter(self.samples)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; column i of a batch's labels is labels[i]."""
        return self.samples.classes

    @cached_property
    def manifest(self) -> pa.Table:
        """The manifest: a row for each requested clip of these splits, failed ones included, whatever `where` says.

        docs/format.md describes the columns. `dataset.manifest.to_pandas()` is it for pandas.

        Raises:
            ConfigError: The dataset is tars of another tool.
            ManifestError: It is damaged.
        """
        if self._parts:
            tables = [manifest_table(root, split, self._cache) for root, split in self._parts]
        else:
            tables = [rows for shard in self.samples.shards if (rows := shard_rows(shard, self._cache)) is not None]
            if len(tables) < len(self.samples.shards):
                raise ConfigError(f"{self.name}: tars of another tool have no manifest. Prepare with avkit for one.")
        return joined(tables)

    @cached_property
    def seconds(self) -> float | None:
        """Seconds of the clips of all samples, by the manifest; None: it does not say.

        Raises as `manifest`.
        """
        rows = self.manifest.select(["key", "status", "duration_s"])
        chosen = pc.and_(
            pc.equal(rows.column("status"), "ok"),
            pc.is_in(rows.column("key").cast(pa.large_string()), value_set=self.samples.keys),
        )
        found: float | None = pc.sum(rows.filter(chosen).column("duration_s")).as_py()
        return found

    def loader(
        self,
        *,
        batch_size: int = 64,
        shuffle: bool = True,
        tensors: bool = False,
        view: View | None = None,
        rank: int = 0,
        world_size: int = 1,
        **settings: Any,
    ) -> Loader:
        """Batches of the samples. Each iteration is an epoch, and the next one has another order and other crops.

        A batch has `images` uint8 [b, 3, 224, 224], `log_mel` float16 [b, 128, 192], `labels` bool [b, classes], `keys`
        and more: `avdata.load.ArrayBatch`. `state_dict()` and `load_state_dict()` resume at the very next sample.

        Args:
            batch_size: Samples of a batch.
            shuffle: A new order each epoch, random windows and crops, and no last batch of fewer samples. Else the
                dataset's order, each sample once, the middle window and crop; the last batch is filled up
                (`batch.valid`).
            tensors: Batches of torch tensors (`avdata.load.Batch`) in place of numpy arrays.
            view: What to take of each sample; None: `TrainView` or, without shuffle, `EvalView`, of the first stored
                log-mel profile: 3 s and one frame, or the whole clip for profiles of whole clips.
            rank: Number of this process. Processes share the samples of an epoch.
            world_size: Number of processes.
            settings: Of `avdata.load.LoaderConfig`: seed, num_workers, class_balanced, skip_bad, ...

        Raises:
            ConfigError: A setting is unknown or cannot be used, or the samples fill no batch.
        """
        known = [field.name for field in fields(LoaderConfig)]
        for name in settings:
            if name not in known:
                raise ConfigError(unknown_name("setting", name, known, owner=" of a loader"))
        settings = {"cache": self._cache, **settings, "batch_size": batch_size, "tensors": tensors}
        made: Loader = self.samples.loader(
            view or self._view(shuffle=shuffle), train=shuffle, rank=rank, world_size=world_size, **settings
        )
        if not len(made):
            samples = counted(self.samples.epoch_samples, "sample")
            raise ConfigError(
                f"batch_size={batch_size} with world_size={world_size}: {samples} fill no batch. Set a smaller "
                "batch_size, or shuffle=False for one that is filled up."
            )
        return made

    def _view(self, *, shuffle: bool) -> ClipView:
        name = next(iter(self.samples.log_mel), "paper")
        kind = TrainView if shuffle else EvalView
        return kind(profile=name, window_s=None if profile(name).pad_columns else 3.0)

    def __repr__(self) -> str:
        parts = [f"split={','.join(self.splits)}"] if self.splits else []
        parts.append(counted(len(self), "sample"))
        if "seconds" in self.__dict__ or all(local_path(shard.url) is not None for shard in self.samples.shards[:1]):
            parts += self._duration()
        return f"Dataset({self.name}: {', '.join([*parts, counted(len(self.labels), 'label')])})"

    def _duration(self) -> list[str]:
        try:
            return [] if self.seconds is None else [f"{self.seconds:,.0f} s"]
        except AvkitError:  # tars of another tool, or a damaged manifest: a repr raises nothing
            return []


def open_dataset(
    path: str | Path | Sequence[str | Path],
    split: str | Sequence[str] | None = None,
    *,
    where: str | None = None,
    exclude: Sequence[str] = (),
    members: MemberMap | None = None,
    cache: CacheConfig | None = None,
    allow_pipe: bool = False,
) -> Dataset:
    """Open a dataset, here or remote.

    Args:
        path: The folder of a prepared dataset, several of them, or URLs of shards, with braces
            (`train/{00000..00183}.tar`); local paths, http, https, s3, gs and hf.
        split: Split of a prepared folder, or several, as `["train", "val"]`; None: train. Not for shards.
        where: Keep samples for which this SQL expression over the manifest's columns is true, such as
            `rms_dbfs > -45 and 'dog barking' in labels`.
        exclude: Leave out samples with these flags, such as silent, still, short.
        members: Which member is the frame, the log-mel, the sound, for tars of other tools.
        cache: Where remote shards are kept; None: the default cache folder.
        allow_pipe: Permit `pipe:COMMAND` URLs.

    Raises:
        ConfigError: There is no such dataset, or the condition cannot be used.
        MissingSplit: There is no such split.
        ManifestError: A manifest is damaged.
        ShardError: A shard is damaged or cannot be read.

    Example:
        ```python
        dataset = avkit.open_dataset("data/mine", where="not silent")
        sample = dataset[0]
        print(sample.key, sample.label, sample.window().shape, sample.frames[0].shape)
        ```
    """
    cache = cache or CacheConfig()
    samples = open_samples(
        path, split, members=members, exclude=exclude, where=where, cache=cache, allow_pipe=allow_pipe
    )
    if not is_folder(path):
        return Dataset(samples, _name_of(samples.shards[0].url), (), cache)
    roots = [str(root).rstrip("/") for root in ([path] if isinstance(path, str | Path) else path)]
    parts = [(root, name) for root in roots for name in splits_of(root, split, cache)]
    return Dataset(samples, " + ".join(map(_name_of, roots)), parts, cache)


def _name_of(place: str) -> str:
    """The last part of a path or URL, without secrets."""
    path = local_path(place)
    return shown_url(place).rpartition("/")[2] if path is None else path.resolve().name
