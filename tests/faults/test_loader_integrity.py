"""Every byte that reaches a batch was compared with its hash: flipped bits are refused, or change nothing."""

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from avdata.load import (
    AllFramesView,
    CacheConfig,
    EvalView,
    MemberMap,
    open_dataset,
)
from avdata.retrying import RetryPolicy
from avdata.shards import MEL_BLOCK_BYTES, content_hash, members_of
from avmanifest.errors import DamagedMember, ManifestError, ShardError
from avmanifest.files import sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA, is_optional
from avmanifest.table import read_table, write_table
from tests.faults.bit_faults import bit_faults, flip, loaded

ALL = AllFramesView(image_size=16, num_frames=5, waveform=True)  # reads every member of a sample but its JSON


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(root=tmp_path / "cache", retry=RetryPolicy(attempts=1))


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """A dataset that may be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / "set"))


def place_of(root: Path, key: str, name: str) -> tuple[Path, int, int]:
    """The tar of a member, its offset and its size."""
    layout = Layout(root)
    for shard in layout.shards("train"):
        for row in read_table(layout.clips(shard), CLIP_SCHEMA).to_pylist():
            for member in members_of(row):
                if (row["key"], member.name) == (key, name):
                    return layout.tar(shard), member.offset, member.size
    raise KeyError(key)


def rewrite(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of all shards and of the manifest, and let the markers say so."""
    layout = Layout(root)
    for shard in layout.shards("train"):
        write_table(change(read_table(layout.clips(shard), CLIP_SCHEMA)), layout.clips(shard))
        stats = json.loads(layout.stats(shard).read_bytes())
        path = layout.clips(shard)
        stats["files"]["parquet"] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        layout.stats(shard).write_text(json.dumps(stats))
    write_table(change(read_table(layout.manifest("train"), CLIP_SCHEMA)), layout.manifest("train"))


def as_before(table: pa.Table) -> pa.Table:
    """The rows as the first release wrote them."""
    return table.drop_columns([field.name for field in CLIP_SCHEMA if is_optional(field)])


def test_the_manifest_has_the_hash_of_every_member(drawn: Path) -> None:
    layout = Layout(drawn)
    rows = read_table(layout.manifest("train"), CLIP_SCHEMA).to_pylist()
    assert len(rows) == 20
    for row in rows:
        tar = layout.tar(ShardName("train", row["shard"])).read_bytes()
        for member in members_of(row):
            assert content_hash(tar[member.offset : member.offset + member.size]) == member.xxh3


@pytest.mark.slow
def test_no_flipped_bit_is_silent(tmp_path: Path) -> None:
    """In shards, older datasets, the cache and a manifest. `make fault-table GROUPS=bits` flips five times as many."""
    rows = list(bit_faults(tmp_path, thin=5))
    assert [row for row in rows if not row.is_good] == []
    assert len(rows) > 8


@pytest.mark.parametrize("name", ["logmel.npy", "frame02.jpg", "flac"])
def test_damage_is_named_by_shard_key_member_and_both_hashes(root: Path, cache: CacheConfig, name: str) -> None:
    path, offset, size = place_of(root, "clip-00007", name)
    if name == "logmel.npy":  # of which blocks are read: here the third
        begin, count = offset + 128 + 2 * MEL_BLOCK_BYTES, MEL_BLOCK_BYTES
        said = f"its {count} bytes at byte {begin} of the shard have xxh3 ...{{computed}}, stored is {{stored}}"
    else:
        begin, count = offset, size
        said = f"its {count} bytes have xxh3 {{computed}}, stored is {{stored}}"
    hashes = []
    for _ in range(2):
        hashes.append(f"{content_hash(path.read_bytes()[begin : begin + count]):016x}"[8 * (count < size) :])
        flip(path, 8 * (begin + count) - 3)
    stored, computed = hashes
    flip(path, 8 * (begin + count) - 3)
    error = loaded(open_dataset(root), ALL, cache)["clip-00007"]
    assert isinstance(error, DamagedMember)
    assert (error.shard, error.key, error.member) == (str(path), "clip-00007", name)
    assert said.format(computed=computed, stored=stored) in str(error)


