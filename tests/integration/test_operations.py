"""`avkit dataset`: operations change a dataset as preparing it anew would, and touch no media."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.audit.dataset import open_audit_dataset
from avdata.audit.summary import summarize
from avdata.audit.verify import verify
from avdata.load import CacheConfig, EvalView, Loader, LoaderConfig, evaluation_config, open_dataset
from avdata.prepare.bucket import open_place
from avdata.prepare.commit import Workspace
from avdata.prepare.config import Retry
from avdata.prepare.description import keep_removals
from avdata.prepare.export import export
from avdata.prepare.job import prepare
from avdata.prepare.operations.add_step import AddStep
from avdata.prepare.operations.mel import AddMel
from avdata.prepare.operations.migrate import Migrate
from avdata.prepare.operations.remove import Remove
from avdata.prepare.operations.reshard import Reshard
from avdata.prepare.operations.run import run_operation, settle_dataset
from avdata.prepare.output import open_output
from avdata.prepare.steps.registry import load_steps
from avmanifest.errors import ConfigError, ManifestError, ShardError, StorageError
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from tests.older import as_version_1
from tests.serving import serving
from tests.videos import SMALL, Notes, folder_config, synth_config, tree

TWICE = {"mel": ("paper", "released")}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Seven drawn clips in shards of two. Not to be changed."""
    out = tmp_path_factory.mktemp("start") / "out"
    prepare(synth_config(out))
    return out


@pytest.fixture
def out(start, tmp_path) -> Path:
    return Path(shutil.copytree(start, tmp_path / "out"))


def without_history(out: Path) -> dict[str, object]:
    """The files of a dataset, with dataset.json as it would be without operations."""
    files: dict[str, object] = dict(tree(out))
    description = json.loads((out / "dataset.json").read_text())
    description.pop("operations", None)
    return files | {"dataset.json": description}


def rows(out: Path) -> dict[str, dict]:
    tables = [pq.read_table(path, partitioning=None) for path in sorted((out / "manifest").glob("*.parquet"))]
    return {row["key"]: row for table in tables for row in table.to_pylist()}


def whole(out: Path) -> bool:
    return not verify(open_audit_dataset(str(out)), deep=True).faults


@pytest.mark.parametrize("num_workers", [1, 2])
def test_adding_a_profile_equals_preparing_with_it(num_workers, out, tmp_path):
    done = run_operation(out, AddMel("released"), num_workers=num_workers)
    assert (done.changed, done.num_shards, done.num_clips) == (True, 5, 7)
    assert done.bytes_written == sum(path.stat().st_size for path in out.glob("*/*.tar"))
    prepare(synth_config(tmp_path / "anew", sample=replace(SMALL, **TWICE)))
    assert without_history(out) == without_history(tmp_path / "anew")
    assert whole(out)
    prepare(synth_config(out, sample=replace(SMALL, **TWICE)))  # goes on with the new settings
    with pytest.raises(ConfigError, match="mel"):
        prepare(synth_config(out))


def test_a_second_profile_may_follow_and_the_history_names_both(out):
    run_operation(out, AddMel("released"))
    assert not run_operation(out, AddMel("released")).changed
    before = json.loads((out / "dataset.json").read_text())
    run_operation(out, Reshard(3))
    history = json.loads((out / "dataset.json").read_text())["operations"]
    assert [entry["operation"] for entry in history] == ["add-mel", "reshard"]
    assert history[:1] == before["operations"]
    assert whole(out)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["picture_hash", "tests.steps:Chance", "tests.steps:Picky"])
def test_adding_a_step_equals_preparing_with_it(step, out, tmp_path):
    prepare(synth_config(tmp_path / "anew", steps=("black", step)))
    prepare(synth_config(tmp_path / "black", steps=("black",)))
    (loaded,) = load_steps((step,))
    run_operation(tmp_path / "black", AddStep(loaded))
    assert without_history(tmp_path / "black") == without_history(tmp_path / "anew")
    assert whole(tmp_path / "black")
    assert not run_operation(tmp_path / "black", AddStep(loaded)).changed


