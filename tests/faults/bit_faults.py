"""Flipped bits of a dataset, one at a time: each is refused by name, made good, or in a place that no batch has."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np

from avdata.load import (
    AllFramesView,
    CacheConfig,
    Dataset,
    Loader,
    LoaderConfig,
    View,
    evaluation_config,
    open_dataset,
    select,
)
from avdata.retrying import RetryPolicy
from avdata.shards import members_of
from avmanifest.errors import AvkitError, ManifestError, ShardError
from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA, is_optional
from avmanifest.table import read_table, write_table
from tests.faults.fault import Fault
from tests.shards import draw_dataset

ALL = AllFramesView(image_size=16, num_frames=3, waveform=True)  # reads every member of a sample but its JSON
LOCAL, OTHER = 240, 40  # flips of local shards, and of each other kind of dataset

Loaded = dict[str, bytes | ShardError]


def flip(path: Path, bit: int) -> None:
    """Flip a bit of a file, whose times stay the same: a disk that rots writes nothing."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))
    os.utime(path, ns=times)


def loaded(dataset: Dataset, view: View, cache: CacheConfig) -> Loaded:
    """All arrays of each sample as bytes, or why it was refused."""
    config = evaluation_config(LoaderConfig(batch_size=1, num_workers=0, prefetch_batches=1, cache=cache))
    loader = Loader(dataset, view, config)
    found: Loaded = {}
    for place, key in enumerate(dataset.keys.to_pylist()):
        loader.load_state_dict(loader.state_dict() | {"epoch": 0, "position": place})
        try:
            batch = next(loader.arrays())
        except ShardError as error:
            found[key] = error
            continue
        arrays = (batch.images, batch.log_mel, batch.waveform, batch.labels, batch.frame_time_s, batch.window_start_s)
        found[key] = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays if array is not None)
    return found


def noise(sample: int, frame: int) -> np.ndarray:
    """A picture whose JPEG is as large as those of videos."""
    return np.random.default_rng([sample, frame]).integers(0, 256, (160, 200, 3), np.uint8)


def without_hashes(root: Path) -> None:
    """Make the dataset one of the first release, which had no optional columns."""
    optional = [field.name for field in CLIP_SCHEMA if is_optional(field)]
    layout = Layout(root)
    for path in (*map(layout.clips, layout.shards("train")), layout.manifest("train")):
        write_table(read_table(path, CLIP_SCHEMA).drop_columns(optional), path)


def bit_faults(folder: Path, thin: int = 1) -> Iterator[Fault]:
    """Bits of local shards, an older dataset, shards in the cache, a manifest and JSON; one in `thin` of them."""
    num_local, num_other = LOCAL // thin, OTHER // thin
    root = draw_dataset(folder / "set", 6, 3, seconds=3.5, num_frames=3, picture=noise)
    local = list(Layout(root).root.glob("train/*.tar"))
    cache = CacheConfig(root=folder / "cache", retry=RetryPolicy(attempts=1))
    yield from _flipped("local shard", open_dataset(root), sorted(local), num_local, cache, _place_in(root))

    older = draw_dataset(folder / "older", 6, 3, seconds=3.5, num_frames=3, picture=noise)
    without_hashes(older)
    tars = sorted(older.glob("train/*.tar"))
    yield from _flipped("older dataset", open_dataset(older), tars, num_other, cache, _place_in(root))

    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/bits/set", recursive=True)
    try:
        dataset = open_dataset("memory://bits/set", cache=cache)
        whole = loaded(dataset, ALL, cache)
        copies = sorted(cache.root.glob("*.shard"))
        seen = Counter[str]()
        for bit in _bits(copies, num_other):
            flip(*bit)
            seen["fetched again" if loaded(dataset, ALL, cache) == whole else "other batches"] += 1
            for path in copies:
                path.unlink(missing_ok=True)
            loaded(dataset, ALL, cache)
    finally:
        memory.rm("/bits", recursive=True)
    yield Fault(
        "flipped bit: shard in the cache", f"loader, {num_other} times", f"{num_other} fetched again", _counted(seen)
    )
    yield _of_manifest(Layout(root).manifest("train"), 97 * thin)
    for path in (root / "dataset.json", root / "train/00000_stats.json"):
        yield _of_json(path, root, cache, 7 * thin)


