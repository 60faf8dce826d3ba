"""Films: memory does not grow with their length, and what is too long for a sample is refused with a remedy."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.config import SampleConfig
from avdata.prepare.pipeline import MAX_CLIP_S, ClipTask, run_clip
from avdata.prepare.sources.media import MediaRef
from avmanifest.layout import ShardName
from avmanifest.schema import PLAN_SCHEMA
from tests.faults.disks import full_disk


def ffmpeg(*words: object) -> None:
    subprocess.run([ffmpeg_binary(), "-v", "error", *map(str, words)], check=True)


@pytest.fixture(scope="module")
def minute(tmp_path_factory) -> Path:
    """A video of 60 s, small to store and fast to decode, with the usual sample rate."""
    path = tmp_path_factory.mktemp("film") / "minute.mp4"
    picture = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=2")
    sound = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000")
    codecs = ("-c:v", "libx264", "-preset", "ultrafast", "-g", 20, "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "32k")
    ffmpeg(*picture, *sound, "-t", 60, *codecs, path)
    return path


def film(minute: Path, minutes: int) -> Path:
    path = minute.with_name(f"{minutes}.mp4")
    ffmpeg("-y", "-stream_loop", minutes - 1, "-i", minute, "-c", "copy", path)
    return path


def whole_clip(path: Path, folder: Path) -> ClipTask:
    row = dict.fromkeys(PLAN_SCHEMA.names) | {"key": "k", "video_id": "v", "split": "train", "start_s": 0.0}
    row |= {"labels": [], "frame_times_s": [], "annotations": "{}"}
    ref = MediaRef(path=str(path), source="local:films", name=path.name)
    return ClipTask(shard=ShardName("train", 0), place=0, row=row, ref=ref, blocks=folder / "clip")


def measure(path: str, folder: str) -> None:
    """Prepare a film and print its status, the sizes of its members, and the most memory that was used, in MB."""
    row = run_clip(SampleConfig(num_frames=3, short_side=64), whole_clip(Path(path), Path(folder))).row
    members = {member["name"]: member["size"] for member in row["members"]}
    used_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"status": row["status"], "reason": row["reason"], "members": members, "used_mb": used_mb}))


def measured(path: Path, folder: Path) -> dict:
    code = "import sys; from tests.faults.test_prepare_long import measure; measure(*sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    environment["OMP_NUM_THREADS"] = "1"
    folder.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", code, str(path), str(folder)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_film(minute, tmp_path):
    """50 minutes once took 350 MB more than five, and a film of 17,000 s took 4.3 GB."""
    short, long = measured(film(minute, 5), tmp_path / "5"), measured(film(minute, 50), tmp_path / "50")
    assert (short["status"], long["status"]) == ("ok", "ok")
    assert long["members"]["flac"] > 9 * short["members"]["flac"]
    assert long["members"]["logmel.npy"] > 50_000_000
    assert long["used_mb"] < short["used_mb"] + 100
    assert sorted(path.name for path in (tmp_path / "50").iterdir()) == ["clip", "clip.json"]


@pytest.mark.slow
def test_a_film_that_is_too_long_is_refused_and_a_part_of_it_is_not(minute, tmp_path):
    path = film(minute, round(MAX_CLIP_S / 60) + 1)
    end = run_clip(SampleConfig(num_frames=2, short_side=64), whole_clip(path, tmp_path))
    assert end.row["status"] == "media_long"
    assert "at most 21,600 s" in end.row["reason"]
    assert "--clip-seconds" in end.row["reason"]
    end = run_clip(SampleConfig(num_frames=2, short_side=64, clip_seconds=4.0), whole_clip(path, tmp_path))
    assert end.row["status"] == "ok"


def test_a_disk_that_is_full_while_long_sound_is_spooled_is_not_the_clips_fault(minute, tmp_path):
    """The limit of file sizes is below what five minutes of sound need, so that a temporary file cannot grow."""
    with full_disk(8_000_000):
        end = run_clip(SampleConfig(num_frames=2, short_side=64), whole_clip(film(minute, 5), tmp_path))
    assert "EFBIG" in str(end.storage_error)
    assert [path.name for path in tmp_path.iterdir() if path.name != "clip"] == []
