"""The index of a split: the same samples as its manifest, and never trusted blindly."""

import json
import logging
import os
import shutil
import struct
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xxhash

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.verify import verify
from avdata.dataset import ByteRanges, Dataset, Shard, dataset_from_table, read_names
from avdata.index import Index
from avdata.load import CacheConfig, MemberMap, open_dataset
from avdata.prepare.catalog import write_index
from avmanifest.columns import Column, with_extra
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import read_file
from avmanifest.layout import Layout, ShardName
from avmanifest.records import parse_description, parse_marker
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table, write_table
from tests.serving import serving
from tests.shards import CLASSES, draw_dataset

END = struct.Struct("<QQ8s")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def flags(number: int) -> dict[str, bool]:
        return {"silent": number in (2, 9), "still": number == 9}

    def labels(number: int) -> list[str]:
        return [CLASSES[number % 3], CLASSES[0]][: number % 3]

    root = tmp_path_factory.mktemp("made") / "set"
    return draw_dataset(root, 20, 6, seconds=0.5, num_frames=3, failed=(4, 5), flags=flags, labels=labels)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


def indexed(root: Path) -> bool:
    """Write the index, as prepare does at the end."""
    layout = Layout(root)
    return write_index(layout, "train", parse_description(read_file(layout.dataset_json), root))


def from_manifest(root: Path) -> Dataset:
    """The samples by the road that tars without an index take."""
    table = read_table(Layout(root).manifest("train"), CLIP_SCHEMA, read_names(CLIP_SCHEMA))
    shards = []
    for number in range(pc.max(table.column("shard")).as_py() + 1):
        marker = Layout(root).stats(ShardName("train", number))
        tar = parse_marker(marker.read_bytes(), marker)["files"]["tar"]
        shards.append(Shard(f"{root}/train/{number:05d}.tar", tar["bytes"], tar["sha256"], prepared=True))
    return dataset_from_table(table, shards, MemberMap(), classes=CLASSES)


def assert_same(found: Dataset, expected: Dataset) -> None:
    for field in fields(Dataset):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(one, ByteRanges):
            one, other = {"": one}, {"": other}
        if field.name in ("known", "block_xxh3", "access"):
            continue
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        elif field.name == "mel_blocks":
            hashes = [[set_.block_xxh3[set_.mel_blocks[name]].tolist() for name in one] for set_ in (found, expected)]
            assert hashes[0] == hashes[1] != []
        elif isinstance(one, dict) and field.name != "log_mel_member":
            assert one.keys() == other.keys()
            for name, part in [(name, part) for name in one for part in ("offset", "size", "xxh3")]:
                np.testing.assert_array_equal(getattr(one[name], part), getattr(other[name], part))
        else:
            assert (tuple(one) == tuple(other)) if field.name == "shards" else (one == other), field.name
    assert found.fingerprint() == expected.fingerprint() == replace(found, known=None).fingerprint()


def altered(path: Path, name: str, place: int, value: int) -> None:
    """Change a number in an index, and the hashes, so that only its meaning is wrong."""
    content = bytearray(path.read_bytes())
    length, _, magic = END.unpack(content[-END.size :])
    begin = len(content) - END.size - length
    header = json.loads(content[begin : begin + length])
    section = header["sections"][name]
    array = np.frombuffer(content, section["type"], section["count"], section["offset"])
    array[place] = value
    section["xxh3"] = xxhash.xxh3_64_hexdigest(array.tobytes())
    written = json.dumps(header).encode()
    path.write_bytes(
        bytes(content[:begin]) + written + END.pack(len(written), xxhash.xxh3_64_intdigest(written), magic)
    )


def test_an_index_has_the_samples_of_the_manifest(root: Path) -> None:
    assert_same(open_dataset(root), from_manifest(root))
    assert indexed(root)
    dataset = open_dataset(root)
    assert_same(dataset, from_manifest(root))
    assert not dataset.frames.offset.flags.writeable, "nobody can change it"
    assert dataset.masks.size.strides == (0,), "no mask takes no memory"
    assert open_dataset(root, exclude=["silent"]).keys.to_pylist() == [
        key for key in dataset.keys.to_pylist() if key not in ("clip-00002", "clip-00009")
    ]
    with pytest.raises(ConfigError, match=r"unknown flags to exclude .'loud'.; known: silent, still, short"):
        open_dataset(root, exclude=["loud"])