def _bits(paths: list[Path], count: int) -> Iterator[tuple[Path, int]]:
    chance = random.Random(0)
    for _ in range(count):
        path = chance.choice(paths)
        yield path, chance.randrange(path.stat().st_size * 8)


def _flipped(
    what: str, dataset: Dataset, tars: list[Path], count: int, cache: CacheConfig, place: Callable[[Path, int], str]
) -> Iterator[Fault]:
    """A row for each kind of place. A bit of a member that the view reads must be refused with the sample's key."""
    whole = loaded(dataset, ALL, cache)
    assert not any(isinstance(content, ShardError) for content in whole.values())
    seen: dict[str, Counter[str]] = {}
    for path, bit in _bits(tars, count):
        flip(path, bit)
        found = loaded(dataset, ALL, cache)
        flip(path, bit)
        refused = {key: error for key, error in found.items() if isinstance(error, ShardError)}
        if any(found[key] != whole[key] for key in found.keys() - refused.keys()):
            end = "silent"
        elif not refused:
            end = "harmless"
        elif all(key in str(error) and path.name in str(error) for key, error in refused.items()) and len(refused) == 1:
            end = "refused by key"
        else:
            end = "refused otherwise"
        seen.setdefault(place(path, bit), Counter())[end] += 1
    assert loaded(dataset, ALL, cache) == whole
    for kind, ends in sorted(seen.items()):
        expected, count = "harmless" if kind == "json" else "refused by key", ends.total()
        # The name in a header is compared, the rest is not used; of a log-mel the window's blocks are read.
        if kind == "header or padding" or (what, kind) == ("local shard", "logmel.npy"):
            expected = "harmless or refused by key"
            ends[expected] = ends.pop("harmless", 0) + ends.pop("refused by key", 0)
        yield Fault(f"flipped bit: {what}, {kind}", f"loader, {count} times", f"{count} {expected}", _counted(ends))


def _place_in(root: Path) -> Callable[[Path, int], str]:
    """The kind of member in which a bit of a tar is."""
    layout = Layout(root)
    spans = {
        layout.tar(shard).name: [
            (member.offset, member.offset + member.size, member.name)
            for row in read_table(layout.clips(shard), CLIP_SCHEMA).to_pylist()
            for member in members_of(row)
        ]
        for shard in layout.shards("train")
    }

    def place(path: Path, bit: int) -> str:
        for start, stop, name in spans[path.name]:
            if start <= bit // 8 < stop:
                return "frame" if name.startswith("frame") else name
        return "header or padding"

    return place


def _of_manifest(path: Path, step: int) -> Fault:
    whole, seen, count = read_table(path, CLIP_SCHEMA), Counter[str](), 0
    optional = [field.name for field in CLIP_SCHEMA if is_optional(field)]
    for bit in range(0, path.stat().st_size * 8, step):
        flip(path, bit)
        try:
            # Columns that are optional may be lost with their name; then shards are compared with their markers.
            same = read_table(path, CLIP_SCHEMA).drop_columns(optional) == whole.drop_columns(optional)
            seen["harmless or refused" if same else "silent"] += 1
        except ManifestError:
            seen["harmless or refused"] += 1
        flip(path, bit)
        count += 1
    return Fault("flipped bit: manifest", f"read_table, {count} times", f"{count} harmless or refused", _counted(seen))


def _of_json(path: Path, root: Path, cache: CacheConfig, step: int) -> Fault:
    def read() -> tuple[Loaded, tuple[str, ...]]:
        dataset = open_dataset(root)
        first = loaded(select(dataset, np.arange(len(dataset)) == 0), ALL, cache)
        for content in first.values():
            if isinstance(content, ShardError):
                raise content
        return first, dataset.classes

    whole, seen, count = read(), Counter[str](), 0
    for bit in range(0, path.stat().st_size * 8, step):
        flip(path, bit)
        try:
            seen["harmless or refused" if read() == whole else "silent"] += 1
        except AvkitError:
            seen["harmless or refused"] += 1
        flip(path, bit)
        count += 1
    return Fault(
        f"flipped bit: {path.name}", f"open_dataset, {count} times", f"{count} harmless or refused", _counted(seen)
    )


def _counted(ends: Counter[str]) -> str:
    return ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
