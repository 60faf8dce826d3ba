"""Reads single samples: frames with times and masks, log-mel, audio, labels and annotations."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avdata.audit.dataset import AuditDataset, DatasetKind
from avdata.audit.parquet import read_stored_table
from avdata.audit.secrets import shown_rows
from avdata.audit.tars import json_of
from avdata.profiles import PROFILES, MelProfile
from avdata.shards import Member, check_content, members_of, parse_npy, tar_samples
from avmanifest.columns import CLIP_COLUMNS, Column, flags, named
from avmanifest.errors import ConfigError, ShardError
from avmanifest.layout import ShardName
from avmanifest.parsing import metadata_of
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.secrets import shown_content

SOUNDS: Final = {"flac": "audio/flac", "wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg", "m4a": "audio/mp4"}
_PICTURES: Final = ("jpg", "jpeg", "png", "webp")
_KEPT_SHARDS: Final = 8  # whose rows a reader keeps
_MEMBERS: Final = " members"  # of a row that is kept; no column has a space in its name
_MAX_BYTES: Final = 1 << 26  # of one sample, which is kept in memory
_NO_FACTS: Final = frozenset(
    ("key", "split", "status", "reason", "shard", "position", "members", "member_xxh3", "mel_block_xxh3")
)


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A stored frame: its file's bytes, its time in seconds (None: unknown) and its mask as PNG bytes (None: none)."""

    name: str
    content: bytes
    time_s: float | None
    mask: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSample:
    """A sample's members, and the columns of the manifest that have values for it (facts)."""

    key: str
    split: str
    shard: str
    facts: Mapping[str, Any]
    columns: tuple[Column, ...] = field(default=CLIP_COLUMNS, repr=False)  # of the dataset
    frames: tuple[StoredFrame, ...] = ()
    log_mel: np.ndarray | None = field(default=None, repr=False)  # [mel, T]
    profile: MelProfile | None = None  # how log_mel was made; None: unknown
    sound: bytes = field(default=b"", repr=False)
    sound_type: str = ""  # media type, such as audio/flac

    @property
    def labels(self) -> list[str]:
        """The labels of the sample."""
        return [str(label) for label in self.facts.get("labels") or []]

    @property
    def flags(self) -> list[str]:
        """The flags that are set, such as silent."""
        return [name for name in named(flags(self.columns)) if self.facts.get(name)]

    @property
    def own_facts(self) -> dict[str, Any]:
        """The values of extra columns: of the user's list, and of steps."""
        return {
            column.name: self.facts[column.name]
            for column in self.columns
            if column.source and column.name in self.facts
        }


def read_sample(dataset: AuditDataset, key: str) -> StoredSample:
    """Read the sample with that key. Raises ConfigError if there is no such key or its clip failed."""
    for split, content in dataset.splits.items():
        place = pc.index(content.table.column("key"), pa.scalar(key, pa.string())).as_py()
        if place >= 0:
            row = content.table.slice(place, 1).to_pylist()[0]
            if row["status"] != "ok":
                raise ConfigError(f"{key} of {split} has no sample: {row['status']} ({row['reason'] or 'no reason'})")
            return next(read_samples(dataset, [(split, key)]))
    some = [key for content in dataset.splits.values() for key in content.table.column("key").slice(0, 3).to_pylist()]
    raise ConfigError(f"{dataset.root}: no clip has the key {key!r}. Keys are such as {', '.join(some[:3]) or 'none'}.")


def read_samples(dataset: AuditDataset, wanted: Sequence[tuple[str, str]]) -> Iterator[StoredSample]:
    """Read samples, shard by shard.

    Args:
        dataset: A prepared dataset or tars.
        wanted: (split, key) of the samples.

    Raises:
        ConfigError: The dataset is a manifest without shards.
        ShardError: A shard is damaged.
    """
    if dataset.kind is DatasetKind.MANIFEST:
        raise _has_no_samples(dataset)
    finder = _from_tars if dataset.kind is DatasetKind.SHARDS else _from_dataset
    for split, tar, row, members in finder(dataset, wanted):
        contents = _contents(dataset, tar, row["key"], members)
        yield _sample(dataset, split, tar, row, contents)


