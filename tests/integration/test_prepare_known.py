"""A run that goes on with many shards opens none that it knows, and sees every file that has changed."""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avdata.prepare.catalog import merge_manifest, planned_shards
from avdata.prepare.commit import marker_bytes, read_stats
from avdata.prepare.config import Retry
from avdata.prepare.job import prepare
from avdata.prepare.known import KnownShards
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table, write_table
from tests.driver_costs import config_of, draw, draw_shards
from tests.videos import Notes, tree

SHARDS, CLIPS = 102, 3
RECORD_BYTES = 117


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("known") / "set"
    draw(root, SHARDS, CLIPS)
    assert prepare(config_of(root, CLIPS)).num_shards == SHARDS
    return root


@pytest.fixture
def out(done: Path, tmp_path: Path) -> Path:
    """A copy, which one more run has made known: copies are other files."""
    root = Path(shutil.copytree(done, tmp_path / "set"))
    prepare(config_of(root, CLIPS))
    return root


def inodes(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted((root / "manifest").iterdir())}


def test_a_run_with_nothing_to_do_changes_nothing(out: Path) -> None:
    before, files = tree(out), inodes(out)
    report = prepare(config_of(out, CLIPS))
    assert (report.num_shards, report.pending, report.ok) == (SHARDS, 0, SHARDS * (CLIPS - 1))
    assert tree(out) == before
    assert inodes(out) == files, "neither manifest nor index is written again"
    (out / "_tmp" / "known.parquet").unlink()
    assert prepare(config_of(out, CLIPS)) == report
    assert tree(out) == before
    assert inodes(out) != files


def test_a_shard_is_known_by_its_files_and_its_plan(out: Path) -> None:
    layout, shard = Layout(out), ShardName("train", 7)
    known = KnownShards.load(layout)
    known.plan_hash = prepare(config_of(out, CLIPS)).plan_hash
    assert known.is_checked(shard, known.state(0, shard))
    assert known.facts(shard) == KnownShards(layout).facts(shard)
    assert not KnownShards(layout).is_checked(shard, known.state(0, shard))
    known.plan_hash = "another"
    assert KnownShards.load(layout).state(0, shard) != known.state(0, ShardName("train", 8))


def flipped(path: Path) -> None:
    """One bit of a file changes; size and time stay."""
    found, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("part", ["index", "clips", "stats"])
@pytest.mark.parametrize("change", [flipped, Path.unlink])
def test_a_changed_file_of_a_shard_is_found(out: Path, part: str, change: Callable[[Path], None]) -> None:
    layout, shard = Layout(out), ShardName("train", 7)
    change(getattr(layout, part)(shard))
    notes = Notes()
    report = prepare(config_of(out, CLIPS), notes)
    assert (report.num_shards, report.pending) == (SHARDS - 1, CLIPS), "no source has its clips"
    assert any("train/00007" in note and "prepared again" in note for note in notes.notes)
    assert not layout.stats(shard).exists()


@pytest.mark.parametrize("name", ["manifest/train.parquet", "manifest/train.avidx", "_tmp/known.parquet"])
@pytest.mark.parametrize("change", [flipped, Path.unlink])
def test_what_is_made_from_the_shards_is_made_again(out: Path, name: str, change: Callable[[Path], None]) -> None:
    before = tree(out)
    change(out / name)
    prepare(config_of(out, CLIPS))
    assert tree(out) == before


def merged_anew(root: Path) -> bytes:
    """The manifest as it is merged without anything that is known."""
    merge_manifest(Layout(root))
    return Layout(root).manifest("train").read_bytes()


def test_rows_that_the_manifest_has_are_taken_from_it(out: Path) -> None:
    """Also where clips were tried again, and some of those shards are gone again."""
    layout, config = Layout(out), replace(config_of(out, CLIPS), retry=Retry.ALL)
    plan_hash = prepare(config).plan_hash
    retried = list(planned_shards(layout, first_part=1))
    assert len(retried) == SHARDS // CLIPS
    for some in (retried[:5], retried[5:8]):
        draw_shards(layout, some, plan_hash, CLIPS)
        prepare(config_of(out, CLIPS))
        known = KnownShards.load(layout)
        assert known.merged(some[0].shard)[1] == CLIPS
        assert known.merged(ShardName("train", 0))[0] != bytes(16)
        assert layout.manifest("train").read_bytes() == merged_anew(out)
    for path in layout.files(retried[2].shard):
        path.unlink()
    assert prepare(config_of(out, CLIPS)).statuses == {"ok": 204 + 7 * 2, "media_corrupt": 102 - 7 * 2}
    assert layout.manifest("train").read_bytes() == merged_anew(out)


def test_a_shard_with_a_wrong_value_is_left_out_alone(out: Path) -> None:
    """The rows of many shards are looked at together."""
    layout, shard = Layout(out), ShardName("train", 7)
    rows = read_table(layout.clips(shard), CLIP_SCHEMA)
    place = rows.schema.get_field_index("rms_dbfs")
    write_table(rows.set_column(place, rows.schema.field(place), pa.array([math.nan] * CLIPS)), layout.clips(shard))
    stats = read_stats(layout, shard)
    stats["files"]["parquet"] |= {"bytes": layout.clips(shard).stat().st_size}
    layout.stats(shard).write_bytes(marker_bytes(stats))
    assert merge_manifest(layout).num_shards == SHARDS
    merged = read_table(layout.manifest("train"), CLIP_SCHEMA, ["key", "status"]).to_pylist()
    assert {row["key"] for row in merged if row["status"] == "unavailable_missing"} == set(rows["key"].to_pylist())


def test_another_list_of_shards_is_merged_again(out: Path) -> None:
    layout, shard = Layout(out), ShardName("train", 7)
    aside = out.with_name("aside")
    aside.mkdir()
    before, files = tree(out), layout.files(shard)
    for path in files:
        path.rename(aside / path.name)
    assert prepare(config_of(out, CLIPS)).pending == CLIPS
    for path in files:
        (aside / path.name).rename(path)
    assert prepare(config_of(out, CLIPS)).pending == 0
    assert tree(out) == before


@pytest.mark.parametrize(
    ("number", "record", "notes"),
    [
        (-1, bytes(RECORD_BYTES), {}),
        (1 << 24, bytes(RECORD_BYTES), {}),
        (None, bytes(RECORD_BYTES), {}),
        (1, None, {}),
        (1, bytes(RECORD_BYTES), {"manifests": ["train"], "plans": 3, "columns": None}),
    ],
)
def test_a_file_of_known_shards_that_makes_no_sense_says_nothing(
    tmp_path: Path, number: int | None, record: bytes | None, notes: dict[str, object]
) -> None:
    schema = pa.schema([("split", pa.string()), ("number", pa.int64()), ("record", pa.binary(RECORD_BYTES))])
    table = pa.table({"split": ["train"], "number": [number], "record": [record]}, schema)
    (tmp_path / "_tmp").mkdir()
    pq.write_table(
        table.replace_schema_metadata({"avkit.known": json.dumps({"version": 1} | notes)}),
        tmp_path / "_tmp" / "known.parquet",
    )
    known = KnownShards.load(Layout(tmp_path))
    assert (known.manifests, known.plans) == ({}, {})
    assert not known.is_checked(ShardName("train", 1), bytes(16))
