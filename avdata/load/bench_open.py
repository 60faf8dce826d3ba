"""Measures how long opening a dataset takes and how much memory, on drawn manifests and indexes of any size."""

import json
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from avdata.dataset import ByteRanges, Dataset, Shard, dataset_from_table, no_ranges, read_names
from avdata.index import IndexedShards, IndexOf, Origin, checked_index, local_origin
from avdata.index_writing import IndexWriter, build_index
from avdata.load.cache import CacheConfig, read_contents
from avdata.load.open import open_dataset
from avdata.load.order import EpochOrder, OrderConfig
from avdata.members import MemberMap
from avmanifest.columns import CLIP_COLUMNS, flags, named
from avmanifest.errors import ConfigError
from avmanifest.files import open_descriptor
from avmanifest.layout import Layout, ShardName
from avmanifest.records import PARTS, MarkerFacts, parse_marker
from avmanifest.schema import CLIP_SCHEMA, FORMAT_VERSION
from avmanifest.table import open_writer, read_table, table_from_columns

_CHUNK: Final = 100_000  # samples that are drawn at a time
_MEMBER_BYTES: Final = 20_000
_CLASSES: Final = tuple(f"class {number:03d}" for number in range(309))  # as many as VGGSound's
_MEMBERS: Final = MemberMap()
_PARTS: Final = ("offset", "size", "xxh3")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBench:
    """What to measure. Samples have a log-mel, a FLAC and some frames; nothing of a tar is written."""

    samples: int = 2_000_000
    frames: int = 4  # of a sample
    shard_samples: int = 1000
    manifest: bool = True  # also draw a manifest and measure reading it; without, only an index is drawn
    batches: int = 100  # of 256 positions, whose samples are looked up

    def __post_init__(self) -> None:
        if min(self.samples, self.frames, self.shard_samples, self.batches) < 1:
            raise ConfigError("--samples, --frames, the samples of a shard and the batches must be 1 or more")


