"""`avkit dataset subset` and `merge`: a new dataset of clips of prepared ones, without decoding media again."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.audit.dataset import open_audit_dataset
from avdata.audit.summary import summarize
from avdata.audit.verify import verify
from avdata.load import open_dataset
from avdata.prepare.description import joined_recipe, recipe_of
from avdata.prepare.job import prepare
from avdata.prepare.operations.build import OpenShards
from avdata.prepare.operations.derive import derive_dataset
from avdata.prepare.operations.mel import AddMel
from avdata.prepare.operations.merge import Merge
from avdata.prepare.operations.remove import Remove
from avdata.prepare.operations.run import run_operation
from avdata.prepare.operations.subset import Subset
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from tests.videos import draw_folder, folder_config, synth_config, tree


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Seven drawn clips in shards of two, one of them removed. Not to be changed."""
    out = tmp_path_factory.mktemp("start") / "out"
    prepare(synth_config(out))
    run_operation(out, Remove(("synth-000001",)))
    return out


def rows(out: Path) -> dict[str, dict]:
    tables = [pq.read_table(path, partitioning=None) for path in sorted((out / "manifest").glob("*.parquet"))]
    return {row["key"]: row for table in tables for row in table.to_pylist()}


def samples(out: Path) -> dict[str, bytes]:
    """The members of all samples, with the headers between them, by key."""
    found = {}
    for key, row in rows(out).items():
        if members := row["members"]:
            tar = (out / row["split"] / f"{row['shard']:05d}.tar").read_bytes()
            found[key] = tar[members[0]["offset"] - 512 : members[-1]["offset"] + members[-1]["size"]]
    return found


def whole(out: Path) -> bool:
    return not verify(open_audit_dataset(str(out)), deep=True).faults


