"""The shipped steps in a run of prepare: their columns, and near duplicates over the whole dataset."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.config import SampleConfig, Supervision
from avdata.prepare.job import prepare
from avdata.prepare.steps import SHIPPED
from tests.videos import draw_folder, folder_config, tree

SAMPLE = SampleConfig(num_frames=10, short_side=64)
NAMES = ("train/a/v0", "train/a/v1", "test/a/v2", "train/b/copy")
COLUMNS = {
    "black_share", "uniform_share", "num_cuts", "cut_times_s", "longest_shot_s", "silence_share", "clipped_share",
    "picture_hashes", "sound_fingerprint", "speech_share", "av_sync_score", "av_sync_lag_s",
}  # fmt: skip


def recode(source: Path, copy: Path) -> None:
    """The video smaller, coarser, more quietly and without its first 0.1 s."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    changes = ["-vf", "scale=80:-2", "-crf", "28", "-af", "volume=0.5", "-c:a", "aac", "-b:a", "48k"]
    command = [ffmpeg_binary(), "-v", "error", "-ss", "0.1", "-i", str(source), *changes, "-threads", "1", str(copy)]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = draw_folder(tmp_path_factory.mktemp("videos"), [f"{name}.mp4" for name in NAMES[:3]])
    recode(root / "test/a/v2.mp4", root / "train/b/copy.mp4")
    return root


@pytest.fixture(scope="module")
def measured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("measured") / "out"
    report = prepare(folder_config(folder, out, sample=SAMPLE), steps=list(SHIPPED))
    assert (report.ok, report.requested) == (4, 4)
    return out


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return {
        row["video_id"]: row for path in (out / "manifest").glob("*.parquet") for row in pq.read_table(path).to_pylist()
    }


def test_every_clip_has_a_value_in_each_column(measured: Path) -> None:
    rows = rows_of(measured)
    for row in rows.values():
        assert row.keys() >= COLUMNS
        assert not [name for name in COLUMNS if row[name] is None]
        assert (row["num_cuts"], row["black_share"], row["clipped_share"]) == (0, 0.0, 0.0)
        assert 0.0 <= row["speech_share"] < 0.5
        assert row["longest_shot_s"] == row["duration_s"]
        assert len(row["picture_hashes"]) == 10
        assert -0.5 <= row["av_sync_lag_s"] <= 0.5
    entries = json.loads((measured / "dataset.json").read_text())["columns"]
    assert {entry["name"] for entry in entries} >= COLUMNS


def test_a_copy_in_train_is_a_near_duplicate_of_the_clip_in_test(measured: Path) -> None:
    rows = rows_of(measured)
    original, copy = rows["test/a/v2"], rows["train/b/copy"]
    assert copy["near_duplicate_of"] == original["key"]
    assert [row["near_duplicate_of"] for row in rows.values() if row is not copy] == [None] * 3
    shards = [pq.read_schema(path).names for path in (measured / "train").glob("*.parquet")]
    assert not any("near_duplicate_of" in names for names in shards)


def test_near_duplicates_are_counted_and_left_out(measured: Path) -> None:
    verified = CliRunner().invoke(app, ["inspect", str(measured), "--verify"])
    assert verified.exit_code == 0, verified.output
    assert "near duplicates" in CliRunner().invoke(app, ["inspect", str(measured)]).output
    summary = json.loads(CliRunner().invoke(app, ["inspect", str(measured), "--json"]).stdout)
    assert summary["duplicates"]["near"]["groups"] == summary["leaks"]["near"]["groups"] == 1
    chosen = CliRunner().invoke(app, ["inspect", str(measured), "--where", "near_duplicate_of is null", "--json"])
    assert json.loads(chosen.stdout)["samples"] == 3


def test_bytes_do_not_depend_on_the_number_of_processes(folder: Path, measured: Path, tmp_path: Path) -> None:
    config = folder_config(folder, tmp_path / "out", sample=SAMPLE, supervision=Supervision(num_workers=1))
    prepare(config, steps=list(SHIPPED))
    assert tree(tmp_path / "out") == tree(measured)


def test_a_step_drops_clips_outside_its_limit(folder: Path, tmp_path: Path) -> None:
    report = prepare(folder_config(folder, tmp_path), steps=["speech:min_share=0.5"])
    assert report.statuses == {"filtered_speech": 4}
    for row in rows_of(tmp_path).values():
        assert row["reason"] == f"speech_share is {row['speech_share']:.4g}; at least 0.5 was asked for"