class SampleReader:
    """Reads samples one by one, in any order, from several threads. It keeps the rows of the shards read last.

    Args:
        dataset: A prepared dataset or tars.
    """

    def __init__(self, dataset: AuditDataset) -> None:
        """Raises ConfigError for a manifest without shards."""
        if dataset.kind is DatasetKind.MANIFEST:
            raise _has_no_samples(dataset)
        self._dataset = dataset
        self._lock = threading.Lock()
        self._shards: OrderedDict[str, Mapping[str, dict[str, Any]]] = OrderedDict()

    def read(self, split: str, key: str, shard: int) -> StoredSample:
        """Read the sample of a key, whose shard has this number.

        Raises:
            ManifestError: The rows of the shard are damaged.
            ShardError: The shard is damaged, or has no such sample.
        """
        is_tar = self._dataset.kind is DatasetKind.SHARDS
        name = self._dataset.tars[shard].removesuffix(".tar") if is_tar else str(ShardName(split, shard))
        row = self._rows(name).get(key)
        if row is None:
            raise ShardError(f"{self._dataset.store.at(name)}: has no sample of the key {key!r}")
        tar = f"{name}.tar"
        return _sample(self._dataset, split, tar, row, _contents(self._dataset, tar, key, row[_MEMBERS]))

    def _rows(self, name: str) -> Mapping[str, dict[str, Any]]:
        """The rows of a shard by key, each with its members."""
        with self._lock:
            if (found := self._shards.get(name)) is None:
                found = self._read_rows(name)
                self._shards[name] = found
                if len(self._shards) > _KEPT_SHARDS:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(name)
        return found

    def _read_rows(self, name: str) -> Mapping[str, dict[str, Any]]:
        store = self._dataset.store
        if self._dataset.kind is DatasetKind.SHARDS and store.size(f"{name}_stats.json") is None:
            if f"{name}.tar" in self._dataset.damaged:
                raise ShardError(f"{store.at(name)}.tar: {self._dataset.damaged[f'{name}.tar']}")
            with store.open(f"{name}.tar") as file:
                return {
                    sample.key: shown_content(json_of(sample)) | {"key": sample.key, _MEMBERS: sample.members}
                    for sample in tar_samples(file, read="json")
                }
        table = shown_rows(read_stored_table(store, f"{name}.parquet", CLIP_SCHEMA))
        rows = table.filter(pc.equal(table.column("status"), "ok")).to_pylist()
        return {row["key"]: row | {_MEMBERS: members_of(row)} for row in rows}


def _has_no_samples(dataset: AuditDataset) -> ConfigError:
    return ConfigError(f"{dataset.root}: a manifest alone has no samples. Give the dataset's folder.")


_Located = tuple[str, str, dict[str, Any], Sequence[Member]]


def _from_dataset(dataset: AuditDataset, wanted: Sequence[tuple[str, str]]) -> Iterator[_Located]:
    """(split, tar, row, members) from the parquet file of each shard, which is smaller than the whole manifest."""
    for split, content in dataset.splits.items():
        keys = pa.array([key for own, key in wanted if own == split], pa.string())
        rows = content.table.select(["key", "shard"])
        held = rows.filter(pc.is_in(rows.column("key"), value_set=keys))
        for number in sorted(pc.unique(held.column("shard")).drop_null().to_pylist()):
            name = str(ShardName(split, number))
            table = shown_rows(read_stored_table(dataset.store, f"{name}.parquet", CLIP_SCHEMA))
            mine = table.filter(pc.is_in(table.column("key"), value_set=keys))
            for row in mine.filter(pc.equal(mine.column("status"), "ok")).to_pylist():
                yield split, f"{name}.tar", row, members_of(row)