@pytest.mark.parametrize(("size", "num_workers"), [(None, 1), (3, 2)])
def test_a_subset_has_the_samples_that_the_condition_chooses(size, num_workers, start, tmp_path):
    before = tree(start)
    out = tmp_path / "new" / "out"
    where = "key >= 'synth-000001' and key != 'synth-000003'"
    done = derive_dataset([start], out, Subset(where=where, shard_size=size), num_workers=num_workers)
    assert done.num_clips == 5
    chosen = {key: row for key, row in rows(start).items() if key not in ("synth-000000", "synth-000003")}
    moved = ("shard", "position", "members")
    unmoved = [{k: v for k, v in row.items() if k not in moved} for row in rows(out).values()]
    meant = [{k: v for k, v in chosen[key].items() if k not in moved} for key in rows(out)]
    assert unmoved == meant
    assert samples(out) == {key: blocks for key, blocks in samples(start).items() if key in chosen}
    assert rows(out)["synth-000001"]["status"] == "removed"
    assert tree(start) == before
    assert whole(out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    description = json.loads((out / "dataset.json").read_text())
    assert description["config"]["shard_size"] == (size or 2)
    (entry,) = description["operations"]
    assert entry["where"] == where
    source = summarize(open_audit_dataset(str(start)))
    assert entry["from"][0]["subset_id"] == source["subset_id"]
    assert str(tmp_path) not in (out / "dataset.json").read_text()


def test_a_subset_of_all_clips_is_the_dataset_with_another_history(start, tmp_path):
    derive_dataset([start], tmp_path / "out", Subset(where="true"))
    files, meant = tree(tmp_path / "out"), tree(start)
    assert {name for name in meant if files[name] != meant[name]} == {"dataset.json"}


def test_keys_and_a_condition_are_both_to_be_met(start, tmp_path):
    notes: list[str] = []
    keys = ("synth-000002", "synth-000001", "nothing")
    derive_dataset([start], tmp_path / "out", Subset(keys=keys, where="status = 'ok'"), note=notes.append)
    assert set(rows(tmp_path / "out")) == {"synth-000002"}
    assert "1 of 3 keys: of no clip" in notes[0]
    assert whole(tmp_path / "out")


def test_a_later_prepare_goes_on_with_the_clips_of_the_subset(start, tmp_path):
    out = tmp_path / "out"
    derive_dataset([start], out, Subset(where="key < 'synth-000004'"))
    before = tree(out)
    prepare(synth_config(out))
    assert tree(out) == before
    with pytest.raises(ConfigError, match="another configuration: shard_size 2 -> 3"):
        prepare(synth_config(out, shard_size=3))


def test_a_later_prepare_with_a_longer_list_is_refused_or_appends(tmp_path):
    videos, out = draw_folder(tmp_path / "videos", ["a.mp4", "b.mp4", "c.mp4"]), tmp_path / "out"
    prepare(folder_config(videos, tmp_path / "start"))
    derive_dataset([tmp_path / "start"], out, Subset(where="video_id != 'b'"))
    with pytest.raises(ConfigError, match="another list: 0 clips are missing and 1 is new"):
        prepare(folder_config(videos, out))
    assert len(rows(out)) == 2
    prepare(folder_config(videos, out, append=True))
    assert samples(out) == samples(tmp_path / "start")
    assert whole(out)


def test_what_cannot_be_a_subset_is_refused_and_leaves_nothing(start, tmp_path):
    out = tmp_path / "out"
    for derivation, to, reason in [
        (Subset(where="key = 'x'"), out, "true for none of the 7 clips"),
        (Subset(where="loudnes > 1"), out, "has no column 'loudnes'"),
        (Subset(keys=("x",)), out, "no clip is chosen by the 1 key given"),
        (Subset(where="true"), start, "exists already"),
        (Subset(where="true"), start / "part", "inside the dataset"),
        (Subset(where="true"), "s3://bucket/out", "avkit export"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            derive_dataset([start], to, derivation)
    with pytest.raises(ConfigError, match="not on this machine"):
        derive_dataset(["s3://bucket/start"], out, Subset(where="true"))
    with pytest.raises(ConfigError, match="give --where"):
        Subset()
    assert not list(tmp_path.iterdir())


def test_damage_of_a_source_is_named_and_another_command_starts_anew(start, tmp_path):
    source, out = Path(shutil.copytree(start, tmp_path / "source")), tmp_path / "out"
    tar = sorted(source.glob("train/*.tar"))[-1]
    content = tar.read_bytes()
    tar.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    with pytest.raises(ShardError, match=rf"{tar.name}.*sha256"):
        derive_dataset([source], out, Subset(where="true"))
    assert not out.exists()
    derive_dataset([start], out, Subset(where="key > 'synth-000003'"))
    assert len(rows(out)) == 3
    assert whole(out)
    assert not (tmp_path / ".out.unfinished").exists()


def test_the_folder_aside_is_of_one_run_and_never_the_users(start, tmp_path):
    out, aside = tmp_path / "out", tmp_path / ".out.unfinished"
    refusals: list[str] = []

    def second(step: str) -> None:
        if "built" not in step:
            return
        with pytest.raises(ConfigError, match="another run is making it") as refused:
            derive_dataset([start], out, Subset(where="true"))
        refusals.append(str(refused.value))

    derive_dataset(
        [start], out, Subset(where="key = 'synth-000002'"), observe=lambda step: "built" in step and second(step)
    )
    assert len(refusals) == 1  # after the only shard
    assert len(rows(out)) == 1
    shutil.rmtree(out)
    aside.mkdir()
    (aside / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        derive_dataset([start], out, Subset(where="true"))
    assert [path.name for path in aside.iterdir()] == ["mine.txt"]
    shutil.rmtree(aside)
    aside.symlink_to(start)
    with pytest.raises(ConfigError, match="holds other files"):
        derive_dataset([start], out, Subset(where="true"))


def test_few_shards_are_open_at_a_time(start):
    layout = Layout(start)
    names = [name for split in layout.splits() for name in layout.shards(split)]
    with OpenShards(2) as shards:
        tars = [shards.get(start, name)[1] for name in names]
        assert [tar.closed for tar in tars] == [True] * (len(names) - 2) + [False] * 2
        found, again = shards.get(start, names[0])
        assert found.column("position").to_pylist() == list(range(len(found)))
        assert again.read() == layout.tar(names[0]).read_bytes()
    assert again.closed


def test_the_command(start, tmp_path):
    keys, out = tmp_path / "keys.txt", tmp_path / "out"
    keys.write_text("synth-000002\nsynth-000004\n")
    command = ["dataset", "subset", str(start), "--keys", str(keys), "--to", str(out), "--workers", "1", "--json"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["num_clips"] == 2
    shown = CliRunner().invoke(app, ["inspect", str(out)])
    assert "subset keys=2 of synth (subset id " in " ".join(shown.output.split())


@pytest.fixture(scope="module")
def halves(start, tmp_path_factory) -> tuple[Path, Path]:
    """The dataset `start` in two. Not to be changed."""
    folder = tmp_path_factory.mktemp("halves")
    derive_dataset([start], folder / "low", Subset(where="key < 'synth-000003'"))
    derive_dataset([start], folder / "high", Subset(where="key >= 'synth-000003'", shard_size=3))
    return folder / "low", folder / "high"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_was_divided_and_merged_is_the_dataset_with_another_history(num_workers, start, halves, tmp_path):
    out = tmp_path / "out"
    assert derive_dataset(halves, out, Merge(), num_workers=num_workers).num_clips == 7
    files, meant = tree(out), tree(start)
    assert {name for name in meant if files[name] != meant[name]} == {"dataset.json"}
    first, merged = (json.loads((root / "dataset.json").read_text()) for root in (start, out))
    (entry,) = merged.pop("operations")
    assert [len(source["operations"]) for source in entry["from"]] == [1, 1]
    first.pop("operations")
    assert merged == first
    assert whole(out)


def test_prefixes_tell_clips_of_one_key_apart(start, halves, tmp_path):
    out, sources = tmp_path / "out", [start, halves[1]]
    with pytest.raises(ConfigError, match=r"both have 4 keys, such as(.|\n)*--prefix"):
        derive_dataset(sources, out, Merge())
    derive_dataset(sources, out, Merge(prefixes=("", "b-")))
    found = rows(out)
    assert set(found) == {*rows(start), *(f"b-{key}" for key in rows(halves[1]))}
    assert {row["split"] for key, row in found.items() if key == "b-synth-000003"} == {
        rows(start)["synth-000003"]["split"]
    }
    assert whole(out)
    assert json.loads((out / "dataset.json").read_text())["removed"] == ["b-synth-000001", "synth-000001"]
    dataset = open_dataset(str(out), split="train")
    key = next(str(key) for key in dataset.keys.to_pylist() if str(key).startswith("b-"))
    assert f'"key":"{key}"'.encode() in samples(out)[key].replace(b" ", b"")


def test_classes_and_columns_of_lists_are_united(tmp_path):
    videos = draw_folder(tmp_path / "videos", ["a.mp4", "b.mp4", "c.mp4", "d.mp4"])
    lists = {
        "one": "id,class,level,colour\na,dog,1,red\nb,cat,2,blue\n",
        "two": "id,class,level,place\nc,owl,0.5,here\nd,dog,2.5,there\n",
        "text": "id,class,level\nc,owl,high\n",
    }
    for name, content in lists.items():
        (tmp_path / f"{name}.csv").write_text(content)
        usual = {"recipe": load_recipe("table"), "list_path": tmp_path / f"{name}.csv"}
        prepare(folder_config(videos, tmp_path / name, **usual))
    one, two, text = (tmp_path / name for name in lists)
    out = tmp_path / "out"
    derive_dataset([one, two], out, Merge())
    found = {row["video_id"]: row for row in rows(out).values()}
    assert [found[name]["level"] for name in "abcd"] == [1.0, 2.0, 0.5, 2.5]
    assert [found[name]["colour"] for name in "abcd"] == ["red", "blue", None, None]
    assert [found[name]["place"] for name in "abcd"] == [None, None, "here", "there"]
    description = json.loads((out / "dataset.json").read_text())
    assert description["labels"] == ["cat", "dog", "owl"]
    assert {column["name"] for column in description["columns"]} == {"level", "colour", "place"}
    assert whole(out)
    with pytest.raises(ConfigError, match="its column 'level' is string of list, in the datasets before int64"):
        derive_dataset([one, text], tmp_path / "no", Merge())


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(start, halves, tmp_path):
    other, out = Path(shutil.copytree(halves[1], tmp_path / "other")), tmp_path / "out"
    run_operation(other, AddMel("released"))
    gone = tmp_path / "gone"
    derive_dataset([start], gone, Subset(where="key = 'synth-000000'"))
    for sources, derivation, reason in [
        ([start, start], Merge(), "two or more datasets, each once"),
        ([start], Merge(), "two or more datasets"),
        ([halves[0], other], Merge(), r"mel \('paper',\) -> \('paper', 'released'\)(.|\n)*add-mel"),
        (halves, Merge(prefixes=("a-",)), "1 for 2 datasets"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            derive_dataset(sources, out, derivation)
    with pytest.raises(ManifestError, match="must match"):
        derive_dataset(halves, out, Merge(prefixes=("a/", "b")))
    assert {path.name for path in tmp_path.iterdir()} == {"other", "gone"}


def test_a_clip_that_was_removed_from_one_dataset_does_not_come_back_with_another(start, tmp_path):
    whole_one, out = tmp_path / "whole", tmp_path / "out"
    prepare(synth_config(tmp_path / "anew", num_clips=2))
    derive_dataset([tmp_path / "anew"], whole_one, Subset(where="key = 'synth-000001'"))
    derive_dataset([start], tmp_path / "rest", Subset(where="status = 'ok'"))
    with pytest.raises(ConfigError, match=r"1 clip removed on request from(.|\n)*synth-000001"):
        derive_dataset([tmp_path / "rest", whole_one], out, Merge())
    assert not out.exists()


def test_recipes_that_differ_are_joined():
    recipes = [{"name": "vggsound", "licence": "A"}, {"name": "synth", "licence": "B", "title": "Drawn"}]
    joined = joined_recipe([{"recipe": recipe} for recipe in recipes])
    assert joined["name"] == "vggsound-and-synth"
    assert joined["licence"] == "vggsound: A; synth: B"
    assert joined["title"].endswith(" + Drawn")
    assert recipe_of({"recipe": joined}).licence == joined["licence"]
    assert joined_recipe([{"recipe": recipes[0]}] * 2) == recipes[0]


def test_the_merge_command(halves, tmp_path):
    words = ["dataset", "merge", *map(str, halves), "--to", str(tmp_path / "out"), "--workers", "1"]
    run = CliRunner().invoke(app, [*words, "--prefix", "a-", "--prefix", "b-"])
    assert run.exit_code == 0, run.output
    assert "7 clips built, verified and published" in run.stdout
    assert all(key[:2] in ("a-", "b-") for key in rows(tmp_path / "out"))
