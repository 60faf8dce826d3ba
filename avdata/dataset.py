"""The index of a dataset in arrays (shard, offset and size of each member), and functions that select and combine."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import index
from typing import Any, Final, NamedTuple, Protocol, SupportsIndex, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Float64, Int64, Integer, UInt32, UInt64

from avdata.members import MemberMap
from avdata.shards import MEL_BLOCK_BYTES, NPY_HEADER_BYTES, is_log_mel
from avmanifest.columns import columns_of, flags, named
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.secrets import shown_url
from avmanifest.wording import counted

_ALWAYS: Final = ("key", "labels", "status", "shard", "members", "member_xxh3", "mel_block_xxh3", "frame_times_s")
_HASHED_AT_ONCE: Final = 65_536
_NOTHING: Final = pa.scalar("", pa.large_string())
_NEW_LINE: Final = pa.scalar("\n", pa.large_string())


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar file. The size and hash are from its marker; without one, those of a remote file's download."""

    url: str
    num_bytes: int | None
    sha256: str | None
    prepared: bool  # written by avkit: every read checks the member's name in the tar header
    hashed: bool = False  # the manifest has the hash of every member; else each is looked up when it is read

    @property
    def name(self) -> str:
        """The URL without its secrets, for messages."""
        return _shown(self.url)


@lru_cache(maxsize=65_536)
def _shown(url: str) -> str:
    """As `shown_url`, which takes 10 us; the loader asks for each sample."""
    return shown_url(url)


class ByteRange(NamedTuple):
    """Where a member is in its tar, in bytes, and the hash of its content (0 unless `Shard.hashed`)."""

    offset: int
    size: int
    xxh3: int


@dataclass(frozen=True, slots=True)
class ByteRanges:
    """The `ByteRange` of one member of every sample, as arrays; size 0: the sample has no such member."""

    offset: Integer[np.ndarray, " n"]
    size: Integer[np.ndarray, " n"]
    xxh3: UInt64[np.ndarray, " n"]

    def at(self, entry: int) -> ByteRange:
        """The range with this index."""
        return ByteRange(int(self.offset[entry]), int(self.size[entry]), int(self.xxh3[entry]))

    def take(self, entries: Integer[np.ndarray, " k"]) -> "ByteRanges":
        """The ranges with these indices."""
        return ByteRanges(_taken(self.offset, entries), _taken(self.size, entries), _taken(self.xxh3, entries))

    def put(self, entries: np.ndarray, ranges: "ByteRanges") -> None:
        """Replace the ranges with these indices."""
        self.offset[entries], self.size[entries], self.xxh3[entries] = ranges.offset, ranges.size, ranges.xxh3


class Part(NamedTuple):
    """Consecutive samples of a mixture, which were a dataset, and how many samples of every epoch are theirs."""

    name: str
    samples: int
    drawn: int


@runtime_checkable
class Access(Protocol):
    """How the samples of an opened dataset are read: `avdata.load.sample.SampleAccess`."""

    def sample(self, dataset: "Dataset", number: int) -> Any:
        """The sample with this number."""

    def loader(self, dataset: "Dataset", view: Any, *, train: bool, rank: int, world_size: int, **options: Any) -> Any:
        """A loader of the dataset."""