def bench_open(bench: OpenBench) -> dict[str, Any]:
    """Seconds and memory of each way to open the drawn dataset, each in a process of its own.

    - `manifest`: the whole manifest and every marker are read into arrays, as before there was an index.
    - `build`: the index is made from them, once per dataset.
    - `index`: the index is opened and checked; `epoch_order` is made for it, and batches are looked up.

    `*_mb` is memory that belongs to the process alone, at the end and at most: pages of the mapped index are not
    counted, as all processes of a machine share them.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        index_of = _draw(bench, root)
        found: dict[str, Any] = {"samples": bench.samples, "frames": bench.frames}
        if bench.manifest:
            found["manifest_file_mb"] = _mb(Layout(root).manifest("train").stat().st_size)
            found |= _measured("manifest", partial(_read_manifest, bench, root))
            found |= _measured("build", partial(_build, root, index_of))
        found["index_file_mb"] = _mb(Layout(root).sample_index("train").stat().st_size)
        return found | _measured("index", partial(_open_index, bench, root, index_of))


def _mb(num_bytes: int) -> float:
    return round(num_bytes / 1e6, 1)


def _measured(name: str, work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Seconds, processor seconds and memory of some work in a new process, and what it returns."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return {f"{name}_{key}": value for key, value in pool.apply(_timed, (work,)).items()}


def _timed(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    before, ended = _own_bytes(), threading.Event()
    largest = before

    def watch() -> None:
        nonlocal largest
        while not ended.wait(0.01):
            largest = max(largest, _own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, used = time.perf_counter(), time.process_time()
    more = work()
    own = {"s": round(time.perf_counter() - began, 2), "processor_s": round(time.process_time() - used, 2)}
    ended.set()
    watcher.join()
    return own | {"mb": _mb(_own_bytes() - before), "peak_mb": _mb(largest - before)} | more


def _own_bytes() -> int:
    """Memory of this process that is no mapped file."""
    match = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None, "Linux has it since 4.5"
    return int(match[1]) * 1024


def _read_manifest(bench: OpenBench, root: Path) -> dict[str, float]:
    table = read_table(Layout(root).manifest("train"), CLIP_SCHEMA, read_names(CLIP_SCHEMA))
    names = [ShardName("train", number) for number in range(max(table.column("shard").to_pylist()) + 1)]
    shards = []
    for name, content in zip(names, _markers(root, names), strict=True):
        assert content is not None, "it was drawn"
        tar = parse_marker(content, name)["files"]["tar"]
        shards.append(Shard(f"{root}/{name}.tar", tar["bytes"], tar["sha256"], prepared=True))
    dataset = dataset_from_table(table, shards, _MEMBERS, classes=_CLASSES)
    del table
    return _looked_up(dataset, bench.batches, {})


def _build(root: Path, index_of: IndexOf) -> dict[str, float]:
    path = Layout(root).sample_index("train")
    with path.open("wb") as file:
        build_index(index_of, Layout(root).manifest("train"), partial(_facts, root, index_of), file, root)
    return {}


def _facts(root: Path, index_of: IndexOf, names: Sequence[ShardName]) -> Iterator[MarkerFacts | None]:
    return map(index_of.facts, names, _markers(root, names))


def _markers(root: Path, names: Sequence[ShardName]) -> list[bytes | None]:
    """The contents of the markers of shards."""
    return read_contents([f"{root}/{name}_stats.json" for name in names], CacheConfig(root=root / "cache"))


def _open_index(bench: OpenBench, root: Path, index_of: IndexOf) -> dict[str, float]:
    began = time.perf_counter()
    if bench.manifest:
        dataset = open_dataset(root, cache=CacheConfig(root=root / "cache"))
    else:
        dataset = checked_index(open_descriptor(Layout(root).sample_index("train")), "drawn", index_of).dataset("")
    return _looked_up(dataset, bench.batches, {"open_s": round(time.perf_counter() - began, 2)})


def _looked_up(dataset: Dataset, batches: int, found: dict[str, float]) -> dict[str, float]:
    """Make the order of an epoch, and look up some batches, as a loader does."""
    began = time.perf_counter()
    dataset.fingerprint()
    found["fingerprint_s"] = round(time.perf_counter() - began, 3)
    began = time.perf_counter()
    order = EpochOrder(dataset.shard_of, 0, 0, OrderConfig())
    for first in np.linspace(0, max(len(dataset) - 256, 0), batches).astype(int).tolist():
        rows = order[first : first + 256]
        dataset.keys.take(pa.array(rows)).to_pylist()
        dataset.frames.take(dataset.frame_start[rows].astype(np.int64))
    found["order_and_batches_s"] = round(time.perf_counter() - began, 3)
    return found


def _draw(bench: OpenBench, root: Path) -> IndexOf:
    """Write the dataset's small files. Returns what its index is of."""
    layout = Layout(root)
    layout.manifest("train").parent.mkdir()
    num_shards = -(-bench.samples // bench.shard_samples)
    tar_bytes = (bench.frames + 2) * _MEMBER_BYTES * bench.shard_samples
    if bench.manifest:
        (root / "train").mkdir()
        with open_writer(layout.manifest("train"), CLIP_SCHEMA) as writer:
            for samples in _samples(bench):
                writer.write_table(_rows_of(samples, bench.frames))
        for number in range(num_shards):
            listed = min(bench.samples - number * bench.shard_samples, bench.shard_samples)
            layout.stats(ShardName("train", number)).write_bytes(_marker(listed, tar_bytes))
        description = {
            "format_version": FORMAT_VERSION,
            "recipe": {"name": "drawn"},
            "config": {"mel": ["paper"]},
            "labels": list(_CLASSES),
        }
        layout.dataset_json.write_text(json.dumps(description))
        origin = local_origin(layout.manifest("train"))
        return IndexOf(root=str(root), split="train", origin=origin, classes=_CLASSES, members=_MEMBERS)
    origin = Origin(0, "drawn", "")
    index_of = IndexOf(root=str(root), split="train", origin=origin, classes=_CLASSES, members=_MEMBERS)
    each = np.ones(num_shards, np.uint8)
    sizes, hashes = np.full(num_shards, tar_bytes), np.zeros((num_shards, 32), np.uint8)
    shards = IndexedShards(str(root), "train", np.arange(num_shards), sizes, hashes, each)
    with layout.sample_index("train").open("wb") as file, IndexWriter(root, named(flags(CLIP_COLUMNS))) as index:
        for samples in _samples(bench):
            index.append(samples, np.zeros(len(samples), np.int64))
        index.finish(file, index_of, shards, each > 0)
        os.fsync(file.fileno())  # so that its writing does not go on while it is opened
    return index_of


def _marker(listed: int, tar_bytes: int) -> bytes:
    marker = {
        "format_version": FORMAT_VERSION,
        "plan_hash": "0" * 64,
        "count": listed,
        "successes": listed,
        "status_dict": {"ok": listed},
        "files": {name: {"bytes": tar_bytes, "sha256": "0" * 64} for name in PARTS},
    }
    return json.dumps(marker).encode()


def _samples(bench: OpenBench) -> Iterator[Dataset]:
    """The drawn samples, some at a time. Members follow each other; hashes are random."""
    generator = np.random.default_rng(0)
    for first in range(0, bench.samples, _CHUNK):
        numbers = np.arange(first, min(first + _CHUNK, bench.samples))
        count, members = len(numbers), bench.frames + 2
        starts = (numbers % bench.shard_samples) * members * _MEMBER_BYTES
        hashes = generator.integers(0, 2**64, (count, members), np.uint64)
        places = [
            ByteRanges(starts + place * _MEMBER_BYTES, np.full(count, _MEMBER_BYTES - 1024), hashes[:, place])
            for place in range(members)
        ]
        frames = ByteRanges(*(np.stack([getattr(p, part) for p in places[1:-1]], 1).ravel() for part in _PARTS))
        yield Dataset(
            shards=(),
            keys=_keys(numbers),
            shard_of=numbers // bench.shard_samples,
            log_mel={"paper": places[0]},
            log_mel_member={"paper": "logmel.npy"},
            waveform=places[-1],
            frames=frames,
            masks=no_ranges(count * bench.frames),
            mask_names=tuple(f"mask{number:02d}.png" for number in range(bench.frames)),
            frame_start=np.arange(count + 1) * bench.frames,
            frame_time_s=np.tile(np.arange(bench.frames, dtype=np.float32), count),
            frame_member=np.tile(np.arange(bench.frames), count),
            frame_names=tuple(f"frame{number:02d}.jpg" for number in range(bench.frames)),
            label_ids=numbers % len(_CLASSES),
            label_start=np.arange(count + 1),
            classes=_CLASSES,
        )


def _keys(numbers: np.ndarray) -> pa.LargeStringArray:
    """Keys such as vgg-0000000000a_000012: as long as VGGSound's."""
    digits = np.full((len(numbers), 22), ord("0"), np.uint8)
    for place in range(12):
        digits[:, 14 - place] += (numbers // 10**place % 10).astype(np.uint8)
    digits[:, :4] = np.frombuffer(b"vgg-", np.uint8)
    digits[:, 15] = ord("_")
    offsets = np.arange(len(numbers) + 1, dtype=np.int64) * 22
    return pa.LargeStringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))


