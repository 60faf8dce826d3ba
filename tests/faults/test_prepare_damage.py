"""A shard that was damaged after its commit: the next run quarantines it and prepares it again, with equal bytes."""

import os
import shutil

import pytest

from avdata.prepare.job import prepare
from avmanifest.errors import ManifestError
from avmanifest.layout import Layout, ShardName
from tests.videos import Notes, folder_config, tree

SHARD = ShardName("train", 1)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_at_a_sample(path):
    """Truncate the archive at the end of a sample, so that it reads without an error."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 // 512 * 512] + bytes(1024))


def zero_tail(path):
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2))


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, cut_at_a_sample, zero_tail, flip_bit, empty, remove])
@pytest.mark.parametrize("part", ["tar", "index", "clips", "stats"])
def test_a_damaged_shard_is_quarantined_and_prepared_again(part, damage, videos, prepared, tmp_path):
    out = shutil.copytree(prepared.out, tmp_path / "out")
    layout = Layout(out)
    path = getattr(layout, part)(SHARD)
    damage(path)
    notes = Notes()
    report = prepare(folder_config(videos, out), notes)
    assert report.exit_code == 0
    assert tree(out) == tree(prepared.out)
    assert len(notes.statuses) == 2, "one shard was to be made again, no more"
    (kept,) = layout.quarantine.iterdir()
    assert {entry.name for entry in kept.iterdir()} == {
        file.name for file in layout.files(SHARD) if file != path or damage is not remove
    }
    assert any(str(kept) in note and f"/{SHARD.number:05d}" in note for note in notes.notes)


def test_a_tar_that_kept_size_and_time_is_looked_into_when_asked(videos, prepared, tmp_path):
    out = shutil.copytree(prepared.out, tmp_path / "out")
    layout = Layout(out)
    path = layout.tar(SHARD)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    flip_bit(path)
    os.utime(path, ns=times)
    damaged = path.read_bytes()
    assert prepare(folder_config(videos, out)).exit_code == 0
    assert path.read_bytes() == damaged, "the sizes and times are right"
    assert prepare(folder_config(videos, out, verify=True)).exit_code == 0
    assert tree(out) == tree(prepared.out)


def test_a_damaged_plan_is_refused_and_no_file_is_removed(videos, prepared, tmp_path):
    out = shutil.copytree(prepared.out, tmp_path / "out")
    Layout(out).plan_part(0).write_bytes(b"not a table")
    with pytest.raises(ManifestError, match=r"part-00000\.parquet"):
        prepare(folder_config(videos, out))
    (out / "plan" / "part-00000.parquet").write_bytes((prepared.out / "plan" / "part-00000.parquet").read_bytes())
    assert tree(out) == tree(prepared.out)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 99}', "\0" * 64])
def test_a_damaged_description_is_refused(content, videos, prepared, tmp_path):
    out = shutil.copytree(prepared.out, tmp_path / "out")
    Layout(out).dataset_json.write_text(content)
    with pytest.raises(ManifestError, match=r"dataset\.json.*--overwrite"):
        prepare(folder_config(videos, out))


@pytest.mark.parametrize("name", ["README.md", "croissant.json", "manifest/train.parquet", ".nv-meta/split.yaml"])
def test_missing_catalog_files_are_written_again(name, videos, prepared, tmp_path):
    out = shutil.copytree(prepared.out, tmp_path / "out")
    (out / name).unlink()
    prepare(folder_config(videos, out))
    assert tree(out) == tree(prepared.out)