class Fingerprint(NamedTuple):
    """The SHA-256 that `Dataset.fingerprint` would compute for exactly these two arrays and no weights."""

    keys: pa.LargeStringArray
    shard_of: Integer[np.ndarray, " n"]
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Dataset:
    """The samples of a dataset, ordered by shard. Row i of every array with n rows is sample i.

    Arrays of an index file (`avdata.index`) are mapped, read-only, and of the smallest integers that hold their values.

    The frames of sample i are the entries `frame_start[i]` to `frame_start[i + 1]` of the arrays with f rows (frames,
    masks, frame_time_s, frame_member). Its labels are the entries `label_start[i]` to `label_start[i + 1]` of
    label_ids.
    The hashes of the blocks of its log-mel (`avdata.shards.block_hashes`) are the entries of block_xxh3 from
    `mel_blocks[profile][i]` on; -1: it has none, and is read and compared as a whole.
    """

    shards: Sequence[Shard]
    keys: pa.LargeStringArray
    shard_of: Integer[np.ndarray, " n"]
    log_mel: Mapping[str, ByteRanges]  # by profile
    log_mel_member: Mapping[str, str]  # name of the member, by profile
    waveform: ByteRanges
    frames: ByteRanges  # one entry per frame
    masks: ByteRanges  # one entry per frame; size 0: no mask
    mask_names: tuple[str, ...]  # mask member of each of frame_names
    frame_start: Integer[np.ndarray, " n1"]
    frame_time_s: Float32[np.ndarray, " f"]  # NaN: unknown
    frame_member: Integer[np.ndarray, " f"]  # index of the member's name in frame_names
    frame_names: tuple[str, ...]
    label_ids: Integer[np.ndarray, " l"]  # indices into classes
    label_start: Integer[np.ndarray, " n1"]
    classes: tuple[str, ...]
    mel_blocks: Mapping[str, Integer[np.ndarray, " n"]] = field(default_factory=dict)  # by profile: see block_xxh3
    block_xxh3: UInt32[np.ndarray, " h"] = field(default_factory=lambda: np.zeros(0, np.uint32))
    weights: Float64[np.ndarray, " n"] | None = None  # relative frequency of each sample; None: all alike
    parts: tuple[Part, ...] = ()  # of a mixture (`mix`), in order; weights are relative within each
    known: Fingerprint | None = None  # of the arrays of an index file
    access: Access | None = None  # reads samples; None: the dataset was not opened, and only its arrays are there

    def __len__(self) -> int:
        return len(self.shard_of)

    def __repr__(self) -> str:
        said = [counted(len(self), "sample"), counted(len(self.shards), "shard")]
        said.append(counted(len(self.classes), "class", "classes"))
        said.append(f"log-mels: {', '.join(self.log_mel) or 'none'}")
        if self.parts:
            drawn = ", ".join(f"{part.drawn:,} of {part.name}" for part in self.parts)
            said.append(f"an epoch: {drawn}")
        return f"Dataset({'; '.join(said)})"

    def __getitem__(self, number: SupportsIndex) -> Any:
        """The sample with this number, read and decoded: an `avdata.load.Sample`. Negative numbers count from the end.

        Raises:
            IndexError: There are fewer samples.
            ConfigError: The dataset was not opened with `open_dataset`.
            ShardError: A member is damaged, or the shard is missing.
        """
        place, count = index(number), len(self)
        if not -count <= place < count:
            raise IndexError(f"sample {place} of {count}")
        return self._opened.sample(self, place % count)

    def __iter__(self) -> Iterator[Any]:
        """The samples one by one, in the order of the shards. A loader reads them in batches, and many times faster."""
        return map(self.__getitem__, range(len(self)))

    def loader(
        self, view: Any = None, *, train: bool = True, rank: int = 0, world_size: int = 1, **options: Any
    ) -> Any:
        """A loader of the dataset: an `avdata.load.Loader`.

        Args:
            view: What to take of each sample; None: `TrainView()`, 3 s and a frame.
            train: Shuffle, and drop the last samples that fill no batch. Else the dataset's own order, every sample
                once.
            rank: Number of this process.
            world_size: Number of processes.
            options: Settings of `LoaderConfig`, such as batch_size.

        Example:
            ```python
            for batch in open_dataset("data/mine").loader(batch_size=64):
                ...
            ```
        """
        return self._opened.loader(self, view, train=train, rank=rank, world_size=world_size, **options)

    @property
    def _opened(self) -> Access:
        if self.access is None:
            raise ConfigError("this dataset has no access to its shards. Open it with open_dataset().")
        return self.access

    @property
    def epoch_samples(self) -> int:
        """Samples of an epoch."""
        return sum(part.drawn for part in self.parts) if self.parts else len(self)

    def rows_of_parts(self) -> Iterator[tuple[Part, slice]]:
        """Each part with its rows. A dataset that is no mixture is one part without a name."""
        first = 0
        for part in self.parts or (Part("", len(self), len(self)),):
            yield part, slice(first, first + part.samples)
            first += part.samples

    def fingerprint(self) -> str:
        """SHA-256 of all that determines the order of an epoch: the keys, their shards, the weights and the parts."""
        if self.weights is None and not self.parts and self.known is not None:
            keys, shard_of, sha256 = self.known
            if self.keys is keys and self.shard_of is shard_of:  # not those of a selection
                return sha256
        digest = hashlib.sha256()
        for first in range(0, len(self), _HASHED_AT_ONCE):
            digest.update(key_lines(self.keys.slice(first, _HASHED_AT_ONCE)))
        for first in range(0, len(self), _HASHED_AT_ONCE):
            digest.update(self.shard_of[first : first + _HASHED_AT_ONCE].astype(np.int64).tobytes())
        if self.weights is not None:
            digest.update(np.ascontiguousarray(self.weights).tobytes())
        if self.parts:
            digest.update(np.array([(part.samples, part.drawn) for part in self.parts], np.int64).tobytes())
        return digest.hexdigest()


