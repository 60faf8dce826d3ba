"""One sample of a dataset as a plain object, for looking at it: `open_dataset(...)[i]`."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float16, Float32, UInt8

from avdata.dataset import Dataset, Shard
from avdata.load.cache import CacheConfig, read_content
from avdata.load.decode import StoredSample
from avdata.load.loader import Loader, LoaderConfig, evaluation_config
from avdata.load.reader import ShardReader, ThreadMemory
from avdata.load.views import TrainView, View
from avdata.profiles import column_start_s, profile, window_columns
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.secrets import shown_url
from avmanifest.table import read_table
from avmanifest.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Sample:
    """A sample with its members read, compared with their hashes, and decoded."""

    key: str
    labels: tuple[str, ...]
    frames: tuple[UInt8[np.ndarray, "h w 3"], ...]  # RGB
    frame_times_s: tuple[float, ...]  # in the clip; NaN: unknown
    masks: tuple[UInt8[np.ndarray, "h w"] | None, ...]  # of the frames; None: the frame has none
    log_mels: Mapping[str, np.ndarray]  # the stored ones by profile, each [n_mels, columns] float16
    waveform: Float32[np.ndarray, " n"] | None  # of the clip, 16 kHz, in [-1, 1); None: no sound is stored
    row: Mapping[str, Any]  # its columns in the manifest; empty for tars of other tools

    @property
    def label(self) -> str | None:
        """The first label; None: it has none."""
        return next(iter(self.labels), None)

    @property
    def log_mel(self) -> np.ndarray | None:
        """The log-mel of the dataset's first profile; None: none is stored."""
        return next(iter(self.log_mels.values()), None)

    def window(self, seconds: float = 3.0, start_s: float | None = None) -> Float16[np.ndarray, "mel t"]:
        """A window of `log_mel`, without a copy: [128, 196] for 3 s of `paper`.

        Args:
            seconds: Length of the window. Spectrograms of whole clips (`kaldi`) have one window, which is all of it.
            start_s: Start in the clip, to the nearest column; None: the middle, as evaluations take it.

        Raises:
            ConfigError: No log-mel is stored, or the clip does not have this window.
        """
        if self.log_mel is None:
            raise ConfigError(f"{self.key}: no log-mel is stored. Compute it of sample.waveform.")
        mel = profile(next(iter(self.log_mels)))
        if mel.pad_columns:
            return self.log_mel
        first, columns = window_columns(start_s or 0.0, seconds, mel)
        stored = self.log_mel.shape[1]
        if start_s is None:
            first = (stored - columns) // 2
        if not 0 <= first <= stored - columns:
            has_s = f"{column_start_s(stored - columns, mel):.2f} s" if stored >= columns else "none"
            raise ConfigError(
                f"{self.key}: a window of {seconds:g} s from {0.0 if start_s is None else start_s:g} s: the last one "
                f"begins at {has_s}. Ask for a shorter or an earlier one."
            )
        return self.log_mel[:, first : first + columns]

    def __repr__(self) -> str:
        parts = [repr(self.key), f"labels={list(self.labels)!r}", counted(len(self.frames), "frame")]
        if self.frames:
            parts[-1] += " {} x {}".format(*self.frames[0].shape[:2])
        parts += [f"log-mel {name} {mel.shape[0]} x {mel.shape[1]}" for name, mel in self.log_mels.items()]
        if self.waveform is not None:
            parts.append(f"waveform {len(self.waveform) / 16_000:.2f} s")
        if masks := sum(mask is not None for mask in self.masks):
            parts.append(counted(masks, "mask"))
        return f"Sample({', '.join(parts)}, {counted(len(self.row), 'column')})"


@dataclass(slots=True)
class SampleAccess:
    """Reads samples of an opened dataset, and makes its loaders: `avdata.dataset.Access`."""

    cache: CacheConfig
    _reader: ShardReader | None = field(default=None, repr=False, compare=False)
    _rows: tuple[Shard, pa.Table | None] | None = field(default=None, repr=False, compare=False)  # of the last shard

    def __reduce__(self) -> tuple[type["SampleAccess"], tuple[CacheConfig]]:
        """Pickled without its reader."""
        return SampleAccess, (self.cache,)

    def sample(self, dataset: Dataset, number: int) -> Sample:
        """Read a sample.

        Raises:
            ShardError: A member is damaged, or the shard is missing.
            ManifestError: The shard's manifest is damaged.
        """
        if self._reader is None or self._reader.shards is not dataset.shards:
            self._reader = ShardReader(dataset.shards, self.cache)
        key, reader = dataset.keys[number].as_py(), self._reader
        with reader, reader.fetching(), reader.leases() as leases:
            stored = StoredSample(dataset, reader, leases, ThreadMemory(), number, key)
            try:
                return self._decoded(dataset, stored)
            except ShardError:
                if not stored.refetched():
                    raise
                return self._decoded(dataset, stored)

    def loader(
        self, dataset: Dataset, view: View | None, *, train: bool, rank: int, world_size: int, **options: Any
    ) -> Loader:
        """A loader of the dataset; see `Dataset.loader`."""
        config = LoaderConfig(cache=options.pop("cache", self.cache), **options)
        config = config if train else evaluation_config(config)
        return Loader(dataset, view or TrainView(), config, rank=rank, world_size=world_size)

    def _decoded(self, dataset: Dataset, stored: StoredSample) -> Sample:
        number, frames = stored.number, range(len(stored.frame_times_s))
        mels = {}
        for name, ranges in dataset.log_mel.items():
            if ranges.size[number]:
                columns = stored.mel_columns(name)
                assert columns is not None
                mels[name] = np.empty((profile(name).n_mels, columns), np.float16)
                stored.copy_mel(name, 0, mels[name])
        labels = dataset.label_ids[dataset.label_start[number] : dataset.label_start[number + 1]].tolist()
        return Sample(
            key=stored.key,
            labels=tuple(dataset.classes[label] for label in labels),
            frames=tuple(stored.frame(frame) for frame in frames),
            frame_times_s=tuple(stored.frame_times_s),
            masks=tuple(stored.mask(frame) for frame in frames),
            log_mels=mels,
            waveform=stored.waveform() if dataset.waveform.size[number] else None,
            row=self._row(dataset.shards[int(dataset.shard_of[number])], stored.key),
        )

    def _row(self, shard: Shard, key: str) -> dict[str, Any]:
        if self._rows is None or self._rows[0] != shard:
            self._rows = shard, shard_rows(shard, self.cache)
        table = self._rows[1]
        if table is None:
            return {}
        rows: list[dict[str, Any]] = table.filter(pc.equal(table.column("key"), key)).to_pylist()
        if len(rows) != 1:
            raise ManifestError(
                f"{shard.name}: {counted(len(rows), 'row')} of its manifest with the key {key!r}, expected one."
            )
        return rows[0]


def shard_rows(shard: Shard, cache: CacheConfig) -> pa.Table | None:
    """The rows of a prepared shard's manifest with all their columns; None for a tar of another tool.

    Raises:
        ManifestError: The manifest is missing or damaged.
    """
    if not shard.prepared:
        return None
    where = f"{shard.url.removesuffix('.tar')}.parquet"
    content = read_content(where, cache)
    if content is None:
        raise ManifestError(f"{shown_url(where)}: missing, though the shard's marker is there. Restore it.")
    return read_table(io.BytesIO(content), CLIP_SCHEMA, where=shown_url(where))