def test_the_other_samples_of_a_damaged_shard_are_read(root: Path, cache: CacheConfig) -> None:
    path, offset, size = place_of(root, "clip-00007", "logmel.npy")
    flip(path, 8 * (offset + size // 2))
    assert [key for key, found in loaded(open_dataset(root), ALL, cache).items() if isinstance(found, ShardError)] == [
        "clip-00007"
    ]


def test_an_older_dataset_is_hashed_once_and_then_checked(
    drawn: Path, root: Path, cache: CacheConfig, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(root, as_before)
    whole = loaded(open_dataset(drawn), ALL, cache)
    with caplog.at_level(logging.WARNING):
        assert loaded(open_dataset(root), ALL, cache) == whole
    assert sum("has no hashes of members" in record.message for record in caplog.records) == 1
    kept = {path: path.stat().st_mtime_ns for path in cache.root.glob("*.xxh3.index.parquet")}
    assert len(kept) == 4
    caplog.clear()
    assert loaded(open_dataset(root), ALL, cache) == whole
    assert not caplog.records
    assert {path: path.stat().st_mtime_ns for path in cache.root.glob("*.xxh3.index.parquet")} == kept

    path, offset, size = place_of(root, "clip-00007", "logmel.npy")
    flip(path, 8 * (offset + size) - 1)
    found = loaded(open_dataset(root), ALL, cache)
    assert [key for key, error in found.items() if isinstance(error, DamagedMember)] == ["clip-00007"]


def test_an_older_shard_that_is_damaged_at_first_use_is_refused(root: Path, cache: CacheConfig) -> None:
    """Its marker has the hash of the whole file, so which sample it is cannot be told."""
    rewrite(root, as_before)
    path, offset, size = place_of(root, "clip-00007", "logmel.npy")
    flip(path, 8 * (offset + size) - 1)
    found = loaded(open_dataset(root), ALL, cache)
    refused = {key: str(error) for key, error in found.items() if isinstance(error, ShardError)}
    assert list(refused) == [f"clip-{number:05d}" for number in range(6, 12)]
    assert all("00001.tar: its sha256 is" in reason for reason in refused.values())
    assert list(cache.root.glob("*.xxh3.index.parquet"))


def test_a_damaged_file_of_hashes_is_made_again(drawn: Path, root: Path, cache: CacheConfig) -> None:
    rewrite(root, as_before)
    whole = loaded(open_dataset(root), ALL, cache)
    for path in cache.root.glob("*.xxh3.index.parquet"):
        flip(path, path.stat().st_size * 2)
    assert loaded(open_dataset(root), ALL, cache) == whole == loaded(open_dataset(drawn), ALL, cache)


def test_an_older_dataset_is_read_where_no_hashes_can_be_kept(root: Path, tmp_path: Path) -> None:
    rewrite(root, as_before)
    (tmp_path / "file").write_text("")
    found = loaded(open_dataset(root), ALL, CacheConfig(root=tmp_path / "file" / "cache"))
    assert not any(isinstance(content, ShardError) for content in found.values())


def test_a_newer_dataset_with_an_unknown_column_is_read(drawn: Path, root: Path, cache: CacheConfig) -> None:
    rewrite(root, lambda table: table.append_column("sharpness", pa.array([0.5] * len(table))))
    assert loaded(open_dataset(root), ALL, cache) == loaded(open_dataset(drawn), ALL, cache)


def test_shards_of_an_older_and_a_newer_run_make_one_dataset(root: Path, tmp_path: Path, cache: CacheConfig) -> None:
    """A run that was begun before and goes on now: some rows have hashes, some have none."""
    whole = loaded(open_dataset(root), ALL, cache)
    column = CLIP_SCHEMA.get_field_index("member_xxh3")

    def some(table: pa.Table) -> pa.Table:
        rows = zip(table.column("shard").to_pylist(), table.column("member_xxh3").to_pylist(), strict=True)
        values = pa.array([None if shard < 2 else hashes for shard, hashes in rows], CLIP_SCHEMA.field(column).type)
        return table.set_column(column, CLIP_SCHEMA.field(column), values)

    rewrite(root, some)
    dataset = open_dataset(root)
    assert [shard.hashed for shard in dataset.shards] == [False, False, True, True]
    assert loaded(dataset, ALL, cache) == whole


@pytest.mark.parametrize("hashes", [[], [1, 2], [1] * 20])
def test_a_row_with_too_few_or_too_many_hashes_is_refused(root: Path, hashes: list[int]) -> None:
    column = CLIP_SCHEMA.get_field_index("member_xxh3")

    def wrong(table: pa.Table) -> pa.Table:
        values = table.column("member_xxh3").to_pylist()
        return table.set_column(
            column, CLIP_SCHEMA.field(column), pa.array([hashes, *values[1:]], pa.list_(pa.uint64()))
        )

    rewrite(root, wrong)
    with pytest.raises(ManifestError, match="clip-00000: member_xxh3 must have one hash for each of `members`"):
        open_dataset(root)


def test_a_tar_of_another_tool_is_hashed_at_first_use_and_then_checked(root: Path, cache: CacheConfig) -> None:
    for path in (root / "train").iterdir():
        if path.suffix != ".tar":
            path.unlink()
    view, tars = EvalView(image_size=16), f"{root}/train/{{00000..00003}}.tar"
    whole = loaded(open_dataset(tars, cache=cache, members=MemberMap()), view, cache)
    assert len(whole) == 20
    path = root / "train/00001.tar"
    at = path.read_bytes().index(b"clip-00007.logmel.npy") + 512 + 1000
    flip(path, 8 * at)
    found = loaded(open_dataset(tars, cache=cache), view, cache)
    assert [key for key, error in found.items() if isinstance(error, DamagedMember)] == ["clip-00007"]


def test_a_flipped_bit_in_the_cache_is_fetched_again(drawn: Path, cache: CacheConfig) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(drawn), "/bits/set", recursive=True)
    dataset = open_dataset("memory://bits/set", cache=cache)
    whole = loaded(dataset, ALL, cache)
    chance = random.Random(1)
    for path in cache.root.glob("*.shard"):
        for _ in range(5):
            flip(path, chance.randrange(path.stat().st_size * 8))
    assert loaded(dataset, ALL, cache) == whole
    memory.rm("/bits", recursive=True)


def test_a_flipped_bit_in_the_cached_tar_of_another_tool_is_fetched_again(drawn: Path, cache: CacheConfig) -> None:
    memory = fsspec.filesystem("memory")
    for number in range(4):
        memory.pipe(f"/foreign/{number:05d}.tar", (drawn / f"train/{number:05d}.tar").read_bytes())
    dataset = open_dataset("memory://foreign/{00000..00003}.tar", cache=cache)
    view = EvalView(image_size=16)
    whole = loaded(dataset, view, cache)
    assert not any(isinstance(content, ShardError) for content in whole.values())
    for path in cache.root.glob("*.shard"):
        flip(path, 8 * (path.read_bytes().index(b".logmel.npy") + 1500))
    assert loaded(dataset, view, cache) == whole
    memory.rm("/foreign", recursive=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_log_mel_that_is_not_finite_is_damage(root: Path, cache: CacheConfig, value: float) -> None:
    """As a broken front end would store it: its hash is true."""
    path, offset, size = place_of(root, "clip-00007", "logmel.npy")
    content = bytearray(path.read_bytes())
    log_mel = np.frombuffer(content, np.float16, (size - 128) // 2, offset + 128).reshape(-1, 128).T
    log_mel[5, log_mel.shape[1] // 2] = value
    path.write_bytes(content)
    column = CLIP_SCHEMA.get_field_index("member_xxh3")

    def hashed(table: pa.Table) -> pa.Table:
        hashes = []
        for row in table.to_pylist():
            tar = Layout(root).tar(ShardName("train", row["shard"])).read_bytes()
            hashes.append([content_hash(tar[m.offset : m.offset + m.size]) for m in members_of(row)])
        table = table.set_column(column, CLIP_SCHEMA.field(column), pa.array(hashes, pa.list_(pa.uint64())))
        return table.drop_columns("mel_block_xxh3")

    rewrite(root, hashed)
    found = loaded(open_dataset(root), ALL, cache)
    (error,) = (content for content in found.values() if isinstance(content, ShardError))
    assert isinstance(error, DamagedMember)
    assert (error.key, error.member) == ("clip-00007", "logmel.npy")
    assert "1 of the window's 24576 log-mel values are not finite" in str(error)
