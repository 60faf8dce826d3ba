"""A disk that is full or fails: the run ends with a StorageError, committed shards remain, the next run continues."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av.error
import pytest

from avdata.prepare.commit import EndedShard, Workspace, commit_shard, disk_errors, marker_problem
from avdata.prepare.job import prepare
from avdata.prepare.pipeline import ClipTask, run_clip
from avdata.prepare.segments import Segment
from avdata.prepare.sources.media import MediaRef
from avdata.shards import pack_sample
from avmanifest.errors import DecodeError, StorageError
from avmanifest.files import DISK_ERRORS, disk_error
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA, PLAN_SCHEMA
from avmanifest.table import read_table
from tests.faults.disk_faults import disk_faults
from tests.faults.disks import no_more_files
from tests.videos import SMALL, folder_config, tree

ROOT = Path(__file__).parents[2]
SHARD = ShardName("train", 0)


def segment(layout: Layout, workspace: Workspace) -> Segment:
    blocks, members = pack_sample("k0", {"json": b"{}"})
    path = workspace.file(SHARD, "clip")
    path.write_bytes(blocks)
    row = dict.fromkeys(CLIP_SCHEMA.names) | {
        "key": "k0", "video_id": "v0", "source": "", "start_s": 0.0, "labels": [], "split": "train", "status": "ok",
        "reason": "", "shard": 0, "position": 0, "members": [{"name": m.name, "offset": m.offset, "size": m.size}
        for m in members], "frame_times_s": [], "annotations": "{}", "licence": "",
    }  # fmt: skip
    return Segment(row, path)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("moment", range(5))
def test_a_disk_that_fails_in_fsync_leaves_no_shard_with_a_marker(code, moment, tmp_path):
    layout = Layout(tmp_path)
    workspace = Workspace(layout)
    synced = 0

    def failing(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if synced == moment + 1:
            raise OSError(code, os.strerror(code))
        os.fsync(descriptor)

    with pytest.raises(StorageError, match=rf"{errno.errorcode[code]}.*run the same command again"):
        commit_shard(layout, EndedShard(SHARD, [segment(layout, workspace)], "0" * 64), workspace, fsync=failing)
    workspace.close()
    whole = marker_problem(layout, SHARD, hashes=True) is None
    assert whole == (moment == 4), "the last sync is of the folder: every file has its name by then"
    assert whole or not layout.stats(SHARD).exists()
    again = Workspace(layout)
    commit_shard(layout, EndedShard(SHARD, [segment(layout, again)], "0" * 64), again)
    again.close()
    assert marker_problem(layout, SHARD, hashes=True) is None


def limited(videos: Path, out: Path, limit: int) -> subprocess.CompletedProcess[str]:
    """Run `avkit prepare` with a limit on file sizes: writing past it fails like a full disk."""
    code = (
        "import resource, signal, sys; from avcli.main import run;"
        f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2);"
        "run()"
    )
    words = ("prepare", "folder", "--source", f"local:{videos}", "--out", out, "--shard-size", 2, "--workers", 1)
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_file_size_limit_ends_the_run_which_can_be_resumed(videos, tmp_path):
    out = tmp_path / "out"
    ended = limited(videos, out, 60_000)
    assert ended.returncode == 3, ended.stderr
    assert "cannot write (EFBIG" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(out.glob("*/*_stats.json")) == []


def mounted(folder: Path, *options: str) -> bool:
    return os.geteuid() == 0 and not subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "-t", "tmpfs", "-o", "size=1200k", "none"):
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(videos, small_disk, tmp_path):
    config = folder_config(videos, small_disk / "out")
    config = replace(config, sample=replace(config.sample, num_frames=10, short_side=64))
    with pytest.raises(StorageError, match="ENOSPC"):
        prepare(config)
    layout = Layout(small_disk / "out")
    done = [shard for split in ("test", "train") for shard in layout.shards(split)]
    assert done, "the disk is meant to have room for a shard"
    assert all(marker_problem(layout, shard, hashes=True) is None for shard in done)
    left = {path.name.partition("-")[2] for path in layout.temporary.glob("*/*/*")}
    assert left <= {"clip", "clip.json"}, "a failed run clears all files but finished clips"
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    prepare(config)
    prepare(replace(config, out=tmp_path / "calm"))
    assert tree(small_disk / "out") == tree(tmp_path / "calm")


def test_a_read_only_output_is_a_storage_error(videos, prepared, small_disk):
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    shutil.copytree(prepared.out, small_disk / "out")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for out in (small_disk / "out", small_disk / "new"):
        with pytest.raises(StorageError, match="EROFS"):
            prepare(folder_config(videos, out))
    assert tree(small_disk / "out") == tree(prepared.out)


@pytest.mark.slow
def test_two_runs_on_one_output_make_one_dataset(videos, prepared, tmp_path):
    words = ["prepare", "folder", "--source", f"local:{videos}", "--out", str(tmp_path / "out"), "--workers", "1"]
    words += ["--shard-size", "2", "--frames", "2", "--json"]
    command = [sys.executable, "-c", "from avcli.main import run; run()", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pair = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) for _ in range(2)]
    for run in pair:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    layout = Layout(tmp_path / "out")
    shards = [shard for split in layout.splits() for shard in layout.shards(split)]
    assert len(shards) == 4
    assert all(marker_problem(layout, shard, hashes=True) is None for shard in shards)
    assert [path.name for path in layout.temporary.iterdir()] == ["publish.lock"]
    alone = subprocess.run([*command[:-1], "--overwrite"], env=environment, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr


def test_an_output_with_another_active_run_is_not_overwritten(videos, prepared, tmp_path):
    out = shutil.copytree(prepared.out, tmp_path / "out")
    other = Workspace(Layout(out))
    from avmanifest.errors import ConfigError

    with pytest.raises(ConfigError, match="another run is writing here"):
        prepare(folder_config(videos, out, overwrite=True))
    other.close()
    assert tree(out) == tree(prepared.out)


def synth(out: Path) -> subprocess.CompletedProcess[str]:
    words = ["prepare", "synth", "--num-clips", "4", "--shard-size", "2", "--workers", "2", "--frames", "2"]
    words += ["--width", "96", "--height", "64", "--seconds", "3", "--short-side", "32", "--out", str(out)]
    command = [sys.executable, "-c", "from avcli.main import run; run()", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "240k", "400k"])
def test_a_full_disk_costs_no_drawn_clip(size, small_disk, tmp_path):
    """The disk is full in another step for each size: the sound, ffmpeg's file, the sample."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)
    out = small_disk / "out"
    ended = synth(out)
    assert ended.returncode == 3, ended.stderr
    assert "ENOSPC" in ended.stderr or os.strerror(errno.ENOSPC) in ended.stderr
    assert "Traceback" not in ended.stderr
    rows = [row for clips in out.glob("t*/*.parquet") for row in read_table(clips, CLIP_SCHEMA).to_pylist()]
    assert {row["status"] for row in rows} <= {"ok"}
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert synth(out).returncode == 0
    assert synth(tmp_path / "calm").returncode == 0
    assert tree(out) == tree(tmp_path / "calm")