def test_equal_datasets_have_equal_indexes(root: Path) -> None:
    indexed(root)
    first = Layout(root).sample_index("train").read_bytes()
    indexed(root)
    assert Layout(root).sample_index("train").read_bytes() == first


def test_rows_that_are_not_ordered_by_shard_are_put_in_order(root: Path) -> None:
    path = Layout(root).manifest("train")
    table = read_table(path, CLIP_SCHEMA)
    write_table(table.take(pa.array([*range(12, 20), *range(12)])), path)
    indexed(root)
    dataset = open_dataset(root)
    assert_same(dataset, from_manifest(root))
    assert (np.diff(dataset.shard_of.astype(int)) >= 0).all()


def test_a_flag_of_a_step_can_be_excluded(root: Path) -> None:
    column = Column(name="dark", dtype=pa.bool_(), meaning="little light", flag=True, source="step dark")
    path = Layout(root).manifest("train")
    rows = read_table(path, CLIP_SCHEMA)
    values = pa.array([key == "clip-00001" for key in rows.column("key").to_pylist()])
    schema = with_extra(CLIP_SCHEMA, [column])
    write_table(pa.Table.from_arrays([*rows.columns, values], schema=schema), path)
    indexed(root)
    assert "clip-00001" not in open_dataset(root, exclude=["dark"]).keys.to_pylist()
    assert len(open_dataset(root, exclude=["dark"])) == len(open_dataset(root)) - 1


def test_an_index_of_another_manifest_is_not_used(root: Path) -> None:
    indexed(root)
    path = Layout(root).manifest("train")
    rows = read_table(path, CLIP_SCHEMA)
    silent = pa.array([not value for value in rows.column("silent").to_pylist()])
    write_table(rows.set_column(rows.schema.get_field_index("silent"), rows.schema.field("silent"), silent), path)
    assert open_dataset(root, exclude=["silent"]).keys.to_pylist() == ["clip-00002", "clip-00009"]
    faults = verify(open_audit_dataset(str(root))).faults
    assert "manifest/train.avidx" not in [fault.shard for fault in faults], "it does no harm"


@pytest.mark.parametrize("share", np.linspace(0, 0.999, 12).tolist())
def test_a_flipped_bit_anywhere_is_noticed_and_the_index_made_again(
    root: Path, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    indexed(root)
    path = Layout(root).sample_index("train")
    content = bytearray(path.read_bytes())
    with path.open("rb") as file:
        arrays = Index(file.fileno(), "").header["sections"]
    places = np.concatenate(
        [np.arange(s["count"] * np.dtype(s["type"]).itemsize) + s["offset"] for s in arrays.values()]
        + [np.arange(max(s["offset"] for s in arrays.values()) + 32, len(content))]
    )
    content[int(places[int(share * len(places))])] ^= 4
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert_same(open_dataset(root), from_manifest(root))
    assert "the index is damaged" in caplog.text or "not valid JSON" in caplog.text
    assert any(fault.shard == "manifest/train.avidx" for fault in verify(open_audit_dataset(str(root))).faults)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("shard_of", 3, 77), ("shard_of", 0, 2), ("frame_start", 0, 1), ("frame_start", 3, 2**31),
        ("frame_start", -1, 1),
        ("label_start", 2, 2**31), ("label_ids", 0, 200), ("frame_member", 1, 99), ("key_start", 1, 2**50),
        ("key_start", -1, 2**50), ("keys", 0, 0xFF), ("frames.offset", 5, 2**32 - 1), ("frames.size", 5, 2**32 - 1),
        ("waveform.size", -1, 2**32 - 1), ("log_mel.paper.offset", 0, 2**32 - 1), ("flags", 0, 128),
        ("mel_blocks.paper", 3, 2**20),
        ("shard_hashed", 0, 3), ("shard_bytes", 0, 1), ("shard_number", 1, 0),
    ],
)  # fmt: skip
def test_numbers_out_of_their_bounds_are_refused(root: Path, name: str, place: int, value: int) -> None:
    indexed(root)
    path = Layout(root).sample_index("train")
    altered(path, name, place, value)
    with path.open("rb") as file, pytest.raises(ManifestError, match="the index is damaged"):
        Index(file.fileno(), str(path))
    assert_same(open_dataset(root), from_manifest(root))


