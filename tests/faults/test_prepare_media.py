"""Damaged and unsuitable files: each ends as one row with the right status and reason."""

import av
import numpy as np
import pytest

from avdata.prepare.config import SampleConfig
from avdata.prepare.frames import draw_frame_times
from avdata.prepare.job import prepare
from avdata.shards import walk_samples
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table
from tests.drawn import draw_media, sine
from tests.videos import folder_config


def drop_moov(content: bytes) -> bytes:
    """An mp4 without its moov box, like an interrupted download."""
    start = content.index(b"moov") - 4
    size = int.from_bytes(content[start : start + 4], "big")
    return content[:start] + content[start + size :]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """A folder of files, each with another fault, and one good file."""
    root = tmp_path_factory.mktemp("bad")
    good = draw_media(root / "good.mp4", num_frames=100, sound=sine(4, 44_100)).read_bytes()
    (root / "zero_bytes.mp4").write_bytes(b"")
    (root / "html.mp4").write_text("<!DOCTYPE html><html><body>Video unavailable</body></html>")
    (root / "cut_in_half.mp4").write_bytes(good[: len(good) // 2])
    (root / "no_moov.mp4").write_bytes(drop_moov(good))
    (root / "random_bytes.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    (root / "json.mp4").write_text('{"error": "gone"}')
    draw_media(root / "audio_only.mp4", num_frames=0, sound=sine(4, 44_100))
    draw_media(root / "video_only.mp4", num_frames=100)
    draw_media(root / "too_short.mp4", num_frames=30, sound=sine(1.2, 44_100))
    draw_media(root / "digital_silence.mp4", num_frames=100, sound=np.zeros(4 * 44_100, np.float32))
    draw_media(root / "still.mp4", num_frames=100, picture=still, sound=sine(4, 44_100))
    (root / "deep" / "name with $(touch hacked); 'quotes' <b>").mkdir(parents=True)
    (root / "deep" / "name with $(touch hacked); 'quotes' <b>" / "-rf.mp4").write_bytes(good)
    return root


def still(number: int) -> np.ndarray:
    return np.full((120, 160, 3), 90, np.uint8)


EXPECTED = {
    "good": "ok", "zero_bytes": "media_corrupt", "html": "media_corrupt", "cut_in_half": "media_corrupt",
    "no_moov": "media_corrupt", "random_bytes": "media_corrupt", "json": "media_corrupt",
    "audio_only": "media_no_video", "video_only": "media_no_audio", "too_short": "media_short",
    "digital_silence": "ok silent", "still": "ok still",
    "deep/name with $(touch hacked); 'quotes' <b>/-rf": "ok",
}  # fmt: skip


def test_every_bad_file_is_one_row_with_its_reason(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = prepare(folder_config(bad, tmp_path / "out", shard_size=20, min_success=0.1))
    rows = read_table(tmp_path / "out" / "manifest" / "train.parquet", CLIP_SCHEMA).to_pylist()
    found = {
        row["video_id"]: " ".join([row["status"], *(flag for flag in ("silent", "still", "short") if row[flag])])
        for row in rows
    }
    assert found == EXPECTED
    assert all((row["reason"] == "") == (row["status"] == "ok") for row in rows)
    assert all(row["source_sha256"] is not None for row in rows if row["status"] == "ok")
    samples = list(walk_samples(Layout(tmp_path / "out").tar(ShardName("train", 0))))
    assert {key for key, _, _ in samples} == {row["key"] for row in rows if row["status"] == "ok"}
    assert report.exit_code == 0
    assert not (tmp_path / "hacked").exists()


def test_silence_gives_finite_spectrograms_and_loudness(bad, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "quiet.mp4").write_bytes((bad / "digital_silence.mp4").read_bytes())
    prepare(folder_config(tmp_path / "videos", out))
    (row,) = read_table(out / "manifest" / "train.parquet", CLIP_SCHEMA).to_pylist()
    assert np.isfinite(row["rms_dbfs"])
    member = next(m for m in row["members"] if m["name"] == "logmel.npy")
    with Layout(out).tar(ShardName("train", 0)).open("rb") as tar:
        tar.seek(member["offset"])
        log_mel = np.frombuffer(tar.read(member["size"])[128:], np.float16)
    assert np.all(np.isfinite(log_mel))


def test_a_clip_past_the_end_of_the_video_ends_as_media_window(bad, tmp_path):
    from dataclasses import replace

    from avmanifest.recipe import TableOptions, load_recipe

    listed = tmp_path / "clips.csv"
    listed.write_text("file,from,to\ngood.mp4,0,4\ngood.mp4,3.5,6.5\ngood.mp4,60,63\n")
    table = TableOptions(path_column="file", start_column="from", end_column="to")
    config = replace(
        folder_config(bad, tmp_path / "out", min_success=0.0),
        recipe=load_recipe("table"),
        list_path=listed,
        table=table,
    )
    prepare(config)
    rows = read_table(tmp_path / "out" / "manifest" / "train.parquet", CLIP_SCHEMA).to_pylist()
    found = {row["start_s"]: row["status"] for row in rows}
    assert found == {0.0: "ok", 3.5: "media_short", 60.0: "media_window"}


def test_pictures_that_damage_touches_are_not_drawn_and_the_row_says_how_much_is_damaged(tmp_path):
    """One damaged group of four: other times are drawn. Three of four: the clip ends as media_corrupt."""
    videos = tmp_path / "videos"
    videos.mkdir()
    options = {"bf": "2", "preset": "ultrafast", "x264-params": "scenecut=0"}
    good = draw_media(videos / "good.mp4", num_frames=100, gop=25, sound=sine(4, 44_100), video_options=options)
    with av.open(str(good)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        keys = [(packet.pos, packet.size) for packet in packets if packet.is_keyframe]
    assert len(keys) == 4
    for name, damaged_groups in (("one_of_four", [1]), ("three_of_four", [1, 2, 3])):
        content = bytearray(good.read_bytes())
        for position, size in (keys[group] for group in damaged_groups):
            content[position + 8 : position + size] = np.random.default_rng(0).bytes(size - 8)
        (videos / f"{name}.mp4").write_bytes(content)
    out = tmp_path / "out"
    config = folder_config(videos, out, sample=SampleConfig(num_frames=8, short_side=64), shard_size=8, min_success=0.1)
    prepare(config)
    rows = {row["video_id"]: row for row in read_table(out / "manifest" / "train.parquet", CLIP_SCHEMA).to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "good": "ok", "one_of_four": "ok", "three_of_four": "media_corrupt",
    }  # fmt: skip
    assert (rows["good"]["damaged_share"], rows["good"]["num_bad_packets"]) == (0.0, 0)
    assert rows["one_of_four"]["damaged_share"] == pytest.approx(0.25, abs=0.01)
    assert "75% of the clip are damaged" in rows["three_of_four"]["reason"]
    assert rows["three_of_four"]["damaged_share"] is None
    times_s = [round(time_s * 25) for time_s in rows["one_of_four"]["frame_times_s"]]
    drawn = draw_frame_times(config.sample.seed, rows["one_of_four"]["key"], 0.0, rows["one_of_four"]["duration_s"], 8)
    assert len(times_s) == 8
    assert not any(25 <= time_s < 50 for time_s in times_s)
    assert {int(25 * time_s) for time_s in drawn if not 1.0 <= time_s < 2.0} <= set(times_s)