def read_names(schema: pa.Schema) -> list[str]:
    """The columns of a manifest that a dataset is built from: those of its samples, and its flags."""
    return [*_ALWAYS, *named(flags(columns_of(schema)))]


def key_lines(keys: pa.LargeStringArray) -> memoryview:
    """The bytes of the keys, with a line feed behind each."""
    lines = pc.binary_join_element_wise(keys, _NOTHING, _NEW_LINE)
    end = int(np.frombuffer(lines.buffers()[1], np.int64)[len(lines)]) if len(lines) else 0
    return memoryview(lines.buffers()[2] or b"")[:end]


def dataset_from_table(
    table: pa.Table,
    shards: Sequence[Shard],
    members: MemberMap,
    *,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> Dataset:
    """Build a dataset from manifest rows. Only rows with status `ok` become samples.

    Args:
        table: The columns of `read_names`. `shard` is an index into `shards`.
        shards: The tars.
        members: Which member is the frame, the log-mel, the waveform.
        classes: Names of the classes in order; None: the labels that occur, sorted.
        exclude: Flags whose samples are left out.

    Raises:
        ManifestError: A member is outside its tar, or a label is not among the classes.
        ConfigError: A flag is unknown, no member is a frame, or no sample is left.
    """
    known = named(flags(columns_of(table.schema)))
    if unknown := set(exclude) - set(known):
        raise ConfigError(f"unknown flags to exclude {sorted(unknown)}; known: {', '.join(known)}")
    keep = pc.equal(table.column("status"), "ok")
    for flag in exclude:
        keep = pc.and_(keep, pc.invert(pc.fill_null(table.column(flag), False)))
    table = table.filter(keep)
    if not len(table):
        where = shards[0].url if shards else "the dataset"
        raise ConfigError(f"{where}: no sample is left" + (f" without the flags {list(exclude)}" if exclude else ""))
    table = table.append_column("row", pa.array(np.arange(len(table))))
    dataset = samples_of(table.sort_by([("shard", "ascending"), ("row", "ascending")]), shards, members, classes)
    if not dataset.frame_names:
        first = table.column("members")[0].as_py()
        raise ConfigError(
            f"{shards[0].name}: no member matches image={members.image!r}; the samples have "
            f"{', '.join(sorted(member['name'] for member in first)[:20])}. Name the member with the frame: "
            "MemberMap(image=...)."
        )
    unhashed = set(table.column("shard").filter(table.column("member_xxh3").is_null()).to_pylist())
    hashed = (replace(shard, hashed=number not in unhashed) for number, shard in enumerate(shards))
    return replace(dataset, shards=tuple(hashed))


def samples_of(
    table: pa.Table, shards: Sequence[Shard], members: MemberMap, classes: Sequence[str] | None = None
) -> Dataset:
    """The samples of manifest rows with status `ok`, ordered by shard. There may be no frame.

    Arguments and errors are those of dataset_from_table.
    """
    shard_of = table.column("shard").to_numpy().astype(np.int64)
    sample_of, names, codes, places = _flat_members(table)
    check_ends(shards, shard_of[sample_of], places)
    block_of, block_xxh3 = _flat_blocks(table, sample_of, names, codes, places)

    def first_blocks(alternatives: Sequence[str]) -> Int64[np.ndarray, " n"]:
        """The first block of the first of the names that a sample has; -1: it has none."""
        first, is_found = np.full(len(table), -1, np.int64), np.zeros(len(table), np.bool_)
        for name in alternatives:
            if name in names:
                chosen = (codes == names.index(name)) & ~is_found[sample_of]
                first[sample_of[chosen]], is_found[sample_of[chosen]] = block_of[chosen], True
        return first

    def ranges(alternatives: Sequence[str]) -> ByteRanges:
        """The range of the first of the names that a sample has."""
        ranges = ByteRanges(*(np.zeros(len(table), kind) for kind in (np.int64, np.int64, np.uint64)))
        for name in alternatives:
            if name in names:
                chosen = (codes == names.index(name)) & (ranges.size[sample_of] == 0)
                ranges.put(sample_of[chosen], places.take(np.flatnonzero(chosen)))
        return ranges

    frame_names = members.frame_names(names)
    order_of = np.full(len(names) + 1, -1, np.int64)
    order_of[np.array([names.index(name) for name in frame_names], np.int64)] = np.arange(len(frame_names))
    is_frame = np.flatnonzero(order_of[codes] >= 0)
    is_frame = is_frame[np.lexsort((order_of[codes[is_frame]], sample_of[is_frame]))]
    frame_start = _starts(np.bincount(sample_of[is_frame], minlength=len(table)))
    frame_member = order_of[codes[is_frame]]
    mask_names = tuple(map(members.mask_name, frame_names))
    label_ids, label_start, classes = _flat_labels(table, classes, shards, shard_of)
    mels = {
        profile: alternatives for profile, alternatives in members.log_mels().items() if set(alternatives) & set(names)
    }
    return Dataset(
        shards=shards,
        keys=table.column("key").cast(pa.large_string()).combine_chunks(),
        shard_of=shard_of,
        log_mel={profile: ranges(alternatives) for profile, alternatives in mels.items()},
        log_mel_member={profile: next(n for n in alternatives if n in names) for profile, alternatives in mels.items()},
        mel_blocks={profile: first_blocks(alternatives) for profile, alternatives in mels.items()},
        block_xxh3=block_xxh3,
        waveform=ranges(members.waveforms()),
        frames=places.take(is_frame),
        masks=_masks_of(ranges, mask_names, sample_of[is_frame], frame_member),
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
    ranges: Callable[[Sequence[str]], ByteRanges],
    mask_names: Sequence[str],
    sample_of: Int64[np.ndarray, " f"],
    frame_member: Int64[np.ndarray, " f"],
) -> ByteRanges:
    """The mask of every frame."""
    masks = ByteRanges(*(np.zeros(len(sample_of), kind) for kind in (np.int64, np.int64, np.uint64)))
    for number, name in enumerate(mask_names):
        rows = frame_member == number
        masks.put(rows, ranges([name]).take(sample_of[rows]))
    return masks


def each_frame(dataset: Dataset, *, masked: bool, repeats: int = 1) -> Dataset:
    """A dataset in which every stored frame is a sample, with the key, audio and labels of its clip.

    Args:
        dataset: The clips.
        masked: Take only frames that have a mask.
        repeats: How often each frame occurs per epoch. Training views draw each occurrence anew.

    Raises:
        ConfigError: No frame has a mask, or the dataset is a mixture.
    """
    require_unmixed(dataset, "the frames")
    frames = np.flatnonzero(dataset.masks.size > 0) if masked else np.arange(len(dataset.frame_time_s))
    if not len(frames):
        raise ConfigError("no frame has a mask. Prepare from a recipe and a source that have masks.")
    frames = np.tile(frames, repeats)
    rows = np.repeat(np.arange(len(dataset)), np.diff(dataset.frame_start))[frames]
    counts = np.diff(dataset.label_start)[rows]
    labels = _entries(dataset.label_start, rows)
    return replace(
        dataset,
        **_of_samples(dataset, rows),
        frames=dataset.frames.take(frames),
        masks=dataset.masks.take(frames),
        frame_start=np.arange(len(frames) + 1),
        frame_time_s=dataset.frame_time_s[frames],
        frame_member=dataset.frame_member[frames],
        label_ids=dataset.label_ids[labels],
        label_start=_starts(counts),
        weights=None if dataset.weights is None else dataset.weights[rows],
    )


def balanced(dataset: Dataset) -> Dataset:
    """The dataset with class-balanced weights.

    The weight of a class is 1000 / (number of its samples + 0.01), that of a sample the sum over its classes. Samples
    without a label get the smallest weight.

    Raises:
        ConfigError: The dataset has no labels, or already has weights.

    Source: CAV-MAE (arXiv:2210.07839), gen_weight_file.py.
    """
    if dataset.weights is not None or dataset.parts:
        raise ConfigError(
            "class-balanced sampling of a dataset that has weights or parts: balance the parts, then mix them: "
            "mix([(balanced(a), 0.5), (balanced(b), 0.5)])."
        )
    if not len(dataset.label_ids):
        raise ConfigError("class-balanced sampling needs labels; this dataset has none")
    rarity = 1000.0 / (np.bincount(dataset.label_ids, minlength=len(dataset.classes)) + 0.01)
    sample_of = np.repeat(np.arange(len(dataset)), np.diff(dataset.label_start))
    weights = np.bincount(sample_of, weights=rarity[dataset.label_ids], minlength=len(dataset))
    weights[weights == 0] = weights[weights > 0].min()
    return replace(dataset, weights=weights)


def require_unmixed(dataset: Dataset, what: str) -> None:
    """Raise ConfigError for a mixture: `what` is to be done with its parts."""
    if dataset.parts:
        raise ConfigError(f"{what} of a mixture: do so with each of its datasets, then mix them.")


def select(dataset: Dataset, keep: Bool[np.ndarray, " n"]) -> Dataset:
    """The samples where `keep` is True, in their order. Raises ConfigError if none is left, or for a mixture."""
    require_unmixed(dataset, "a selection")
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise ConfigError("no sample is left: the selection excludes all of them")
    return take(dataset, rows)


def take(dataset: Dataset, rows: Integer[np.ndarray, " k"]) -> Dataset:
    """The samples with these numbers, in this order."""
    frames, labels = _entries(dataset.frame_start, rows), _entries(dataset.label_start, rows)
    return replace(
        dataset,
        **_of_samples(dataset, rows),
        frames=dataset.frames.take(frames),
        masks=dataset.masks.take(frames),
        frame_start=_starts(np.diff(dataset.frame_start)[rows]),
        frame_time_s=dataset.frame_time_s[frames],
        frame_member=dataset.frame_member[frames],
        label_ids=dataset.label_ids[labels],
        label_start=_starts(np.diff(dataset.label_start)[rows]),
        weights=None if dataset.weights is None else dataset.weights[rows],
    )


def relabel(dataset: Dataset, labels: Mapping[str, Sequence[str]]) -> Dataset:
    """Replace the labels of samples.

    Args:
        dataset: The samples. Those whose key is not in `labels` are left out.
        labels: New labels by key. They must be among the dataset's classes.

    Raises:
        ConfigError: A label is not among the classes, or no sample is left.
    """
    if unknown := sorted({name for names in labels.values() for name in names} - set(dataset.classes)):
        raise ConfigError(
            f"labels {unknown[:5]} are not among the dataset's {counted(len(dataset.classes), 'class', 'classes')}"
        )
    kept = select(dataset, pc.is_in(dataset.keys, value_set=pa.array(list(labels), pa.large_string())).to_numpy(False))
    new = [_renamed(labels[key], dataset.classes) for key in kept.keys.to_pylist()]
    return replace(kept, label_ids=np.concatenate(new), label_start=_starts(np.array([len(ids) for ids in new])))


def _entries(start: Integer[np.ndarray, " n1"], rows: Integer[np.ndarray, " k"]) -> Int64[np.ndarray, " e"]:
    """Indices of these samples' entries in an array where sample i has the entries start[i] to start[i + 1]."""
    firsts = start[rows].astype(np.int64)
    counts = start[rows + 1].astype(np.int64) - firsts
    ends = np.cumsum(counts)
    return np.repeat(firsts - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0)


def unite(datasets: Sequence[Dataset]) -> Dataset:
    """Concatenate datasets: an epoch has every sample once. Weights and parts are dropped. Classes are merged by
    name.
    """
    parts = list(datasets)
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    frame_names = tuple(dict.fromkeys(name for part in parts for name in part.frame_names))
    mask_of = {name: mask for part in parts for name, mask in zip(part.frame_names, part.mask_names, strict=True)}
    shard_base = np.cumsum([0, *(len(part.shards) for part in parts)])
    profiles = dict.fromkeys(name for part in parts for name in part.log_mel)
    member_names = {name: {p.log_mel_member[name] for p in parts if name in p.log_mel_member} for name in profiles}
    if clash := {profile: sorted(names) for profile, names in member_names.items() if len(names) > 1}:
        raise ConfigError(
            f"the datasets name their log-mels differently: {clash}. Prepare them with the same order of `--mel`."
        )
    return Dataset(
        shards=tuple(shard for part in parts for shard in part.shards),
        keys=pa.concat_arrays([part.keys for part in parts]),
        shard_of=np.concatenate([part.shard_of + base for part, base in zip(parts, shard_base, strict=False)]),
        log_mel={name: _joined([part.log_mel.get(name, no_ranges(len(part))) for part in parts]) for name in profiles},
        log_mel_member={profile: next(iter(names)) for profile, names in member_names.items()},
        mel_blocks={name: _joined_blocks(parts, name) for name in profiles},
        block_xxh3=np.concatenate([part.block_xxh3 for part in parts]),
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
        access=parts[0].access,
    )


def _of_samples(dataset: Dataset, rows: Integer[np.ndarray, " k"]) -> dict[str, Any]:
    """What these samples have once each."""
    return {
        "keys": dataset.keys.take(pa.array(rows)),
        "shard_of": dataset.shard_of[rows],
        "log_mel": {name: ranges.take(rows) for name, ranges in dataset.log_mel.items()},
        "mel_blocks": {name: first[rows] for name, first in dataset.mel_blocks.items()},
        "waveform": dataset.waveform.take(rows),
    }


def _starts(counts: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " n1"]:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def no_ranges(count: int) -> ByteRanges:
    """The ranges of a member that no sample has. They take no memory."""
    return ByteRanges(*(np.broadcast_to(kind(0), count) for kind in (np.int64, np.int64, np.uint64)))


def _taken(values: Integer[np.ndarray, " n"], entries: Integer[np.ndarray, " k"]) -> Integer[np.ndarray, " k"]:
    """values[entries], without memory if all values are one."""
    one = values.strides == (0,)
    return np.broadcast_to(values[:1].sum(dtype=values.dtype), len(entries)) if one else np.asarray(values[entries])


def _joined(parts: Sequence[ByteRanges]) -> ByteRanges:
    if all(part.size.strides == (0,) for part in parts):
        return no_ranges(sum(len(part.size) for part in parts))
    return ByteRanges(
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.size for part in parts]),
        np.concatenate([part.xxh3 for part in parts]),
    )


