"""`prepare --append`: a grown list adds shards and changes none."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.audit.dataset import open_audit_dataset
from avdata.audit.verify import verify
from avdata.load import open_dataset
from avdata.prepare.append import requested_rows, with_known_ids
from avdata.prepare.config import Retry, Supervision
from avdata.prepare.dry_run import dry_run
from avdata.prepare.job import prepare
from avdata.prepare.operations.remove import Remove
from avdata.prepare.operations.reshard import Reshard
from avdata.prepare.operations.run import run_operation
from avdata.shards import Member, members_of
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout
from tests.videos import Notes, draw_folder, folder_config, synth_config, tree

FIRST = ["bell/a.mp4", "bell/b.mp4", "rain/c.mp4"]
LATER = ["bell/d.mp4", "apple/e.mp4", "apple/f.mp4"]


@pytest.fixture(scope="module")
def drawn_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("videos"), [*FIRST, *LATER])


@pytest.fixture
def videos(drawn_clips: Path, tmp_path: Path) -> Path:
    """A folder with the first clips."""
    folder = tmp_path / "videos"
    add(folder, drawn_clips, FIRST)
    return folder


def add(folder: Path, drawn_clips: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn_clips / name, folder / name)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    found = [row for path in sorted((out / "manifest").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert len({row["key"] for row in found}) == len(found)  # each clip once
    return {row["key"]: row for row in found}


def samples(out: Path) -> dict[str, dict[str, bytes]]:
    """The members of every sample, by key."""

    def content(row: dict[str, Any], member: Member) -> bytes:
        tar = (out / row["split"] / f"{row['shard']:05d}.tar").read_bytes()
        return tar[member.offset : member.offset + member.size]

    return {key: {one.name: content(row, one) for one in members_of(row)} for key, row in rows(out).items()}


def assert_whole(out: Path) -> None:
    assert not verify(open_audit_dataset(str(out)), deep=True).faults


def test_new_clips_get_new_shards_and_old_ones_stay(videos: Path, drawn_clips: Path, tmp_path: Path) -> None:
    out, notes = tmp_path / "out", Notes()
    prepare(folder_config(videos, out))
    before = {name: digest for name, digest in tree(out).items() if name.startswith("train/")}
    add(videos, drawn_clips, LATER)
    with pytest.raises(ConfigError, match=r"begun with another list: 0 clips are missing and 3 are new.*--append"):
        prepare(folder_config(videos, out))
    report = prepare(folder_config(videos, out, append=True), notes)
    assert (report.requested, report.ok, report.pending) == (6, 6, 0)
    assert "3 new of the list's 6 clips: appended to the 3 that are there" in notes.notes
    assert notes.num_planned == 6
    after = tree(out)
    assert {name: after[name] for name in before} == before
    assert json.loads((out / "dataset.json").read_text())["labels"] == ["bell", "rain", "apple"]
    assert open_dataset(str(out), "train").classes == ("bell", "rain", "apple")
    assert_whole(out)
    anew = tmp_path / "anew"
    prepare(folder_config(videos, anew))
    assert samples(out) == samples(anew)
    # Run again, in either way, there is nothing to do.
    for config in (folder_config(videos, out), folder_config(videos, out, append=True)):
        again = Notes()
        prepare(config, again)
        assert again.statuses == []
        assert tree(out) == after
    assert "nothing to append: the dataset has all clips of the list" in again.notes


def test_the_bytes_depend_neither_on_workers_nor_on_a_stop(videos: Path, drawn_clips: Path, tmp_path: Path) -> None:
    class Stopped(Notes):
        def planned(self, plan: Any, num_to_do: int) -> None:
            raise KeyboardInterrupt

    one, two = tmp_path / "one", tmp_path / "two"
    prepare(folder_config(videos, one))
    shutil.copytree(one, two)
    add(videos, drawn_clips, LATER)
    prepare(folder_config(videos, one, append=True))
    with pytest.raises(KeyboardInterrupt):
        prepare(folder_config(videos, two, append=True), Stopped())
    assert not open_audit_dataset(str(two)).damaged
    prepare(folder_config(videos, two, supervision=Supervision(num_workers=1)))  # without --append: it is planned
    assert tree(two) == tree(one)


def test_clips_that_the_list_lost_stay_and_removed_ones_do_not_come_back(
    videos: Path, drawn_clips: Path, tmp_path: Path
) -> None:
    out, notes = tmp_path / "out", Notes()
    prepare(folder_config(videos, out))
    gone = next(key for key, row in rows(out).items() if row["video_id"] == "bell/a")
    run_operation(out, Remove((gone,)))
    (videos / "rain" / "c.mp4").unlink()
    add(videos, drawn_clips, LATER[:1])
    report = prepare(folder_config(videos, out, append=True), notes)
    assert report.requested == 4
    assert any(note.startswith("1 clip of the dataset not in the list: kept") for note in notes.notes)
    statuses = {row["video_id"]: row["status"] for row in rows(out).values()}
    assert statuses == {"bell/a": "removed", "bell/b": "ok", "rain/c": "ok", "bell/d": "ok"}
    assert_whole(out)


@pytest.mark.slow
def test_a_file_that_differs_in_its_suffix_makes_no_other_clip_of_one_that_is_there(
    videos: Path, drawn_clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare(folder_config(videos, out))
    before = rows(out)
    gone = next(key for key, row in before.items() if row["video_id"] == "bell/a")
    run_operation(out, Remove((gone,)))
    for name in ("a.mov", "b.mov"):  # the ids of a.mp4 and b.mp4 in a new dataset would be bell/a.mp4 and bell/b.mp4
        shutil.copy(drawn_clips / LATER[0], videos / "bell" / name)
    assert dry_run(folder_config(videos, out, append=True)).to_do.column("path").to_pylist() == [
        "bell/a.mov", "bell/b.mov",
    ]  # fmt: skip
    report = prepare(folder_config(videos, out, append=True))
    assert report.statuses == {"ok": 4, "removed": 1}
    after = rows(out)
    assert {after[key]["video_id"] for key in after.keys() - before.keys()} == {"bell/a.mov", "bell/b.mov"}
    assert before.keys() < after.keys()
    assert_whole(out)
    again = Notes()
    prepare(folder_config(videos, out), again)  # without --append: the list is that of the dataset
    assert again.statuses == []
    # Keys with a prefix may be of another folder's files.
    config, present = folder_config(videos, out), requested_rows(Layout(out))
    listed = present.set_column(1, present.schema.field("video_id"), pa.array(["other"] * len(present)))
    keys = pa.array([f"x-{key}" for key in present["key"].to_pylist()])
    prefixed = present.set_column(0, present.schema.field("key"), keys)
    assert with_known_ids(config, present, listed).equals(present)
    assert with_known_ids(config, prefixed, listed).equals(listed)
    # Made anew, a.mp4 has another id. Nothing that may be the removed clip comes back.
    prepare(folder_config(videos, out, overwrite=True))
    assert {row["video_id"]: row["status"] for row in rows(out).values()} == {
        "bell/a.mov": "removed", "bell/a.mp4": "removed", "bell/b.mov": "ok", "bell/b.mp4": "ok", "rain/c": "ok",
    }  # fmt: skip


def test_appended_clips_that_failed_are_retried_and_resharded(videos: Path, drawn_clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(folder_config(videos, out))
    (videos / "bell" / "d.mp4").write_bytes(b"no video")
    add(videos, drawn_clips, LATER[1:])
    assert prepare(folder_config(videos, out, append=True)).statuses == {"ok": 5, "media_corrupt": 1}
    add(videos, drawn_clips, LATER[:1])
    report = prepare(folder_config(videos, out, retry=Retry.ALL))
    assert report.statuses == {"ok": 6}
    assert_whole(out)
    content = samples(out)
    run_operation(out, Reshard(4))
    assert samples(out) == content
    assert_whole(out)
    assert len(list((out / "train").glob("*.tar"))) == 2
    config = replace(folder_config(videos, out), shard_size=4)
    notes = Notes()
    prepare(config, notes)
    assert notes.statuses == []


def test_what_cannot_be_appended_to_is_refused(videos: Path, tmp_path: Path) -> None:
    for changes, other in (({"limit": 5}, "--limit"), ({"overwrite": True}, "--overwrite")):
        with pytest.raises(ConfigError, match=rf"--append adds all clips .* the dataset lacks: leave {other} out"):
            folder_config(videos, tmp_path / "out", append=True, **changes)
    with pytest.raises(ConfigError, match="recipe synth has no list"):
        synth_config(tmp_path / "out", append=True)


def test_append_is_a_flag_of_the_command(videos: Path, tmp_path: Path) -> None:
    words = ["prepare", "folder", "--source", f"local:{videos}", "--out", str(tmp_path / "out"), "--explain"]
    for more, value in (([], "false"), (["--append"], "true")):
        said = CliRunner().invoke(app, [*words, *more]).output
        assert f"append={value}\n" in said
