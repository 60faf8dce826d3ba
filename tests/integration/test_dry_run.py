"""A dry run says what the run would do: what is done, what is left, what would be refused; and it writes nothing."""

import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from avcli.main import app
from avcli.prepare_output import _size
from avdata.prepare.config import ExecutorKind, Retry, SampleConfig, Share
from avdata.prepare.dry_run import dry_run
from avdata.prepare.job import prepare
from avmanifest.errors import AvkitError, ConfigError
from avmanifest.layout import Layout, ShardName
from avmanifest.recipe import load_recipe
from tests.remote import remote_config
from tests.videos import SMALL, folder_config, tree


def test_what_is_done_and_what_is_left(videos: Path, prepared: Any, tmp_path: Path) -> None:
    out = shutil.copytree(prepared.out, tmp_path / "out")
    whole = dry_run(folder_config(videos, out))
    assert (dict(whole.done), len(whole.plan), len(whole.to_do)) == ({"ok": 7}, 7, 0)
    assert whole.num_shards == whole.num_done_shards == prepared.num_shards
    for path in Layout(out).files(ShardName("train", 0)):
        path.unlink()
    before = tree(out)
    left = dry_run(folder_config(videos, out))
    assert (dict(left.done), len(left.to_do), left.num_done_shards) == ({"ok": 5}, 2, prepared.num_shards - 1)
    assert set(left.to_do.column("shard").to_pylist()) == {0}
    task = folder_config(videos, out, executor=ExecutorKind.ARRAY, share=Share(index=1, count=2))
    assert len(dry_run(task).to_do) + len(dry_run(replace(task, share=Share(index=0, count=2))).to_do) == 2
    assert dry_run(folder_config(videos, out, overwrite=True)).is_overwritten
    assert len(dry_run(folder_config(videos, out, overwrite=True)).to_do) == 7
    assert dry_run(folder_config(videos, out, retry=Retry.ALL)).to_do.equals(left.to_do)
    assert tree(out) == before


def test_appended_clips_are_to_do(videos: Path, prepared: Any, tmp_path: Path) -> None:
    more = shutil.copytree(videos, tmp_path / "videos")
    shutil.copy(more / "train" / "a" / "v0.mp4", more / "train" / "a" / "new.mp4")
    found = dry_run(folder_config(more, prepared.out, append=True))
    (new,) = found.to_do.column("video_id").to_pylist()
    assert (len(found.plan), new) == (8, "train/a/new")
    with pytest.raises(ConfigError, match="begun with another list"):
        dry_run(folder_config(more, prepared.out))


def test_a_list_that_cannot_be_appended_is_refused(videos: Path, tmp_path: Path) -> None:
    clips, out = tmp_path / "clips.csv", tmp_path / "out"
    clips.write_text("path,stars\ntrain/a/v0.mp4,5\n")
    config = folder_config(videos, out, recipe=load_recipe("table"), list_path=clips)
    prepare(config)
    clips.write_text("path,stars\ntrain/a/v0.mp4,5\ntrain/a/v1.mp4,many\n")
    with pytest.raises(ConfigError, match="column 'stars' is string in the list and int64 in the dataset"):
        dry_run(replace(config, append=True))


def of_home(folder: Path) -> Path:
    (folder / "home" / "plan").mkdir(parents=True)
    (folder / "home" / "plan" / "of_my_house.pdf").write_text("x")
    return folder / "home"


def of_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


def of_project(folder: Path) -> Path:
    (folder / "project" / "_tmp").mkdir(parents=True)
    (folder / "project" / "README.md").write_text("# mine")
    return folder / "project"


REFUSED: dict[str, Any] = {
    "the root": (lambda _: Path("/"), "a folder of the system"),
    "the system's": (lambda _: Path("/etc/avkit/set"), "a folder of the system"),
    "a device's": (lambda _: Path("/dev/shm"), "a folder of the system"),
    "through a link": (lambda folder: linked(folder, "/etc"), "a folder of the system"),
    "the home": (lambda _: Path.home(), "a folder of the system or of all your files"),
    "a folder with a plan": (of_home, r"did not write: 'plan'\. Give --out"),
    "a project": (of_project, r"did not write: 'README\.md'"),
    "a file": (of_file, "is a file"),
    "a link to nothing": (lambda folder: linked(folder, str(folder / "nothing")), "link to .*nothing, which is not"),
}  # fmt: skip