def _joined_blocks(parts: Sequence[Dataset], profile: str) -> Int64[np.ndarray, " n"]:
    """The first blocks of united datasets, whose hashes follow each other."""
    base = np.cumsum([0, *(len(part.block_xxh3) for part in parts)])
    firsts = [part.mel_blocks.get(profile, np.full(len(part), -1)) for part in parts]
    return np.concatenate([np.where(own < 0, -1, own + at) for own, at in zip(firsts, base, strict=False)])


def _renamed(names: Sequence[str], among: Sequence[str]) -> Int64[np.ndarray, " k"]:
    row = {name: number for number, name in enumerate(among)}
    return np.array([row[name] for name in names], np.int64)


def _flat_members(
    table: pa.Table,
) -> tuple[Int64[np.ndarray, " m"], list[str], Int64[np.ndarray, " m"], ByteRanges]:
    """Flatten the columns `members` and `member_xxh3`.

    Returns:
        Sample of each member, the distinct names, index of each member's name in them, its range (hash 0: unknown).
    """
    column = table.column("members").combine_chunks()
    flat = column.flatten()
    encoded = pc.dictionary_encode(pc.struct_field(flat, "name"))
    return (
        pc.list_parent_indices(column).to_numpy().astype(np.int64),
        encoded.dictionary.to_pylist(),
        encoded.indices.to_numpy().astype(np.int64),
        ByteRanges(
            pc.struct_field(flat, "offset").to_numpy(), pc.struct_field(flat, "size").to_numpy(), _flat_hashes(table)
        ),
    )


