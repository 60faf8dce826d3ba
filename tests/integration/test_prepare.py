"""Whole runs of prepare: reproducible bytes, one row per clip, later runs with more sources and retries."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from avdata.melspec import log_mel
from avdata.prepare.config import Retry, Supervision, SynthConfig
from avdata.prepare.dry_run import dry_run
from avdata.prepare.job import prepare
from avdata.profiles import profile
from avdata.shards import walk_samples
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table
from tests.videos import Notes, folder_config, tree


def rows_of(out, split="train"):
    return read_table(Layout(out).manifest(split), CLIP_SCHEMA).to_pylist()


def members_of(out, row):
    layout = Layout(out)
    tar = next(layout.tar(s) for s in layout.shards(row["split"]) if s.number == row["shard"]).read_bytes()
    return {m["name"]: tar[m["offset"] : m["offset"] + m["size"]] for m in row["members"]}


@pytest.mark.parametrize("num_workers", [1, 4])
def test_the_bytes_do_not_depend_on_the_number_of_workers(num_workers, videos, prepared, tmp_path):
    prepare(folder_config(videos, tmp_path / "out", supervision=Supervision(num_workers=num_workers)))
    assert tree(tmp_path / "out") == tree(prepared.out)


def test_a_second_run_changes_nothing(videos, prepared, tmp_path):
    out = shutil.copytree(prepared.out, tmp_path / "out")
    notes = Notes()
    report = prepare(folder_config(videos, out), notes)
    assert notes.statuses == []
    assert (report.ok, report.requested, report.exit_code) == (7, 7, 0)
    assert tree(out) == tree(prepared.out)


def test_rows_give_the_offsets_of_the_members(prepared):
    rows = rows_of(prepared.out) + rows_of(prepared.out, "test")
    assert len({row["key"] for row in rows}) == 7
    for row in rows:
        members = members_of(prepared.out, row)
        assert list(members) == ["json", "logmel.npy", "frame00.jpg", "frame01.jpg", "flac"]
        fields = json.loads(members["json"])
        assert fields["key"] == row["key"]
        assert fields["frame_times_s"] == row["frame_times_s"]
        assert row["labels"] == [row["video_id"].split("/")[1]]


def test_the_stored_spectrogram_is_that_of_the_stored_audio(prepared):
    members = members_of(prepared.out, rows_of(prepared.out)[0])
    stored = np.load(io.BytesIO(members["logmel.npy"]), allow_pickle=False)
    waveform, _ = soundfile.read(io.BytesIO(members["flac"]), dtype="float32")
    again = log_mel(waveform, profile("paper"))
    assert stored.shape == again.shape
    assert stored.dtype == np.float16
    assert np.array_equal(stored, again.astype(np.float16))


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_spans_of_a_fixed_length_are_drawn_by_seed_and_key(seconds, videos, tmp_path):
    config = folder_config(videos, tmp_path / "out", splits=("test",))
    config = replace(config, sample=replace(config.sample, clip_seconds=seconds, mel=("paper", "released")))
    prepare(config)
    rows = rows_of(tmp_path / "out", "test")
    assert len(rows) == 2
    for row in rows:
        members = members_of(tmp_path / "out", row)
        shapes = [np.load(io.BytesIO(members[f"logmel{p}.npy"])).shape for p in ("", "-released")]
        assert shapes == [(128, (round(seconds * 16_000) - 1024) // 240 + 1), (128, round(seconds * 64))]
        assert row["end_s"] - row["start_s"] == pytest.approx(seconds)
        assert all(0 <= time_s <= seconds for time_s in row["frame_times_s"])
    assert rows[0]["start_s"] != rows[1]["start_s"]


def test_audio_can_be_left_out(videos, tmp_path):
    config = folder_config(videos, tmp_path / "out", splits=("test",))
    prepare(replace(config, sample=replace(config.sample, keep_audio=False)))
    assert {m["name"] for row in rows_of(tmp_path / "out", "test") for m in row["members"]} == {
        "json", "logmel.npy", "frame00.jpg", "frame01.jpg",
    }  # fmt: skip


@pytest.fixture
def listed(videos, tmp_path):
    """A list of the seven videos, and a source that has four of them."""
    some = tmp_path / "some"
    for path in sorted(videos.rglob("*.mp4"))[:4]:
        some.mkdir(exist_ok=True)
        shutil.copy(path, some)
    path = tmp_path / "list.csv"
    names = sorted(file.name for file in videos.rglob("*.mp4"))
    path.write_text("id,class\n" + "".join(f"{name.removesuffix('.mp4')},a\n" for name in names))
    return path, some


def table_config(videos, out, listed, *sources, **changes):
    from avmanifest.recipe import TableOptions

    table = TableOptions(id_column="id", label_column="class")
    given = tuple(f"local:{source}" for source in sources)
    usual = {"recipe": load_recipe("table"), "list_path": listed, "table": table, "sources": given, "min_success": 0.9}
    return folder_config(videos, out, **usual | changes)


def test_a_later_source_gives_the_missing_clips(videos, listed, tmp_path):
    table, some = listed
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    nothing = prepare(table_config(videos, out, table, tmp_path / "empty"))
    assert (nothing.ok, nothing.pending, nothing.exit_code) == (0, 7, 3)
    assert "--source that holds the videos" in nothing.summary
    assert {row["status"] for row in rows_of(out)} == {"unavailable_missing"}
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in videos.rglob("*.mp4"):
        shutil.copy(path, flat)
    whole = prepare(table_config(videos, out, table, some, flat))
    assert (whole.ok, whole.pending, whole.exit_code) == (7, 0, 0)
    assert list(whole.sources.values()) == [4, 3]
    assert {row["source"].split("/v")[0] for row in rows_of(out)} == {f"local:{some}", f"local:{flat}"}


def test_failed_clips_are_tried_again_when_asked(videos, tmp_path):
    out = tmp_path / "out"
    first = prepare(folder_config(videos, out, supervision=Supervision(deadline_s=1e-6)))
    assert first.statuses == {"decode_timeout": 7}
    same = prepare(folder_config(videos, out))
    assert same.statuses == {"decode_timeout": 7}, "a resume alone does not ask again"
    notes = Notes()
    again = prepare(folder_config(videos, out, retry=Retry.TRANSIENT), notes)
    assert again.statuses == {"ok": 7}
    assert "7 failed clips are tried again" in notes.notes
    rows = rows_of(out)
    assert len({row["key"] for row in rows}) == len(rows) == 5
    assert min(row["shard"] for row in rows) == 3, "new shards, after those that hold the failures"
    plan = dry_run(folder_config(videos, tmp_path / "other")).plan
    assert set(plan.column("key").to_pylist()) == {row["key"] for row in rows + rows_of(out, "test")}
    notes = Notes()
    prepare(folder_config(videos, out, retry=Retry.ALL), notes)
    assert notes.notes == ["nothing to retry (all)"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shard_size": 3}, "shard_size 2 -> 3"),
        ({"limit": 3}, "limit None -> 3"),
        ({"splits": ("test",)}, r"splits None -> \['test'\]"),
    ],
)
def test_another_configuration_is_refused(changes, said, videos, prepared, tmp_path):
    with pytest.raises(ConfigError, match=f"was begun with another configuration: {said}"):
        prepare(folder_config(videos, prepared.out, **changes))


def test_another_list_is_refused_with_the_difference(videos, prepared, tmp_path):
    other = shutil.copytree(videos, tmp_path / "videos")
    (other / "train" / "a" / "v0.mp4").rename(other / "train" / "a" / "new.mp4")
    out = shutil.copytree(prepared.out, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"1 clip is missing and 1 is new \(- train-a-v0.*\+ train-a-new"):
        prepare(folder_config(other, out))
    assert tree(out) == tree(prepared.out)


def test_a_folder_with_other_files_is_refused(videos, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="holds files that avkit did not write"):
            prepare(folder_config(videos, tmp_path, overwrite=overwrite))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_synthetic_clips_have_ground_truth(tmp_path):
    synth = SynthConfig(num_clips=2, seconds=3.2, width=96, height=64, fps=10)
    config = replace(folder_config(tmp_path, tmp_path / "out"), recipe=load_recipe("synth"), sources=(), synth=synth)
    report = prepare(config)
    assert (report.ok, report.requested) == (2, 2)
    for split in report.splits:
        for row in rows_of(tmp_path / "out", split):
            members = members_of(tmp_path / "out", row)
            truth = json.loads(row["annotations"])
            assert truth["objects"]
            assert {"mask00.png", "mask01.png"} <= members.keys()
            assert any(name.startswith("stem") for name in members)
    assert len([1 for s in report.splits for shard in Layout(tmp_path / "out").shards(s) for _ in walk_samples(
        Layout(tmp_path / "out").tar(shard))]) == 2  # fmt: skip
