"""A run that is stopped inside a shard: the next run uses its finished clips, and the bytes are those of one run."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avdata.prepare.config import PrepareConfig
from avdata.prepare.job import prepare
from avmanifest.layout import Layout
from tests.videos import SMALL, Notes, draw_folder, folder_config, tree

NAMES = [f"train/a/v{i}.mp4" for i in range(5)]


class Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


class StopAfter(Notes):
    """Stops the run at the end of the n-th clip, or at a step."""

    def __init__(self, clips: int = 1_000, step: str = "-") -> None:
        super().__init__()
        self.clips = clips
        self.at = step

    def clip_ended(self, status: str) -> None:
        super().clip_ended(status)
        if len(self.statuses) == self.clips:
            raise Stopped

    def step(self, name: str) -> None:
        if name.endswith(self.at):
            raise Stopped


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("drawn") / "videos", NAMES)


@pytest.fixture
def five(drawn, tmp_path, monkeypatch):
    """Five videos in a folder whose relative name is the same in every test, because manifests hold it."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(drawn, "videos"))


@pytest.fixture(scope="module")
def calm(drawn, tmp_path_factory):
    """The files of an undisturbed run."""
    with contextlib.chdir(drawn.parent):
        prepare(one_shard(Path("videos"), Path("out")))
        return tree(Path("out"))


def one_shard(videos: Path, out: Path, **changes: object) -> PrepareConfig:
    return folder_config(videos, out, shard_size=10, **changes)


def stop(videos: Path, out: Path, **when: object) -> list[Path]:
    """Stop a run; the records of its finished clips."""
    with pytest.raises(Stopped):
        prepare(one_shard(videos, out), StopAfter(**when))
    return list((out / "_tmp").glob("*/train-00000/*.json"))


def spoil(records: list[Path], videos: Path) -> None:
    """Replace the videos of finished clips by files that cannot be decoded."""
    for record in records:
        name = json.loads(json.loads(record.read_text())["row"])["source"].removeprefix(f"local:{videos}/")
        (videos / name).write_bytes(b"not a video")


def test_the_next_run_uses_the_finished_clips_even_if_their_videos_are_gone(five, calm, tmp_path):
    out = tmp_path / "out"
    records = stop(five, out, clips=3)
    assert 3 <= len(records) <= 5
    spoil(records, five)
    notes = Notes()
    assert prepare(one_shard(five, out), notes).exit_code == 0
    assert tree(out) == calm
    assert f"train/00000: {len(records)} clips of an earlier run used" in notes.steps
    assert [path.name for path in (out / "_tmp").iterdir()] == ["publish.lock"]


def test_a_shard_whose_clips_are_all_finished_is_only_written(five, calm, tmp_path):
    out = tmp_path / "out"
    records = stop(five, out, step="tar written")
    assert len(records) == 5
    spoil(records, five)
    assert prepare(one_shard(five, out)).exit_code == 0
    assert tree(out) == calm


def test_clips_of_several_stopped_runs_come_together(five, calm, tmp_path):
    out = tmp_path / "out"
    stop(five, out, clips=1)
    records = stop(five, out, clips=4)
    assert len(records) >= 4
    spoil(records, five)
    assert prepare(one_shard(five, out)).exit_code == 0
    assert tree(out) == calm


@pytest.mark.parametrize("damage", ["flip", "cut", "empty record", "no blocks", "other row"])
def test_damaged_leftovers_are_decoded_again(damage, five, calm, tmp_path):
    out = tmp_path / "out"
    for record in stop(five, out, clips=3):
        blocks = record.with_suffix("")
        content = bytearray(blocks.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
            blocks.write_bytes(content)
        elif damage == "cut":
            blocks.write_bytes(content[:-512])
        elif damage == "no blocks":
            blocks.unlink()
        else:
            text = record.read_text()
            record.write_text("" if damage == "empty record" else text.replace("train", "trail"))
    notes = Notes()
    assert prepare(one_shard(five, out), notes).exit_code == 0
    assert not any("earlier run" in step for step in notes.steps)
    assert tree(out) == calm
    assert [path.name for path in (out / "_tmp").iterdir()] == ["publish.lock"]


def test_an_overwritten_dataset_takes_nothing_from_the_older_one(five, calm, tmp_path):
    out = tmp_path / "out"
    assert stop(five, out, clips=3)
    notes = Notes()
    prepare(one_shard(five, out, overwrite=True), notes)
    assert not any("earlier run" in step for step in notes.steps)
    assert tree(out) == calm


def test_leftovers_of_a_dataset_with_other_settings_are_removed(five, calm, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    records = stop(five, out, clips=3)
    settings = folder_config(five, other).sample
    prepare(one_shard(five, other, sample=type(settings)(num_frames=1, short_side=SMALL.short_side)))
    leftover = records[0].parents[1].rename(other / "_tmp" / "leftover")
    prepare(one_shard(five, other, sample=type(settings)(num_frames=1, short_side=SMALL.short_side)))
    assert not leftover.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_command_keeps_its_finished_clips(number, tmp_path):
    words = ["prepare", "synth", "--num-clips", "10", "--shard-size", "10", "--workers", "1", "--frames", "2"]
    words += ["--width", "96", "--height", "64", "--seconds", "3", "--short-side", "32", "--max-silent", "0"]
    command = [sys.executable, "-c", "from avcli.main import run; run()", *words, "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = tmp_path / "out"
    run = subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, text=True, env=environment)
    while len(list((out / "_tmp").glob("*/*/*-clip.json"))) < 3:
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(number)
    run.communicate()
    kept = {path: path.read_bytes() for path in (out / "_tmp").glob("*/*/*-clip")}
    assert len(kept) >= 3
    for folder in (out, tmp_path / "calm"):
        ended = subprocess.run([*command, str(folder)], capture_output=True, text=True, env=environment)
        assert ended.returncode == 0, ended.stderr
    assert tree(out) == tree(tmp_path / "calm")
    assert [path.name for path in (out / "_tmp").iterdir()] == ["publish.lock"]
    shards = [shard for split in ("train", "val", "test") for shard in Layout(out).shards(split)]
    content = b"".join(Layout(out).tar(shard).read_bytes() for shard in shards)
    assert sum(blocks in content for blocks in kept.values()) >= 3