def _rows_of(samples: Dataset, frames: int) -> pa.Table:
    """The manifest rows of drawn samples. Columns that no loader reads are null or short."""
    count, members = len(samples), frames + 2
    names = ["logmel.npy", *samples.frame_names, "flac"]
    parts = {}
    for part in _PARTS:
        grid = np.empty((count, members), getattr(samples.waveform, part).dtype)
        grid[:, 0] = getattr(samples.log_mel["paper"], part)
        grid[:, 1:-1] = getattr(samples.frames, part).reshape(count, frames)
        grid[:, -1] = getattr(samples.waveform, part)
        parts[part] = grid.ravel()
    ends = pa.array(np.arange(count + 1) * members, pa.int32())
    text = pa.DictionaryArray.from_arrays(np.tile(np.arange(members), count), names).cast(pa.string())
    places = pa.StructArray.from_arrays([text, parts["offset"], parts["size"]], ["name", "offset", "size"])
    labels = pa.array([_CLASSES[label] for label in samples.label_ids.tolist()])
    columns: dict[str, Any] = {
        "key": samples.keys.cast(pa.string()),
        "labels": pa.ListArray.from_arrays(pa.array(np.arange(count + 1), pa.int32()), labels),
        "split": pa.repeat(pa.scalar("train"), count),
        "status": pa.repeat(pa.scalar("ok"), count),
        "shard": pa.array(samples.shard_of, pa.int32()),
        "members": pa.ListArray.from_arrays(ends, places),
        "member_xxh3": pa.ListArray.from_arrays(ends, pa.array(parts["xxh3"])),
        "frame_times_s": pa.ListArray.from_arrays(
            pa.array(np.arange(count + 1) * frames, pa.int32()), pa.array(samples.frame_time_s.astype(np.float64))
        ),
        **{name: pa.repeat(pa.scalar(value=False), count) for name in named(flags(CLIP_COLUMNS))},
    }
    return table_from_columns(columns, count, CLIP_SCHEMA)
