"""A dataset as arrays: where every sample's members lie, without a Python object per sample."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Float64, Int64

from avdata.load.members import MemberMap
from avmanifest.errors import ConfigError, ManifestError

COLUMNS: Final = ["key", "labels", "status", "shard", "members", "frame_times_s", "silent", "still", "short"]
FLAGS: Final = ("silent", "still", "short")
_HASHED_AT_ONCE: Final = 65_536


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar: where it is, and what its marker says of it (None: it has none)."""

    url: str
    num_bytes: int | None
    sha256: str | None
    prepared: bool  # by avkit: the names in its headers are checked at every read


@dataclass(frozen=True, slots=True)
class ByteRanges:
    """Offset and size in the tar of one member of every sample; size 0: the sample has none."""

    offset: Int64[np.ndarray, " n"]
    size: Int64[np.ndarray, " n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Samples in the order of their shards. Row i of every array is sample i.

    The frames of sample i are the entries frame_start[i] to frame_start[i + 1] of the frames' arrays, and so on for
    its labels.
    """

    shards: tuple[Shard, ...]
    keys: pa.LargeStringArray
    shard_of: Int64[np.ndarray, " n"]
    log_mel: Mapping[str, ByteRanges]  # by profile
    log_mel_member: Mapping[str, str]  # the member's name, by profile
    waveform: ByteRanges
    frames: ByteRanges  # of all frames
    masks: ByteRanges  # of all frames; size 0: a frame has none
    mask_names: tuple[str, ...]  # parallel to frame_names
    frame_start: Int64[np.ndarray, " n1"]
    frame_time_s: Float32[np.ndarray, " f"]  # NaN: unknown
    frame_member: Int64[np.ndarray, " f"]  # the member's name: a row of frame_names
    frame_names: tuple[str, ...]
    label_ids: Int64[np.ndarray, " l"]
    label_start: Int64[np.ndarray, " n1"]
    classes: tuple[str, ...]
    weights: Float64[np.ndarray, " n"] | None = None  # how often each sample is wanted, relative to the others

    def __len__(self) -> int:
        return len(self.shard_of)

    def fingerprint(self) -> str:
        """Hash of everything an order of samples depends on: which samples, where cut into shards, how weighted."""
        digest = hashlib.sha256()
        for first in range(0, len(self), _HASHED_AT_ONCE):
            keys = self.keys.slice(first, _HASHED_AT_ONCE).to_pylist()
            digest.update("".join(f"{key}\n" for key in keys).encode())
        digest.update(np.ascontiguousarray(self.shard_of).tobytes())
        if self.weights is not None:
            digest.update(np.ascontiguousarray(self.weights).tobytes())
        return digest.hexdigest()


def dataset_from_table(
    table: pa.Table,
    shards: Sequence[Shard],
    members: MemberMap,
    *,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> Dataset:
    """The dataset of manifest rows (COLUMNS, `shard` an index into shards). Rows that are not `ok` are left out.

    `exclude` names flags whose samples are left out too. Raises ManifestError for members outside their tar or a
    label outside classes, ConfigError for an unknown flag or when nothing is left.
    """
    if unknown := set(exclude) - set(FLAGS):
        raise ConfigError(f"unknown flags to exclude {sorted(unknown)}; known: {', '.join(FLAGS)}")
    keep = pc.equal(table.column("status"), "ok")
    for flag in exclude:
        keep = pc.and_(keep, pc.invert(pc.fill_null(table.column(flag), False)))
    table = table.filter(keep)
    if not len(table):
        where = shards[0].url if shards else "the dataset"
        raise ConfigError(f"{where}: no sample is left" + (f" without the flags {list(exclude)}" if exclude else ""))
    table = table.append_column("row", pa.array(range(len(table))))
    table = table.sort_by([("shard", "ascending"), ("row", "ascending")])
    shard_of = table.column("shard").to_numpy().astype(np.int64)
    sample_of, names, codes, offset, size = _flat_members(table)
    _check_ends(shards, shard_of[sample_of], offset + size)

    def places(name_wanted: Sequence[str]) -> ByteRanges:
        found = ByteRanges(np.zeros(len(table), np.int64), np.zeros(len(table), np.int64))
        for name in name_wanted:
            if name in names:
                chosen = (codes == names.index(name)) & (found.size[sample_of] == 0)
                found.offset[sample_of[chosen]] = offset[chosen]
                found.size[sample_of[chosen]] = size[chosen]
        return found

    frame_names = members.frame_names(names)
    if not frame_names:
        raise ConfigError(
            f"{shards[0].url}: no member matches image={members.image!r}; the samples have "
            f"{', '.join(sorted(names)[:20])}. Say which is the frame: MemberMap(image=...)."
        )
    order_of = np.full(len(names) + 1, -1, np.int64)
    order_of[[names.index(name) for name in frame_names]] = np.arange(len(frame_names))
    is_frame = np.flatnonzero(order_of[codes] >= 0)
    is_frame = is_frame[np.lexsort((order_of[codes[is_frame]], sample_of[is_frame]))]
    frame_start = _starts(np.bincount(sample_of[is_frame], minlength=len(table)))
    frame_member = order_of[codes[is_frame]]
    mask_names = tuple(map(members.mask_name, frame_names))
    label_ids, label_start, classes = _flat_labels(table, classes, shards, shard_of)
    mels = {name: wanted for name, wanted in members.log_mels().items() if set(wanted) & set(names)}
    return Dataset(
        shards=tuple(shards),
        keys=table.column("key").cast(pa.large_string()).combine_chunks(),
        shard_of=shard_of,
        log_mel={profile: places(wanted) for profile, wanted in mels.items()},
        log_mel_member={profile: next(n for n in wanted if n in names) for profile, wanted in mels.items()},
        waveform=places(members.waveforms()),
        frames=ByteRanges(offset[is_frame], size[is_frame]),
        masks=_masks_of(places, mask_names, sample_of[is_frame], frame_member),
        mask_names=mask_names,
        frame_start=frame_start,
        frame_time_s=_flat_times(table, frame_start),
        frame_member=frame_member,
        frame_names=tuple(frame_names),
        label_ids=label_ids,
        label_start=label_start,
        classes=tuple(classes),
    )


def _masks_of(
    places: Callable[[Sequence[str]], ByteRanges],
    mask_names: Sequence[str],
    sample_of: Int64[np.ndarray, " f"],
    frame_member: Int64[np.ndarray, " f"],
) -> ByteRanges:
    """The mask of every frame."""
    found = ByteRanges(np.zeros(len(sample_of), np.int64), np.zeros(len(sample_of), np.int64))
    for number, name in enumerate(mask_names):
        rows = frame_member == number
        by_sample = places([name])
        found.offset[rows], found.size[rows] = by_sample.offset[sample_of[rows]], by_sample.size[sample_of[rows]]
    return found


def each_frame(dataset: Dataset, *, masked: bool, repeats: int = 1) -> Dataset:
    """Every stored frame as a sample of its own, with its clip's key, sound and labels; `masked`: if it has a mask.

    `repeats`: so often in an epoch, in training views each time with other draws.

    Raises ConfigError if no frame is left.
    """
    frames = np.flatnonzero(dataset.masks.size > 0) if masked else np.arange(len(dataset.frame_time_s))
    if not len(frames):
        raise ConfigError("no frame has a mask. Prepare from a recipe and a source that have masks.")
    frames = np.tile(frames, repeats)
    rows = np.repeat(np.arange(len(dataset)), np.diff(dataset.frame_start))[frames]
    counts = np.diff(dataset.label_start)[rows]
    labels = np.concatenate([np.arange(dataset.label_start[row], dataset.label_start[row + 1]) for row in rows])

    def chosen(places: ByteRanges, entries: Int64[np.ndarray, " k"]) -> ByteRanges:
        return ByteRanges(places.offset[entries], places.size[entries])

    return replace(
        dataset,
        keys=dataset.keys.take(pa.array(rows)),
        shard_of=dataset.shard_of[rows],
        log_mel={name: chosen(places, rows) for name, places in dataset.log_mel.items()},
        waveform=chosen(dataset.waveform, rows),
        frames=chosen(dataset.frames, frames),
        masks=chosen(dataset.masks, frames),
        frame_start=np.arange(len(frames) + 1),
        frame_time_s=dataset.frame_time_s[frames],
        frame_member=dataset.frame_member[frames],
        label_ids=dataset.label_ids[labels],
        label_start=_starts(counts),
        weights=None if dataset.weights is None else dataset.weights[rows],
    )


def balanced(dataset: Dataset) -> Dataset:
    """The dataset with each sample weighted by the sum of 1 / (number of samples) of its classes.

    Source: CAV-MAE (arXiv:2210.07839), gen_weight_file.py. Samples without a label get the smallest weight.
    Raises ConfigError for a dataset without labels, or with weights already.
    """
    if dataset.weights is not None:
        raise ConfigError(
            "class-balanced sampling of a dataset that has weights: balance the parts, then mix them: "
            "mix([(balanced(a), 0.5), (balanced(b), 0.5)])."
        )
    if not len(dataset.label_ids):
        raise ConfigError("class-balanced sampling needs labels; this dataset has none")
    rarity = 1.0 / np.maximum(np.bincount(dataset.label_ids, minlength=len(dataset.classes)), 1)
    sample_of = np.repeat(np.arange(len(dataset)), np.diff(dataset.label_start))
    weights = np.bincount(sample_of, weights=rarity[dataset.label_ids], minlength=len(dataset))
    weights[weights == 0] = weights[weights > 0].min()
    return replace(dataset, weights=weights)


def select(dataset: Dataset, keep: Bool[np.ndarray, " n"]) -> Dataset:
    """The samples that `keep` marks, in their order. Raises ConfigError if none is left."""
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise ConfigError("no sample is left: the choice of samples leaves all of them out")
    frames, labels = _entries(dataset.frame_start, keep), _entries(dataset.label_start, keep)

    def of_samples(places: ByteRanges) -> ByteRanges:
        return ByteRanges(places.offset[rows], places.size[rows])

    return replace(
        dataset,
        keys=dataset.keys.take(pa.array(rows)),
        shard_of=dataset.shard_of[rows],
        log_mel={name: of_samples(places) for name, places in dataset.log_mel.items()},
        waveform=of_samples(dataset.waveform),
        frames=ByteRanges(dataset.frames.offset[frames], dataset.frames.size[frames]),
        masks=ByteRanges(dataset.masks.offset[frames], dataset.masks.size[frames]),
        frame_start=_starts(np.diff(dataset.frame_start)[rows]),
        frame_time_s=dataset.frame_time_s[frames],
        frame_member=dataset.frame_member[frames],
        label_ids=dataset.label_ids[labels],
        label_start=_starts(np.diff(dataset.label_start)[rows]),
        weights=None if dataset.weights is None else dataset.weights[rows],
    )


def relabel(dataset: Dataset, labels: Mapping[str, Sequence[str]]) -> Dataset:
    """The samples whose key `labels` has, with these labels in place of their own; the classes stay.

    Raises ConfigError for a label outside the classes, and if no sample is left.
    """
    if strange := sorted({name for names in labels.values() for name in names} - set(dataset.classes)):
        raise ConfigError(f"labels {strange[:5]} are not among the dataset's {len(dataset.classes)} classes")
    kept = select(dataset, pc.is_in(dataset.keys, value_set=pa.array(list(labels), pa.large_string())).to_numpy(False))
    new = [_renamed(labels[key], dataset.classes) for key in kept.keys.to_pylist()]
    return replace(kept, label_ids=np.concatenate(new), label_start=_starts(np.array([len(ids) for ids in new])))


def _entries(start: Int64[np.ndarray, " n1"], keep: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " k"]:
    """Entries of the samples kept, of arrays in which sample i has start[i] to start[i + 1]."""
    return np.flatnonzero(np.repeat(keep, np.diff(start)))


def mix(datasets: Sequence[tuple[Dataset, float]]) -> Dataset:
    """One dataset of several, each with its share of an epoch; the shares are relative.

    An epoch is as long as all samples together. A dataset that gets less than its size is sampled, one that gets more
    is repeated. Classes are united by name. Raises ConfigError for a share that is not above 0.
    """
    if not datasets or any(not 0 < share < math.inf for _, share in datasets):
        raise ConfigError(f"shares {[share for _, share in datasets]}: give at least one dataset, each a share above 0")
    weights = [
        share * (weights / weights.sum())
        for part, share in datasets
        for weights in [np.ones(len(part)) if part.weights is None else part.weights]
    ]
    return replace(unite([dataset for dataset, _ in datasets]), weights=np.concatenate(weights))


def unite(datasets: Sequence[Dataset]) -> Dataset:
    """One dataset of several, without weights: an epoch has every sample of each once. Classes are united by name."""
    parts = list(datasets)
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    frame_names = tuple(dict.fromkeys(name for part in parts for name in part.frame_names))
    mask_of = {name: mask for part in parts for name, mask in zip(part.frame_names, part.mask_names, strict=True)}
    shard_base = np.cumsum([0, *(len(part.shards) for part in parts)])
    profiles = dict.fromkeys(name for part in parts for name in part.log_mel)
    member_names = {name: {p.log_mel_member[name] for p in parts if name in p.log_mel_member} for name in profiles}
    if clash := {name: sorted(found) for name, found in member_names.items() if len(found) > 1}:
        raise ConfigError(
            f"datasets to mix name their log-mel differently: {clash}. Prepare them with the same `--mel` order."
        )
    return Dataset(
        shards=tuple(shard for part in parts for shard in part.shards),
        keys=pa.concat_arrays([part.keys for part in parts]),
        shard_of=np.concatenate([part.shard_of + base for part, base in zip(parts, shard_base, strict=False)]),
        log_mel={name: _joined([part.log_mel.get(name, _no_ranges(len(part))) for part in parts]) for name in profiles},
        log_mel_member={name: next(iter(found)) for name, found in member_names.items()},
        waveform=_joined([part.waveform for part in parts]),
        frames=_joined([part.frames for part in parts]),
        masks=_joined([part.masks for part in parts]),
        mask_names=tuple(mask_of[name] for name in frame_names),
        frame_start=_starts(np.concatenate([np.diff(part.frame_start) for part in parts])),
        frame_time_s=np.concatenate([part.frame_time_s for part in parts]),
        frame_member=np.concatenate([_renamed(part.frame_names, frame_names)[part.frame_member] for part in parts]),
        frame_names=frame_names,
        label_ids=np.concatenate([_renamed(part.classes, classes)[part.label_ids] for part in parts]),
        label_start=_starts(np.concatenate([np.diff(part.label_start) for part in parts])),
        classes=classes,
    )


def read_json(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises ManifestError, naming the file, for anything else."""
    try:
        values = json.loads(content)
    except ValueError as error:
        raise ManifestError(f"{where}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ManifestError(f"{where}: a JSON {type(values).__name__}, expected an object")
    return values


def _starts(counts: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n1"]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _no_ranges(count: int) -> ByteRanges:
    return ByteRanges(np.zeros(count, np.int64), np.zeros(count, np.int64))


def _joined(parts: Sequence[ByteRanges]) -> ByteRanges:
    return ByteRanges(np.concatenate([part.offset for part in parts]), np.concatenate([part.size for part in parts]))


def _renamed(names: Sequence[str], among: Sequence[str]) -> Int64[np.ndarray, " k"]:
    row = {name: number for number, name in enumerate(among)}
    return np.array([row[name] for name in names], np.int64)


def _flat_members(
    table: pa.Table,
) -> tuple[
    Int64[np.ndarray, " m"], list[str], Int64[np.ndarray, " m"], Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]
]:
    """Of every member: its sample, (all names), its name's row, offset, size."""
    column = table.column("members").combine_chunks()
    flat = column.flatten()
    encoded = pc.dictionary_encode(pc.struct_field(flat, "name"))
    return (
        pc.list_parent_indices(column).to_numpy().astype(np.int64),
        encoded.dictionary.to_pylist(),
        encoded.indices.to_numpy().astype(np.int64),
        pc.struct_field(flat, "offset").to_numpy(),
        pc.struct_field(flat, "size").to_numpy(),
    )


def _check_ends(shards: Sequence[Shard], shard: Int64[np.ndarray, " m"], end: Int64[np.ndarray, " m"]) -> None:
    last = np.zeros(len(shards), np.int64)
    np.maximum.at(last, shard, end)
    for number, content in enumerate(shards):
        if content.num_bytes is not None and last[number] > content.num_bytes:
            raise ManifestError(
                f"{content.url}: the manifest places a member up to byte {last[number]}, the tar has "
                f"{content.num_bytes}. It is another shard's manifest: run the same prepare again."
            )


def _flat_times(table: pa.Table, frame_start: Int64[np.ndarray, " n1"]) -> Float32[np.ndarray, " f"]:
    column = pc.fill_null(table.column("frame_times_s").combine_chunks(), [])
    counts, told = np.diff(frame_start), pc.list_value_length(column).to_numpy().astype(np.int64)
    if wrong := np.flatnonzero((counts != told) & (told > 0)).tolist():
        key = table.column("key")[wrong[0]].as_py()
        raise ManifestError(f"{key}: {counts[wrong[0]]} frames are stored and {told[wrong[0]]} times are given")
    times = np.full(frame_start[-1], np.nan, np.float32)
    times[np.repeat(told > 0, counts)] = column.flatten().to_numpy()
    return times


def _flat_labels(
    table: pa.Table, classes: Sequence[str] | None, shards: Sequence[Shard], shard_of: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " l"], Int64[np.ndarray, " n1"], Sequence[str]]:
    column = pc.fill_null(table.column("labels").combine_chunks(), [])
    encoded = pc.dictionary_encode(column.flatten())
    found = encoded.dictionary.to_pylist()
    classes = sorted(found) if classes is None else classes
    if strange := set(found) - set(classes):
        raise ManifestError(
            f"{shards[int(shard_of[0])].url} and following: labels {sorted(strange)[:5]} are not among the dataset's "
            f"{len(classes)} classes. Run the same prepare again."
        )
    start = _starts(pc.list_value_length(column).to_numpy().astype(np.int64))
    return _renamed(found, classes)[encoded.indices.to_numpy()], start, classes