def _flat_hashes(table: pa.Table) -> UInt64[np.ndarray, " m"]:
    """The hash of each member; 0: the row has none. Raises ManifestError for a row with too few or too many."""
    column = table.column("member_xxh3").combine_chunks()
    num_members = pc.list_value_length(table.column("members").combine_chunks()).to_numpy()
    num_hashes = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
    flat = column.flatten()
    if wrong := np.flatnonzero((num_hashes >= 0) & (num_hashes != num_members)).tolist():
        key = table.column("key")[wrong[0]].as_py()
        raise ManifestError(f"{key}: member_xxh3 must have one hash for each of `members`. Run the same prepare again.")
    hashes = np.zeros(num_members.sum(), np.uint64)
    hashes[np.repeat(num_hashes >= 0, num_members)] = flat.to_numpy()
    return hashes


def _flat_blocks(
    table: pa.Table,
    sample_of: Int64[np.ndarray, " m"],
    names: Sequence[str],
    codes: Int64[np.ndarray, " m"],
    places: ByteRanges,
) -> tuple[Int64[np.ndarray, " m"], UInt32[np.ndarray, " h"]]:
    """For each member its first entry in the flattened column `mel_block_xxh3` (-1: it has none), and that.

    Raises ManifestError for a row with too few or too many.
    """
    column = table.column("mel_block_xxh3").combine_chunks()
    has = column.is_valid().to_numpy(zero_copy_only=False)
    is_mel = np.array([is_log_mel(name) for name in names] or [False])[codes] & has[sample_of]
    counts = np.where(is_mel, count_blocks(places.size), 0)
    needed = np.bincount(sample_of, counts, minlength=len(table)).astype(np.int64)
    if wrong := np.flatnonzero(pc.fill_null(pc.list_value_length(column), 0).to_numpy() != needed).tolist():
        key = table.column("key")[wrong[0]].as_py()
        raise ManifestError(
            f"{key}: mel_block_xxh3 must have {needed[wrong[0]]} hashes, one for each block of its log-mels. Run the "
            "same prepare again."
        )
    return np.where(is_mel, np.cumsum(counts) - counts, -1), column.flatten().to_numpy()