def test_a_step_that_cannot_be_added_is_refused_and_changes_nothing(out):
    before = tree(out)
    for step, reason in [
        ("cuts", "every frame of the video"),
        ("tests.steps:Light", "every frame of the video"),
        ("tests.steps:Fails", "no more(.|\n)*The dataset was not changed"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            run_operation(out, AddStep(load_steps((step,))[0]))
    settle_dataset(out, lambda _: None)
    assert tree(out) == before
    run_operation(out, AddStep(load_steps(("levels",))[0]))
    with pytest.raises(ConfigError, match="of another version or with other settings"):
        run_operation(out, AddStep(load_steps(("levels:clip_level=0.5",))[0]))


def test_a_step_replaces_no_member_of_another_one(out):
    run_operation(out, AddStep(load_steps(("tests.steps:Chance",))[0]))
    before = without_history(out)
    with pytest.raises(ConfigError, match=r"chance\.npy: the sample has this member, and step same_member writes one"):
        run_operation(out, AddStep(load_steps(("tests.steps:SameMember",))[0]))
    settle_dataset(out, lambda _: None)
    assert without_history(out) == before


@pytest.mark.parametrize("size", [3, 100])
def test_resharding_equals_preparing_with_that_size(size, out, tmp_path):
    run_operation(out, Reshard(size))
    prepare(synth_config(tmp_path / "anew", shard_size=size))
    assert without_history(out) == without_history(tmp_path / "anew")
    assert whole(out)


def test_resharding_takes_the_latest_row_of_a_retried_clip(videos, tmp_path):
    some = tmp_path / "some"
    for path in sorted(videos.rglob("*.mp4"))[:4]:
        some.mkdir(exist_ok=True)
        shutil.copy(path, some)
    listed = tmp_path / "list.csv"
    names = sorted(file.stem for file in videos.rglob("*.mp4"))
    listed.write_text("id,class\n" + "".join(f"{name},a\n" for name in names))
    usual = {"recipe": load_recipe("table"), "list_path": listed}
    prepare(folder_config(some, tmp_path / "out", **usual))
    for path in videos.rglob("*.mp4"):
        shutil.copy(path, some)
    prepare(folder_config(some, tmp_path / "out", **usual, retry=Retry.ALL))
    assert len(Layout(tmp_path / "out").plan_parts()) == 2
    run_operation(tmp_path / "out", Reshard(3))
    prepare(folder_config(some, tmp_path / "anew", **usual, shard_size=3))
    assert without_history(tmp_path / "out") == without_history(tmp_path / "anew")
    assert all(row["status"] == "ok" for row in rows(tmp_path / "out").values())
    assert whole(tmp_path / "out")


def test_removed_clips_leave_nothing_of_their_media(out):
    before = rows(out)
    gone = ["synth-000001", "synth-000004"]
    tar = Layout(out).root / before[gone[0]]["split"] / f"{before[gone[0]]['shard']:05d}.tar"
    audio = next(member for member in before[gone[0]]["members"] if member["name"] == "flac")
    content = tar.read_bytes()[audio["offset"] : audio["offset"] + audio["size"]]
    aside = Layout(out).quarantine / "train-00000-12345678"
    aside.mkdir(parents=True)
    shutil.copy(tar, aside)
    Layout(out).media.mkdir()
    (Layout(out).media / "video.mp4").write_bytes(content)
    for copy in ("0123.unpacked.tar", ".0123.unpacked.tar.4567.tmp"):
        (Layout(out).temporary / copy).write_bytes(content)
    notes: list[str] = []
    done = run_operation(out, Remove(("synth-000001", "000004", "unknown")), note=notes.append)
    assert done.changed
    assert any("unknown" in note for note in notes)
    after = rows(out)
    assert {key for key in after if after[key] != before[key]} >= set(gone)
    for key in gone:
        assert (after[key]["status"], after[key]["members"], after[key]["member_xxh3"]) == ("removed", [], [])
        assert not any(after[key][name] for name in ("source", "source_sha256", "rms_dbfs", "frame_times_s", "fps"))
        assert (after[key]["video_id"], after[key]["labels"]) == (before[key]["video_id"], before[key]["labels"])
    for path in out.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert content not in held, path
            assert before[gone[0]]["source_sha256"].encode() not in held, path
    assert whole(out)
    assert not run_operation(out, Remove(("synth-000001",))).changed
    kept = [key for key in before if key not in gone]
    assert {key: after[key]["member_xxh3"] for key in kept} == {key: before[key]["member_xxh3"] for key in kept}


def test_no_prepare_brings_a_removed_clip_back(out):
    run_operation(out, Remove(("synth-000001",)))
    meant = tree(out)
    report = prepare(synth_config(out, retry=Retry.ALL))
    assert report.statuses == {"ok": 6, "removed": 1}
    assert tree(out) == meant
    row = rows(out)["synth-000001"]
    damaged = out / row["split"] / f"{row['shard']:05d}.tar"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    prepare(synth_config(out))
    assert tree(out) == meant
    meant = without_history(out)
    report = prepare(synth_config(out, overwrite=True))
    assert report.statuses == {"ok": 6, "removed": 1}
    assert without_history(out) == meant
    keep_removals(Layout(out), lambda _: None)  # as --overwrite does, here killed after it
    open_output(out).remove()
    assert prepare(synth_config(out)).statuses == {"ok": 6, "removed": 1}
    assert without_history(out) == meant


def test_overwriting_a_dataset_with_a_damaged_description_says_what_is_lost(out):
    run_operation(out, Remove(("synth-000001",)))
    Layout(out).dataset_json.write_text("{")
    notes = Notes()
    assert prepare(synth_config(out, overwrite=True), notes).statuses == {"ok": 7}
    assert any("remove them again" in note for note in notes.notes)


def test_a_dataset_that_is_not_finished_is_changed_as_far_as_it_is(videos, tmp_path):
    some, out = tmp_path / "some", tmp_path / "out"
    for path in sorted(videos.rglob("*.mp4"))[:1]:
        some.mkdir()
        shutil.copy(path, some)
    listed = tmp_path / "list.csv"
    listed.write_text("id,class\n" + "".join(f"{file.stem},a\n" for file in sorted(videos.rglob("*.mp4"))))
    usual = {"recipe": load_recipe("table"), "list_path": listed}
    report = prepare(folder_config(some, out, **usual))
    assert report.pending
    with pytest.raises(ConfigError, match="not prepared yet"):
        run_operation(out, Reshard(3))
    pending = next(key for key, row in rows(out).items() if row["shard"] is None)
    run_operation(out, Remove((pending,)))
    assert whole(out)
    prepare(folder_config(videos, out, **usual))
    assert rows(out)[pending]["status"] == "removed"
    assert sum(row["status"] == "ok" for row in rows(out).values()) > 1


def test_an_export_follows(out, tmp_path):
    target = tmp_path / "exported"
    export(open_place(out), open_place(target))
    run_operation(out, Reshard(4))
    run_operation(out, Remove(("synth-000003",)))
    export(open_place(out), open_place(target))
    published = {name: content for name, content in tree(out).items() if not name.startswith("plan/lists")}
    assert tree(target) == published
    other = tmp_path / "other"
    prepare(synth_config(other, num_clips=8))
    with pytest.raises(ConfigError, match="holds another dataset"):
        export(open_place(other), open_place(target))


def test_a_reader_of_the_older_state_stops(out):
    dataset = open_dataset(out, "train")
    run_operation(out, Remove((dataset.keys[0].as_py(),)))
    with pytest.raises(ShardError, match="its marker says"):
        list(
            Loader(
                dataset,
                EvalView(image_size=8, window_s=1.0),
                evaluation_config(LoaderConfig(batch_size=2, num_workers=0)),
            ).arrays()
        )
    assert len(open_dataset(out, "train").keys) == len(dataset.keys) - 1


def test_a_remote_reader_with_a_cache_reads_the_new_state(out, tmp_path):
    cache = CacheConfig(root=tmp_path / "cache")
    view, config = EvalView(image_size=8, window_s=1.0), LoaderConfig(batch_size=2, num_workers=0, cache=cache)

    def read(url: str) -> list[str]:
        batches = Loader(open_dataset(url, "train", cache=cache), view, evaluation_config(config)).arrays()
        return [key for batch in batches for key, valid in zip(batch.keys, batch.valid, strict=True) if valid]

    with serving(out) as server:
        keys = read(server.url)
        run_operation(out, Remove((keys[0],)))
        assert read(server.url) == keys[1:]
        run_operation(out, Reshard(3))
        assert read(server.url) == keys[1:]


def test_what_cannot_be_done_is_refused(out, tmp_path):
    with pytest.raises(ConfigError, match="object store"):
        run_operation("s3://bucket/set", Reshard(3))
    with pytest.raises(ConfigError, match="not a prepared dataset"):
        run_operation(tmp_path, Reshard(3))
    with pytest.raises(ConfigError, match="unknown spectrogram profile"):
        AddMel("loud")
    with pytest.raises(ConfigError, match="no clip has the id "):
        run_operation(out, Remove(("nobody",)))
    silent = tmp_path / "silent"
    prepare(synth_config(silent, num_clips=2, sample=replace(SMALL, keep_audio=False)))
    with pytest.raises(ConfigError, match="--no-audio"):
        run_operation(silent, AddMel("released"))
    running = Workspace(Layout(out))
    with pytest.raises(ConfigError, match="another run is writing"):
        run_operation(out, Reshard(3))
    running.close()
    tar = next(out.glob("train/*.tar"))
    tar.write_bytes(tar.read_bytes().replace(b"fLaC", b"fLaD"))
    before = tree(out)
    with pytest.raises(ShardError, match="verify --repair"):
        run_operation(out, AddMel("released"))
    assert tree(out) == {
        **before,
        **{name: value for name, value in tree(out).items() if name.startswith("_operation/")},
    }


def test_a_dataset_of_version_1_becomes_one_of_version_2(start, tmp_path):
    older = as_version_1(start, tmp_path / "older")
    with pytest.raises(ManifestError, match="dataset migrate"):
        run_operation(older, Reshard(3))
    run_operation(older, Migrate())
    assert without_history(older) == without_history(start)
    assert not run_operation(older, Migrate()).changed
    assert whole(older)


def test_a_worker_that_dies_or_finds_damage_ends_the_operation(out):
    with pytest.raises(StorageError, match="a worker process died at clip synth-"):
        run_operation(out, AddStep(load_steps(("tests.steps:Dies",))[0]), num_workers=2)
    with pytest.raises(ConfigError, match=r"no more[\s\S]*The dataset was not changed"):
        run_operation(out, AddStep(load_steps(("tests.steps:Fails",))[0]), num_workers=2)
    settle_dataset(out, lambda _: None)
    assert whole(out)


class Stop(Exception):
    """What ends an operation in these tests."""


def stopped(out: Path, operation, step: str) -> None:
    def observe(name: str) -> None:
        if step in name:
            raise Stop

    with pytest.raises(Stop):
        run_operation(out, operation, observe=observe)


def test_what_was_stopped_is_said_then_undone_or_finished(out, start):
    before = tree(out)
    stopped(out, AddMel("released"), "train/00000: built")
    assert "add-mel released was stopped before" in summarize(open_audit_dataset(str(out)))["pending"]
    notes = Notes()
    prepare(synth_config(out), notes)
    assert any("undid add-mel released" in note for note in notes.notes)
    assert tree(out) == before

    stopped(out, AddMel("released"), "train/00000: exchanged")
    assert "settle" in summarize(open_audit_dataset(str(out)))["pending"]
    with pytest.raises(ManifestError, match="dataset settle"):
        open_dataset(out, "train")
    with pytest.raises(ManifestError, match="dataset settle"):
        export(open_place(out), open_place(out.with_name("copy")))
    said: list[str] = []
    settle_dataset(out, said.append)
    assert any("finished add-mel released" in line for line in said)
    assert summarize(open_audit_dataset(str(out)))["pending"] == ""
    assert whole(out)
    assert not run_operation(out, AddMel("released")).changed


@pytest.mark.parametrize("step", ["train/00000: built", "train/00000: exchanged"])
def test_a_repair_looks_at_the_dataset_after_it_was_settled(step, out):
    stopped(out, AddMel("released"), step)
    repaired = CliRunner().invoke(app, ["verify", str(out), "--repair"])
    assert repaired.exit_code == 0, repaired.output
    assert "add-mel released, which had been stopped" in repaired.output
    assert not Layout(out).quarantine.exists()
    assert whole(out)


@pytest.mark.parametrize("moved", [("tar",), ("json",), ("json", "idx")])
def test_files_that_have_their_places_already_stay_there(moved, out):
    stopped(out, AddMel("released"), "all files made")
    layout = Layout(out)
    for path in [path for path in layout.operation.rglob("*/00000*") if path.suffix[1:] in moved]:
        path.replace(out / path.relative_to(layout.operation))
    settle_dataset(out, lambda _: None)
    assert whole(out)
    assert not layout.operation.exists()


def test_an_operation_that_was_stopped_goes_on_with_the_shards_that_it_has(out):
    stopped(out, AddMel("released"), "train/00000: built")
    steps: list[str] = []
    run_operation(out, AddMel("released"), observe=steps.append)
    built = [step for step in steps if step.endswith("built")]
    assert 0 < len(built) < 5
    assert "train/00000: built" not in built
    assert whole(out)


def test_the_commands(out, tmp_path):
    def avkit(*words: str):
        return CliRunner().invoke(app, ["dataset", *words])

    ended = avkit("add-mel", str(out), "released", "--workers", "1", "--json")
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["num_shards"] == 5
    assert "nothing to do" in avkit("add-mel", str(out), "released").stdout
    takedown = tmp_path / "ids.txt"
    takedown.write_text("synth-000002\n\n000003\n")
    (out / "_errors.txt").write_text("test/synth-000002\nTraceback ...\n")
    said = avkit("remove", str(out), "--list", str(takedown), "--workers", "1").stdout
    assert "remove ids=2: " in said
    assert not (out / "_errors.txt").exists()  # it is of the rows as they are now
    assert "exchanged" in said
    assert avkit("reshard", str(out), "--shard-size", "4", "--workers", "1").exit_code == 0
    assert avkit("settle", str(out)).exit_code == 0
    inspected = CliRunner().invoke(app, ["inspect", str(out)])
    assert "removed from the dataset on request" in inspected.stdout
    for words in ("add-mel mel=released", "remove ids=2", "reshard shard_size=4"):
        assert f"operation {words}\n" in inspected.stdout
    takedown.write_text("\n")
    refused = avkit("remove", str(out), "--list", str(takedown))
    assert isinstance(refused.exception, ConfigError)
