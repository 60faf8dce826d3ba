"""Damage of every kind, done to a finished dataset: it is named by shard, key and byte; repair and prepare mend it."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.deep import log_mel_problem
from avdata.audit.repair import repair
from avdata.audit.sample import read_sample
from avdata.audit.verify import verify
from avdata.images import decode_jpeg
from avdata.melspec import log_mel
from avdata.prepare.job import prepare
from avdata.profiles import PROFILES
from avdata.shards import pack_npy
from avdata.waveform import decode_flac, encode_flac
from avmanifest.errors import ConfigError, DamagedMember, ShardError
from avmanifest.files import sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table, write_table
from tests.shards import draw_dataset, sample_key
from tests.videos import folder_config, tree

SHARD = ShardName("train", 1)
KEY = sample_key(4)  # the second sample of the second shard


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = draw_dataset(tmp_path_factory.mktemp("pristine") / "set", 8, 3, num_frames=2, seconds=1.5, failed=[5])
    description = json.loads((root / "dataset.json").read_text())
    config = {"mel": ["paper"], "keep_audio": True, "short_side": 48}
    (root / "dataset.json").write_text(json.dumps(description | {"config": config}))
    return root


@pytest.fixture
def dataset(pristine, tmp_path):
    return Layout(Path(shutil.copytree(pristine, tmp_path / "set")))


def faults_of(layout: Layout, *, deep: bool = False):
    return verify(open_audit_dataset(str(layout.root)), deep=deep).faults


def member(layout: Layout, name: str, key: str = KEY) -> dict:
    rows = read_table(layout.clips(SHARD), CLIP_SCHEMA).to_pylist()
    return next(m for row in rows if row["key"] == key for m in row["members"] if m["name"] == name)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def believe(layout: Layout) -> None:
    """Let the marker say what the files are now: only a look inside can tell that they are wrong."""
    stats = json.loads(layout.stats(SHARD).read_bytes())
    for part, path in zip(("tar", "idx", "parquet"), layout.files(SHARD), strict=False):
        stats["files"][part] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    layout.stats(SHARD).write_text(json.dumps(stats))


def test_a_whole_dataset_has_no_fault(dataset):
    for deep in (False, True):
        report = verify(open_audit_dataset(str(dataset.root)), deep=deep)
        assert report.faults == []
        assert (report.shards, report.samples) == (3, 7)
        assert report.num_bytes == sum(path.stat().st_size for path in dataset.root.glob("train/*.tar"))


def test_a_remote_dataset_is_verified_too(dataset):
    import fsspec

    overwrite(dataset.tar(SHARD), member(dataset, "frame01.jpg")["offset"], b"no")
    memory = fsspec.filesystem("memory")
    memory.put(str(dataset.root), "/verified", recursive=True)
    try:
        found = verify(open_audit_dataset("memory://verified")).faults
        assert any((fault.shard, fault.key) == (str(SHARD), KEY) for fault in found)
    finally:
        memory.rm("/verified", recursive=True)


def cut(layout):
    content = layout.tar(SHARD).read_bytes()
    layout.tar(SHARD).write_bytes(content[: member(layout, "frame00.jpg")["offset"] + 100])


def cut_between_members(layout):
    content = layout.tar(SHARD).read_bytes()
    layout.tar(SHARD).write_bytes(content[: member(layout, "frame00.jpg")["offset"] - 512])


def flip_header(layout):
    overwrite(layout.tar(SHARD), member(layout, "flac")["offset"] - 512 + 150, b"x")


def flip_picture(layout):
    overwrite(layout.tar(SHARD), member(layout, "frame01.jpg")["offset"], b"\x00\x00")


def swap_rows(layout):
    table = read_table(layout.clips(SHARD), CLIP_SCHEMA)
    write_table(table.take([1, 0, 2]), layout.clips(SHARD))


def other_index(layout):
    shutil.copyfile(layout.index(ShardName("train", 0)), layout.index(SHARD))


def other_tar(layout):
    shutil.copyfile(layout.tar(ShardName("train", 0)), layout.tar(SHARD))


def no_marker(layout):
    layout.stats(SHARD).unlink()


def broken_marker(layout):
    layout.stats(SHARD).write_text("{}")


def other_plan(layout):
    stats = json.loads(layout.stats(SHARD).read_bytes())
    layout.stats(SHARD).write_text(json.dumps(stats | {"plan_hash": "f" * 64}))


def wrong_count(layout):
    stats = json.loads(layout.stats(SHARD).read_bytes())
    layout.stats(SHARD).write_text(json.dumps(stats | {"count": 7}))


def no_tar(layout):
    layout.tar(SHARD).unlink()


def garbled_rows(layout):
    layout.clips(SHARD).write_bytes(b"PAR1 no more")


@pytest.mark.parametrize(
    ("damage", "key", "said"),
    [
        (cut, KEY, "cannot be read on"),
        (cut_between_members, KEY, "closing blocks are missing"),
        (flip_header, KEY, "damaged"),
        (flip_picture, KEY, "frame01.jpg: "),
        (swap_rows, "", "not in the order"),
        (other_index, "", "does not have the offsets"),
        (other_tar, KEY, "but the tar has no such sample"),
        (no_marker, "", "no marker"),
        (broken_marker, "", "not a marker: it has no format_version"),
        (other_plan, "", "another plan"),
        (wrong_count, "", "its marker counts 7 clips"),
        (no_tar, "", "00001.tar is missing"),
        (garbled_rows, "", "not a readable parquet file"),
    ],
)
def test_damage_is_found_and_named(dataset, damage, key, said):
    damage(dataset)
    found = faults_of(dataset)
    assert any(fault.key == key and said in fault.problem for fault in found), list(map(str, found))
    assert {fault.shard for fault in found} == {str(SHARD)}
    assert all(fault.offset >= 0 for fault in found if fault.key)


def test_the_byte_is_where_the_damage_is(dataset):
    place = member(dataset, "flac")["offset"]
    flip_header(dataset)
    assert {fault.offset for fault in faults_of(dataset) if fault.key == KEY} >= {place - 512}


def test_members_that_lie_apart_are_found(dataset):
    """Two samples whose members alternate; everything else about the shard is put right."""
    with tarfile.open(dataset.tar(SHARD)) as tar:
        entries = [(info, tar.extractfile(info).read()) for info in tar]
    first = [entry for entry in entries if entry[0].name.startswith(sample_key(3))]
    second = [entry for entry in entries if entry[0].name.startswith(KEY)]
    mixed = [*first[:2], *second, *first[2:]]
    with tarfile.open(dataset.tar(SHARD), "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, content in mixed:
            tar.addfile(info, io.BytesIO(content))
    believe(dataset)
    found = faults_of(dataset)
    assert any(fault.key == sample_key(3) and "not adjacent" in fault.problem for fault in found)


def test_the_manifest_is_held_against_the_shards(dataset):
    table = pq.read_table(dataset.manifest("train"))
    write_table(
        table.filter(pq.read_table(dataset.manifest("train"))["shard"].to_numpy() != 1), dataset.manifest("train")
    )
    found = faults_of(dataset)
    assert [(fault.shard, "run the same prepare again" in fault.problem) for fault in found] == [(str(SHARD), True)]


@pytest.mark.parametrize(
    ("column", "value"), [("labels", ["another"]), ("duration_s", 900.0), ("frame_times_s", [5.0, 6.0]), ("fps", 99.0)]
)
def test_a_value_that_only_the_manifest_has_is_found(dataset, column, value):
    table = pq.read_table(dataset.manifest("train"))
    values = table[column].to_pylist()
    at = table["key"].to_pylist().index(KEY)
    values[at] = value
    column_at = table.column_names.index(column)
    write_table(
        table.set_column(column_at, table.schema.field(column_at), pa.array(values, table.schema.field(column).type)),
        dataset.manifest("train"),
    )
    assert [(fault.shard, "differ from its own rows" in fault.problem) for fault in faults_of(dataset)] == [
        (str(SHARD), True)
    ]


def rewrite_member(layout: Layout, name: str, content: bytes) -> None:
    place = member(layout, name)
    assert len(content) == place["size"]
    overwrite(layout.tar(SHARD), place["offset"], content)
    believe(layout)


def read_member(layout: Layout, name: str, key: str = KEY) -> bytes:
    place = member(layout, name, key)
    return layout.tar(SHARD).read_bytes()[place["offset"] :][: place["size"]]


def test_only_a_deep_look_finds_the_log_mel_of_another_sound(dataset):
    rewrite_member(dataset, "logmel.npy", read_member(dataset, "logmel.npy", sample_key(3)))
    assert faults_of(dataset) == []
    (fault,) = faults_of(dataset, deep=True)
    assert (fault.shard, fault.key, fault.offset) == (str(SHARD), KEY, member(dataset, "logmel.npy")["offset"])
    assert "differs from the log-mel of its audio" in fault.problem


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def decodes(content: bytes) -> bool:
    try:
        decode_jpeg(content)
    except ShardError:
        return False
    return True


def test_a_deep_look_finds_a_flipped_bit_of_a_picture_that_still_decodes(dataset):
    content = read_member(dataset, "frame00.jpg")
    pictures = (flipped(content, bit) for bit in range(8 * len(content) // 2, 8 * len(content)))
    rewrite_member(dataset, "frame00.jpg", next(picture for picture in pictures if decodes(picture)))
    assert faults_of(dataset) == []
    (fault,) = faults_of(dataset, deep=True)
    assert (fault.key, fault.offset) == (KEY, member(dataset, "frame00.jpg")["offset"])
    assert "frame00.jpg: damaged: it has xxh3" in fault.problem
    with pytest.raises(DamagedMember, match=rf"00001\.tar: {KEY}\.frame00\.jpg: damaged"):
        read_sample(open_audit_dataset(str(dataset.root)), KEY)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("logmel.npy", lambda c: c[:-2] + b"\xff\x7f", "not finite"),
        ("logmel.npy", lambda c: b"x" + c[1:], "not an array"),
        ("logmel.npy", lambda c: pack_npy(np.zeros((len(c) - 128) // 2, np.float16)), "expected float16 (128, T)"),
        ("flac", lambda c: c[:200] + bytes(len(c) - 200), "FLAC"),
        ("frame00.jpg", lambda c: c[: len(c) // 2] + bytes(len(c) - len(c) // 2), "JPEG"),
        ("json", lambda c: c.replace(b"clip-00004", b"clip-99999"), "expected 'clip-00004'"),
        ("json", lambda c: b"{" * len(c), "not valid JSON"),
    ],
)
def test_members_that_do_not_decode_are_found_by_a_deep_look(dataset, name, spoil, said):
    rewrite_member(dataset, name, spoil(read_member(dataset, name)))
    assert faults_of(dataset) == []
    found = faults_of(dataset, deep=True)
    assert any(f.key == KEY and f.offset == member(dataset, name)["offset"] and said in f.problem for f in found), found


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("loudness", [0.0, 1e-5, 3e-4, 0.1, 2.0])
def test_flac_explains_every_difference_it_makes_and_no_other(profile, loudness):
    """From silence over signals below one step of 16 bits to clipping: no false alarm; another sound is one."""

    front_end = PROFILES[profile]
    generator = np.random.default_rng(1)
    times = np.arange(48_000) / 16_000
    sound = (loudness * (np.sin(2 * np.pi * 700 * times) + 0.3 * generator.normal(size=48_000))).astype(np.float32)
    stored = log_mel(sound, front_end).astype(np.float16)
    kept = decode_flac(encode_flac(sound))
    assert log_mel_problem(stored, kept, front_end) is None
    if loudness == 0.1:
        assert "differs" in str(log_mel_problem((stored.astype(np.float32) + 0.05).astype(np.float16), kept, front_end))
        assert "differs" in str(log_mel_problem(stored, np.roll(kept, 4000), front_end))
    if not front_end.pad_columns:
        assert "columns" in str(log_mel_problem(stored[:, :-1], kept, front_end))


def test_tars_of_others_are_verified_without_promises(dataset, tmp_path):
    shutil.copyfile(dataset.tar(SHARD), tmp_path / "a.tar")
    shutil.copyfile(dataset.tar(SHARD), tmp_path / "b.tar")
    found = verify(open_audit_dataset(str(tmp_path)), deep=True).faults
    assert {(fault.shard, fault.problem) for fault in found} == {("shards", "several shards have a sample of this key")}
    (tmp_path / "b.tar").unlink()
    overwrite(tmp_path / "a.tar", member(dataset, "frame01.jpg")["offset"], b"\x00\x00")
    (fault,) = verify(open_audit_dataset(str(tmp_path)), deep=True).faults
    assert (fault.shard, fault.key, fault.offset) == ("a.tar", KEY, member(dataset, "frame01.jpg")["offset"])
    assert verify(open_audit_dataset(str(tmp_path))).faults == []


def test_what_cannot_be_verified_or_repaired_is_refused(dataset, tmp_path):
    alone = open_audit_dataset(str(dataset.manifest("train")))
    with pytest.raises(ConfigError, match="no shards to verify"):
        verify(alone)
    with pytest.raises(ConfigError, match="prepared dataset on this machine"):
        repair(alone, [])


def test_repaired_and_prepared_again_the_bytes_are_the_same(videos, prepared, tmp_path):
    out = Path(shutil.copytree(prepared.out, tmp_path / "out"))
    meant = tree(out)
    layout = Layout(out)
    tars = [layout.tar(shard) for split in ("train", "test") for shard in layout.shards(split)]
    content = tars[0].read_bytes()
    overwrite(tars[0], len(content) // 2, bytes(b ^ 255 for b in content[len(content) // 2 :][:64]))
    tars[-1].write_bytes(tars[-1].read_bytes()[:5000])
    dataset = open_audit_dataset(str(out))
    found = verify(dataset)
    assert set(found.bad_shards) == {"train/00000", "test/00000"}
    folders = repair(dataset, found.faults)
    assert [folder.parent.name for folder in folders] == ["_quarantine"] * 2
    assert not tars[0].exists()
    assert all("missing" in f.problem or "no marker" in f.problem for f in verify(open_audit_dataset(str(out))).faults)
    prepare(folder_config(videos, out))
    assert tree(out) == meant
    assert verify(open_audit_dataset(str(out)), deep=True).faults == []