@pytest.mark.parametrize("kept", [0, 100])
def test_an_index_that_is_cut_while_it_is_open_ends_no_process(root: Path, kept: int) -> None:
    indexed(root)
    dataset, meant = open_dataset(root), from_manifest(root)
    os.truncate(Layout(root).sample_index("train"), kept)
    assert_same(dataset, meant)
    assert_same(open_dataset(root), meant)


@pytest.mark.parametrize("name", ["shard_of", "frames.size"])
def test_verify_finds_an_index_that_is_whole_but_wrong(root: Path, name: str) -> None:
    indexed(root)
    assert verify(open_audit_dataset(str(root))).faults == []
    path = Layout(root).sample_index("train")
    altered(path, name, *((4, 0) if name == "shard_of" else (0, 7)))
    (fault,) = verify(open_audit_dataset(str(root))).faults
    assert fault.shard == "manifest/train.avidx"
    assert "does not have the places that the manifest and the markers give" in fault.problem


def test_a_large_manifest_without_an_index_gets_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = large(tmp_path / "set")
    cache = CacheConfig(root=tmp_path / "cache")
    first = open_dataset(root, cache=cache)
    path = Layout(root).sample_index("train")
    made = path.stat().st_mtime_ns
    assert_same(open_dataset(root, cache=cache), first)
    assert path.stat().st_mtime_ns == made
    path.unlink()
    path.mkdir()  # where the folder cannot be written, the index is kept in the cache
    (path / "full").touch()
    assert_same(open_dataset(root, cache=cache), first)
    (kept,) = cache.root.glob("*.avidx")
    made = kept.stat().st_mtime_ns
    assert_same(open_dataset(root, cache=cache), first)
    assert kept.stat().st_mtime_ns == made


def large(root: Path) -> Path:
    """A dataset with a manifest of more than a megabyte, by long reasons of a failed clip."""
    draw_dataset(root, 4, 2, seconds=0.5, num_frames=1, failed=(3,))
    rows = read_table(Layout(root).manifest("train"), CLIP_SCHEMA).to_pylist()
    rows[3]["reason"] = np.random.default_rng(0).bytes(1_200_000).hex()
    write_table(pa.Table.from_pylist(rows, CLIP_SCHEMA), Layout(root).manifest("train"))
    return root


def test_a_remote_dataset_is_opened_by_one_file_in_place_of_one_a_shard(root: Path, tmp_path: Path) -> None:
    cache = CacheConfig(root=tmp_path / "cache")
    with serving(root) as server:
        local = open_dataset(root)
        server.headers = lambda path: {"ETag": '"1"'}
        dataset = open_dataset(server.url, cache=cache)
        assert server.count("_stats.json") == 4
        assert dataset.keys == local.keys
        indexed(root)
        server.requests.clear()
        assert open_dataset(server.url, cache=cache).fingerprint() == dataset.fingerprint()
        assert server.count("_stats.json") == server.count(".avidx") == 0, "it is in the cache"
        other = CacheConfig(root=tmp_path / "other")
        assert open_dataset(server.url, cache=other).fingerprint() == dataset.fingerprint()
    assert open_dataset(server.url, cache=replace(cache, offline=True)).fingerprint() == dataset.fingerprint()
    with pytest.raises(ConfigError, match=r"its dataset.json is not in the cache .*new, and data.offline=true forbids"):
        open_dataset(server.url, cache=CacheConfig(root=tmp_path / "new", offline=True))


def test_a_remote_manifest_that_is_replaced_between_two_questions_gives_no_index(root: Path, tmp_path: Path) -> None:
    other = draw_dataset(tmp_path / "other", 20, 6, seconds=0.5, num_frames=3, first=100)
    before, after = (read_file(Layout(one).manifest("train")) for one in (root, other))
    cache = CacheConfig(root=tmp_path / "cache")
    with serving(root) as server:
        server.change = lambda path, content: (
            after if path.endswith("train.parquet") and server.requests[-2].endswith("train.avidx") else content
        )
        with pytest.raises(ManifestError, match="was replaced while it was read"):
            open_dataset(server.url, cache=cache)
        server.change = lambda path, content: before if path.endswith("train.parquet") else content
        assert open_dataset(server.url, cache=cache).keys == open_dataset(root).keys