def linked(folder: Path, target: str) -> Path:
    (folder / "link").symlink_to(target)
    return folder / "link" / "set"


@pytest.mark.parametrize("name", REFUSED)
def test_an_output_that_the_run_refuses_is_refused_in_the_same_words(videos: Path, tmp_path: Path, name: str) -> None:
    make, said = REFUSED[name]
    config = folder_config(videos, make(tmp_path))
    told = []
    for run in (dry_run, prepare):
        with pytest.raises(ConfigError, match=said) as refused:
            run(config)
        told.append(str(refused.value))
    assert told[0] == told[1]


def test_what_a_stopped_overwrite_leaves_is_no_foreign_file(videos: Path, prepared: Any, tmp_path: Path) -> None:
    out = shutil.copytree(prepared.out, tmp_path / "out")
    for path in (out / "dataset.json", *out.glob("*/*_stats.json")):
        path.unlink()
    assert len(dry_run(folder_config(videos, out)).to_do) == 7
    (out / "train" / "diary.txt").write_text("mine")
    with pytest.raises(ConfigError, match="did not write: 'train'"):
        dry_run(folder_config(videos, out))


def test_memory_is_no_folder_of_the_system(videos: Path) -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm here")
    assert len(dry_run(folder_config(videos, Path("/dev/shm/avkit-is-not-there"))).to_do) == 7


def test_other_settings_and_a_lost_description_are_refused_in_the_same_words(
    videos: Path, prepared: Any, tmp_path: Path
) -> None:
    out = shutil.copytree(prepared.out, tmp_path / "out")
    other = folder_config(videos, out, sample=SampleConfig(num_frames=3, short_side=32))
    told: list[str] = []
    for run in (dry_run, prepare):
        with pytest.raises(AvkitError, match="num_frames 2 -> 3") as refused:
            run(other)
        told.append(str(refused.value))
    (out / "dataset.json").unlink()
    for run in (dry_run, prepare):
        with pytest.raises(AvkitError, match=r"holds shards but no dataset\.json") as refused:
            run(folder_config(videos, out))
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert told[2] == told[3]


def tarred(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "v")
    return path


def avkit(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_shows_what_is_there(videos: Path, prepared: Any) -> None:
    words = ("prepare", "folder", "--source", f"local:{videos}", "--out", prepared.out, "--dry-run")
    settings = ("--frames", SMALL.num_frames, "--short-side", SMALL.short_side, "--shard-size", 2)
    told = avkit(*words, *settings)
    assert told.exit_code == 0, told.output
    assert f"{prepared.out}: done already: 7 clips in 4 of 4 shards (ok 7)" in told.output
    assert "the list and the settings are those of the dataset there" in told.output
    assert "Nothing is left to do" in told.output
    found = json.loads(avkit(*words, *settings, "--json").stdout)
    assert (found["done"], found["done_shards"], found["to_do"]) == ({"ok": 7}, 4, 0)
    assert "--overwrite would remove all of that" in avkit(*words, *settings, "--overwrite").output


@pytest.mark.parametrize("kind", ["local", "wds"])
def test_without_a_clip_in_any_source_it_names_what_it_looked_for(videos: Path, tmp_path: Path, kind: str) -> None:
    source = f"local:{videos}" if kind == "local" else f"wds:{tarred(videos, tmp_path / 'v.tar')}"
    remote_config(tmp_path, [("abcdefghijk", 3, 6), ("bcdefghijkl", 0, 3)], source)
    options = ("--id-column", "id", "--start-column", "start", "--end-column", "end", "--label-column", "label")
    words = ("prepare", "table", "--list", tmp_path / "clips.csv", "--source", source, "--out", tmp_path / "out")
    with pytest.raises(ConfigError) as refused:
        CliRunner().invoke(app, [*map(str, (*words, *options)), "--dry-run"], catch_exceptions=False)
    told = str(refused.value)
    assert refused.value.exit_code == 2
    assert told.startswith(f"no source has any of 2 clips. {source} has 7 videos, such as ")
    assert "abcdefghijk_000003_000006 or abcdefghijk_3_6" in told
    assert "bcdefghijkl_000000_000003" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("size", "said"), [(0, "0 kB"), (4200, "4 kB"), (3_600_000, "3.6 MB"), (2.5e12, "2,500.0 GB")])
def test_small_sizes_are_not_zero(size: float, said: str) -> None:
    assert _size(size) == said