def count_blocks(sizes: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Blocks of log-mels of these sizes in bytes: `avdata.shards.num_blocks` of each."""
    return np.maximum(-(-(sizes.astype(np.int64) - NPY_HEADER_BYTES) // MEL_BLOCK_BYTES), 0)


def last_bytes(
    shard: Integer[np.ndarray, " m"], places: ByteRanges
) -> tuple[Integer[np.ndarray, " r"], Int64[np.ndarray, " r"]]:
    """The shard of each run of members of one shard, and the largest end of a member in it."""
    if not len(shard):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], shard[1:] != shard[:-1]]))
    return shard[starts], np.maximum.reduceat(np.add(places.offset, places.size, dtype=np.int64), starts)


def check_ends(shards: Sequence[Shard], shard: Integer[np.ndarray, " m"], places: ByteRanges) -> None:
    """Raise ManifestError for a member that ends behind its tar. `shard` is the index of each member's, ascending."""
    for number, end in zip(*(each.tolist() for each in last_bytes(shard, places)), strict=True):
        content = shards[number]
        if content.num_bytes is not None and end > content.num_bytes:
            raise ManifestError(
                f"{content.name}: by the manifest a member ends at byte {end}, but the tar has "
                f"{content.num_bytes}. It is another shard's manifest: run the same prepare again."
            )


def _flat_times(table: pa.Table, frame_start: Int64[np.ndarray, " n1"]) -> Float32[np.ndarray, " f"]:
    column = pc.fill_null(table.column("frame_times_s").combine_chunks(), [])
    counts, num_times = np.diff(frame_start), pc.list_value_length(column).to_numpy().astype(np.int64)
    if wrong := np.flatnonzero((counts != num_times) & (num_times > 0)).tolist():
        key = table.column("key")[wrong[0]].as_py()
        raise ManifestError(f"{key}: {counts[wrong[0]]} frames are stored and {num_times[wrong[0]]} times are given")
    times = np.full(frame_start[-1], np.nan, np.float32)
    times[np.repeat(num_times > 0, counts)] = column.flatten().to_numpy()
    return times


def _flat_labels(
    table: pa.Table, classes: Sequence[str] | None, shards: Sequence[Shard], shard_of: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " l"], Int64[np.ndarray, " n1"], Sequence[str]]:
    column = pc.fill_null(table.column("labels").combine_chunks(), [])
    encoded = pc.dictionary_encode(column.flatten())
    labels = encoded.dictionary.to_pylist()
    classes = sorted(labels) if classes is None else classes
    if unknown := set(labels) - set(classes):
        some = [label[:80] for label in sorted(unknown)[:5]]
        raise ManifestError(
            f"{shards[int(shard_of[0])].name} and following: labels {some} are not among the dataset's "
            f"{len(classes)} classes. Run the same prepare again."
        )
    start = _starts(pc.list_value_length(column).to_numpy().astype(np.int64))
    return _renamed(labels, classes)[encoded.indices.to_numpy()], start, classes