def _from_tars(dataset: AuditDataset, wanted: Sequence[tuple[str, str]]) -> Iterator[_Located]:
    splits = {key: split for split, key in wanted}
    for tar in dataset.tars:
        if not splits:
            return
        if tar in dataset.damaged:
            continue
        with dataset.store.open(tar) as file:
            for sample in tar_samples(file, read="json"):
                if sample.key in splits:
                    row = shown_content(json_of(sample))
                    yield splits.pop(sample.key), tar, row | {"key": sample.key}, sample.members


def _contents(dataset: AuditDataset, tar: str, key: str, members: Sequence[Member]) -> dict[str, bytes]:
    """Read all members of a sample at once, as they are adjacent. Raises DamagedMember if a hash differs."""
    start = min(member.offset for member in members)
    stop = max(member.offset + member.size for member in members)
    if stop - start > _MAX_BYTES:
        raise ShardError(
            f"{dataset.store.at(tar)}: a sample of {stop - start:,} bytes; at most {_MAX_BYTES:,} are read"
        )
    content = dataset.store.read_range(tar, start, stop - start)
    contents = {member.name: content[member.offset - start :][: member.size] for member in members}
    for member in members:
        if member.xxh3 is not None:
            check_content(contents[member.name], member.xxh3, dataset.store.at(tar), key, member.name)
    return contents


def _sample(
    dataset: AuditDataset, split: str, tar: str, row: Mapping[str, Any], contents: Mapping[str, bytes]
) -> StoredSample:
    names = [column.name for column in dataset.columns if column.name not in _NO_FACTS]
    facts = {name: row[name] for name in names if row.get(name) is not None}
    if not facts.get("labels") and (label := contents.get("cls") or contents.get("txt")):
        facts["labels"] = [label[:200].decode(errors="replace").strip()]
    if not isinstance(facts.get("labels", []), list):
        facts["labels"] = [facts["labels"]]
    pictures = [name for name in contents if name.rsplit(".", 1)[-1] in _PICTURES and not name.startswith("mask")]
    times = facts.get("frame_times_s") or []
    frames = tuple(
        StoredFrame(
            name,
            contents[name],
            float(times[place]) if len(times) == len(pictures) else None,
            contents.get(f"mask{place:02d}.png"),
        )
        for place, name in enumerate(pictures)
    )
    log_mel, profile = _log_mel(dataset, contents)
    sounds = [n for n in contents if n.rsplit(".", 1)[-1] in SOUNDS and not n.startswith("stem")]
    return StoredSample(
        key=str(row["key"]),
        split=split,
        shard=tar,
        facts=facts,
        columns=dataset.columns,
        frames=frames,
        log_mel=log_mel,
        profile=profile,
        sound=contents[sounds[0]] if sounds else b"",
        sound_type=SOUNDS[sounds[0].rsplit(".", 1)[-1]] if sounds else "",
    )


def _log_mel(dataset: AuditDataset, contents: Mapping[str, bytes]) -> tuple[np.ndarray | None, MelProfile | None]:
    """The sample's first log-mel, and its profile by the dataset's config; None: unknown."""
    name = next((name for name in contents if name.startswith("logmel") and name.endswith(".npy")), None)
    if name is None:
        return None, None
    array = parse_npy(contents[name], name)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        return None, None
    names = dataset.description.get("config", {}).get("mel") or []
    profile = PROFILES.get(names[0]) if names else None
    return array.astype(np.float32), profile if profile and profile.n_mels == len(array) else None


def sample_json(sample: StoredSample) -> dict[str, Any]:
    """The sample's facts and the sizes of its members, as plain data."""
    facts = dict(sample.facts)
    if isinstance(facts.get("annotations"), str):
        facts["annotations"] = metadata_of(facts["annotations"]) or facts["annotations"]
    return {
        "key": sample.key,
        "split": sample.split,
        "shard": sample.shard,
        **facts,
        "frames": [
            {"name": frame.name, "time_s": frame.time_s, "bytes": len(frame.content)} for frame in sample.frames
        ],
        "log_mel": None if sample.log_mel is None else list(sample.log_mel.shape),
        "profile": sample.profile.name if sample.profile else None,
        "sound_bytes": len(sample.sound),
    }