def clip_of(path: Path, blocks: Path) -> ClipTask:
    row = dict.fromkeys(PLAN_SCHEMA.names) | {"key": "k", "video_id": "v", "split": "train", "start_s": 0.0}
    row |= {"labels": [], "frame_times_s": [], "annotations": "{}"}
    ref = MediaRef(path=str(path), source=f"local:{path.parent}", name=path.name)
    return ClipTask(shard=SHARD, place=0, row=row, ref=ref, blocks=blocks)


def test_a_disk_that_fails_under_a_video_is_not_the_clips_fault(tmp_path):
    task = clip_of(Path("/proc/self/mem"), tmp_path / "clip")  # reading its first byte fails with EIO
    end = run_clip(SMALL, task)
    assert end.row == {}
    assert "EIO" in str(end.storage_error)
    assert "run the same command again" in str(end.storage_error)


def test_no_open_file_left_is_not_the_clips_fault(videos, tmp_path):
    task = clip_of(next(videos.rglob("*.mp4")), tmp_path / "clip")
    assert run_clip(SMALL, task).row["status"] == "ok"
    with no_more_files():
        end = run_clip(SMALL, task)
    assert "EMFILE" in str(end.storage_error)


def test_a_source_that_cannot_be_listed_because_of_its_disk_is_a_storage_error(videos, tmp_path):
    config = folder_config(videos, tmp_path / "out")
    with no_more_files(), pytest.raises(StorageError, match="EMFILE"):
        prepare(config)


@pytest.mark.parametrize("code", sorted(DISK_ERRORS))
def test_an_error_of_a_disk_is_found_among_the_causes_of_another(code):
    disk = OSError(code, os.strerror(code))
    clip = DecodeError("media_corrupt", "cannot be read")
    clip.__cause__ = disk
    assert disk_error(disk) is disk_error(clip) is disk
    with pytest.raises(StorageError, match=errno.errorcode[code]), disk_errors("out"):
        raise clip


def test_an_error_of_the_decoder_or_of_one_file_is_no_error_of_a_disk():
    with pytest.raises(DecodeError), disk_errors("out"):
        try:
            av.error.err_check(-errno.EIO)  # FFmpeg's number for data that end early
        except av.error.FFmpegError as error:
            raise DecodeError("media_corrupt", "damaged") from error
    assert disk_error(FileNotFoundError(errno.ENOENT, "gone")) is None


@pytest.mark.slow
def test_a_disk_that_fails_in_any_step_loses_nothing(tmp_path):
    rows = list(disk_faults(tmp_path))
    assert [row for row in rows if not row.is_good] == []
    assert len(rows) > 80
